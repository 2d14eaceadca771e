//! The wire contract of Tillwire: what happened, where it is heard and who may see what.
//!
//! The wire is described here and nowhere else; `schema/` beside this crate is generated from it.
//! Types and pure functions only: this crate never does I/O, and knows no database, broker or socket.
//!
//! Reading order: [`ids`], [`quantity`], [`position`], [`topic`], [`view`], [`event`], [`envelope`], [`wire`],
//! [`schema`].

pub mod envelope;
pub mod event;
pub mod ids;
pub mod position;
pub mod quantity;
pub mod schema;
pub mod topic;
pub mod view;
pub mod wire;

pub use envelope::{Envelope, Stored};
pub use event::Event;
pub use ids::{
    DeviceId, EndpointId, MerchantId, OutletId, PaymentId, ProductId, RefundId, RegisterId, SaleId, StaffId, VariantId,
};
pub use position::{Position, Tag};
pub use quantity::Quantity;
pub use topic::{Channel, Topic};
pub use view::{Role, View};

/// A moment, on the wire as RFC 3339 in UTC.
pub use time::OffsetDateTime as Moment;
