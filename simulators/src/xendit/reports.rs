//! `/reports`: a table of what moved, which takes a while.

use std::time::Duration;

use serde_json::{Value, json};

use super::transactions::{HEADER, Row};
use super::{Caller, Due, invalid, not_found, notify};
use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::world::{self, World};

/// How long one takes.
const TAKES: Duration = Duration::from_secs(5);
/// The longest time that one may be about.
const RANGE_MAX: Duration = Duration::from_secs(92 * 24 * 3600);
const KINDS: [&str; 4] = ["TRANSACTIONS", "BALANCE_HISTORY", "UPCOMING_TRANSACTIONS", "DETAILED_TRANSACTIONS"];

pub struct Report {
    id: String,
    account: String,
    kind: String,
    from: Moment,
    to: Moment,
    /// When it is there.
    text: Option<String>,
    created: Moment,
}

impl Report {
    fn shown(&self, base: &str) -> Value {
        json!({
            "id": self.id,
            "type": self.kind,
            "status": if self.text.is_some() { "COMPLETED" } else { "PENDING" },
            "filter": { "from": self.from, "to": self.to },
            "format": "CSV",
            "currency": "IDR",
            "url": self.text.as_ref().map(|_| format!("{base}/files/{}", self.id)),
            "created": self.created,
        })
    }
}

pub fn create(world: &mut World, caller: &Caller, call: &Call) -> Reply {
    let body = call.json();
    let kind = body["type"].as_str().unwrap_or_default();
    if !KINDS.contains(&kind) {
        return invalid(&format!("type must be one of {}", KINDS.join(", ")));
    }
    if !matches!(body["format"].as_str(), None | Some("CSV"))
        || !matches!(body["currency"].as_str(), None | Some("IDR"))
    {
        return invalid("format must be CSV, and currency IDR");
    }
    let moment = |name: &str| body["filter"][name].as_str().and_then(Moment::parse);
    let (Some(from), Some(to)) = (moment("from"), moment("to")) else {
        return invalid("filter.from and filter.to must be ISO 8601");
    };
    if from > to || to.since(from) >= RANGE_MAX {
        return invalid("filter.from must be before filter.to, by less than 92 days");
    }
    let id = format!("report_{}", world.ids.uuid());
    let account = caller.account.business_id.clone();
    let report = Report { id: id.clone(), account, kind: kind.to_owned(), from, to, text: None, created: world.now() };
    let shown = report.shown(&world.xendit.base);
    world.xendit.reports.add(id.clone(), report);
    world.after(TAKES, world::Due::Xendit(Due::FinishReport(id)));
    Reply::json(200, &shown)
}

pub fn is_finished(world: &mut World, id: &str) {
    let Some(report) = world.xendit.reports.get(id) else { return };
    let is_meant = |it: &&Row| it.is_of(&report.account) && (report.from..=report.to).contains(&it.created);
    let lines = world.xendit.rows.iter().filter(is_meant).map(Row::line);
    let text = std::iter::once(HEADER.to_owned()).chain(lines).collect();
    let base = world.xendit.base.clone();
    let Some(report) = world.xendit.reports.get_mut(id) else { return };
    report.text = Some(text);
    let shown = report.shown(&base);
    let body = json!({ "id": shown["id"], "type": shown["type"], "status": shown["status"], "url": shown["url"] });
    let account = report.account.clone();
    notify::of_an_account(world, &account, vec![id.to_owned()], "report", &body);
}

pub fn get(world: &World, caller: &Caller, id: &str) -> Reply {
    let report = world.xendit.reports.get(id).filter(|it| it.account == caller.account.business_id);
    report.map_or_else(not_found, |it| Reply::json(200, &it.shown(&world.xendit.base)))
}

/// The table itself, for whoever knows where it is.
pub fn file(world: &World, id: &str) -> Reply {
    let text = world.xendit.reports.get(id).and_then(|it| it.text.clone());
    text.map_or_else(not_found, |text| Reply::file("text/csv; charset=utf-8", text.into_bytes()))
}
