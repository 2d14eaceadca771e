//! Money that is gone by the time that it is first heard of: no goods were handed over for it, and none are to be.

use tillwire_channels::event::Severity;

use super::attempts::Attempt;
use super::refunds::State as Refund;
use super::state::State;
use super::tasks::{self, Kind};
use super::word::Seen;
use crate::error::Result;
use crate::journal::MerchantTx;

/// Whether money had gone again, or was going, when it was first heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    No,
    /// Its provider gives it back, or says so.
    Refunded,
    /// A bank has taken it.
    Taken,
}

impl Gone {
    /// What is to be made of an answer by which a payment goes these steps.
    pub(super) fn of(attempt: &Attempt, seen: &Seen, path: &[State]) -> Self {
        Self::judge(attempt.taken_minor(), seen, path)
    }

    fn judge(brought_minor: i64, seen: &Seen, path: &[State]) -> Self {
        if matches!(path.last(), Some(State::Reversed | State::ChargedBack)) {
            return Self::Taken;
        }
        // What is on its way counts as gone: if it does not go after all, a person decides on it.
        let going = seen.refunds.iter().filter(|told| !matches!(told.state, Refund::Failed | Refund::Canceled));
        let going_minor: i64 = going.filter_map(|told| told.amount_minor).sum();
        let is_said = seen.state == Some(State::Refunded) && seen.refunds.is_empty();
        if is_said || going_minor >= brought_minor { Self::Refunded } else { Self::No }
    }
}

/// Past being paid: it pays no sale, and nobody is told that it did.
pub(super) async fn go_by(tx: &mut MerchantTx, attempt: &mut Attempt, seen: &Seen, gone: Gone) -> Result<()> {
    attempt.state = State::PaidLate;
    attempt.paid_at = seen.paid_at.or(Some(tx.now()));
    attempt.failure = None;
    if gone == Gone::Taken {
        return Ok(()); // That is a matter by itself.
    }
    let detail = "It was paid, and given back at its provider before it was heard of: its sale is not paid by it.";
    tasks::open(tx, attempt, Kind::PaidLate, Severity::Warning, detail.to_owned()).await
}

#[cfg(test)]
mod tests {
    use super::super::refunds::Told;
    use super::State::*;
    use super::*;

    fn told(amount_minor: i64, state: Refund) -> Told {
        let (key, id) = (Some(format!("{amount_minor}-{state}")), None);
        Told { key, id, payment: None, amount_minor: Some(amount_minor), state, failure: None, is_concluded: false }
    }

    #[test]
    fn what_went_back_as_a_whole_or_was_taken_pays_nothing() {
        let part = || told(60, Refund::Succeeded);
        for (said, refunds, path, gone) in [
            (Paid, vec![], vec![Paid], Gone::No),
            (Settled, vec![], vec![Paid, Settled], Gone::No),
            (ChargedBack, vec![], vec![Paid, ChargedBack], Gone::Taken),
            (Reversed, vec![], vec![Paid, Reversed], Gone::Taken),
            // A part that went back leaves the rest.
            (PartiallyRefunded, vec![part()], vec![Paid], Gone::No),
            (PartiallyRefunded, vec![], vec![Paid], Gone::No),
            (Refunded, vec![part(), told(40, Refund::Succeeded)], vec![Paid], Gone::Refunded),
            (Refunded, vec![part(), told(40, Refund::Pending)], vec![Paid], Gone::Refunded),
            (Refunded, vec![part(), told(40, Refund::Failed)], vec![Paid], Gone::No),
            (Refunded, vec![told(100, Refund::Canceled)], vec![Paid], Gone::No),
            // It tells of no refund: a person looks.
            (Refunded, vec![], vec![Paid], Gone::Refunded),
        ] {
            let seen = Seen { state: Some(said), refunds, ..Seen::default() };
            assert_eq!(Gone::judge(100, &seen, &path), gone, "{seen:?}");
        }
    }
}
