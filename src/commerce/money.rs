//! Money: integers in minor units, never floats.

use tillwire_channels::Quantity;

/// The largest amount that anything here may be, in minor units: a thousand billion rupiah.
pub const AMOUNT_MAX_MINOR: i64 = 1_000_000_000_000;

/// `unit_price × quantity` in whole minor units, half a unit rounded up. `None` beyond [`AMOUNT_MAX_MINOR`].
pub fn extend(unit_price_minor: i64, quantity: Quantity) -> Option<i64> {
    let thousandths = i128::from(unit_price_minor) * i128::from(quantity.thousandths());
    let rounded = (thousandths + 500).div_euclid(1000);
    i64::try_from(rounded).ok().filter(|amount| amount.unsigned_abs() <= AMOUNT_MAX_MINOR.unsigned_abs())
}

/// Divides `amount` in proportion to `weights`, to the last unit: the largest remainders get what rounding left over,
/// earlier ones first. All zeros if the weights are.
pub fn allocate(amount: i64, weights: &[i64]) -> Vec<i64> {
    let total: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
    if total <= 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: i64| i128::from(amount) * i128::from(weight);
    let mut shares: Vec<i64> = weights
        .iter()
        .map(|weight| i64::try_from(exact(*weight).div_euclid(total)).unwrap_or(i64::MAX)) // A share is at most the whole.
        .collect();
    let mut left = amount - shares.iter().sum::<i64>();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(exact(weights[*at]).rem_euclid(total)));
    for at in by_remainder {
        if left == 0 {
            break;
        }
        shares[at] += 1;
        left -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_to_whole_units() {
        let cases = [(15_000, "2", 30_000), (15_000, "0.355", 5_325), (999, "0.5", 500), (1, "0.499", 0), (0, "7", 0)];
        for (price, quantity, amount) in cases {
            assert_eq!(extend(price, quantity.parse().unwrap()), Some(amount), "{price} x {quantity}");
        }
        assert_eq!(extend(AMOUNT_MAX_MINOR, "1.001".parse().unwrap()), None);
        assert_eq!(extend(i64::MAX, "99999999999".parse().unwrap()), None);
    }

    #[test]
    fn allocates_every_unit() {
        assert_eq!(allocate(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(allocate(10, &[0, 3, 7]), [0, 3, 7]);
        assert_eq!(allocate(7, &[0, 0]), [0, 0]);
        for amount in 0..200 {
            let weights = [3, 0, 11, 7, 7];
            let shares = allocate(amount, &weights);
            assert_eq!(shares.iter().sum::<i64>(), amount);
            assert!(amount > 28 || shares.iter().zip(weights).all(|(share, weight)| *share <= weight));
        }
    }
}
