//! Shards: merchants are spread over a fixed number of them, and each has one leader.

use std::fmt;

use tillwire_channels::MerchantId;

/// How many shards there are. All nodes must agree, so this never changes. SQL knows it as `& 15`.
pub const SHARDS: u8 = 16;

/// Some of the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shards(u16);

impl Shards {
    pub const NONE: Self = Self(0);

    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn contains(self, shard: u8) -> bool {
        self.iter().any(|own| own == shard)
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..SHARDS).filter(move |shard| self.0 & (1 << shard) != 0)
    }

    #[must_use]
    pub fn with(self, shard: u8) -> Self {
        Self(self.0 | (1 << shard))
    }

    #[must_use]
    pub fn without(self, shard: u8) -> Self {
        Self(self.0 & !(1 << shard))
    }

    /// As a parameter of a query.
    pub fn to_sql(self) -> Vec<i32> {
        self.iter().map(i32::from).collect()
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.iter().map(|shard| shard.to_string()).collect();
        f.write_str(&numbers.join(", "))
    }
}

/// Which shard a merchant is of: the last digits of an id are random, whoever made it.
pub fn shard_of(merchant: MerchantId) -> u8 {
    let [.., last] = merchant.0.into_bytes();
    last & (SHARDS - 1)
}

/// How many shards one of so many nodes leads at most.
pub fn fair_share(nodes: usize) -> usize {
    usize::from(SHARDS).div_ceil(nodes.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merchants_shard_never_changes() {
        let merchant = MerchantId("0192d3a4-5b6c-7d8e-9fa0-b1c2d3e4f5a6".parse().unwrap());
        assert_eq!(shard_of(merchant), 6);
        let mut all = Shards::NONE;
        for _ in 0..2_000 {
            all = all.with(shard_of(MerchantId::new()));
        }
        assert_eq!((all.len(), all), (16, Shards(u16::MAX)), "merchants are in all of them");
    }

    #[test]
    fn the_fair_shares_of_any_fleet_cover_all_shards() {
        for nodes in 0..40 {
            assert!(fair_share(nodes) * nodes.max(1) >= 16);
            assert!(nodes == 0 || (fair_share(nodes) - 1) * nodes < 16, "{nodes}: fewer each would not do");
        }
    }

    #[test]
    fn a_set_of_shards() {
        let some = Shards::NONE.with(0).with(15).with(3).with(3);
        assert_eq!((some.len(), some.to_sql(), some.to_string()), (3, vec![0, 3, 15], "0, 3, 15".to_owned()));
        assert!(some.contains(15) && !some.contains(1) && !some.without(15).contains(15));
        assert!(Shards::NONE.is_empty() && some.without(0).without(3).without(15).is_empty());
    }
}
