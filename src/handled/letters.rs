//! Letters: entries that a handler could not handle. They wait for the next attempt, or are dead and wait for a person, who has
//! them tried again or drops them.
//!
//! Whoever tries one holds its lease. A lease is fenced: what became of an attempt is written down only by whoever has it still.

use std::time::Duration;

use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use tillwire_channels::{MerchantId, Moment, Position};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::audit;
use crate::error::{Error, Result};
use crate::journal::{MerchantTx, pool};

/// For how long one is held without a word: longer than an attempt may take.
const LEASE: Duration = Duration::from_secs(60);
/// The most that are listed at once.
pub const PAGE_MAX: u32 = 100;
/// Why one is dead that was tried often enough, and of which nobody told anything.
pub const NEVER_SAID: &str = "It was tried again and again, and nobody said what became of it: they may die of it.";
/// How much of a reason is kept, in bytes.
const REASON_BYTES_MAX: usize = 2_000;

/// A handler's entry, and what is to become of it.
#[derive(Clone, Debug)]
pub struct Letter {
    pub merchant: MerchantId,
    pub handler: String,
    /// The whole entry's.
    pub position: Position,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub reason: String,
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is tried again after this time.
    Waits(Duration),
    /// Nobody tries it, unless a person says so.
    Dead,
}

impl Fate {
    fn state(self) -> &'static str {
        match self {
            Self::Waits(_) => "waiting",
            Self::Dead => "dead",
        }
    }

    fn pause_seconds(self) -> Option<f64> {
        match self {
            Self::Waits(pause) => Some(pause.as_secs_f64()),
            Self::Dead => None,
        }
    }
}

/// Puts a letter aside. One that is there already stays as it is: this one has only come again.
pub async fn park(app: &PgPool, letter: &Letter) -> Result<()> {
    let mut sql = pool::begin_of(app, letter.merchant).await?;
    sqlx::query!(
        "insert into parked_entries (merchant_id, letter_id, handler, seq, tag, state, attempts, reason, next_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9))
         on conflict (merchant_id, handler, seq, tag) do nothing",
        letter.merchant.0,
        Uuid::now_v7(),
        letter.handler,
        letter.position.seq.cast_signed(),
        letter.position.tag.as_slice(),
        letter.fate.state(),
        i32::try_from(letter.attempts)?,
        kept(&letter.reason),
        letter.fate.pause_seconds(),
    )
    .execute(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(())
}

/// A letter whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Due {
    pub merchant: MerchantId,
    pub letter: Uuid,
    /// Whether whoever tried it last never said what became of it: perhaps he died of it.
    pub is_suspect: bool,
}

/// The most letters of one merchant that are tried at once, by one node.
pub const OF_ONE_MAX: i64 = 4;

/// Letters of a handler whose turn it is and that nobody tries, those that have waited longest first. `pool` is the relay's: it
/// asks about everybody.
pub async fn due(pool: &PgPool, handler: &str, letters_max: usize) -> Result<Vec<Due>> {
    let rows = sqlx::query!(
        r#"select merchant_id as "merchant_id!", letter_id as "letter_id!", lease is not null as "is_suspect!"
           from (select merchant_id, letter_id, lease, next_at,
                        row_number() over (partition by merchant_id order by next_at) as place
                 from parked_entries
                 where state = 'waiting' and handler = $1 and next_at <= now()
                   and (coalesce(leased_until, '-infinity') <= now() or leased_until > now() + interval '2 minutes')) due
           where place <= $3 order by next_at limit $2"#,
        handler,
        i64::try_from(letters_max)?,
        OF_ONE_MAX,
    )
    .fetch_all(pool)
    .await?;
    let due = |(merchant, letter, is_suspect)| Due { merchant: MerchantId(merchant), letter, is_suspect };
    Ok(rows.into_iter().map(|row| due((row.merchant_id, row.letter_id, row.is_suspect))).collect())
}

/// A letter that is ours to try.
#[derive(Debug)]
pub struct Held {
    pub due: Due,
    lease: Uuid,
    pub position: Position,
    /// This one included.
    pub attempts: u32,
}

