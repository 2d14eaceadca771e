//! The chain of hashes that makes a journal tamper-evident.

use aws_lc_rs::digest::{Context, SHA256};
use futures_util::TryStreamExt;
use sqlx::PgPool;
use tillwire_channels::{MerchantId, Position, Tag};

use super::entry::{seq_of, tag_of};
use super::read::Head;

/// The tag of an entry: the first eight bytes of `sha256(prev ‖ merchant ‖ seq ‖ events)`.
pub fn tag(prev: Tag, merchant: MerchantId, seq: u64, events: &str) -> Tag {
    let mut hash = Context::new(&SHA256);
    hash.update(&prev.0);
    hash.update(merchant.0.as_bytes());
    hash.update(&seq.to_be_bytes());
    hash.update(events.as_bytes());
    let digest = hash.finish();
    let mut tag = [0; 8];
    tag.copy_from_slice(&digest.as_ref()[..8]);
    Tag(tag)
}

/// What a verification found.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    /// The first entry that is kept, where retention has cut the journal.
    pub first: u64,
    pub entries: u64,
    pub head: Position,
}

/// What is wrong with a journal.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// Entry `seq` is missing.
    Hole { seq: u64 },
    /// Entry `seq` does not follow from the one before it.
    Unchained { seq: u64 },
    /// Entry `seq` is not what was hashed when it was committed.
    Changed { seq: u64 },
    /// Entry `seq` was recorded before the one it follows.
    BackInTime { seq: u64 },
    /// The head names another last entry than the journal has.
    Head { head: Position, last: Position },
    /// There is a head and no entry, and the last entry is too young for retention.
    Emptied { head: Position },
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hole { seq } => write!(f, "entry {seq} is missing"),
            Self::Unchained { seq } => write!(f, "entry {seq} does not follow from the one before it"),
            Self::Changed { seq } => write!(f, "entry {seq} was changed after it was committed"),
            Self::BackInTime { seq } => write!(f, "entry {seq} was recorded before the one it follows"),
            Self::Head { head, last } => write!(f, "the head is at {head}, but the last entry is {last}"),
            Self::Emptied { head } => {
                write!(f, "the head is at {head}, but no entry is left, and retention has not come that far")
            }
        }
    }
}

/// Reads a whole journal and checks every link. `pool` is the feed's.
///
/// It compares with the head as it was at the beginning: entries that are committed meanwhile are checked too.
pub async fn verify(pool: &PgPool, merchant: MerchantId) -> anyhow::Result<Result<Verified, Broken>> {
    let Some((head, month)) = head(pool, merchant).await? else { anyhow::bail!("no such merchant") };
    let mut rows = sqlx::query!(
        "select seq, prev, tag, recorded_at, events from journal_entries where merchant_id = $1 order by seq",
        merchant.0
    )
    .fetch(pool);
    let (mut first, mut last, mut at_head, mut entries) = (None, None::<(u64, Tag, _)>, None, 0);
    while let Some(row) = rows.try_next().await? {
        let (seq, prev, own) = (seq_of(row.seq)?, tag_of(&row.prev)?, tag_of(&row.tag)?);
        if let Some((before, before_tag, before_at)) = last {
            if seq != before + 1 {
                return Ok(Err(Broken::Hole { seq: before + 1 }));
            }
            if prev != before_tag {
                return Ok(Err(Broken::Unchained { seq }));
            }
            if row.recorded_at < before_at {
                return Ok(Err(Broken::BackInTime { seq }));
            }
        } else if seq == 1 && prev != Tag::GENESIS {
            return Ok(Err(Broken::Unchained { seq }));
        }
        if tag(prev, merchant, seq, &row.events) != own {
            return Ok(Err(Broken::Changed { seq }));
        }
        first.get_or_insert(seq);
        last = Some((seq, own, row.recorded_at));
        entries += 1;
        if seq == head.seq {
            at_head = Some(own);
        }
    }
    drop(rows); // Its connection may be needed below.
    let Some((last, last_tag, _)) = last else {
        let is_whole = match month {
            Some(month) => !is_kept(pool, &month).await?,
            None => head.seq == 0,
        };
        if !is_whole {
            return Ok(Err(Broken::Emptied { head: head.position() }));
        }
        return Ok(Ok(Verified { first: head.seq + 1, entries, head: head.position() }));
    };
    // It may have begun since its head was read.
    let has_begun = head.seq == 0 && self::head(pool, merchant).await?.is_some_and(|(head, _)| head.seq > 0);
    if at_head != Some(head.tag) && !has_begun {
        return Ok(Err(Broken::Head { head: head.position(), last: Position::of_entry(last, last_tag) }));
    }
    Ok(Ok(Verified { first: first.unwrap_or(head.seq + 1), entries, head: head.position() }))
}

/// The head of a journal, and the month of its last entry; none if it never had an entry.
async fn head(pool: &PgPool, merchant: MerchantId) -> anyhow::Result<Option<(Head, Option<String>)>> {
    let row = sqlx::query!(
        "select seq, tag, to_char(recorded_at at time zone 'utc', 'YYYY_MM') as month from journal_heads
         where merchant_id = $1",
        merchant.0
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| Ok((Head { seq: seq_of(row.seq)?, tag: tag_of(&row.tag)? }, row.month))).transpose()
}

/// Whether the entries of a month are still kept: retention drops all of them, or none.
async fn is_kept(pool: &PgPool, month: &str) -> anyhow::Result<bool> {
    let is_kept = sqlx::query_scalar!(
        r#"select to_regclass('public.journal_entries_' || $1::text) is not null as "is_kept!""#,
        month
    );
    Ok(is_kept.fetch_one(pool).await?)
}
