//! Who may listen to what.

use tillwire_channels::wire::{CHANNEL_BYTES_MAX, CHANNELS_MAX, Denied, DeniedCode};
use tillwire_channels::{Channel, Position};

use crate::identity::Staff;
use crate::screens::joined::Joined;

/// How many denials are told in one answer.
const DENIED_MAX: usize = CHANNELS_MAX;

/// What becomes of what a screen has joined. It is worked out on what was joined at one moment and carried out at another:
/// what has happened to the rest in between stays so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub joined: Vec<Joined>,
    pub left: Vec<Channel>,
    /// What was joined before, and its state is wanted now.
    pub wanted: Vec<Channel>,
}

impl Change {
    pub fn between(before: &[Joined], after: &[Joined]) -> Self {
        let is_new = |joined: &Joined| find(before, joined.channel).is_none();
        let is_asked_for =
            |joined: &Joined| joined.wants_state && find(before, joined.channel).is_some_and(|own| !own.wants_state);
        Self {
            joined: after.iter().copied().filter(is_new).collect(),
            left: before.iter().map(|own| own.channel).filter(|own| find(after, *own).is_none()).collect(),
            wanted: after.iter().copied().filter(is_asked_for).map(|joined| joined.channel).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is joined after it.
    pub fn of(&self, mut joined: Vec<Joined>) -> Vec<Joined> {
        joined.retain(|own| !self.left.contains(&own.channel));
        for wanted in joined.iter_mut().filter(|own| self.wanted.contains(&own.channel)) {
            wanted.wants_state = true;
        }
        joined.extend(&self.joined);
        joined
    }
}

fn find(joined: &[Joined], channel: Channel) -> Option<&Joined> {
    joined.iter().find(|joined| joined.channel == channel)
}

/// Adds what was asked for to what is joined already, as far as the bearer may, to be heard from `place` on; answers what was
/// denied, and why. With `snapshot` the state of each is wanted as well, where there is any, also of what was joined before.
pub fn admit(
    staff: &Staff,
    joined: &mut Vec<Joined>,
    asked: &[String],
    place: Position,
    snapshot: bool,
) -> Vec<Denied> {
    let mut denied = Vec::new();
    // Inside an entry its rest is still to come.
    let since = if place.event.is_some() { place.seq.saturating_sub(1) } else { place.seq };
    let place = (since > 0).then_some(place);
    for text in asked {
        if denied.len() == DENIED_MAX {
            break; // It has been told enough.
        }
        let channel = parse(text);
        if let Some(joined) = joined.iter_mut().find(|joined| Some(joined.channel) == channel) {
            joined.wants_state |= snapshot && has_state(joined.channel);
            continue;
        }
        let code = match channel {
            None => DeniedCode::UnknownChannel,
            Some(channel) if !staff.listener().may_join(channel) => DeniedCode::Forbidden,
            Some(_) if joined.len() >= CHANNELS_MAX => DeniedCode::TooMany,
            Some(channel) => {
                joined.push(Joined { since, place, wants_state: snapshot && has_state(channel), ..channel.into() });
                continue;
            }
        };
        denied.push(deny(shown(text), code));
    }
    denied
}

/// Takes what was named from what is joined. Names that are not joined change nothing.
pub fn withdraw(joined: &mut Vec<Joined>, named: &[String]) {
    joined.retain(|joined| !named.iter().any(|text| parse(text) == Some(joined.channel)));
}

/// Takes from what was joined what the bearer may not hear (any more); answers that.
pub fn review(staff: &Staff, joined: &mut Vec<Joined>) -> Vec<Denied> {
    let lost = joined.extract_if(.., |joined| !staff.listener().may_join(joined.channel));
    lost.map(|lost| deny(lost.channel.to_string(), DeniedCode::Forbidden)).collect()
}

/// Denies, and counts it.
pub fn deny(channel: String, code: DeniedCode) -> Denied {
    let word = match code {
        DeniedCode::UnknownChannel => "unknown_channel",
        DeniedCode::Forbidden => "forbidden",
        DeniedCode::TooMany => "too_many",
        DeniedCode::TooLarge => "too_large",
    };
    metrics::counter!("tillwire_gateway_denied_total", "code" => word).increment(1);
    Denied { channel, code }
}

fn has_state(channel: Channel) -> bool {
    channel.topic.row().snapshot.is_some()
}

fn parse(text: &str) -> Option<Channel> {
    (text.len() <= CHANNEL_BYTES_MAX).then(|| text.parse().ok()).flatten()
}

/// A name as it was asked for, cut where no channel's name could still go on.
fn shown(text: &str) -> String {
    text.chars().take(CHANNEL_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use tillwire_channels::{MerchantId, Moment, OutletId, Role, StaffId, Tag, Topic};

    use super::*;

    fn staff(role: Role, outlets: Vec<OutletId>) -> Staff {
        Staff {
            merchant: MerchantId::new(),
            id: StaffId::new(),
            token: uuid::Uuid::new_v4(),
            role,
            outlets,
            register: None,
            issued_at: Moment::UNIX_EPOCH,
            expires_at: Moment::UNIX_EPOCH,
            trace: None,
        }
    }

    #[test]
    fn each_name_is_joined_or_denied_for_a_reason() {
        let outlet = OutletId::new();
        let (staff, mut joined) = (staff(Role::Cashier, vec![outlet]), Vec::new());
        let own = format!("sales/{outlet}");
        let asked = [own.clone(), own.clone(), "sales".into(), "nothing".into(), "x".repeat(9_000)];
        let place = Position::of_entry(7, Tag([7; 8]));
        let denied = admit(&staff, &mut joined, &asked, place, false);
        assert_eq!(joined, [Joined { since: 7, place: Some(place), ..Topic::Sales.at(outlet).into() }]);
        let codes: Vec<_> = denied.iter().map(|denied| (denied.channel.len(), denied.code)).collect();
        assert_eq!(
            codes,
            [
                (5, DeniedCode::Forbidden),
                (7, DeniedCode::UnknownChannel),
                (CHANNEL_BYTES_MAX, DeniedCode::UnknownChannel)
            ]
        );
        withdraw(&mut joined, &[own, "nothing".into()]);
        assert_eq!(joined, []);
    }

    #[test]
    fn a_channel_that_is_joined_inside_an_entry_hears_its_rest() {
        let (staff, mut joined) = (staff(Role::Owner, vec![]), Vec::new());
        let place = Position::of_event(7, 2, Tag([7; 8]));
        admit(&staff, &mut joined, &["sales".into()], place, false);
        assert_eq!((joined[0].since, joined[0].place), (6, Some(place)));
    }

    #[test]
    fn a_state_is_wanted_where_there_is_one_also_of_what_is_joined_already() {
        let (staff, mut joined) = (staff(Role::Owner, vec![]), Vec::new());
        let place = |seq| Position::of_entry(seq, Tag::GENESIS);
        admit(&staff, &mut joined, &["sales".into()], place(1), false);
        admit(&staff, &mut joined, &["sales".into(), "access".into(), "catalog".into()], place(2), true);
        let wanted: Vec<_> = joined.iter().map(|joined| (joined.since, joined.wants_state)).collect();
        assert_eq!(wanted, [(1, true), (2, false), (2, true)]);
        admit(&staff, &mut joined, &["sales".into()], place(3), false);
        assert!(joined[0].wants_state, "it is still to come");
    }

    #[test]
    fn a_change_is_of_what_it_names_and_leaves_the_rest_as_it_has_become() {
        let [sales, stock, catalog] = [Topic::Sales, Topic::Stock, Topic::Catalog].map(Topic::everywhere);
        let wanted = |channel: Channel| Joined { wants_state: true, ..Joined::from(channel) };
        let before = [wanted(sales), Joined::from(stock)];
        let change = Change::between(&before, &[wanted(sales), wanted(catalog)]);
        let expected = Change { joined: vec![wanted(catalog)], left: vec![stock], wanted: vec![] };
        assert_eq!(change, expected);
        // The state of sales has arrived meanwhile.
        let since = [Joined::from(sales), Joined::from(stock)];
        assert_eq!(change.of(since.to_vec()), [Joined::from(sales), wanted(catalog)]);
        let asks = Change::between(&since[..1], &before[..1]);
        assert_eq!((&asks.wanted, asks.of(since[..1].to_vec())), (&vec![sales], vec![wanted(sales)]));
        assert!(Change::between(&before, &before).is_empty());
    }

    #[test]
    fn what_is_no_longer_allowed_is_left() {
        let (outlet, other) = (OutletId::new(), OutletId::new());
        let staff = staff(Role::Cashier, vec![outlet]);
        let [kept, lost] = [outlet, other].map(|at| Joined::from(Topic::Sales.at(at)));
        let mut joined = vec![lost, kept];
        let denied = review(&staff, &mut joined);
        assert_eq!(joined, [kept]);
        assert_eq!(denied, [Denied { channel: lost.channel.to_string(), code: DeniedCode::Forbidden }]);
    }

    #[test]
    fn there_is_a_last_channel_and_a_last_denial() {
        let (staff, mut joined) = (staff(Role::Owner, vec![]), Vec::new());
        let many: Vec<String> = (0..10_000).map(|_| Topic::Sales.at(OutletId::new()).to_string()).collect();
        let denied = admit(&staff, &mut joined, &many, Position::START, false);
        assert_eq!(joined.len(), CHANNELS_MAX);
        assert_eq!(denied.len(), CHANNELS_MAX);
        assert!(denied.iter().all(|denied| denied.code == DeniedCode::TooMany));
    }
}
