//! What is told of a refund.

use super::state::State;
use super::{Origin, Refund};

/// What a provider, asked, says of a refund; or what is known without it.
#[derive(Clone, Debug)]
pub struct Told {
    /// As we named it, or whoever made it.
    pub key: Option<String>,
    /// As the provider names it.
    pub id: Option<String>,
    /// And the payment that it gives back.
    pub payment: Option<String>,
    pub amount_minor: Option<i64>,
    pub state: State,
    pub failure: Option<String>,
    /// That it is what we make of an answer without a word of it, or of none.
    pub is_concluded: bool,
}

impl Told {
    /// That is known of one of ours without a word of the provider's.
    pub fn of(refund: &Refund, state: State) -> Self {
        let key = refund.key_there.clone().unwrap_or_else(|| refund.id.to_string());
        Self {
            key: Some(key),
            id: refund.there.clone(),
            payment: None,
            amount_minor: None,
            state,
            failure: None,
            is_concluded: true,
        }
    }

    /// Whether it is said of this one.
    pub fn is_of(&self, refund: &Refund) -> bool {
        let is_key = |key: &str| match &refund.key_there {
            Some(there) => there == key,
            None => refund.origin == Origin::Hub && refund.id.to_string().eq_ignore_ascii_case(key),
        };
        self.key.as_deref().is_some_and(is_key) || (self.id.is_some() && self.id == refund.there)
    }
}
