//! The comparison: a function of what we have and of what was told, and of nothing else. What was told may come in any order, and
//! twice.
//!
//! Each payment is compared with what was told of it, by whomever; what was told of no payment of ours is money of a stranger.
//! Nothing is concluded from what was not told: a list of a span has not all that ever happened.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tillwire_channels::{Moment, PaymentId};

use super::Class;
use crate::commerce::payments::State;
use crate::connectors::report::RowKind;

/// How long after the time that a provider has named for a payout nothing is said.
pub const SETTLE_GRACE: time::Duration = time::Duration::days(2);

/// A payment, as we have it.
#[derive(Clone, Debug)]
pub struct Ours {
    pub payment: PaymentId,
    /// As its provider names it, if that is known.
    pub there: Option<String>,
    pub amount_minor: i64,
    pub currency: String,
    pub state: State,
    pub changed_at: Moment,
    pub fee_minor: Option<i64>,
    /// Whether its provider must have told of it, because of when it was paid.
    pub expected: bool,
    /// When its money should be ours to use, if nobody says it better.
    pub settle_by: Option<Moment>,
}

/// Something that was told.
#[derive(Clone, Debug)]
pub struct Theirs {
    pub source: Source,
    /// As whoever told it names it: the same is the same.
    pub id: String,
    /// Ours, if it is one.
    pub payment: Option<PaymentId>,
    pub kind: RowKind,
    /// Of the payment, as far as this tells it.
    pub state: Option<State>,
    pub reference: Option<String>,
    /// As the provider names the payment.
    pub there: Option<String>,
    pub currency: String,
    pub amount_minor: i64,
    pub fee_minor: Option<i64>,
    pub net_minor: Option<i64>,
    /// None if nothing is said of that.
    pub settled: Option<bool>,
    pub settles_at: Option<Moment>,
    pub told_at: Moment,
}

/// Who told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The provider, when it was asked.
    Provider,
    /// A notification that was of no payment of ours.
    Notice,
    /// A file that a person has brought.
    File,
}

/// What the comparison depends on besides.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub at: Moment,
    /// How far files reach that tell of payouts.
    pub files_until: Option<Moment>,
    /// Whether the provider tells how a payment stands, and not only what moved.
    pub whole: bool,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub class: Class,
    /// The payment's id, or as its provider names it.
    pub subject: String,
    pub payment: Option<PaymentId>,
    pub ours_minor: Option<i64>,
    pub theirs_minor: Option<i64>,
    /// In a sentence.
    pub detail: String,
}

/// What is to be done about a payment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lesson {
    /// Its provider is to be asked.
    pub look: bool,
    /// The provider has given us its money.
    pub settled: bool,
    pub fee_minor: Option<i64>,
    /// The provider or the customer's bank has taken the money back.
    pub taken_back: Option<State>,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    pub differences: Vec<Difference>,
    pub lessons: Vec<(PaymentId, Lesson)>,
    /// Of which payments it is known whether they differ, in which ways.
    pub judged: Vec<(PaymentId, Class)>,
}

/// Where the money is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Money {
    None,
    Here,
    Back,
}

fn money(state: State) -> Money {
    match state {
        State::Paid | State::Settled | State::PartiallyRefunded | State::PaidLate => Money::Here,
        State::Refunded | State::Reversed | State::ChargedBack => Money::Back,
        _ => Money::None,
    }
}

/// Holds ours against theirs.
pub fn compare(ours: &[Ours], theirs: &[Theirs], view: View) -> Compared {
    let mut known = HashSet::new();
    let mut of: HashMap<PaymentId, Vec<&Theirs>> = HashMap::new();
    let mut strangers = Vec::new();
    for row in theirs.iter().filter(|row| known.insert((row.source, row.id.as_str()))) {
        match row.payment {
            Some(payment) => of.entry(payment).or_default().push(row),
            None => strangers.push(row),
        }
    }
    let mut compared = Compared::default();
    for one in ours {
        let mut rows = of.remove(&one.payment).unwrap_or_default();
        rows.sort_by_key(|row| (row.source, row.id.as_str()));
        Pair { ours: one, rows, view }.judge(&mut compared);
    }
    compared.differences.extend(missing_in_hub(&strangers));
    compared
}

