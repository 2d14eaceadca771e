//! What people have seen: how far each screen says that somebody looked at payments.
//!
//! A device is told from another by the screen's public id, which it keeps when it comes back, and known by what its token
//! says: whose it is, and which register's. A row speaks of the payments that the screen was told on a channel, from the
//! entry after `since` up to its position.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::wire::SnapshotReason;
use tillwire_channels::{Channel, MerchantId, Moment, OutletId, Position, RegisterId, StaffId, Topic};
use utoipa::ToSchema;

use crate::error::{Error, Result};
use crate::journal::{Pools, pool, read};

/// The most screens that are listed at once.
pub const SCREENS_MAX: u32 = 1_000;
/// The number of an event that stands for the whole entry: it comes after all of them.
const WHOLE: i32 = i32::MAX;

/// A screen's word that a person saw payments up to a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The screen's public id.
    pub screen: String,
    pub staff: StaffId,
    pub register: Option<RegisterId>,
    pub position: Position,
    /// Where it is told payments, and the last entry that it was not told there.
    pub told: Vec<(Channel, u64)>,
}

/// Keeps the words of a merchant's screens. What is not further than what the screen said before changes nothing; what is,
/// within the same second, takes its place.
///
/// Answers for each, in their order, why it is not kept, if its position is not one of the journal's.
pub async fn keep(pools: &Pools, merchant: MerchantId, words: &[Seen]) -> Result<Vec<Result<(), SnapshotReason>>> {
    match try_to_keep(pools, merchant, words).await {
        // A screen's earlier connection said the same on another node: it is there at the second look.
        Err(error) if is_overtaken(&error) => try_to_keep(pools, merchant, words).await,
        kept => kept,
    }
}

/// Whether another node has written the same rows meanwhile.
fn is_overtaken(error: &Error) -> bool {
    let Error::Internal(cause) = error else { return false };
    let Some(sqlx::Error::Database(refusal)) = cause.downcast_ref::<sqlx::Error>() else { return false };
    matches!(refusal.code().as_deref(), Some("23505" | "40P01"))
}

async fn try_to_keep(pools: &Pools, merchant: MerchantId, words: &[Seen]) -> Result<Vec<Result<(), SnapshotReason>>> {
    let mut sql = pool::begin_of(&pools.app, merchant).await?;
    let positions: Vec<Position> = words.iter().map(|word| word.position).collect();
    let verdicts = read::holds(&mut sql, merchant, &positions).await?;
    let good = words.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(word, _)| word);
    insert(&mut sql, merchant, &furthest(good)).await?;
    sql.commit().await?;
    Ok(verdicts)
}

/// A row to be: the furthest word of a screen on a channel.
struct Row<'a> {
    word: &'a Seen,
    channel: String,
    since: u64,
}

/// Of each screen and channel the furthest word. Before the first entry there is nothing to see.
fn furthest<'a>(words: impl Iterator<Item = &'a Seen>) -> Vec<Row<'a>> {
    let mut furthest: BTreeMap<(&str, Channel), Row<'a>> = BTreeMap::new();
    for word in words.filter(|word| word.position.seq > 0) {
        for (channel, since) in &word.told {
            let row = Row { word, channel: channel.to_string(), since: *since };
            let held =
                furthest.entry((&word.screen, *channel)).or_insert_with(|| Row { channel: row.channel.clone(), ..row });
            if place(held.word.position) < place(word.position) {
                *held = row;
            }
        }
    }
    furthest.into_values().collect()
}

/// A position in an order that the database knows too.
fn place(position: Position) -> (u64, i32) {
    (position.seq, position.event.map_or(WHOLE, |event| i32::try_from(event).unwrap_or(WHOLE)))
}

