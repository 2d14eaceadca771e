//! Ids: UUIDs with a type each, so that a sale is never taken for an outlet.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, TS, ToSchema,
        )]
        #[ts(type = "string")]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, ordered by time (UUIDv7). Never a secret and never a cursor.
            #[allow(clippy::new_without_default)] // Every call gives another id: no default exists.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id!(
    /// A merchant: the tenant, owner of outlets and of one journal.
    MerchantId
);
id!(
    /// An outlet: one shop of a merchant.
    OutletId
);
id!(
    /// A register: one till position in an outlet.
    RegisterId
);
id!(
    /// A member of staff, or a machine that acts for the merchant.
    StaffId
);
id!(
    /// A product: what the catalogue lists.
    ProductId
);
id!(
    /// A variant of a product: what is priced, stocked and sold.
    VariantId
);
id!(
    /// A sale, made by the till before it is sent.
    SaleId
);
id!(
    /// A payment of a sale.
    PaymentId
);
id!(
    /// A refund of a payment, or of a part of it.
    RefundId
);
id!(
    /// A webhook endpoint: where a merchant's own server is told what happens.
    EndpointId
);
id!(
    /// A device on which one person is told what no screen has shown them.
    DeviceId
);
