//! Where a refund stands, what is to be made of what its provider says of it, and when it is asked about again.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tillwire_channels::Moment;
use tillwire_channels::event::RefundState;
use utoipa::ToSchema;

use super::super::looks;
use super::super::state::State as Payment;

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RefundStanding)]
pub enum State {
    /// Written down; the provider has certainly not taken it on.
    Created,
    /// The provider was asked and did not answer: it may have taken it on or not.
    Unknown,
    /// The provider has taken it on, and the bank has not confirmed it.
    Pending,
    /// The money went back.
    Succeeded,
    /// It was refused: the money is where it was.
    Failed,
    /// It was called off at the provider: the money is where it was.
    Canceled,
}

/// What a provider's word on a refund means for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Moves,
    /// We knew.
    Same,
    /// It says less than we know. Nothing changes.
    Stale,
    /// It cannot be, as far as we know: a person is told.
    Conflict,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Unknown, Self::Pending, Self::Succeeded, Self::Failed, Self::Canceled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// Whether the money may still go back by it.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Created | Self::Unknown | Self::Pending)
    }

    /// Whether a refund that stands here may go there: the whole table. Only the answer to a question moves one.
    pub const fn may_become(self, next: Self) -> bool {
        use State::*;
        match self {
            Created => matches!(next, Unknown | Pending | Succeeded | Failed | Canceled),
            // That the provider has not heard of it makes it created again, by another way.
            Unknown => matches!(next, Pending | Succeeded | Failed | Canceled),
            Pending => matches!(next, Succeeded | Failed | Canceled),
            // What was believed to have failed went back after all: the sum has to be right, and a person is told.
            Failed | Canceled => matches!(next, Succeeded),
            Succeeded => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// As screens are told it.
impl From<State> for RefundState {
    fn from(state: State) -> Self {
        match state {
            State::Created => Self::Created,
            State::Unknown => Self::Unknown,
            State::Pending => Self::Pending,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Canceled => Self::Canceled,
        }
    }
}

/// What a provider's word on a refund means for ours.
pub fn judge(now: State, seen: State) -> Verdict {
    if now == seen {
        Verdict::Same
    } else if now.may_become(seen) {
        Verdict::Moves
    } else if now == State::Succeeded && !seen.is_open() {
        Verdict::Conflict
    } else {
        Verdict::Stale
    }
}

/// What a payment is that its provider calls refunded: it was paid. Whether it is refunded its refunds say, which Midtrans'
/// word on the payment does not wait for.
pub const fn behind(said: Payment) -> Payment {
    match said {
        Payment::PartiallyRefunded | Payment::Refunded => Payment::Paid,
        other => other,
    }
}

/// Where a payment stands of which so much has been given back.
pub const fn after(now: Payment, amount_minor: i64, given_minor: i64) -> Payment {
    match now {
        Payment::Paid | Payment::Settled | Payment::PartiallyRefunded | Payment::PaidLate
            if given_minor >= amount_minor =>
        {
            Payment::Refunded
        }
        Payment::Paid | Payment::Settled if given_minor > 0 => Payment::PartiallyRefunded,
        // One that was late still waits for a person, with what is left of it.
        _ => now,
    }
}

/// The pauses until a bank has confirmed it: so many of each.
const PENDING_SECONDS: [(u32, u64); 4] = [(6, 10), (10, 60), (12, 5 * 60), (u32::MAX, 30 * 60)];
/// The pauses while nobody knows whether the provider has taken it on, or while it puts us off.
const UNKNOWN_SECONDS: [(u32, u64); 4] = [(8, 15), (10, 60), (12, 5 * 60), (u32::MAX, 30 * 60)];
/// For how long somebody asks after it.
const OPEN_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// When it is next attended to, after so many looks; none if nothing more is expected.
pub fn next(state: State, looks: u32, now: Moment, created_at: Moment) -> Option<Moment> {
    (state.is_open() && now < until(created_at)).then(|| now + pause(state, looks))
}

/// Until when somebody asks after it, whatever is in the way.
pub fn until(created_at: Moment) -> Moment {
    created_at + OPEN_MAX
}

/// How long it rests after so many looks.
pub fn pause(state: State, looks: u32) -> Duration {
    let pauses = if state == State::Pending { &PENDING_SECONDS } else { &UNKNOWN_SECONDS };
    looks::pause(pauses, looks)
}

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::*;

    #[test]
    fn a_state_is_one_word() {
        for state in State::ALL {
            assert_eq!(State::of(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(serde_json::to_value(RefundState::from(state)).unwrap(), state.as_str());
        }
        assert_eq!(State::of("SUCCEEDED"), None);
    }

    #[test]
    fn the_table_is_the_one_that_was_agreed() {
        let table: [(State, &[State]); 6] = [
            (Created, &[Unknown, Pending, Succeeded, Failed, Canceled]),
            (Unknown, &[Pending, Succeeded, Failed, Canceled]),
            (Pending, &[Succeeded, Failed, Canceled]),
            (Succeeded, &[]),
            (Failed, &[Succeeded]),
            (Canceled, &[Succeeded]),
        ];
        for (now, next) in table {
            let may: Vec<State> = State::ALL.into_iter().filter(|it| now.may_become(*it)).collect();
            assert_eq!(may, next, "{now}");
        }
    }

    #[test]
    fn a_word_that_came_late_takes_nothing_back() {
        for (now, seen, verdict) in [
            (Created, Pending, Verdict::Moves),
            (Unknown, Succeeded, Verdict::Moves),
            (Pending, Failed, Verdict::Moves),
            (Pending, Pending, Verdict::Same),
            (Pending, Unknown, Verdict::Stale),
            (Unknown, Created, Verdict::Stale),
            (Succeeded, Pending, Verdict::Stale),
            (Succeeded, Unknown, Verdict::Stale),
            (Failed, Pending, Verdict::Stale),
            (Failed, Canceled, Verdict::Stale),
            // What cannot be, and what a person has to know of.
            (Succeeded, Failed, Verdict::Conflict),
            (Succeeded, Canceled, Verdict::Conflict),
            (Failed, Succeeded, Verdict::Moves),
        ] {
            assert_eq!(judge(now, seen), verdict, "{now} {seen}");
        }
        for now in State::ALL {
            for seen in State::ALL {
                let is_move = judge(now, seen) == Verdict::Moves;
                assert_eq!(is_move, now != seen && now.may_become(seen), "{now} {seen}");
            }
        }
    }

    #[test]
    fn a_payment_is_refunded_by_its_refunds_and_by_nothing_else() {
        use Payment::{ChargedBack, Expired, Paid, PaidLate, PartiallyRefunded, Pending, Refunded, Settled};
        for (now, given, then) in [
            (Paid, 0, Paid),
            (Settled, 0, Settled),
            (Paid, 1, PartiallyRefunded),
            (Settled, 99, PartiallyRefunded),
            (PartiallyRefunded, 99, PartiallyRefunded),
            (Paid, 100, Refunded),
            (PartiallyRefunded, 100, Refunded),
            // More than there was: somebody has to look, and it is all gone.
            (PartiallyRefunded, 101, Refunded),
            (PaidLate, 60, PaidLate),
            (PaidLate, 100, Refunded),
            // What took the money another way is not undone.
            (ChargedBack, 100, ChargedBack),
            (Pending, 100, Pending),
            (Expired, 100, Expired),
        ] {
            assert_eq!(after(now, 100, given), then, "{now} {given}");
        }
        for said in Payment::ALL {
            let is_said = matches!(said, PartiallyRefunded | Refunded);
            assert_eq!(behind(said), if is_said { Paid } else { said });
        }
    }

    #[test]
    fn it_is_asked_about_less_and_less_often_and_not_for_ever() {
        let created_at = Moment::from_unix_timestamp(1_800_000_000).unwrap();
        for (state, first) in [(Pending, 10), (Unknown, 15), (Created, 15)] {
            let (mut now, mut looks, mut pauses) = (created_at, 0, Vec::new());
            while let Some(at) = next(state, looks, now, created_at) {
                pauses.push((at - now).whole_seconds());
                (now, looks) = (at, looks + 1);
            }
            assert_eq!(pauses[0], first);
            assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{pauses:?}");
            assert!((now - created_at).whole_days() == 90 && pauses.len() < 5_000, "{}", pauses.len());
        }
        for state in [Succeeded, Failed, Canceled] {
            assert_eq!(next(state, 0, created_at, created_at), None);
        }
    }
}