async fn insert(sql: &mut PgConnection, merchant: MerchantId, rows: &[Row<'_>]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let screens: Vec<String> = rows.iter().map(|row| row.word.screen.clone()).collect();
    let channels: Vec<String> = rows.iter().map(|row| row.channel.clone()).collect();
    let seqs: Vec<i64> = rows.iter().map(|row| row.word.position.seq.cast_signed()).collect();
    let events: Vec<i32> = rows.iter().map(|row| place(row.word.position).1).collect();
    let tags: Vec<Vec<u8>> = rows.iter().map(|row| row.word.position.tag.to_vec()).collect();
    let sinces: Vec<i64> = rows.iter().map(|row| row.since.cast_signed()).collect();
    let staff: Vec<uuid::Uuid> = rows.iter().map(|row| row.word.staff.0).collect();
    let registers: Vec<Option<uuid::Uuid>> = rows.iter().map(|row| row.word.register.map(|id| id.0)).collect();
    // By the second of the clock, and not since the last word: whoever says something all the time gets a row a second.
    sqlx::query!(
        "with said as (
             select *
             from unnest($2::text[], $3::text[], $4::bigint[], $5::int[], $6::bytea[], $7::bigint[], $8::uuid[], $9::uuid[])
                  as said (screen_id, channel, seq, event, tag, since, staff_id, register_id)
         ), moved as (
             update payments_seen before
             set seq = said.seq, event = said.event, tag = said.tag, seen_at = now()
             from said, lateral (
                 select last.seq, last.event from payments_seen last
                 where last.merchant_id = $1 and last.screen_id = said.screen_id and last.channel = said.channel
                 order by last.seq desc, last.event desc limit 1) furthest
             where before.merchant_id = $1 and before.screen_id = said.screen_id and before.channel = said.channel
               and before.seq = furthest.seq and before.event = furthest.event
               and (before.seq, before.event) < (said.seq, said.event)
               and date_trunc('second', before.seen_at) = date_trunc('second', now())
               and before.since = said.since and before.staff_id = said.staff_id
               and before.register_id is not distinct from said.register_id
             returning before.screen_id, before.channel
         )
         insert into payments_seen (merchant_id, screen_id, channel, seq, event, tag, since, staff_id, register_id)
         select $1, said.* from said
         where not exists (select from payments_seen before
                           where before.merchant_id = $1 and before.screen_id = said.screen_id
                             and before.channel = said.channel
                             and (before.seq, before.event) >= (said.seq, said.event))
           and not exists (select from moved
                           where moved.screen_id = said.screen_id and moved.channel = said.channel)
         on conflict do nothing",
        merchant.0,
        &screens,
        &channels,
        &seqs,
        &events,
        &tags,
        &sinces,
        &staff,
        &registers as &[Option<uuid::Uuid>],
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// A screen on which a person has seen a payment, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SeenOn {
    /// The connection's public id. It stays the same when the client comes back by itself.
    pub screen: String,
    /// Whose token the screen had, and their name, if they are in the merchant's list of staff.
    pub staff: StaffId,
    pub staff_name: Option<String>,
    /// The register that the token was bound to, and its name.
    pub register: Option<RegisterId>,
    pub register_name: Option<String>,
    /// The outlet whose payments the screen heard; none if it was all of them.
    pub outlet: Option<OutletId>,
    /// When the screen first said so, of this payment or of a later position: to the second.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Moment,
    /// Up to where it said that the person saw.
    #[schema(value_type = String)]
    pub position: Position,
}

/// The screens on which a person has seen the payment at this place, by their tills and since when; the first ones first.
///
/// `heard_on` are the channels on which it was told. One more than `limit` are read, to see whether there are more.
pub async fn on(
    sql: &mut PgConnection,
    merchant: MerchantId,
    payment: Position,
    heard_on: &[Channel],
    limit: u32,
) -> Result<Vec<SeenOn>> {
    let channels: Vec<String> = heard_on.iter().map(Channel::to_string).collect();
    let (seq, event) = place(payment);
    // From screen to screen, each with two looks at the key, and not through all that they ever said.
    let rows = sqlx::query!(
        r#"with recursive screen (screen_id) as (
               (select screen_id from payments_seen where merchant_id = $1 order by screen_id limit 1)
             union all
               select next.screen_id
               from screen, lateral (
                   select payments_seen.screen_id from payments_seen
                   where merchant_id = $1 and payments_seen.screen_id > screen.screen_id
                   order by payments_seen.screen_id limit 1) next
           ), first as (
               select distinct on (said.screen_id) said.*
               from screen, unnest($2::text[]) as heard (channel), lateral (
                   select * from payments_seen
                   where merchant_id = $1 and screen_id = screen.screen_id and channel = heard.channel
                     and (seq, event) >= ($3, $4)
                   order by seq, event limit 1) said
               where said.since < $3
               order by said.screen_id, said.seen_at
           )
           select first.screen_id as "screen_id!", first.channel as "channel!", first.seq as "seq!", first.event as "event!",
                  first.tag as "tag!", first.staff_id as "staff_id!", first.register_id, first.seen_at as "seen_at!",
                  staff.name as "staff_name?", registers.name as "register_name?"
           from first
           left join staff on staff.merchant_id = $1 and staff.staff_id = first.staff_id
           left join registers on registers.merchant_id = $1 and registers.register_id = first.register_id
           order by first.seen_at, first.screen_id limit $5"#,
        merchant.0,
        &channels,
        seq.cast_signed(),
        event,
        i64::from(limit.min(SCREENS_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            let tag = row.tag.try_into().map_err(|_| anyhow::anyhow!("a tag that is too long in the database"))?;
            let event = if row.event == WHOLE { None } else { Some(row.event.unsigned_abs()) };
            let channel: Channel = row.channel.parse().map_err(|error| anyhow::anyhow!("{}: {error}", row.channel))?;
            Ok(SeenOn {
                screen: row.screen_id,
                staff: StaffId(row.staff_id),
                staff_name: row.staff_name,
                register: row.register_id.map(RegisterId),
                register_name: row.register_name,
                outlet: channel.outlet,
                seen_at: row.seen_at,
                position: Position { seq: row.seq.unsigned_abs(), event, tag },
            })
        })
        .collect()
}

/// Those of the staff who have seen what stands at this place, on a screen that was told it on one of these channels. Nobody
/// can have before it was recorded.
pub async fn by(
    sql: &mut PgConnection,
    merchant: MerchantId,
    at: Position,
    recorded_at: Moment,
    heard_on: &[Channel],
    among: &[StaffId],
) -> Result<HashSet<StaffId>> {
    let channels: Vec<String> = heard_on.iter().map(Channel::to_string).collect();
    let staff: Vec<uuid::Uuid> = among.iter().map(|id| id.0).collect();
    let (seq, event) = place(at);
    let rows = sqlx::query_scalar!(
        "select distinct staff_id from payments_seen
         where merchant_id = $1 and staff_id = any($2) and seen_at >= $3 and channel = any($4)
           and (seq, event) >= ($5, $6) and since < $5",
        merchant.0,
        &staff,
        recorded_at,
        &channels,
        seq.cast_signed(),
        event,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().map(StaffId).collect())
}

/// The channels on which a payment at this till is told.
pub fn channels(outlet: OutletId, register: RegisterId) -> [Channel; 3] {
    let here = Topic::Payments.at(outlet);
    [Topic::Payments.everywhere(), here, here.by(register)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_word_of_each_screen_and_channel_counts() {
        let (here, everywhere) = (Topic::Payments.at(OutletId::new()), Topic::Payments.everywhere());
        let word = |screen: &str, position: &str, told: &[(Channel, u64)]| Seen {
            screen: screen.to_owned(),
            staff: StaffId::new(),
            register: None,
            position: position.parse().unwrap(),
            told: told.to_vec(),
        };
        let words = [
            word("a", "7.2-00000000", &[(here, 1)]),
            word("a", "7-00000000", &[(here, 1), (everywhere, 3)]),
            word("a", "7.3-00000000", &[(here, 1)]),
            word("b", "6-00000000", &[(here, 0)]),
            word("c", "0-00000000", &[(here, 0)]),
        ];
        let rows = furthest(words.iter());
        let rows: Vec<_> =
            rows.iter().map(|row| (&*row.word.screen, row.since, row.word.position.to_string())).collect();
        let whole = "7-00000000".to_owned();
        assert_eq!(rows, [("a", 3, whole.clone()), ("a", 1, whole), ("b", 0, "6-00000000".to_owned())]);
    }
}
