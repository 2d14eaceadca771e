//! The merchant that the demo opens: made-up places and people, whose ids are the same on every machine.

use aws_lc_rs::digest::{SHA256, digest};
use tillwire_channels::{MerchantId, OutletId, ProductId, RegisterId, Role, StaffId, VariantId};
use uuid::{Builder, Uuid};

use crate::identity::tokens::Bearer;

/// Changes when prices or products do: another edition is another merchant, so that no basket is rung up at prices that
/// an older demo put into the database.
const EDITION: &str = "complete-journey/1";

pub const NAME: &str = "Swalayan Nusantara";
pub const CURRENCY: &str = "IDR";
/// The tills of each outlet.
pub const REGISTERS: usize = 3;

/// An outlet, and the one in the data whose sales it makes.
#[derive(Debug)]
pub struct Outlet {
    pub source: &'static str,
    pub code: &'static str,
    pub name: &'static str,
    pub time_zone: &'static str,
    /// Who stands at the tills, one each.
    pub cashiers: [&'static str; REGISTERS],
    /// Who takes in what is delivered.
    pub clerk: &'static str,
}

/// The busiest first.
pub const OUTLETS: [Outlet; 5] = [
    Outlet {
        source: "367",
        code: "JKT",
        name: "Kemang, Jakarta",
        time_zone: "Asia/Jakarta",
        cashiers: ["Siti Rahma", "Budi Santoso", "Dewi Lestari"],
        clerk: "Agus Salim",
    },
    Outlet {
        source: "406",
        code: "BDG",
        name: "Dago, Bandung",
        time_zone: "Asia/Jakarta",
        cashiers: ["Rina Kartika", "Asep Hidayat", "Yuni Safitri"],
        clerk: "Dadang Suhendar",
    },
    Outlet {
        source: "381",
        code: "SBY",
        name: "Darmo, Surabaya",
        time_zone: "Asia/Jakarta",
        cashiers: ["Endah Wulandari", "Joko Prasetyo", "Fitri Handayani"],
        clerk: "Slamet Riyadi",
    },
    Outlet {
        source: "343",
        code: "MKS",
        name: "Panakkukang, Makassar",
        time_zone: "Asia/Makassar",
        cashiers: ["Nurul Aisyah", "Andi Baso", "Hasnah Daeng"],
        clerk: "Syamsul Bahri",
    },
    Outlet {
        source: "361",
        code: "DPS",
        name: "Renon, Denpasar",
        time_zone: "Asia/Makassar",
        cashiers: ["Ni Luh Ayu", "I Made Wirawan", "Ni Kadek Sari"],
        clerk: "I Wayan Sudarma",
    },
];

/// Who acts in the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Owner,
    Manager,
    /// At an outlet's register. The one after the last is for a person.
    Cashier(usize, usize),
    /// At an outlet.
    Clerk(usize),
    /// Whoever opens the printed link.
    Screen,
}

/// The merchant's ids.
#[derive(Clone, Debug)]
pub struct Shop {
    edition: String,
}

impl Shop {
    /// With only the year's first `baskets` it is a smaller catalogue, and so another merchant.
    pub fn new(baskets: Option<usize>) -> Self {
        Self { edition: baskets.map_or(EDITION.to_owned(), |baskets| format!("{EDITION}/first {baskets}")) }
    }

    pub fn merchant(&self) -> MerchantId {
        MerchantId(self.id("merchant"))
    }

    pub fn outlet(&self, outlet: usize) -> OutletId {
        OutletId(self.id(&format!("outlet {}", OUTLETS[outlet].code)))
    }

    pub fn register(&self, outlet: usize, register: usize) -> RegisterId {
        RegisterId(self.id(&format!("register {} {register}", OUTLETS[outlet].code)))
    }

    pub fn product(&self, number: &str) -> ProductId {
        ProductId(self.id(&format!("product {number}")))
    }

    pub fn variant(&self, number: &str) -> VariantId {
        VariantId(self.id(&format!("variant {number}")))
    }

    /// The account at a provider.
    pub fn account(&self, provider: &str) -> Uuid {
        self.id(&format!("account {provider}"))
    }

    /// Someone's token: what they are, and where.
    pub fn bearer(&self, who: Who) -> Bearer {
        let (role, outlet, register) = match who {
            Who::Owner => (Role::Owner, None, None),
            Who::Manager => (Role::Manager, None, None),
            Who::Cashier(outlet, register) => (Role::Cashier, Some(outlet), Some(self.register(outlet, register))),
            Who::Clerk(outlet) => (Role::Clerk, Some(outlet), None),
            Who::Screen => (Role::Display, None, None),
        };
        Bearer {
            merchant: self.merchant(),
            staff: StaffId(self.id(&format!("staff {who:?}"))),
            role,
            outlets: outlet.map(|outlet| self.outlet(outlet)).into_iter().collect(),
            register,
        }
    }

    /// Everybody who works here, with their names.
    pub fn staff() -> impl Iterator<Item = (Who, &'static str)> {
        let of = |(at, outlet): (usize, &'static Outlet)| {
            let cashiers = outlet.cashiers.iter().enumerate().map(move |(till, name)| (Who::Cashier(at, till), *name));
            cashiers.chain([(Who::Clerk(at), outlet.clerk)])
        };
        [(Who::Owner, "Ratna Wijaya"), (Who::Manager, "Hendra Gunawan")]
            .into_iter()
            .chain(OUTLETS.iter().enumerate().flat_map(of))
    }

    /// An id that follows from what it names (UUIDv8).
    fn id(&self, what: &str) -> Uuid {
        let hash = digest(&SHA256, format!("tillwire demo {} {what}", self.edition).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_ref()[..16]);
        Builder::from_custom_bytes(bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_always_the_same_and_never_shared() {
        let shop = Shop::new(None);
        assert_eq!(shop.merchant(), Shop::new(None).merchant());
        assert_ne!(shop.merchant(), Shop::new(Some(10)).merchant());
        let people: HashSet<StaffId> = Shop::staff().map(|(who, _)| shop.bearer(who).staff).collect();
        assert_eq!(people.len(), 2 + OUTLETS.len() * (REGISTERS + 1));
        let tills: HashSet<RegisterId> = (0..OUTLETS.len())
            .flat_map(|at| (0..REGISTERS).map(move |till| (at, till)))
            .map(|(at, till)| shop.register(at, till))
            .collect();
        assert_eq!(tills.len(), OUTLETS.len() * REGISTERS);
    }

    #[test]
    fn whoever_has_the_link_only_looks_on() {
        let screen = Shop::new(None).bearer(Who::Screen);
        assert_eq!((screen.role, screen.outlets.is_empty()), (Role::Display, true));
    }
}