/// Takes a letter, unless somebody else has it, or it is gone. The attempt counts from now on, whoever may die of it: one that
/// was tried so often already is dead.
pub async fn take(app: &PgPool, due: Due, attempts_max: u32) -> Result<Option<Held>> {
    let lease = Uuid::new_v4();
    let mut sql = pool::begin_of(app, due.merchant).await?;
    let row = sqlx::query!(
        "update parked_entries
         set lease = $3, leased_until = now() + make_interval(secs => $4), attempts = attempts + 1
         where merchant_id = $1 and letter_id = $2 and state = 'waiting' and next_at <= now()
           and (coalesce(leased_until, '-infinity') <= now() or leased_until > now() + interval '2 minutes')
         returning seq, tag, attempts",
        due.merchant.0,
        due.letter,
        lease,
        LEASE.as_secs_f64(),
    )
    .fetch_optional(&mut *sql)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.attempts.unsigned_abs() > attempts_max {
        sqlx::query!(
            "update parked_entries
             set state = 'dead', next_at = null, lease = null, leased_until = null, attempts = attempts - 1, parked_at = now(),
                 reason = $3
             where merchant_id = $1 and letter_id = $2",
            due.merchant.0,
            due.letter,
            NEVER_SAID,
        )
        .execute(&mut *sql)
        .await?;
        sql.commit().await?;
        return Ok(None);
    }
    sql.commit().await?;
    let position = Position { seq: u64::try_from(row.seq)?, event: None, tag: row.tag.as_slice().try_into()? };
    Ok(Some(Held { due, lease, position, attempts: row.attempts.unsigned_abs() }))
}

/// It is handled, and gone.
pub async fn settle(app: &PgPool, held: &Held) -> Result<()> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    sqlx::query!(
        "delete from parked_entries where merchant_id = $1 and letter_id = $2 and lease = $3",
        held.due.merchant.0,
        held.due.letter,
        held.lease,
    )
    .execute(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(())
}

/// It was tried in vain, and let go of.
pub async fn put_back(app: &PgPool, held: &Held, reason: &str, fate: Fate) -> Result<()> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    sqlx::query!(
        "update parked_entries
         set state = $4, reason = $5, next_at = now() + make_interval(secs => $6), lease = null, leased_until = null,
             parked_at = case when $4 = 'dead' then now() else parked_at end
         where merchant_id = $1 and letter_id = $2 and lease = $3",
        held.due.merchant.0,
        held.due.letter,
        held.lease,
        fate.state(),
        kept(reason),
        fate.pause_seconds(),
    )
    .execute(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(())
}

/// A dead letter, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LetterView {
    pub id: Uuid,
    /// What could not be done: `push`.
    pub handler: String,
    /// The entry's place in the journal.
    #[schema(value_type = String)]
    pub position: Position,
    /// How often it was tried.
    pub attempts: i32,
    /// Why the last attempt failed.
    pub reason: String,
    /// When it was given up.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub parked_at: Moment,
}

/// A merchant's dead letters, the newest first; those before an id, and of one handler if it is named.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    handler: Option<&str>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<LetterView>> {
    select(sql, merchant, None, handler, before, limit.min(PAGE_MAX) + 1).await
}

/// One dead letter.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, letter: Uuid) -> Result<LetterView> {
    let found = select(sql, merchant, Some(letter), None, None, 1).await?;
    found.into_iter().next().ok_or(Error::NotFound("dead letter"))
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    only: Option<Uuid>,
    handler: Option<&str>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<LetterView>> {
    let rows = sqlx::query!(
        "select letter_id, handler, seq, tag, attempts, reason, parked_at from parked_entries
         where merchant_id = $1 and state = 'dead' and ($2::uuid is null or letter_id = $2)
           and ($3::text is null or handler = $3) and ($4::uuid is null or letter_id < $4)
         order by letter_id desc limit $5",
        merchant.0,
        only,
        handler,
        before,
        i64::from(limit),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            let position = Position { seq: u64::try_from(row.seq)?, event: None, tag: row.tag.as_slice().try_into()? };
            Ok(LetterView {
                id: row.letter_id,
                handler: row.handler,
                position,
                attempts: row.attempts,
                reason: row.reason,
                parked_at: row.parked_at,
            })
        })
        .collect()
}

/// Has a dead letter tried again, as if it never was. Answers it as it was.
pub async fn replay(tx: &mut MerchantTx, letter: Uuid) -> Result<LetterView> {
    let (merchant, by) = (tx.merchant(), Some(tx.actor()?));
    let was = get(tx.sql(), merchant, letter).await?;
    revive(tx.sql(), merchant, &was).await?;
    audit::note(tx.sql(), merchant, by, "dead_letter.replayed", &subject(&was), &was.reason).await?;
    Ok(was)
}

/// Drops a dead letter: what it asked for will not be done. Answers it as it was.
pub async fn discard(tx: &mut MerchantTx, letter: Uuid) -> Result<LetterView> {
    let (merchant, by) = (tx.merchant(), Some(tx.actor()?));
    let was = get(tx.sql(), merchant, letter).await?;
    remove(tx.sql(), merchant, &was).await?;
    audit::note(tx.sql(), merchant, by, "dead_letter.dropped", &subject(&was), &was.reason).await?;
    Ok(was)
}

