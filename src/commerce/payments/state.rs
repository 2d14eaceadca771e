//! A payment's state, whoever carries it, and what is to be made of one that was seen.
//!
//! Providers repeat themselves, speak out of turn, and are asked while they change their mind. So nothing here asks when
//! something was said: only whether a payment that stands here may go there. What is known of money never becomes less
//! by a word that came late.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Written down; the provider has not been asked yet.
    Created,
    /// The provider was asked and did not answer: it may know of the payment or not.
    Unknown,
    /// The customer can pay.
    Pending,
    /// The provider looks into it: the money is neither ours nor the customer's.
    Review,
    /// A card's money is held for us, and not taken yet.
    Authorized,
    /// The customer has paid.
    Paid,
    /// The provider has given us the money.
    Settled,
    PartiallyRefunded,
    Refunded,
    /// It was refused.
    Failed,
    /// It was called off, by us or by the provider.
    Canceled,
    /// Its time was over.
    Expired,
    /// The customer has paid after it had ended: a person has to say what becomes of the money.
    PaidLate,
    /// The provider took the money back after it had said that it was paid.
    Reversed,
    /// The customer's bank took the money back.
    ChargedBack,
}

/// What a state that was seen at the provider means for one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ours becomes this. It is not always what was seen: what is paid after its end is paid late.
    Moves(State),
    /// We knew.
    Same,
    /// It comes late, and says less than we know. Nothing changes.
    Stale,
    /// It cannot be, as far as we know: nothing changes before the provider was asked and, if it says so still, a person.
    Conflict,
}

impl State {
    pub const ALL: [Self; 15] = [
        Self::Created,
        Self::Unknown,
        Self::Pending,
        Self::Review,
        Self::Authorized,
        Self::Paid,
        Self::Settled,
        Self::PartiallyRefunded,
        Self::Refunded,
        Self::Failed,
        Self::Canceled,
        Self::Expired,
        Self::PaidLate,
        Self::Reversed,
        Self::ChargedBack,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Review => "review",
            Self::Authorized => "authorized",
            Self::Paid => "paid",
            Self::Settled => "settled",
            Self::PartiallyRefunded => "partially_refunded",
            Self::Refunded => "refunded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
            Self::PaidLate => "paid_late",
            Self::Reversed => "reversed",
            Self::ChargedBack => "charged_back",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// Whether the customer can still pay, or may have.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Created | Self::Unknown | Self::Pending | Self::Review | Self::Authorized)
    }

    /// Whether it ended before there was money.
    pub const fn ended_unpaid(self) -> bool {
        matches!(self, Self::Failed | Self::Canceled | Self::Expired)
    }

    /// Whether no money has been found; what a card only holds is none.
    pub const fn is_unpaid(self) -> bool {
        self.is_open() || self.ended_unpaid()
    }

    /// Whether a payment that stands here may go there, by whomever: the whole table.
    pub const fn may_become(self, next: Self) -> bool {
        use State::*;
        match self {
            Created => matches!(next, Pending | Unknown | Failed | Paid),
            Unknown => !matches!(next, Unknown),
            Pending => matches!(next, Authorized | Review | Paid | Failed | Canceled | Expired),
            // Authorized: a card's hold was looked into.
            Review => matches!(next, Authorized | Paid | Failed | Canceled | Expired),
            Authorized => matches!(next, Paid | Canceled | Expired | Failed),
            // Canceled: a card's payment is voided before it is settled.
            Paid => matches!(next, Settled | PartiallyRefunded | Refunded | Canceled | Reversed | ChargedBack),
            Settled => matches!(next, PartiallyRefunded | Refunded | Reversed | ChargedBack),
            // What is left of it.
            PartiallyRefunded => matches!(next, Refunded | ChargedBack),
            Canceled | Expired | Failed => matches!(next, PaidLate),
            // Paid: a person took it for a sale.
            PaidLate => matches!(next, Paid | Refunded | Reversed | ChargedBack),
            Refunded | Reversed | ChargedBack => false,
        }
    }