/// A payment and what was told of it.
struct Pair<'a> {
    ours: &'a Ours,
    rows: Vec<&'a Theirs>,
    view: View,
}

impl<'a> Pair<'a> {
    fn judge(&self, compared: &mut Compared) {
        let mut lesson = Lesson::default();
        let say = |class, found: Option<Finding>, compared: &mut Compared| {
            compared.judged.push((self.ours.payment, class));
            compared.differences.extend(found.map(|found| self.difference(class, found)));
        };
        let is_missing = self.ours.expected && self.rows.is_empty() && money(self.ours.state) == Money::Here;
        if self.ours.expected || !self.rows.is_empty() {
            let found = is_missing.then(|| Finding::of("It is paid here, and its provider tells nothing of it."));
            say(Class::MissingAtProvider, found, compared);
        }
        let mut fits = false;
        if self.with_money().next().is_some() {
            let (amount, duplicate) = (self.amount(), self.duplicate());
            fits = amount.is_none() && duplicate.is_none();
            say(Class::AmountMismatch, amount, compared);
            say(Class::DuplicatePaid, duplicate, compared);
        }
        if self.rows.iter().any(|row| row.fee_minor.is_some()) {
            say(Class::FeeMismatch, self.fee(), compared);
        }
        if let Some(theirs) = self.standing() {
            let differs = self.differs(theirs);
            // What we heard after it was told may be news that it has not.
            if !differs {
                say(Class::StatusMismatch, None, compared);
            } else if self.rows.iter().any(|row| row.told_at > self.ours.changed_at) {
                say(Class::StatusMismatch, Some(self.status(theirs)), compared);
                lesson.taken_back = self.taken_back();
                lesson.look = lesson.taken_back.is_none();
            }
        }
        if let Some(overdue) = self.overdue().filter(|_| !is_missing) {
            let found = overdue.then(|| Finding::of("Its money should have been paid out by now, and was not."));
            say(Class::UnsettledOverdue, found, compared);
        }
        if fits && money(self.ours.state) == Money::Here {
            lesson.settled = self.ours.state == State::Paid && self.is_settled();
            lesson.fee_minor = self.fees().next().filter(|_| self.ours.fee_minor.is_none() && self.fee().is_none());
        }
        if lesson != Lesson::default() {
            compared.lessons.push((self.ours.payment, lesson));
        }
    }

    fn difference(&self, class: Class, found: Finding) -> Difference {
        let Finding { ours_minor, theirs_minor, detail } = found;
        let payment = self.ours.payment;
        Difference { class, subject: payment.to_string(), payment: Some(payment), ours_minor, theirs_minor, detail }
    }

