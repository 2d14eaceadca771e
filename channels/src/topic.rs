//! Topics and channels: families of events, and what a screen joins.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ts_rs::TS;

use crate::ids::{OutletId, RegisterId};
use crate::view::{Role, View};

/// A family of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    Sales,
    Payments,
    Stock,
    Catalog,
    Outlets,
    Access,
    Alerts,
    Presence,
}

/// A row of the table of topics: what a screen may expect of each. Published with the schema.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TopicRow {
    #[serde(skip)]
    pub topic: Topic,
    /// The word on the wire.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// The events heard in it.
    pub events: &'static [&'static str],
    /// What `GET /v1/snapshot` answers for it, if it has state.
    pub snapshot: Option<&'static str>,
    /// For a latest-value topic, the fields that name a value: a screen that is behind may be given only the newest
    /// event of each, marked with `merged`. Events that have no such fields are facts, and none of them is left out.
    pub latest_by: Option<&'static [&'static str]>,
    /// How far a channel of it can be narrowed: to an outlet, and to a register of it.
    pub narrows: Narrows,
    /// The roles that may join it.
    pub roles: &'static [Role],
}

/// How far the channels of a topic can be narrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Narrows {
    No,
    Outlet,
    Register,
}

use Role::*;

/// The table of topics. Its order is the order of [`Topic`].
pub const TOPICS: &[TopicRow] = &[
    TopicRow {
        topic: Topic::Sales,
        name: "sales",
        about: "Sales as they are opened, completed and voided.",
        events: &["sale.opened", "sale.completed", "sale.voided"],
        snapshot: Some("The day's count and total of completed sales for each outlet."),
        latest_by: None,
        narrows: Narrows::Register,
        roles: &[Owner, Manager, Cashier, Accountant, Auditor, Display],
    },
    TopicRow {
        topic: Topic::Payments,
        name: "payments",
        about: "Money that arrived, payments on their way, and money that goes back.",
        events: &["payment.captured", "payment.changed", "refund.changed"],
        snapshot: Some("The day's count and amount of payments for each outlet and method."),
        latest_by: None,
        narrows: Narrows::Register,
        roles: &[Owner, Manager, Cashier, Accountant, Auditor],
    },
    TopicRow {
        topic: Topic::Stock,
        name: "stock",
        about: "Levels of stock, and what of them is reserved.",
        events: &["stock.changed", "stock.reserved"],
        snapshot: Some("The level of every variant that the outlet has ever stocked, and what of it is reserved."),
        latest_by: Some(&["outlet", "data.variant"]),
        narrows: Narrows::Outlet,
        roles: &[Owner, Manager, Cashier, Clerk, Accountant, Auditor, Display],
    },
    TopicRow {
        topic: Topic::Catalog,
        name: "catalog",
        about: "Products, their variants, barcodes and prices.",
        events: &["product.changed"],
        snapshot: Some("Every product."),
        latest_by: Some(&["data.product"]),
        narrows: Narrows::No,
        roles: &[Owner, Manager, Cashier, Clerk, Accountant, Auditor, Display],
    },
    TopicRow {
        topic: Topic::Outlets,
        name: "outlets",
        about: "Outlets and their registers.",
        events: &["outlet.opened", "register.enrolled"],
        snapshot: Some("Every outlet with its registers."),
        latest_by: None,
        narrows: Narrows::Outlet,
        roles: &[Owner, Manager, Cashier, Clerk, Accountant, Auditor, Display],
    },
    TopicRow {
        topic: Topic::Access,
        name: "access",
        about: "Who may no longer act or listen. Gateways obey it whether or not a screen listens.",
        events: &["access.revoked"],
        snapshot: None,
        latest_by: None,
        narrows: Narrows::No,
        roles: &[Owner, Auditor],
    },
    TopicRow {
        topic: Topic::Alerts,
        name: "alerts",
        about: "What a person should look at.",
        events: &["alert.raised"],
        snapshot: None,
        latest_by: None,
        narrows: Narrows::Register,
        roles: &[Owner, Manager, Accountant, Auditor],
    },
    TopicRow {
        topic: Topic::Presence,
        name: "presence",
        about: "Who is at an outlet, by their screens. No events: `presence`, without a position, and never replayed.",
        events: &[],
        snapshot: None,
        latest_by: None,
        narrows: Narrows::Outlet,
        roles: &[Owner, Manager, Cashier, Clerk, Auditor],
    },
];