/// What an operator does with dead letters from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Replay,
    Drop,
}

/// Does it with one, in the operator's name. `app` is the application's pool.
pub async fn by_operator(app: &PgPool, merchant: MerchantId, letter: Uuid, deed: Deed) -> Result<LetterView> {
    let mut sql = pool::begin_of(app, merchant).await?;
    let was = get(&mut sql, merchant, letter).await?;
    let action = match deed {
        Deed::Replay => {
            revive(&mut sql, merchant, &was).await?;
            "dead_letter.replayed"
        }
        Deed::Drop => {
            remove(&mut sql, merchant, &was).await?;
            "dead_letter.dropped"
        }
    };
    audit::note(&mut sql, merchant, None, action, &subject(&was), &was.reason).await?;
    sql.commit().await?;
    Ok(was)
}

async fn revive(sql: &mut PgConnection, merchant: MerchantId, was: &LetterView) -> Result<()> {
    let revived = sqlx::query!(
        "update parked_entries set state = 'waiting', attempts = 0, next_at = now()
         where merchant_id = $1 and letter_id = $2 and state = 'dead'",
        merchant.0,
        was.id,
    )
    .execute(sql)
    .await?;
    if revived.rows_affected() == 0 { Err(Error::NotFound("dead letter")) } else { Ok(()) }
}

async fn remove(sql: &mut PgConnection, merchant: MerchantId, was: &LetterView) -> Result<()> {
    let gone = sqlx::query!(
        "update parked_entries set state = 'dropped' where merchant_id = $1 and letter_id = $2 and state = 'dead'",
        merchant.0,
        was.id,
    )
    .execute(sql)
    .await?;
    if gone.rows_affected() == 0 { Err(Error::NotFound("dead letter")) } else { Ok(()) }
}

fn subject(was: &LetterView) -> String {
    format!("{} {}", was.handler, was.position)
}

/// A dead letter among those of all merchants.
#[derive(Clone, Debug)]
pub struct OfAll {
    pub merchant: MerchantId,
    pub letter: Uuid,
    pub handler: String,
    pub position: Position,
    pub attempts: i32,
    pub reason: String,
    pub parked_at: Moment,
}

/// Which dead letters are meant; all, where nothing is named.
#[derive(Clone, Debug, Default)]
pub struct Which {
    pub merchant: Option<MerchantId>,
    pub handler: Option<String>,
    pub letters: Vec<Uuid>,
}

/// Dead letters of all merchants, the oldest first; those after an id. `pool` is the relay's.
pub async fn of_all(pool: &PgPool, which: &Which, after: Option<Uuid>, letters_max: u32) -> Result<Vec<OfAll>> {
    let rows = sqlx::query!(
        "select merchant_id, letter_id, handler, seq, tag, attempts, reason, parked_at from parked_entries
         where state = 'dead' and ($1::uuid is null or merchant_id = $1) and ($2::text is null or handler = $2)
           and ($3::uuid[] = '{}' or letter_id = any($3)) and ($4::uuid is null or letter_id > $4)
         order by letter_id limit $5",
        which.merchant.map(|it| it.0),
        which.handler.as_deref(),
        &which.letters,
        after,
        i64::from(letters_max),
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let position = Position { seq: u64::try_from(row.seq)?, event: None, tag: row.tag.as_slice().try_into()? };
            Ok(OfAll {
                merchant: MerchantId(row.merchant_id),
                letter: row.letter_id,
                handler: row.handler,
                position,
                attempts: row.attempts,
                reason: row.reason,
                parked_at: row.parked_at,
            })
        })
        .collect()
}

/// How many letters of a handler there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    pub handler: String,
    pub waiting: i64,
    pub dead: i64,
    /// How old the oldest dead one is, in seconds.
    pub dead_seconds: f64,
}

/// The letters of all merchants, counted. `pool` is the relay's.
pub async fn count(pool: &PgPool) -> Result<Vec<Count>> {
    let counts = sqlx::query_as!(
        Count,
        r#"select handler, count(*) filter (where state = 'waiting') as "waiting!",
                  count(*) filter (where state = 'dead') as "dead!",
                  coalesce(extract(epoch from now() - min(parked_at) filter (where state = 'dead')), 0)::float8
                      as "dead_seconds!"
           from parked_entries where state <> 'dropped' group by handler order by handler"#
    )
    .fetch_all(pool)
    .await?;
    Ok(counts)
}

/// A reason as PostgreSQL takes it: cut, and without the one character that it refuses.
fn kept(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].replace('\0', " ")
}
