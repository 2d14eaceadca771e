//! `/v1/journal` and `/v1/snapshot`: the change feed, with the same positions as the sockets.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tillwire_channels::{Channel, Position, Topic};
use utoipa::{IntoParams, ToSchema};

use super::extract::Params;
use super::problem::Problem;
use super::reply::{bounded, cursor};
use crate::commerce::snapshots::SnapshotView;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::{self, ReadTx, Slice};

/// The most entries that are read at once.
const ENTRIES_MAX: u32 = 500;
/// The most state items of a page of a snapshot.
const STATE_MAX: u32 = 1_000;

/// What to read of the journal.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AfterParams {
    /// The last position that was seen; from the beginning if left out.
    pub after: Option<String>,
    /// Comma-separated, as a screen would join them; everything that the token may hear if left out.
    pub channels: Option<String>,
    /// How many entries to read at most, whether or not they are heard.
    pub limit: Option<u32>,
}

/// A stretch of the journal.
#[derive(Debug, Serialize, ToSchema)]
pub struct JournalPage {
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Positioned>,
    /// Where to go on from: everything up to it has been answered.
    #[schema(value_type = String)]
    pub position: Position,
    /// Whether there is more already.
    pub more: bool,
}

/// An event with its position.
#[derive(Debug, Serialize)]
pub struct Positioned {
    pub position: Position,
    pub event: Box<RawValue>,
}

/// Everything that follows a position, in order and without a gap: what a screen would have been sent.
#[utoipa::path(get, path = "/v1/journal", tag = "journal", params(AfterParams),
    responses((status = 200, body = JournalPage), (status = 410, body = Problem, description = "`snapshot_required`"),
              (status = "default", body = Problem)))]
pub async fn after(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<AfterParams>,
) -> Result<Json<JournalPage>> {
    staff.may(Permission::ReadJournal)?;
    let limit = bounded(params.limit, 100, ENTRIES_MAX)?;
    let after = match &params.after {
        Some(text) => text.parse().map_err(|error| Error::invalid("invalid_parameter", "after", format!("{error}")))?,
        None => Position::START,
    };
    let channels = heard(&staff, params.channels.as_deref())?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let slice = Slice { entries_max: limit, ..Slice::default() };
    let read = read::after(tx.sql(), staff.merchant, after, slice).await?;
    let view = staff.role.view();
    let mut events = Vec::new();
    for entry in &read.entries {
        let stored = entry.events()?;
        let count = u32::try_from(stored.len())?;
        for (number, event) in (1..).zip(stored) {
            let joined = channels.iter().map(String::as_str);
            if !after.is_before(entry.seq, number) || !event.heard_on(joined, view) {
                continue;
            }
            let envelope = event.envelope(view, entry.seq, (number, count), entry.recorded_at)?;
            events.push(Positioned {
                position: Position::of_event(entry.seq, number, entry.tag),
                event: serde_json::value::to_raw_value(&envelope)?,
            });
        }
    }
    let position = read.entries.last().map_or(after, |last| last.position());
    Ok(Json(JournalPage { events, position, more: read.more }))
}

/// The channels that were asked for, or all that the bearer may hear.
fn heard(staff: &Staff, asked: Option<&str>) -> Result<Vec<String>> {
    let listener = staff.listener();
    let Some(asked) = asked else {
        return Ok(everything(staff).iter().map(Channel::to_string).collect());
    };
    asked
        .split(',')
        .map(|text| {
            let channel: Channel = text
                .parse()
                .map_err(|error| Error::invalid("unknown_channel", "channels", format!("{text}: {error}")))?;
            if listener.may_join(channel) {
                Ok(channel.to_string())
            } else {
                Err(Error::Denied(Permission::ReadJournal))
            }
        })
        .collect()
}

/// All that the bearer may hear: each topic, narrowed to the outlets and the register that the token is bound to.
fn everything(staff: &Staff) -> Vec<Channel> {
    let topics = tillwire_channels::topic::TOPICS.iter().map(|row| row.topic);
    let narrowed = |topic: Topic| {
        let outlets = staff.outlets.iter().flat_map(move |outlet| {
            let channel = topic.at(*outlet);
            [Some(channel), staff.register.map(|register| channel.by(register))]
        });
        std::iter::once(Some(topic.everywhere())).chain(outlets).flatten()
    };
    let listener = staff.listener();
    topics.flat_map(narrowed).filter(|channel| listener.may_join(*channel)).collect()
}

/// Which state to read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SnapshotParams {
    /// As a screen would join it.
    pub channel: String,
    /// How many items, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// The state of a channel, and the position at which it is true. Of several pages, go on from the first one's position.
#[utoipa::path(get, path = "/v1/snapshot", tag = "journal", params(SnapshotParams),
    responses((status = 200, body = SnapshotView), (status = "default", body = Problem)))]
pub async fn snapshot(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<SnapshotParams>,
) -> Result<impl IntoResponse + use<>> {
    let limit = bounded(params.limit, 200, STATE_MAX)?;
    let cursor = cursor(params.cursor.as_deref())?;
    let channel: Channel =
        params.channel.parse().map_err(|error| Error::invalid("unknown_channel", "channel", format!("{error}")))?;
    // Whoever is bound to outlets may ask for the whole topic, and gets what is theirs.
    let narrowed = staff.outlets.first().map_or(channel, |outlet| match channel.outlet {
        Some(_) => channel,
        None => Channel { outlet: Some(*outlet), register: staff.register, ..channel },
    });
    if !staff.listener().may_join(channel) && !staff.listener().may_join(narrowed) {
        return Err(Error::Denied(Permission::ReadJournal));
    }
    let channel =
        Channel { register: channel.register.or(staff.register.filter(|_| narrows_to_register(channel))), ..channel };
    let page = hub.snapshots.read(staff.caller(), channel, &staff.outlets, cursor, limit).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], page))
}

fn narrows_to_register(channel: Channel) -> bool {
    channel.topic.row().narrows == tillwire_channels::topic::Narrows::Register
}