impl Topic {
    /// Everything about the topic.
    pub fn row(self) -> &'static TopicRow {
        // INVARIANT: the table's order is the enum's; a test holds it.
        &TOPICS[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The packets that its channels bring besides events.
    pub fn packets(self) -> &'static [&'static str] {
        match self {
            Self::Presence => &["presence"],
            _ => &[],
        }
    }

    /// The topic as heard at an outlet.
    pub fn at(self, outlet: OutletId) -> Channel {
        Channel { topic: self, outlet: Some(outlet), register: None }
    }

    /// The topic for the whole merchant.
    pub fn everywhere(self) -> Channel {
        Channel { topic: self, outlet: None, register: None }
    }
}

/// What a screen joins: a topic, optionally narrowed to an outlet, and to a register of it.
///
/// On the wire `sales`, `stock/{outlet}`, `payments/{outlet}/{register}`. A channel hears what happens on every
/// channel that it is a beginning of, so `sales` hears all outlets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, TS)]
#[ts(type = "string")]
pub struct Channel {
    pub topic: Topic,
    pub outlet: Option<OutletId>,
    pub register: Option<RegisterId>,
}

impl Channel {
    /// The channel narrowed to a register.
    pub fn by(self, register: RegisterId) -> Self {
        Self { register: Some(register), ..self }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.topic.name())?;
        if let Some(outlet) = self.outlet {
            write!(f, "/{outlet}")?;
        }
        if let Some(register) = self.register {
            write!(f, "/{register}")?;
        }
        Ok(())
    }
}

/// Why a text is not a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAChannel;

impl fmt::Display for NotAChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a channel is a topic, optionally narrowed: sales, stock/{outlet}, payments/{outlet}/{register}")
    }
}

impl std::error::Error for NotAChannel {}

impl FromStr for Channel {
    type Err = NotAChannel;

    fn from_str(text: &str) -> Result<Self, NotAChannel> {
        let mut parts = text.split('/');
        let name = parts.next().unwrap_or_default();
        let row = TOPICS.iter().find(|row| row.name == name).ok_or(NotAChannel)?;
        let outlet = parts.next().map(hyphenated).transpose()?.map(OutletId);
        let register = parts.next().map(hyphenated).transpose()?.map(RegisterId);
        let too_narrow = match row.narrows {
            Narrows::No => outlet.is_some(),
            Narrows::Outlet => register.is_some(),
            Narrows::Register => false,
        };
        if too_narrow || parts.next().is_some() {
            return Err(NotAChannel);
        }
        Ok(Self { topic: row.topic, outlet, register })
    }
}

/// A UUID in the one form that channels are written in: other forms would be other names for the same channel.
fn hyphenated(text: &str) -> Result<uuid::Uuid, NotAChannel> {
    let id = uuid::Uuid::parse_str(text).map_err(|_| NotAChannel)?;
    if id.to_string() == text { Ok(id) } else { Err(NotAChannel) }
}

/// Whether a screen that joined `joined` hears what happens on `channel`.
///
/// Both are texts, so that a node routes an event of a topic that it does not know as its writer decided.
pub fn hears(joined: &str, channel: &str) -> bool {
    channel.strip_prefix(joined).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Who asks to join: what a token says of its bearer.
#[derive(Clone, Debug)]
pub struct Listener<'a> {
    pub role: Role,
    /// The outlets the bearer is bound to; empty for all.
    pub outlets: &'a [OutletId],
    /// The register the bearer is bound to, if any.
    pub register: Option<RegisterId>,
}

impl Listener<'_> {
    /// Whether the bearer may join the channel.
    ///
    /// Someone bound to outlets must name one of them, and someone bound to a register must name it wherever the
    /// topic can be narrowed that far.
    pub fn may_join(&self, channel: Channel) -> bool {
        let row = channel.topic.row();
        let role = row.roles.contains(&self.role);
        let outlet = self.outlets.is_empty()
            || row.narrows == Narrows::No
            || channel.outlet.is_some_and(|outlet| self.outlets.contains(&outlet));
        let register = match self.register {
            Some(own) if row.narrows == Narrows::Register => channel.register == Some(own),
            _ => true,
        };
        role && outlet && register
    }

    /// What the bearer may see of an event.
    pub fn view(&self) -> View {
        self.role.view()
    }
}

