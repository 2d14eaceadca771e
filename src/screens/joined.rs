//! What screens have joined since they connected, stored before they are told so.

use serde::{Deserialize, Serialize};
use tillwire_channels::{Channel, MerchantId, Position};

use crate::error::Result;
use crate::journal::{Pools, pool};

/// A channel that a screen has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub channel: Channel,
    /// Events of entries up to this one are not heard on it.
    pub since: u64,
    /// Where it was joined, if not at the beginning: whether `since` is of the history that there is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Position>,
    /// Whether its state was asked for and is not known to have arrived.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wants_state: bool,
    /// Entries up to this one were passed over on it: the screen was told to fetch the state instead.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<Channel> for Joined {
    /// From its first event on.
    fn from(channel: Channel) -> Self {
        Self { channel, since: 0, place: None, wants_state: false, skipped: 0 }
    }
}

impl Joined {
    /// The place where it was joined may be of another history: everything is heard on it, rather than too little.
    pub fn doubt(&mut self) {
        (self.since, self.place) = (0, None);
    }
}

/// What one connection of a screen has joined.
#[derive(Clone, Debug)]
pub struct Roll {
    /// The screen's public id.
    pub screen: String,
    /// Greater than that of the screen's earlier connections.
    pub epoch: i64,
    pub joined: Vec<Joined>,
}

/// Stores rolls of a merchant's screens, each of another screen. Answers those that were refused, by their screen: a
/// newer connection has written.
pub async fn store(pools: &Pools, merchant: MerchantId, rolls: &[Roll]) -> Result<Vec<String>> {
    let screens: Vec<String> = rolls.iter().map(|roll| roll.screen.clone()).collect();
    let epochs: Vec<i64> = rolls.iter().map(|roll| roll.epoch).collect();
    let joined = rolls.iter().map(|roll| serde_json::to_string(&roll.joined)).collect::<Result<Vec<_>, _>>()?;
    let mut sql = pool::begin_of(&pools.app, merchant).await?;
    let stored = sqlx::query_scalar!(
        "insert into screens (merchant_id, screen_id, epoch, joined)
         select $1, screen_id, epoch, joined from unnest($2::text[], $3::bigint[], $4::text[]) as roll (screen_id, epoch, joined)
         order by screen_id
         on conflict (merchant_id, screen_id)
         do update set epoch = excluded.epoch, joined = excluded.joined, changed_at = now()
             where screens.epoch <= excluded.epoch
         returning screen_id",
        merchant.0,
        &screens,
        &epochs,
        &joined,
    )
    .fetch_all(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(screens.into_iter().filter(|screen| !stored.contains(screen)).collect())
}

/// The rolls of these screens, as far as there are any.
pub async fn find(pools: &Pools, merchant: MerchantId, screens: &[String]) -> Result<Vec<Roll>> {
    let mut sql = pool::begin_of(&pools.app, merchant).await?;
    let rows = sqlx::query!(
        "select screen_id, epoch, joined from screens where merchant_id = $1 and screen_id = any($2)",
        merchant.0,
        screens,
    )
    .fetch_all(&mut *sql)
    .await?;
    rows.into_iter()
        .map(|row| Ok(Roll { screen: row.screen_id, epoch: row.epoch, joined: serde_json::from_str(&row.joined)? }))
        .collect()
}
