//! Roles and views: who someone is, and what of an event they may see.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;
use utoipa::ToSchema;

/// What someone is to a merchant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May do everything.
    Owner,
    /// Runs outlets.
    Manager,
    /// Sells at a register.
    Cashier,
    /// Receives and counts stock.
    Clerk,
    /// Reads everything that has to do with money.
    Accountant,
    /// Reads everything, changes nothing.
    Auditor,
    /// A wall board or a public link: reads what may hang on a wall.
    Display,
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Role] =
        &[Self::Owner, Self::Manager, Self::Cashier, Self::Clerk, Self::Accountant, Self::Auditor, Self::Display];

    /// What the role sees of an event.
    pub fn view(self) -> View {
        match self {
            Self::Owner | Self::Manager | Self::Accountant | Self::Auditor => View::Office,
            Self::Cashier | Self::Clerk => View::Till,
            Self::Display => View::Display,
        }
    }
}

/// How much of an event is seen. Each is more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, TS)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// What may hang on a wall: no people, no tenders.
    Display,
    /// What a cashier needs.
    Till,
    /// Everything.
    Office,
}

impl View {
    /// Every view, least first.
    pub const ALL: &'static [View] = &[Self::Display, Self::Till, Self::Office];

    /// Whether the view shows who did it.
    pub fn shows_actor(self) -> bool {
        self >= Self::Till
    }

    /// The fields of an event's data that the view shows, as dotted paths; `None` shows all of it.
    ///
    /// These are allow-lists: a field that nobody listed, and a type that this node does not know, are for the
    /// office only.
    pub fn fields(self, kind: &str) -> Option<&'static [&'static str]> {
        match (self, kind) {
            (Self::Office, _) => None,
            (_, "stock.changed") => Some(&["variant", "sku", "name", "on_hand", "change", "reason"]),
            (_, "stock.reserved") => {
                Some(&["levels.variant", "levels.sku", "levels.name", "levels.reserved", "levels.change"])
            }
            (_, "product.changed") => Some(&[
                "product",
                "name",
                "department",
                "category",
                "brand",
                "package",
                "currency",
                "active",
                "version",
                "variants.variant",
                "variants.sku",
                "variants.name",
                "variants.price_minor",
                "variants.barcodes",
            ]),
            (_, "outlet.opened") => Some(&["outlet", "code", "name", "time_zone"]),
            (_, "register.enrolled") => Some(&["register", "code", "name"]),
            (Self::Display, "sale.completed") => Some(&[
                "sale",
                "number",
                "business_date",
                "currency",
                "total_minor",
                "lines.variant",
                "lines.name",
                "lines.quantity",
                "lines.total_minor",
            ]),
            (Self::Till, "sale.completed") => Some(&[
                "sale",
                "number",
                "business_date",
                "currency",
                "subtotal_minor",
                "discount_minor",
                "total_minor",
                "lines.line",
                "lines.variant",
                "lines.sku",
                "lines.name",
                "lines.quantity",
                "lines.unit_price_minor",
                "lines.discount_minor",
                "lines.total_minor",
                "tenders.payment",
                "tenders.method",
                "tenders.amount_minor",
                "tenders.change_minor",
            ]),
            (Self::Display, "sale.opened") => Some(&[
                "sale",
                "number",
                "currency",
                "total_minor",
                "lines.variant",
                "lines.name",
                "lines.quantity",
                "lines.total_minor",
                "expires_at",
            ]),
            (Self::Till, "sale.opened") => Some(&[
                "sale",
                "number",
                "currency",
                "subtotal_minor",
                "discount_minor",
                "total_minor",
                "lines.line",
                "lines.variant",
                "lines.sku",
                "lines.name",
                "lines.quantity",
                "lines.unit_price_minor",
                "lines.discount_minor",
                "lines.total_minor",
                "tenders.payment",
                "tenders.method",
                "tenders.amount_minor",
                "tenders.change_minor",
                "due_minor",
                "expires_at",
            ]),
            (Self::Display, "sale.voided") => Some(&["sale", "number", "reason"]),
            (Self::Till, "sale.voided") => Some(&["sale", "number", "currency", "total_minor", "reason", "note"]),
            (Self::Till, "payment.captured") => Some(&[
                "payment",
                "sale",
                "method",
                "currency",
                "amount_minor",
                "tendered_minor",
                "change_minor",
                "due_minor",
            ]),
            (Self::Till, "payment.changed") => Some(&[
                "payment",
                "sale",
                "provider",
                "method",
                "bank",
                "currency",
                "amount_minor",
                "state",
                "shown",
                "expires_at",
                "failure",
                "forced",
                "accepted_for",
            ]),
            (Self::Till, "refund.changed") => {
                Some(&["refund", "payment", "sale", "currency", "amount_minor", "state", "failure", "refunded_minor"])
            }
            _ => Some(&[]),
        }
    }
}

/// Keeps what the paths name and drops the rest. A path into a list applies to each of its items.
pub fn keep(data: Value, paths: &[&str]) -> Value {
    match data {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter_map(|(name, value)| {
                    if paths.contains(&name.as_str()) {
                        return Some((name, value));
                    }
                    let inner: Vec<&str> =
                        paths.iter().filter_map(|path| path.strip_prefix(name.as_str())?.strip_prefix('.')).collect();
                    (!inner.is_empty()).then(|| (name, keep(value, &inner)))
                })
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(|item| keep(item, paths)).collect(),
        // A scalar stands where the paths expected more: it was not listed, so it is not shown.
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_only_what_is_listed() {
        let data = json!({ "sale": 1, "secret": 2, "lines": [{ "name": "Roti", "cost": 3 }], "odd": { "deep": 4 } });
        assert_eq!(keep(data, &["sale", "lines.name"]), json!({ "sale": 1, "lines": [{ "name": "Roti" }] }));
        assert_eq!(keep(json!({ "lines": "text" }), &["lines.name"]), json!({ "lines": null }));
    }

    #[test]
    fn an_unknown_type_is_for_the_office_only() {
        assert_eq!(View::Office.fields("thing.happened"), None);
        assert_eq!(View::Till.fields("thing.happened"), Some([].as_slice()));
        assert_eq!(keep(json!({ "all": 1 }), View::Display.fields("thing.happened").unwrap()), json!({}));
    }
}
