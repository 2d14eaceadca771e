//! What goes wrong on purpose. A rule says what, at whose door, for which payment, when, and how often.

use serde::{Deserialize, Serialize};

use crate::account::Provider;
use crate::clock::Moment;

/// How many rules there may be at once.
const RULES_MAX: usize = 1_000;
/// The most copies of a webhook.
const COPIES_MAX: u32 = 100;
/// The longest that anything is put off, in seconds.
const SECONDS_MAX: f64 = 31.0 * 24.0 * 3600.0;

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    // --- Webhooks: `on` is Midtrans's `transaction_status` or Xendit's `event`.
    /// Sent `n` times more: a second of the clock apart, or `concurrent`ly.
    Duplicate,
    /// Held back until the next webhook of the same payment has been sent.
    Reorder,
    /// A failure is told `seconds` after a payment. It is not true.
    LateFailure,
    /// Never sent.
    DropWebhook,
    /// Sent `seconds` later.
    DelayS,
    /// Midtrans: signed with another key. Xendit: with another token.
    BadSignature,
    /// Xendit: with another token. Midtrans: signed with another key.
    WrongToken,
    /// Says another `status`, with a signature that is right.
    TamperedStatus,
    /// Comes after one of a kind that nobody knows.
    UnknownEvent,
    /// With fields that nobody knows.
    ExtraFields,
    /// With null wherever something is optional.
    NullFields,
    /// With the status in the other case.
    CaseChange,
    /// Counts as if the receiver had answered 503; it hears nothing.
    #[serde(rename = "hub_503")]
    Hub503,
    /// Counts as if nobody had listened: once, or with `seconds` until then.
    HubDown,

    // --- A customer's payment: `on` is `pay`.
    /// Another `amount` is paid, and shown everywhere.
    AmountMismatch,
    /// Another merchant is shown everywhere.
    WrongMerchant,
    /// Another `currency` is shown everywhere.
    Currency,
    /// It is taken back after `seconds`.
    Reversal,
    /// The customer has paid; the provider still says pending, and tells nobody.
    StuckPending,
    /// A card's payment is left to the merchant to approve or to deny.
    Challenge,
    /// A card at Xendit is refused by its bank, whatever the amount. On a page the customer may try another.
    CardRefused,
    /// The customer pays `seconds` after it has expired or was cancelled. `on` is `expire` or `cancel`.
    PayAfterExpire,

    // --- What a charge is answered: `on` is `charge`.
    QrBadCrc,
    QrWrongAmount,
    /// Midtrans: `expire_time` stands where `expiry_time` does.
    ExpireTime,

    // --- Refunds: `on` is `refund`.
    RefundPendingForever,
    /// Midtrans: body code 202. Xendit: `FAILED`, by webhook.
    #[serde(rename = "refund_rejected_202")]
    RefundRejected202,

    // --- Requests: `on` is the operation.
    /// Done, but never answered: the connection is closed after `seconds`.
    TimeoutAfterCommit,
    #[serde(rename = "http_500")]
    Http500,
    #[serde(rename = "http_503")]
    Http503,
    #[serde(rename = "http_429")]
    Http429,
    /// Begun `seconds` later.
    SlowS,
    /// The connection is closed, and nothing is done.
    Reset,
}

impl Fault {
    /// How many seconds it is about if nobody says: of the machine for requests, of the simulated clock for all else.
    fn seconds(self) -> f64 {
        match self {
            Self::TimeoutAfterCommit => 60.0,
            Self::Reversal => 180.0,
            Self::Http429 => 30.0,
            Self::DelayS | Self::SlowS | Self::PayAfterExpire => 5.0,
            _ => 1.0,
        }
    }
}

/// A rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(skip_deserializing)]
    pub id: u64,
    pub fault: Fault,
    /// Both, unless it is said.
    pub provider: Option<Provider>,
    /// The payment's reference or any of its ids; all, unless it is said. It need not exist yet.
    pub payment: Option<String>,
    /// When; whenever it can, unless it is said.
    pub on: Option<String>,
    /// How often; null is until it is removed.
    #[serde(default = "once")]
    pub times: Option<u32>,
    #[serde(default = "one")]
    pub n: u32,
    #[serde(default)]
    pub concurrent: bool,
    seconds: Option<f64>,
    pub amount: Option<i64>,
    pub status: Option<String>,
    pub currency: Option<String>,
    /// When it is over, for one that says so.
    #[serde(skip_deserializing)]
    until: Option<Moment>,
}

/// As serde shall put it there.
fn once() -> Option<u32> {
    Some(1)
}

fn one() -> u32 {
    1
}