    /// What tells of the payment itself.
    fn payments(&self) -> impl Iterator<Item = &'a Theirs> {
        self.rows.iter().copied().filter(|row| row.kind == RowKind::Payment && row.state.is_some())
    }

    /// And that there is, or was, money.
    fn with_money(&self) -> impl Iterator<Item = &'a Theirs> {
        self.payments().filter(|row| row.state.is_some_and(|state| money(state) != Money::None))
    }

    fn amount(&self) -> Option<Finding> {
        let Ours { amount_minor, currency, .. } = self.ours;
        let other = self.with_money().find(|row| row.amount_minor != *amount_minor || row.currency != *currency)?;
        let detail =
            format!("It is of {amount_minor} {currency} here, and of {} {} there.", other.amount_minor, other.currency);
        Some(Finding { ours_minor: Some(*amount_minor), theirs_minor: Some(other.amount_minor), detail })
    }

    /// Of one source, for another may name payments differently.
    fn duplicate(&self) -> Option<Finding> {
        let mut of: BTreeMap<Source, BTreeMap<&str, i64>> = BTreeMap::new();
        for row in self.with_money() {
            if let Some(there) = &row.there {
                of.entry(row.source).or_default().insert(there, row.amount_minor);
            }
        }
        let paid = of.into_values().find(|paid| paid.len() > 1)?;
        let names: Vec<&str> = paid.keys().copied().take(5).collect();
        Some(Finding {
            ours_minor: Some(self.ours.amount_minor),
            theirs_minor: Some(paid.values().sum()),
            detail: format!("It was paid {} times there: {}.", paid.len(), names.join(", ")),
        })
    }

    fn fees(&self) -> impl Iterator<Item = i64> {
        self.rows.iter().filter(|row| row.kind == RowKind::Payment).filter_map(|row| row.fee_minor)
    }

    fn fee(&self) -> Option<Finding> {
        let told: BTreeSet<i64> = self.fees().collect();
        let ours_minor = self.ours.fee_minor;
        if let Some(other) = told.iter().find(|fee| ours_minor.is_some_and(|ours| ours != **fee)) {
            let detail = format!("Its fee was told to be {}, and is {other} by now.", ours_minor.unwrap_or_default());
            return Some(Finding { ours_minor, theirs_minor: Some(*other), detail });
        }
        if told.len() > 1 {
            let all: Vec<String> = told.iter().map(ToString::to_string).collect();
            let detail = format!("Its fee is told in different ways: {}.", all.join(", "));
            return Some(Finding { ours_minor, theirs_minor: told.last().copied(), detail });
        }
        let sums = self.rows.iter().filter(|row| row.kind == RowKind::Payment);
        let wrong = sums.filter_map(|row| Some((row.amount_minor, row.fee_minor?, row.net_minor?)));
        let (amount, fee, net) = wrong.into_iter().find(|(amount, fee, net)| amount - fee != *net)?;
        let detail = format!("{amount} less a fee of {fee} is not the {net} that is paid out.");
        Some(Finding { ours_minor: Some(amount - fee), theirs_minor: Some(net), detail })
    }

    /// Where the money is by what was told; none if nothing was.
    fn standing(&self) -> Option<Money> {
        let mut told = self.rows.iter().filter_map(|row| Some((row.kind, row.state?)));
        let is_back = told.any(|(kind, state)| kind != RowKind::Refund && money(state) == Money::Back);
        if is_back || self.refunded() >= self.ours.amount_minor {
            return Some(Money::Back);
        }
        self.payments().next()?;
        Some(if self.with_money().next().is_some() { Money::Here } else { Money::None })
    }

    /// How much was given back, by the source that tells of the most: several tell of the same. In files a refund may be one line
    /// before it is settled, and another after that.
    fn refunded(&self) -> i64 {
        let mut of: BTreeMap<(Source, Option<&str>, i64), [i64; 2]> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.kind == RowKind::Refund && row.state.is_some()) {
            let sums = of.entry((row.source, row.there.as_deref(), row.amount_minor)).or_default();
            sums[usize::from(row.settled == Some(true))] += row.amount_minor;
        }
        let mut told: BTreeMap<Source, i64> = BTreeMap::new();
        for ((source, ..), [before, after]) in of {
            *told.entry(source).or_default() += before.max(after);
        }
        told.into_values().max().unwrap_or(0)
    }

    fn differs(&self, theirs: Money) -> bool {
        match (money(self.ours.state), theirs) {
            // A list has what came in, and what went back only in its own time.
            (Money::Back, Money::Here) => {
                self.view.whole && self.with_money().any(|row| row.source == Source::Provider)
            }
            (Money::Back, Money::None) => false,
            (ours, theirs) => ours != theirs,
        }
    }

    fn status(&self, theirs: Money) -> Finding {
        let there = match theirs {
            Money::None => "there is no money",
            Money::Here => "the customer has paid",
            Money::Back => "the money went back",
        };
        Finding::of(&format!("It is {} here; by what its provider tells {there}.", self.ours.state))
    }

    /// Only the provider itself is believed that, and only of money that we have: not of what its customer has paid once more by the
    /// same code.
    fn taken_back(&self) -> Option<State> {
        let has_money = money(self.ours.state) == Money::Here && self.duplicate().is_none();
        let is_another = |row: &Theirs| {
            let names = row.there.as_deref().zip(self.ours.there.as_deref());
            row.kind == RowKind::Payment && names.is_some_and(|(theirs, ours)| theirs != ours)
        };
        let told = self.rows.iter().filter(|row| row.source == Source::Provider && !is_another(row));
        told.filter_map(|row| row.state)
            .filter(|state| matches!(state, State::Reversed | State::ChargedBack))
            .find(|state| has_money && self.ours.state.may_become(*state))
    }

    fn is_settled(&self) -> bool {
        self.with_money().any(|row| row.settled == Some(true))
    }

    /// Whether its payout is late; none if nobody can know.
    fn overdue(&self) -> Option<bool> {
        if self.ours.state != State::Paid || self.is_settled() {
            return Some(false);
        }
        let told = || self.with_money().filter(|row| row.settled == Some(false));
        let named = told().filter_map(|row| row.settles_at).max().map(|at| at + SETTLE_GRACE);
        let due = named.or(self.ours.settle_by)?;
        // What was told before that day says nothing of it.
        let is_known = told().any(|row| self.view.at <= due || row.told_at >= due)
            || self.view.files_until.is_some_and(|until| until >= due);
        is_known.then_some(self.view.at > due)
    }
}

