//! Ringing up: prices, discounts and tenders that add up, or why they do not. Pure.

use std::collections::BTreeMap;

use tillwire_channels::VariantId;
use tillwire_channels::event::{Method, SaleLine, Tender};

use super::{Draft, DraftLine, DraftTender};
use crate::commerce::catalog::Priced;
use crate::commerce::money::{AMOUNT_MAX_MINOR, allocate, extend};
use crate::error::{Error, Result};

/// Lines, totals and tenders that add up.
#[derive(Debug)]
pub(super) struct RungUp {
    pub lines: Vec<SaleLine>,
    pub subtotal_minor: i64,
    pub discount_minor: i64,
    pub total_minor: i64,
    pub tenders: Vec<Tender>,
    /// What the tenders leave to be paid: nothing, unless the sale may be open.
    pub due_minor: i64,
}

/// Prices the lines, spreads the sale's discount over them, and checks that the tenders pay the total, or, of a sale that may be
/// open, no more than that.
pub(super) fn ring_up(draft: &Draft, prices: &BTreeMap<VariantId, Priced>) -> Result<RungUp> {
    let mut lines = Vec::with_capacity(draft.lines.len());
    for (at, wanted) in draft.lines.iter().enumerate() {
        lines.push(price_line(at, wanted, prices)?);
    }
    let subtotal_minor = sum(lines.iter().map(|line| line.total_minor + line.discount_minor), "/lines")?;
    let before: Vec<i64> = lines.iter().map(|line| line.total_minor).collect();
    let left = sum(before.iter().copied(), "/lines")?;
    if draft.discount_minor > left {
        return Err(Error::invalid(
            "discount_too_large",
            "/discount_minor",
            format!("There is {left} left to discount."),
        ));
    }
    for (line, share) in lines.iter_mut().zip(allocate(draft.discount_minor, &before)) {
        line.discount_minor += share;
        line.total_minor -= share;
    }
    let total_minor = left - draft.discount_minor;
    let (tenders, due_minor) = pay(&draft.tenders, total_minor, draft.open_for.is_some())?;
    Ok(RungUp { lines, subtotal_minor, discount_minor: subtotal_minor - total_minor, total_minor, tenders, due_minor })
}

fn price_line(at: usize, wanted: &DraftLine, prices: &BTreeMap<VariantId, Priced>) -> Result<SaleLine> {
    let Some(priced) = prices.get(&wanted.variant) else {
        return Err(Error::invalid("unknown_variant", format!("/lines/{at}/variant"), "There is no such variant."));
    };
    if !priced.active {
        return Err(Error::conflict_at(
            "not_for_sale",
            format!("/lines/{at}/variant"),
            "This product is not for sale.",
        ));
    }
    if let Some(shown) = wanted.unit_price_minor
        && shown != priced.price_minor
    {
        let detail = format!("The price is {}, not {shown}.", priced.price_minor);
        return Err(Error::conflict_at("price_changed", format!("/lines/{at}/unit_price_minor"), detail));
    }
    let gross = extend(priced.price_minor, wanted.quantity).ok_or_else(|| {
        Error::invalid("amount_out_of_range", format!("/lines/{at}/quantity"), "The line's amount is out of range.")
    })?;
    if wanted.discount_minor > gross {
        let detail = format!("The line comes to {gross}.");
        return Err(Error::invalid("discount_too_large", format!("/lines/{at}/discount_minor"), detail));
    }
    Ok(SaleLine {
        line: u32::try_from(at + 1)?,
        variant: wanted.variant,
        sku: priced.sku.clone(),
        name: priced.name.clone(),
        quantity: wanted.quantity,
        unit_price_minor: priced.price_minor,
        discount_minor: wanted.discount_minor,
        total_minor: gross - wanted.discount_minor,
    })
}

/// Tenders that pay exactly the total, or `in_part` no more than it, and what they leave to be paid.
fn pay(tenders: &[DraftTender], total_minor: i64, in_part: bool) -> Result<(Vec<Tender>, i64)> {
    let mut paid = Vec::with_capacity(tenders.len());
    for (at, drafted) in tenders.iter().enumerate() {
        paid.push(tender(drafted, &format!("/tenders/{at}"))?);
    }
    let covered = sum(paid.iter().map(|tender| tender.amount_minor), "/tenders")?;
    let due_minor = total_minor - covered;
    if due_minor < 0 || (due_minor > 0 && !in_part) {
        let detail = format!("The tenders come to {covered}, the sale to {total_minor}.");
        return Err(Error::invalid("tenders_mismatch", "/tenders", detail));
    }
    Ok((paid, due_minor))
}