impl Rule {
    pub fn after(&self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.seconds.unwrap_or_else(|| self.fault.seconds()))
    }

    fn check(&self) -> Result<(), String> {
        if self.times == Some(0) {
            return Err("times must be at least 1, or null".into());
        }
        if !(1..=COPIES_MAX).contains(&self.n) {
            return Err(format!("n must be 1 to {COPIES_MAX}"));
        }
        if self.seconds.is_some_and(|it| !(0.0..=SECONDS_MAX).contains(&it)) {
            return Err(format!("seconds must be 0 to {SECONDS_MAX}"));
        }
        if self.amount.is_some_and(|it| !(1..=crate::AMOUNT_MAX).contains(&it)) {
            return Err(format!("amount must be 1 to {}", crate::AMOUNT_MAX));
        }
        let texts = [&self.payment, &self.on, &self.status, &self.currency];
        if texts.into_iter().flatten().any(|it| it.is_empty() || it.len() > 255) {
            return Err("payment, on, status and currency must be 1 to 255 bytes".into());
        }
        Ok(())
    }
}

/// What something is, for rules to match.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub provider: Provider,
    /// The payment's reference and ids.
    pub names: &'a [&'a str],
    pub on: &'a str,
}

/// The rules, oldest first.
#[derive(Default)]
pub struct Faults {
    rules: Vec<Rule>,
    last: u64,
}

impl Faults {
    /// # Errors
    /// What is wrong with the rule.
    pub fn add(&mut self, mut rule: Rule, now: Moment) -> Result<u64, String> {
        rule.check()?;
        if rule.fault == Fault::HubDown && rule.seconds.is_some() {
            (rule.until, rule.times) = (Some(now.plus(rule.after())), None);
        }
        if self.rules.len() == RULES_MAX {
            return Err(format!("there are {RULES_MAX} rules: remove some"));
        }
        self.last += 1;
        rule.id = self.last;
        self.rules.push(rule);
        Ok(self.last)
    }

    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Forgets what is over.
    pub fn expire(&mut self, now: Moment) {
        self.rules.retain(|rule| rule.until.is_none_or(|until| now < until));
    }

    /// Whether there was one.
    pub fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| rule.id != id);
        self.rules.len() < before
    }

    /// The oldest rule of this fault that is meant, used once.
    pub fn take(&mut self, fault: Fault, subject: Subject<'_>) -> Option<Rule> {
        let at = self.rules.iter().position(|rule| {
            rule.fault == fault
                && rule.provider.is_none_or(|it| it == subject.provider)
                && rule.payment.as_deref().is_none_or(|it| subject.names.contains(&it))
                && rule.on.as_deref().is_none_or(|it| it == subject.on)
        })?;
        let rule = self.rules[at].clone();
        if let Some(times) = &mut self.rules[at].times {
            *times -= 1;
            if *times == 0 {
                self.rules.remove(at);
            }
        }
        Some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Moment {
        Moment::parse("2026-01-14T03:05:02Z").unwrap()
    }

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_rule_is_used_as_often_as_it_says_by_whom_it_means() {
        let mut faults = Faults::default();
        faults
            .add(
                rule(r#"{"fault":"drop_webhook","provider":"midtrans","payment":"A-1","on":"settlement","times":2}"#),
                now(),
            )
            .unwrap();
        let subject = |provider, name, on| (provider, [name], on);
        let mut take = |(provider, names, on): (Provider, [&str; 1], &str)| {
            faults.take(Fault::DropWebhook, Subject { provider, names: &names, on }).is_some()
        };
        assert!(!take(subject(Provider::Xendit, "A-1", "settlement")));
        assert!(!take(subject(Provider::Midtrans, "A-2", "settlement")));
        assert!(!take(subject(Provider::Midtrans, "A-1", "pending")));
        let meant = subject(Provider::Midtrans, "A-1", "settlement");
        assert_eq!([take(meant), take(meant), take(meant)], [true, true, false]);
        assert!(faults.all().is_empty());
    }

    #[test]
    fn one_without_an_end_stays_until_it_is_removed() {
        let mut faults = Faults::default();
        let id = faults.add(rule(r#"{"fault":"http_503","times":null}"#), now()).unwrap();
        let subject = Subject { provider: Provider::Xendit, names: &[], on: "create" };
        assert!((0..5).all(|_| faults.take(Fault::Http503, subject).is_some()));
        assert!(faults.remove(id) && !faults.remove(id));
        assert!(faults.take(Fault::Http503, subject).is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            r#"{"fault":"nothing"}"#,
            r#"{"fault":"reset","tims":2}"#,
            r#"{"fault":"reset","times":0}"#,
            r#"{"fault":"duplicate","n":0}"#,
            r#"{"fault":"slow_s","seconds":-1}"#,
            r#"{"fault":"amount_mismatch","amount":0}"#,
            r#"{"fault":"reset","on":""}"#,
        ] {
            let refused = serde_json::from_str::<Rule>(text).map_err(|error| error.to_string());
            assert!(refused.and_then(|rule| rule.check()).is_err(), "{text}");
        }
    }
}