impl Serialize for Channel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Channel {
    fn schema_name() -> Cow<'static, str> {
        "Channel".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^[a-z]+(/[0-9a-f-]{36}){0,2}$",
            "description": "A topic, optionally narrowed to an outlet and a register of it: sales, stock/{outlet}, payments/{outlet}/{register}."
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_topics() {
        for (at, row) in TOPICS.iter().enumerate() {
            assert_eq!(row.topic as usize, at);
        }
    }

    #[test]
    fn a_channel_hears_what_it_is_a_beginning_of() {
        let (outlet, register) = (OutletId::new(), RegisterId::new());
        let happened = Topic::Sales.at(outlet).by(register).to_string();
        assert!(hears("sales", &happened));
        assert!(hears(&Topic::Sales.at(outlet).to_string(), &happened));
        assert!(hears(&happened, &happened));
        assert!(!hears(&Topic::Sales.at(OutletId::new()).to_string(), &happened));
        assert!(!hears("sale", &happened) && !hears("stock", &happened));
        assert!(!hears(&happened, "sales"));
    }

    #[test]
    fn refuses_what_is_no_channel() {
        let outlet = OutletId::new();
        for text in [
            "",
            "sales/",
            "nothing",
            "SALES",
            "sales/1",
            "sales//",
            "*",
            &format!("catalog/{outlet}"),
            &format!("stock/{outlet}/{outlet}"),
            &format!("sales/{}", outlet.0.simple()),
        ] {
            assert_eq!(text.parse::<Channel>(), Err(NotAChannel), "{text:?}");
        }
        let narrow = format!("sales/{outlet}");
        assert_eq!(narrow.parse::<Channel>().unwrap().to_string(), narrow);
    }

    #[test]
    fn joining_needs_role_outlet_and_register() {
        let (own, other, register) = (OutletId::new(), OutletId::new(), RegisterId::new());
        let outlets = [own];
        let cashier = Listener { role: Role::Cashier, outlets: &outlets, register: Some(register) };
        assert!(cashier.may_join(Topic::Payments.at(own).by(register)));
        assert!(cashier.may_join(Topic::Stock.at(own)));
        assert!(cashier.may_join(Topic::Catalog.everywhere()));
        assert!(!cashier.may_join(Topic::Payments.at(own)), "another till's payments");
        assert!(!cashier.may_join(Topic::Stock.at(other)) && !cashier.may_join(Topic::Stock.everywhere()));
        assert!(!cashier.may_join(Topic::Access.everywhere()));
        let owner = Listener { role: Role::Owner, outlets: &[], register: None };
        assert!(TOPICS.iter().all(|row| owner.may_join(row.topic.everywhere())));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_channel_is_one_text_and_hears_what_is_within_it_and_nothing_else(
            (topic, outlet, register) in (0..TOPICS.len(), any::<u128>(), any::<u128>()),
            (cut, other) in (0..3_usize, 0..TOPICS.len()),
            text in "[a-z]{0,8}(/[0-9a-fA-F-]{0,36}){0,3}",
        ) {
            let row = &TOPICS[topic];
            let (outlet, register) = (uuid::Uuid::from_u128(outlet), uuid::Uuid::from_u128(register));
            let parts = [row.name.to_owned(), outlet.to_string(), register.to_string()];
            let narrowest = 1 + row.narrows as usize;
            let within = parts[..narrowest].join("/");
            let joined = parts[..narrowest.min(cut + 1)].join("/");
            let channel: Channel = joined.parse().unwrap();
            prop_assert_eq!(channel.to_string(), &joined[..]);
            prop_assert!(hears(&joined, &within));
            prop_assert_eq!(hears(&within, &joined), within == joined);
            prop_assert_eq!(hears(TOPICS[other].name, &within), other == topic);
            for text in [text, format!("{joined}/"), format!("{within}/{register}"), joined.to_uppercase()] {
                if let Ok(channel) = text.parse::<Channel>() {
                    prop_assert_eq!(channel.to_string(), text);
                }
            }
        }
    }
}