/// A tender with its change; only cash may be more than the amount, and gives it. `pointer` is where the request has it.
pub(super) fn tender(draft: &DraftTender, pointer: &str) -> Result<Tender> {
    let tendered_minor = draft.tendered_minor.unwrap_or(draft.amount_minor);
    let change_minor = tendered_minor - draft.amount_minor;
    if change_minor < 0 || (change_minor > 0 && draft.method != Method::Cash) {
        let detail = "Only cash can be more than the amount, and none can be less.";
        return Err(Error::invalid("tendered_mismatch", format!("{pointer}/tendered_minor"), detail));
    }
    Ok(Tender {
        payment: draft.id,
        method: draft.method,
        amount_minor: draft.amount_minor,
        tendered_minor,
        change_minor,
    })
}

fn sum(amounts: impl Iterator<Item = i64>, pointer: &str) -> Result<i64> {
    amounts
        .map(i128::from)
        .sum::<i128>()
        .try_into()
        .ok()
        .filter(|total| *total <= AMOUNT_MAX_MINOR)
        .ok_or_else(|| Error::invalid("amount_out_of_range", pointer, "The amounts add up to more than is allowed."))
}

#[cfg(test)]
mod tests {
    use tillwire_channels::{OutletId, PaymentId, RegisterId, SaleId};

    use super::*;

    const BREAD: VariantId = VariantId(uuid::Uuid::nil());

    fn draft(quantity: &str, discount_minor: i64, tenders: &[(Method, i64, Option<i64>)]) -> Draft {
        let line = DraftLine {
            variant: BREAD,
            quantity: quantity.parse().unwrap(),
            unit_price_minor: None,
            discount_minor: 0,
        };
        Draft {
            id: SaleId::new(),
            outlet: OutletId::new(),
            register: RegisterId::new(),
            number: None,
            occurred_at: None,
            open_for: None,
            lines: vec![line.clone(), line],
            discount_minor,
            tenders: tenders
                .iter()
                .map(|&(method, amount_minor, tendered_minor)| DraftTender {
                    id: PaymentId::new(),
                    method,
                    amount_minor,
                    tendered_minor,
                })
                .collect(),
        }
    }

    fn prices() -> BTreeMap<VariantId, Priced> {
        [(BREAD, Priced { sku: "1".into(), name: "Roti".into(), price_minor: 7_500, active: true })].into()
    }

    fn code(result: Result<RungUp>) -> &'static str {
        match result {
            Err(Error::Invalid { code, .. } | Error::Conflict { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn adds_up() {
        let sale = ring_up(&draft("1.5", 501, &[(Method::Cash, 21_999, Some(50_000))]), &prices()).unwrap();
        assert_eq!((sale.subtotal_minor, sale.discount_minor, sale.total_minor), (22_500, 501, 21_999));
        assert_eq!(sale.lines.iter().map(|line| line.total_minor).sum::<i64>(), 21_999);
        assert_eq!(sale.tenders[0].change_minor, 28_001);
    }

    #[test]
    fn refuses_tenders_that_do_not_pay_the_total() {
        for tenders in [vec![], vec![(Method::Cash, 14_999, None)], vec![(Method::Cash, 15_001, None)]] {
            assert_eq!(code(ring_up(&draft("1", 0, &tenders), &prices())), "tenders_mismatch");
        }
        let change_for_a_card = draft("1", 0, &[(Method::Card, 15_000, Some(20_000))]);
        assert_eq!(code(ring_up(&change_for_a_card, &prices())), "tendered_mismatch");
        let too_little_handed_over = draft("1", 0, &[(Method::Cash, 15_000, Some(10_000))]);
        assert_eq!(code(ring_up(&too_little_handed_over, &prices())), "tendered_mismatch");
    }

    #[test]
    fn a_sale_that_may_be_open_is_paid_in_part_and_never_too_much() {
        let open = |tenders: &[(Method, i64, Option<i64>)]| {
            let draft = Draft { open_for: Some(time::Duration::MINUTE), ..draft("1", 0, tenders) };
            ring_up(&draft, &prices())
        };
        for (tenders, due_minor) in [
            (vec![], 15_000),
            (vec![(Method::Cash, 5_000, Some(20_000))], 10_000),
            (vec![(Method::Cash, 5_000, None), (Method::Qris, 10_000, None)], 0),
        ] {
            assert_eq!(open(&tenders).unwrap().due_minor, due_minor);
        }
        assert_eq!(code(open(&[(Method::Cash, 15_001, None)])), "tenders_mismatch");
        assert_eq!(code(open(&[(Method::Card, 5_000, Some(6_000))])), "tendered_mismatch");
    }

    #[test]
    fn refuses_what_is_absurd() {
        assert_eq!(code(ring_up(&draft("1", 15_001, &[]), &prices())), "discount_too_large");
        assert_eq!(code(ring_up(&draft("99999999999", 0, &[]), &prices())), "amount_out_of_range");
        assert_eq!(code(ring_up(&draft("1", 0, &[]), &BTreeMap::new())), "unknown_variant");
        let mut stale = draft("1", 0, &[(Method::Qris, 15_000, None)]);
        stale.lines[1].unit_price_minor = Some(7_000);
        assert_eq!(code(ring_up(&stale, &prices())), "price_changed");
    }
}