    /// How much is known. Each move but three leads to more: a payment that was voided, one whose outcome nobody knew,
    /// and one that was late and was taken by a person.
    const fn rank(self) -> u8 {
        match self {
            Self::Created => 0,
            Self::Unknown => 1,
            Self::Pending => 2,
            Self::Review => 3,
            Self::Authorized => 4,
            Self::Failed | Self::Canceled | Self::Expired => 5,
            Self::Paid => 6,
            Self::PaidLate | Self::Settled => 7,
            Self::PartiallyRefunded => 8,
            Self::Refunded | Self::Reversed | Self::ChargedBack => 9,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// What a provider's word on a payment means for ours.
pub fn judge(now: State, seen: State) -> Verdict {
    // A provider does not know that we ended it; and that a late payment is taken is a person's word, never the second
    // notification of it.
    let is_late = now.ended_unpaid() || now == State::PaidLate;
    let seen = if is_late && matches!(seen, State::Paid | State::Settled) { State::PaidLate } else { seen };
    if seen == now {
        Verdict::Same
    } else if now.may_become(seen) {
        Verdict::Moves(seen)
    } else if seen.rank() < now.rank() || (seen.ended_unpaid() && now.ended_unpaid()) {
        // Of two ends without money it does not matter which was the first.
        Verdict::Stale
    } else {
        Verdict::Conflict
    }
}

/// The moves by which a payment gets to what the provider says of it when it is asked, if what lies between was missed: a
/// payment that is found refunded was paid before. None if [`judge`] lets it go nowhere. For the answer to a question alone:
/// of a notification nobody knows whether it is the provider's last word.
pub fn steps(now: State, seen: State) -> Vec<State> {
    match judge(now, seen) {
        // Whatever may have become of one that nobody knew of: what comes after money was paid before.
        Verdict::Moves(next) if now == State::Unknown && State::Paid.may_become(next) && !next.ended_unpaid() => {
            return vec![State::Paid, next];
        }
        Verdict::Moves(next) => return vec![next],
        Verdict::Same | Verdict::Stale => return Vec::new(),
        Verdict::Conflict => {}
    }
    let by = [State::Pending, State::Paid].into_iter().find_map(|by| match judge(now, by) {
        Verdict::Moves(first) if matches!(judge(first, seen), Verdict::Moves(_)) => Some(first),
        _ => None,
    });
    by.map(|first| vec![first, seen]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::State::*;
    use super::*;

    fn judged(now: State, seen: &[State]) -> State {
        seen.iter().fold(now, |now, seen| match judge(now, *seen) {
            Verdict::Moves(next) => next,
            _ => now,
        })
    }

    fn found(now: State, seen: &[State]) -> State {
        seen.iter().fold(now, |now, seen| steps(now, *seen).last().copied().unwrap_or(now))
    }

    #[test]
    fn a_state_is_one_word() {
        for state in State::ALL {
            assert_eq!(State::of(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert_eq!(State::of("PAID"), None);
    }

    #[test]
    fn the_table_is_the_one_that_was_agreed() {
        let table: [(State, &[State]); 15] = [
            (Created, &[Unknown, Pending, Paid, Failed]),
            (
                Unknown,
                &[
                    Created,
                    Pending,
                    Review,
                    Authorized,
                    Paid,
                    Settled,
                    PartiallyRefunded,
                    Refunded,
                    Failed,
                    Canceled,
                    Expired,
                    PaidLate,
                    Reversed,
                    ChargedBack,
                ],
            ),
            (Pending, &[Review, Authorized, Paid, Failed, Canceled, Expired]),
            (Review, &[Authorized, Paid, Failed, Canceled, Expired]),
            (Authorized, &[Paid, Failed, Canceled, Expired]),
            (Paid, &[Settled, PartiallyRefunded, Refunded, Canceled, Reversed, ChargedBack]),
            (Settled, &[PartiallyRefunded, Refunded, Reversed, ChargedBack]),
            (PartiallyRefunded, &[Refunded, ChargedBack]),
            (Refunded, &[]),
            (Failed, &[PaidLate]),
            (Canceled, &[PaidLate]),
            (Expired, &[PaidLate]),
            (PaidLate, &[Paid, Refunded, Reversed, ChargedBack]),
            (Reversed, &[]),
            (ChargedBack, &[]),
        ];
        for (now, next) in table {
            let may: Vec<State> = State::ALL.into_iter().filter(|it| now.may_become(*it)).collect();
            assert_eq!(may, next, "{now}");
        }
    }

    #[test]
    fn each_word_of_a_provider_means_one_thing() {
        for (now, seen, verdict) in [
            (Created, Pending, Verdict::Moves(Pending)),
            (Created, Paid, Verdict::Moves(Paid)),
            (Unknown, Expired, Verdict::Moves(Expired)),
            (Pending, Paid, Verdict::Moves(Paid)),
            (Review, Authorized, Verdict::Moves(Authorized)),
            (Review, Expired, Verdict::Moves(Expired)),
            (Authorized, Review, Verdict::Stale),
            (Pending, Pending, Verdict::Same),
            (Paid, Paid, Verdict::Same),
            // Late words.
            (Paid, Pending, Verdict::Stale),
            (Paid, Expired, Verdict::Stale),
            (Paid, Failed, Verdict::Stale),
            (Settled, Paid, Verdict::Stale),
            (Refunded, PartiallyRefunded, Verdict::Stale),
            (Expired, Pending, Verdict::Stale),
            (Canceled, Expired, Verdict::Stale),
            (Expired, Canceled, Verdict::Stale),
            // Late money.
            (Expired, Paid, Verdict::Moves(PaidLate)),
            (Canceled, Paid, Verdict::Moves(PaidLate)),
            (Failed, Paid, Verdict::Moves(PaidLate)),
            (Expired, Settled, Verdict::Moves(PaidLate)),
            (PaidLate, Paid, Verdict::Same),
            (PaidLate, Settled, Verdict::Same),
            (PaidLate, Expired, Verdict::Stale),
            (PaidLate, Refunded, Verdict::Moves(Refunded)),
            // Money that goes back.
            (Paid, Reversed, Verdict::Moves(Reversed)),
            (PaidLate, Reversed, Verdict::Moves(Reversed)),
            (Paid, Canceled, Verdict::Moves(Canceled)),
            (PartiallyRefunded, Refunded, Verdict::Moves(Refunded)),
            (Settled, ChargedBack, Verdict::Moves(ChargedBack)),
            // What cannot be.
            (Pending, Refunded, Verdict::Conflict),
            (Expired, Refunded, Verdict::Conflict),
            (Refunded, Reversed, Verdict::Conflict),
            (Refunded, ChargedBack, Verdict::Conflict),
        ] {
            assert_eq!(judge(now, seen), verdict, "{now} {seen}");
        }
    }

    #[test]
    fn what_was_missed_is_made_up_for() {
        for (now, seen, expected) in [
            (Created, Authorized, vec![Pending, Authorized]),
            (Created, Refunded, vec![Paid, Refunded]),
            (Pending, Settled, vec![Paid, Settled]),
            (Pending, PartiallyRefunded, vec![Paid, PartiallyRefunded]),
            (Authorized, Settled, vec![Paid, Settled]),
            (Unknown, Settled, vec![Paid, Settled]),
            (Unknown, Refunded, vec![Paid, Refunded]),
            (Unknown, ChargedBack, vec![Paid, ChargedBack]),
            (Unknown, Canceled, vec![Canceled]),
            (Expired, Refunded, vec![PaidLate, Refunded]),
            (Pending, Paid, vec![Paid]),
            (Paid, Expired, vec![]),
            (Refunded, ChargedBack, vec![]),
            (PaidLate, Settled, vec![]),
        ] {
            assert_eq!(steps(now, seen), expected, "{now} {seen}");
        }
    }

    fn any_state() -> impl Strategy<Value = State> {
        prop::sample::select(State::ALL.to_vec())
    }

    /// These in some order, each of them once to three times.
    fn shuffled(states: Vec<State>) -> impl Strategy<Value = Vec<State>> {
        let often = prop::collection::vec(1..=3_usize, states.len());
        (Just(states), often)
            .prop_map(|(states, often)| {
                let repeated = states.into_iter().zip(often).flat_map(|(state, often)| vec![state; often]);
                repeated.collect::<Vec<_>>()
            })
            .prop_shuffle()
    }

    /// A payment's way, as a provider tells it: from its beginning to one of its ends.
    fn a_way() -> impl Strategy<Value = Vec<State>> {
        prop::sample::select(vec![
            vec![Pending, Paid],
            vec![Pending, Review, Paid],
            vec![Pending, Authorized, Paid],
            vec![Pending, Review, Authorized, Paid],
            vec![Pending, Review, Authorized, Expired],
            vec![Pending, Review, Expired],
            vec![Pending, Paid, Settled],
            vec![Pending, Authorized, Paid, Settled, PartiallyRefunded],
            vec![Pending, Paid, PartiallyRefunded, Refunded],
            vec![Pending, Paid, Settled, Refunded],
            vec![Pending, Paid, Reversed],
            vec![Pending, Authorized, Paid, ChargedBack],
            vec![Pending, Failed],
            vec![Pending, Authorized, Expired],
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_paid_stays_paid_whatever_comes_late(
            late in prop::collection::vec(prop::sample::select(vec![Created, Unknown, Pending, Review, Authorized, Failed, Expired, Paid]), 0..12),
            now in prop::sample::select(vec![Paid, Settled, PartiallyRefunded, Refunded, PaidLate, Reversed, ChargedBack]),
        ) {
            prop_assert_eq!(judged(now, &late), now);
            prop_assert_eq!(found(now, &late), now);
        }

        #[test]
        fn no_word_of_a_provider_makes_less_of_what_is_known(now in any_state(), seen in any_state()) {
            if let Verdict::Moves(next) = judge(now, seen) {
                prop_assert!(now.may_become(next));
                let is_void = (now, next) == (Paid, Canceled);
                prop_assert!(next.rank() > now.rank() || is_void || now == Unknown, "{} {}", now, next);
                prop_assert!(!(now == PaidLate && next == Paid), "only a person takes it");
                // And what was heard once is no news.
                prop_assert_eq!(judge(next, seen), Verdict::Same);
            }
        }

        #[test]
        fn steps_are_moves_and_lead_to_what_was_seen(now in any_state(), seen in any_state()) {
            let steps = steps(now, seen);
            let mut at = now;
            for step in &steps {
                prop_assert!(at.may_become(*step) && (at, *step) != (PaidLate, Paid), "{} {}", at, step);
                at = *step;
            }
            let is_late = matches!(seen, Paid | Settled) && now.ended_unpaid();
            let goal = if is_late { PaidLate } else { seen };
            prop_assert!(steps.is_empty() || at == goal, "{} {}", now, seen);
        }

        #[test]
        fn every_order_with_repetitions_ends_the_same(
            (way, heard) in a_way().prop_flat_map(|way| (Just(way.clone()), shuffled(way))),
            now in prop::sample::select(vec![Created, Unknown, Pending]),
        ) {
            let end = *way.last().unwrap();
            prop_assert_eq!(found(now, &heard), end, "{:?}", heard);
            // By notifications alone it is so wherever no state lies beyond the next.
            if way == [Pending, Paid] || way == [Pending, Review, Paid] || way == [Pending, Authorized, Paid] {
                let heard: Vec<State> = if now == Created { [&[Pending], &heard[..]].concat() } else { heard };
                prop_assert_eq!(judged(now, &heard), end, "{:?}", heard);
            }
        }

        #[test]
        fn money_that_came_is_known_in_every_order(
            heard in shuffled(vec![Pending, Expired, Failed, Paid]), now in prop::sample::select(vec![Created, Unknown, Pending]),
        ) {
            prop_assert!(matches!(judged(now, &heard), Paid | PaidLate), "{:?}", heard);
        }
    }
}
