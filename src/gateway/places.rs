//! Places: how many connections a token and a merchant have on this node, and whether there is room for one more.
//!
//! A connection that replaces an earlier one of the same screen takes that one's place: who comes back after a cut is
//! not turned away because the node has not noticed the cut yet.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tillwire_channels::MerchantId;
use tillwire_socketio::SocketId;
use uuid::Uuid;

/// Why there is no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The token has as many as it may: it is shared by too many, or stolen. A person must see to it.
    OfToken,
    /// The merchant has. Others will leave.
    OfMerchant,
}

impl Full {
    /// A stable word.
    pub fn code(self) -> &'static str {
        match self {
            Self::OfToken => "too_many_connections_of_token",
            Self::OfMerchant => "too_many_connections_of_merchant",
        }
    }
}

/// All places that are taken.
pub struct Places {
    token_max: Option<usize>,
    merchant_max: Option<usize>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    by_token: HashMap<Uuid, usize>,
    by_merchant: HashMap<MerchantId, usize>,
    /// The places that a screen holds, the latest last: for a moment there may be several.
    by_screen: HashMap<SocketId, Vec<Holder>>,
    last: u64,
}

struct Holder {
    number: u64,
    token: Uuid,
}

/// A connection's place. Dropping it gives it back.
pub struct Place {
    places: Arc<Places>,
    number: u64,
    merchant: MerchantId,
    screen: SocketId,
    token: Uuid,
}

impl Places {
    /// With so many connections of one token and of one merchant; without a bound where there is no number.
    pub fn new(token_max: Option<usize>, merchant_max: Option<usize>) -> Arc<Self> {
        Arc::new(Self { token_max, merchant_max, taken: Mutex::default() })
    }

    /// Takes a place for a connection of this screen.
    ///
    /// # Errors
    /// If there is none.
    pub fn take(self: &Arc<Self>, merchant: MerchantId, token: Uuid, screen: SocketId) -> Result<Place, Full> {
        let mut taken = self.lock();
        let earlier = taken.by_screen.get(&screen).and_then(|held| held.last());
        let (replaced_of_token, replaced) = (earlier.is_some_and(|it| it.token == token), earlier.is_some());
        if is_full(&taken.by_token, &token, self.token_max, replaced_of_token) {
            return Err(Full::OfToken);
        }
        if is_full(&taken.by_merchant, &merchant, self.merchant_max, replaced) {
            return Err(Full::OfMerchant);
        }
        *taken.by_token.entry(token).or_default() += 1;
        *taken.by_merchant.entry(merchant).or_default() += 1;
        taken.last += 1;
        let number = taken.last;
        taken.by_screen.entry(screen).or_insert_with(|| Vec::with_capacity(1)).push(Holder { number, token });
        Ok(Place { places: self.clone(), number, merchant, screen, token })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Goes on under a fresh token.
    ///
    /// # Errors
    /// If that token has as many connections as it may. The place stays as it was.
    pub fn renew(&mut self, token: Uuid) -> Result<(), Full> {
        if token == self.token {
            return Ok(());
        }
        let mut taken = self.places.lock();
        if is_full(&taken.by_token, &token, self.places.token_max, false) {
            return Err(Full::OfToken);
        }
        *taken.by_token.entry(token).or_default() += 1;
        one_less(&mut taken.by_token, &self.token);
        let held = taken.by_screen.get_mut(&self.screen).into_iter().flatten();
        held.filter(|it| it.number == self.number).for_each(|it| it.token = token);
        self.token = token;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        one_less(&mut taken.by_token, &self.token);
        one_less(&mut taken.by_merchant, &self.merchant);
        if let Some(held) = taken.by_screen.get_mut(&self.screen) {
            held.retain(|it| it.number != self.number);
            if held.is_empty() {
                taken.by_screen.remove(&self.screen);
            }
        }
    }
}

/// Whether all of them are taken, not counting one that is being replaced.
fn is_full<K: Eq + Hash>(taken: &HashMap<K, usize>, of: &K, max: Option<usize>, is_replaced: bool) -> bool {
    let count = taken.get(of).copied().unwrap_or_default();
    max.is_some_and(|max| count.saturating_sub(usize::from(is_replaced)) >= max)
}

fn one_less<K: Eq + Hash>(taken: &mut HashMap<K, usize>, of: &K) {
    if let Some(count) = taken.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            taken.remove(of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens<const N: usize>() -> [Uuid; N] {
        [(); N].map(|()| Uuid::new_v4())
    }

    #[test]
    fn the_next_one_is_refused_until_one_leaves_and_nobody_else_is() {
        let (places, merchant, [token, other]) = (Places::new(Some(2), Some(3)), MerchantId::new(), tokens());
        let take = |merchant, token| places.take(merchant, token, SocketId::random());
        let mut held = vec![take(merchant, token).unwrap(), take(merchant, token).unwrap()];
        assert_eq!(take(merchant, token).err(), Some(Full::OfToken));
        held.push(take(merchant, other).unwrap());
        assert_eq!(take(merchant, other).err(), Some(Full::OfMerchant));
        assert!(take(MerchantId::new(), Uuid::new_v4()).is_ok(), "another merchant's");
        held.remove(0);
        assert!(take(merchant, token).is_ok());
        drop(held);
        let taken = places.lock();
        assert!(taken.by_token.is_empty() && taken.by_merchant.is_empty() && taken.by_screen.is_empty());
    }

    #[test]
    fn who_comes_back_takes_the_place_it_had() {
        let (places, merchant, [token, fresh]) = (Places::new(Some(1), Some(1)), MerchantId::new(), tokens());
        let screen = SocketId::random();
        let first = places.take(merchant, token, screen).unwrap();
        let second = places.take(merchant, token, screen).unwrap();
        drop(first);
        assert_eq!(places.take(merchant, token, SocketId::random()).err(), Some(Full::OfToken));
        let third = places.take(merchant, fresh, screen).unwrap();
        drop((second, third));
        assert!(places.lock().by_screen.is_empty());
    }

    #[test]
    fn who_tried_to_come_back_and_gave_up_may_try_again() {
        let (places, merchant, [token]) = (Places::new(Some(1), Some(1)), MerchantId::new(), tokens());
        let screen = SocketId::random();
        let first = places.take(merchant, token, screen).unwrap();
        for _ in 0..3 {
            drop(places.take(merchant, token, screen).expect("it still has the place that it had"));
        }
        assert_eq!(places.take(merchant, token, SocketId::random()).err(), Some(Full::OfToken));
        drop(first);
        assert!(places.lock().by_screen.is_empty());
    }

    #[test]
    fn a_fresh_token_counts_and_the_old_one_no_more() {
        let (places, merchant, [old, fresh]) = (Places::new(Some(1), None), MerchantId::new(), tokens());
        let mut place = places.take(merchant, old, SocketId::random()).unwrap();
        place.renew(fresh).unwrap();
        let mut other = places.take(merchant, old, SocketId::random()).unwrap();
        assert_eq!(other.renew(fresh), Err(Full::OfToken));
        assert_eq!(other.renew(old), Ok(()), "its own");
        drop(place);
        assert_eq!(other.renew(fresh), Ok(()));
    }
}