/// What is wrong with one payment.
struct Finding {
    ours_minor: Option<i64>,
    theirs_minor: Option<i64>,
    detail: String,
}

impl Finding {
    fn of(detail: &str) -> Self {
        Self { ours_minor: None, theirs_minor: None, detail: detail.to_owned() }
    }
}

/// Money that is of no payment of ours: each once, whoever tells of it, by the name that most tell.
fn missing_in_hub(strangers: &[&Theirs]) -> Vec<Difference> {
    let is_money =
        |row: &&&Theirs| row.kind == RowKind::Payment && row.state.is_some_and(|state| money(state) != Money::None);
    let rows: Vec<&Theirs> = strangers.iter().filter(is_money).copied().collect();
    // Files often name the reference alone. One that several payments have, as that of a code on the counter, says nothing.
    let mut called: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for row in &rows {
        if let (Some(reference), Some(there)) = (&row.reference, &row.there) {
            called.entry(reference).or_default().insert(there);
        }
    }
    let mut found: BTreeMap<String, &Theirs> = BTreeMap::new();
    for row in rows {
        let by_reference = row.reference.as_deref().and_then(|reference| called.get(reference)?.first().copied());
        let name = row.there.as_deref().or(by_reference).or(row.reference.as_deref()).unwrap_or(&row.id);
        let kept = found.entry(name.to_owned()).or_insert(row);
        if (row.source, &row.id) < (kept.source, &kept.id) {
            *kept = row;
        }
    }
    found.into_iter().map(|(subject, row)| stranger(subject, row)).collect()
}

fn stranger(subject: String, row: &Theirs) -> Difference {
    let told = match row.source {
        Source::Provider => "The provider has",
        Source::Notice => "A notification tells of",
        Source::File => "A settlement file has",
    };
    let called = row.reference.as_ref().map(|it| format!(", called `{it}`,")).unwrap_or_default();
    let detail = format!("{told} {} {}{called} that is of no payment of ours.", row.amount_minor, row.currency);
    let theirs_minor = Some(row.amount_minor);
    Difference { class: Class::MissingInHub, subject, payment: None, ours_minor: None, theirs_minor, detail }
}
