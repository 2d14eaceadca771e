//! Places: how many screens a token and a merchant have on this node, and whether there is room for one more.
//!
//! Connections of the same screen share a place: who comes back after a cut is not turned away because the node has not
//! noticed the cut yet, nor is anyone else.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tillwire_channels::MerchantId;
use tillwire_socketio::SocketId;
use uuid::Uuid;

/// Why there is no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The token has as many screens as it may: it is shared by too many, or stolen. A person must see to it.
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
    /// The tokens of each screen's connections: for a moment it may have several.
    by_screen: HashMap<SocketId, Vec<Uuid>>,
}

/// A connection's part in its screen's place. Dropping the last gives the place back.
pub struct Place {
    places: Arc<Places>,
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
        let (of_merchant, of_token) = (taken.by_screen.contains_key(&screen), taken.is_of(screen, token));
        if !of_token && is_full(&taken.by_token, &token, self.token_max) {
            return Err(Full::OfToken);
        }
        if !of_merchant && is_full(&taken.by_merchant, &merchant, self.merchant_max) {
            return Err(Full::OfMerchant);
        }
        if !of_merchant {
            *taken.by_merchant.entry(merchant).or_default() += 1;
        }
        taken.add(screen, token);
        Ok(Place { places: self.clone(), merchant, screen, token })
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
        if !taken.is_of(self.screen, token) && is_full(&taken.by_token, &token, self.places.token_max) {
            return Err(Full::OfToken);
        }
        taken.add(self.screen, token);
        taken.remove(self.screen, self.token);
        self.token = token;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.remove(self.screen, self.token);
        if !taken.by_screen.contains_key(&self.screen) {
            one_less(&mut taken.by_merchant, &self.merchant);
        }
    }
}

impl Taken {
    fn is_of(&self, screen: SocketId, token: Uuid) -> bool {
        self.by_screen.get(&screen).is_some_and(|tokens| tokens.contains(&token))
    }

    fn add(&mut self, screen: SocketId, token: Uuid) {
        if !self.is_of(screen, token) {
            *self.by_token.entry(token).or_default() += 1;
        }
        self.by_screen.entry(screen).or_insert_with(|| Vec::with_capacity(1)).push(token);
    }

    fn remove(&mut self, screen: SocketId, token: Uuid) {
        let Some(tokens) = self.by_screen.get_mut(&screen) else { return };
        if let Some(at) = tokens.iter().position(|it| *it == token) {
            tokens.swap_remove(at);
        }
        if tokens.is_empty() {
            self.by_screen.remove(&screen);
        }
        if !self.is_of(screen, token) {
            one_less(&mut self.by_token, &token);
        }
    }
}

/// Whether all of them are taken.
fn is_full<K: Eq + Hash>(taken: &HashMap<K, usize>, of: &K, max: Option<usize>) -> bool {
    max.is_some_and(|max| taken.get(of).copied().unwrap_or_default() >= max)
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
    fn all_of_a_token_come_back_at_once_and_none_is_in_the_others_way() {
        let (places, merchant, [token]) = (Places::new(Some(2), Some(2)), MerchantId::new(), tokens());
        let screens = [SocketId::random(), SocketId::random()];
        let take = |screen| places.take(merchant, token, screen);
        let cut = screens.map(|screen| take(screen).unwrap());
        let back = screens.map(|screen| take(screen).expect("the place that it had"));
        assert_eq!(take(SocketId::random()).err(), Some(Full::OfToken));
        drop(cut);
        assert_eq!(take(SocketId::random()).err(), Some(Full::OfToken));
        let [one, _other] = back;
        drop(one);
        assert!(take(SocketId::random()).is_ok());
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
