//! What Xendit says of a payment, in an answer or by itself.

use secrecy::ExposeSecret as _;
use tillwire_channels::Moment;
use time::format_description::well_known::Rfc3339;

use super::super::credentials::XenditKeys;
use super::super::fields::{Fields, NotMoneyIn, in_utc};
use super::super::payment::{Bank, Id, Ids};
use super::super::refusal::{Again, Code, Refusal};
use super::super::report::{Page, RefundReport, RefundState, Report, Row, RowKind, Shown};
use super::super::request::{Answer, Asked};
use super::ask::transfer_channel;
use crate::commerce::payments::state::State;

pub fn read(keys: &XenditKeys, asked: &Asked, answer: &Answer) -> Result<Report, Refusal> {
    let fields = accepted(keys, asked, answer)?;
    let unreadable = || Refusal::new(Again::Unknown, Code::Unreadable, answer.status.to_string());
    let found = match (asked, fields.has("data")) {
        (Asked::Status { reference }, true) => one_of(&fields, "reference_id", reference).map(|it| report(&it)),
        (Asked::RefundStatus { key }, true) => return list_of_refunds(keys, &fields, key),
        (Asked::Refund { .. } | Asked::RefundStatus { .. }, false) => Some(of_refund(&fields)),
        (_, false) => Some(report(&fields)),
        (_, true) => return Err(unreadable()),
    };
    // Of a list nobody promises that it is complete.
    let Some(found) = found else { return Err(Refusal::new(Again::Unknown, Code::NotFound, "")) };
    let report = found.map_err(|NotMoneyIn(field)| {
        unreadable().saying(Some(format!("{field} is no amount in whole rupiah")), keys.secret_key.expose_secret())
    })?;
    let says_something = report.state.is_some() || report.ids != Ids::default() || !report.refunds.is_empty();
    if says_something { Ok(report) } else { Err(unreadable()) }
}

/// All refunds of a payment. One that is not there was not made, if there are no more than these.
fn list_of_refunds(keys: &XenditKeys, fields: &Fields<'_>, key: &Id) -> Result<Report, Refusal> {
    let mut all = Report::default();
    for row in fields.objects("data") {
        let one = of_refund(&row).map_err(|NotMoneyIn(field)| {
            let refusal = Refusal::new(Again::Unknown, Code::Unreadable, "");
            refusal.saying(Some(format!("{field} is no amount in whole rupiah")), keys.secret_key.expose_secret())
        })?;
        // It says what we do not know. Were it left out, it would seem never to have been asked for, and be asked for again.
        if one.refunds.is_empty() {
            return Err(Refusal::new(Again::Unknown, Code::Unreadable, row.text("status").unwrap_or_default()));
        }
        // Of another payment, which nobody has asked about.
        if all.ids.request.is_some() && one.ids.request != all.ids.request {
            return Err(Refusal::new(Again::Unknown, Code::Unreadable, ""));
        }
        let refunds = std::mem::take(&mut all.refunds).into_iter().chain(one.refunds).collect();
        all = Report { refunds, fee_minor: None, ..one };
    }
    let has_it = all.refunds.iter().any(|it| it.key.as_deref() == Some(key.as_str()));
    if fields.flag("has_more") && !has_it {
        return Err(Refusal::new(Again::Unknown, Code::NotFound, ""));
    }
    Ok(all)
}

/// The object of an answer, unless it is a refusal.
fn accepted<'a>(keys: &XenditKeys, asked: &Asked, answer: &'a Answer) -> Result<Fields<'a>, Refusal> {
    let fields = Fields::parse(&answer.body);
    if (200..300).contains(&answer.status) {
        return fields.ok_or_else(|| Refusal::new(Again::Unknown, Code::Unreadable, answer.status.to_string()));
    }
    let fields = fields.unwrap_or_default();
    let theirs = fields.text("error_code").unwrap_or_default();
    let (again, code) = refusal(asked, answer, &theirs);
    let theirs = if theirs.is_empty() { answer.status.to_string() } else { theirs };
    Err(Refusal::new(again, code, theirs).saying(fields.text("message"), keys.secret_key.expose_secret()))
}

/// Whether an answer of 5xx is a bank's trouble: Xendit itself is there, and so are the other banks.
pub fn is_a_banks(answer: &Answer) -> bool {
    let code = Fields::parse(&answer.body).and_then(|fields| fields.text("error_code"));
    code.is_some_and(|code| matches!(code.as_str(), "CHANNEL_UNAVAILABLE" | "ISSUER_UNAVAILABLE"))
}

fn refusal(asked: &Asked, answer: &Answer, theirs: &str) -> (Again, Code) {
    let later = Again::Later(answer.wait());
    // Something stands in the way for now. What was asked for may have been begun.
    let for_now = if asked.moves_money() { Again::Unknown } else { later };
    match (answer.status, theirs) {
        (429, _) | (_, "RATE_LIMIT_EXCEEDED" | "PAYMENT_REQUEST_RATE_LIMITED") => (later, Code::TooManyRequests),
        (500.., _) => (for_now, Code::Unavailable),
        // A code for it would be its own; the status is what counts.
        (409, _) => (Again::Unknown, Code::Duplicate),
        (404, "DATA_NOT_FOUND") => (Again::Never, Code::NotFound),
        // Not the payment, perhaps, but the path is what is not there.
        (404, _) => (Again::Unknown, Code::NotFound),
        (401, _) | (403, "REQUEST_FORBIDDEN_ERROR" | "INVALID_API_KEY") => (Again::Never, Code::WrongKeys),
        (_, "REFUND_NOT_SUPPORTED" | "PARTIAL_REFUND_NOT_SUPPORTED") => (Again::Never, Code::NotRefundable),
        (403, _) => (Again::Never, Code::NotEnabled),
        // Nothing was begun: an answer of 4xx refuses.
        (_, "TEMPORARILY_UNAVAILABLE" | "CHANNEL_UNAVAILABLE" | "ISSUER_UNAVAILABLE") => {
            (if *asked == Asked::Charge { Again::Unknown } else { later }, Code::Unavailable)
        }
        (_, "REFUND_IN_PROGRESS") => (later, Code::RefundInProgress),
        (_, "INACTIVE_PAYMENT_REQUEST" | "INELIGIBLE_TRANSACTION_STATUS") => {
            // Whoever wants to end a payment and cannot finds it paid, most likely. A refund that is not possible is not.
            let again = if matches!(asked, Asked::Refund { .. }) { Again::Never } else { Again::Unknown };
            (again, Code::IllegalState)
        }
        (_, "REFUND_AMOUNT_EXCEEDED" | "PARTIAL_REFUND_COUNTS_EXCEEDED" | "CAPTURE_AMOUNT_EXCEEDED") => {
            (Again::Never, Code::AmountTooLarge)
        }
        (_, "INSUFFICIENT_BALANCE") => (Again::Never, Code::BalanceTooLow),
        (_, "CARD_EXPIRED" | "INVALID_PAYMENT_DETAILS") => (Again::Never, Code::Declined),
        (_, "INVALID_TOKEN") => (Again::Never, Code::CardToken),
        (400..=499, _) => (Again::Never, Code::Invalid),
        _ => (Again::Unknown, Code::Unreadable),
    }
}

/// The newest of a list that bears this name, whatever else is in it.
fn one_of<'a>(fields: &Fields<'a>, name: &str, id: &Id) -> Option<Fields<'a>> {
    fields.objects("data").into_iter().find(|it| it.exact(name).as_deref() == Some(id.as_str()))
}

/// Of which payment something is said, and of whose; and where that stands.
pub fn names(fields: &Fields<'_>) -> Report {
    let is_session = fields.has("payment_session_id");
    let status = fields.word("status");
    let state = status.as_deref().and_then(|status| if is_session { of_session(status) } else { of_payment(status) });
    let id = |name| fields.text(name).as_deref().and_then(Id::parse);
    // On a page that is open still, what was tried has come to nothing.
    let is_open_page = is_session && state == Some(State::Pending);
    let tried = |id: Option<Id>| id.filter(|_| !is_open_page);
    let payment = tried(id("payment_id").or_else(|| id("latest_payment_id")));
    Report {
        state,
        said: status,
        reference: fields.text("reference_id"),
        ids: Ids { request: tried(id("payment_request_id")), payment, session: id("payment_session_id") },
        merchant: fields.text("business_id"),
        ..Report::default()
    }
}

/// What is said of a payment: by what was asked for, by a payment, or by a page on which it is paid.
pub fn report(fields: &Fields<'_>) -> Result<Report, NotMoneyIn> {
    let names = names(fields);
    let is_session = fields.has("payment_session_id");
    let amount_minor = fields.amount(if is_session { "amount" } else { "request_amount" })?;
    // Of what was asked for, all of it is taken at once, unless it is held first.
    let at_once = fields.word("capture_method").is_none_or(|it| it == "automatic") && !fields.has("payment_id");
    let captured_minor = match captured(fields)? {
        None if names.state == Some(State::Paid) && at_once => amount_minor,
        captured => captured,
    };
    Ok(Report {
        failure: fields.text("failure_code"),
        amount_minor,
        captured_minor,
        currency: fields.text("currency").map(|it| it.to_ascii_uppercase()),
        shown: shown(fields),
        expires_at: moment(fields, "expires_at")
            .or_else(|| moment(&fields.object("channel_properties")?, "expires_at")),
        paid_at: fields.objects("captures").iter().filter_map(|it| moment(it, "capture_timestamp")).max(),
        issuer: fields.object("payment_details").and_then(|details| details.text("issuer_name")),
        ..names
    })
}

fn of_payment(status: &str) -> Option<State> {
    match status {
        "requires_action" | "accepting_payments" | "pending" => Some(State::Pending),
        "authorized" => Some(State::Authorized),
        "succeeded" => Some(State::Paid),
        "failed" => Some(State::Failed),
        "canceled" | "cancelled" => Some(State::Canceled),
        "expired" => Some(State::Expired),
        _ => None,
    }
}

/// That a page was completed says nothing of money: the payment that it names does.
fn of_session(status: &str) -> Option<State> {
    match status {
        "active" => Some(State::Pending),
        "expired" => Some(State::Expired),
        "canceled" | "cancelled" => Some(State::Canceled),
        _ => None,
    }
}

/// The sum of what was taken, if it says.
fn captured(fields: &Fields<'_>) -> Result<Option<i64>, NotMoneyIn> {
    let latest = fields.object("latest_payment");
    let captures = [Some(fields), latest.as_ref()].into_iter().flatten().flat_map(|it| it.objects("captures"));
    let mut sum = None;
    for capture in captures {
        if let Some(amount) = capture.amount("capture_amount")? {
            sum = Some(sum.unwrap_or(0) + amount);
        }
    }
    Ok(sum)
}

fn shown(fields: &Fields<'_>) -> Option<Shown> {
    let of_action = |action: &Fields<'_>| match action.word("descriptor")?.as_str() {
        "qr_string" => action.exact("value").filter(|text| !text.is_empty()).map(|text| Shown::Qr { text }),
        "virtual_account_number" => {
            let channel = fields.text("channel_code")?.to_ascii_uppercase();
            let bank = Bank::ALL.into_iter().find(|bank| transfer_channel(*bank) == Some(channel.as_str()))?;
            Some(Shown::VirtualAccount { bank, number: action.text("value")? })
        }
        "web_url" => Shown::page(&action.exact("value")?),
        _ => None,
    };
    let action = fields.objects("actions").iter().find_map(of_action);
    action.or_else(|| Shown::page(&fields.exact("payment_link_url")?))
}

/// Of which payment a refund is, and whose.
pub fn names_of_refund(fields: &Fields<'_>) -> Report {
    let id = |name| fields.text(name).as_deref().and_then(Id::parse);
    let ids = Ids { request: id("payment_request_id"), payment: id("payment_id"), session: None };
    Report { ids, merchant: fields.text("business_id"), ..Report::default() }
}

/// What is said of a refund, and by it of its payment: nothing but its name.
pub fn of_refund(fields: &Fields<'_>) -> Result<Report, NotMoneyIn> {
    let state = match fields.word("status").as_deref() {
        Some("pending") => RefundState::Pending,
        Some("succeeded") => RefundState::Succeeded,
        Some("failed") => RefundState::Failed,
        Some("cancelled" | "canceled") => RefundState::Canceled,
        _ => return Ok(Report::default()),
    };
    Ok(Report {
        currency: fields.text("currency").map(|it| it.to_ascii_uppercase()),
        refunds: vec![RefundReport {
            key: fields.text("reference_id"),
            id: fields.text("id"),
            payment: fields.text("payment_id"),
            amount_minor: fields.amount("amount")?,
            state,
            failure: fields.text("failure_code"),
        }],
        fee_minor: fields.amount("refund_fee_amount").ok().flatten(),
        ..names_of_refund(fields)
    })
}

/// A page of what was moved.
pub fn page(keys: &XenditKeys, answer: &Answer) -> Result<Page, Refusal> {
    let fields = accepted(keys, &Asked::Settlements, answer)?;
    let unreadable = || Refusal::new(Again::Unknown, Code::Unreadable, answer.status.to_string());
    if !fields.is_list("data") {
        return Err(unreadable());
    }
    let mut page = Page::default();
    let mut last = None;
    for row in fields.objects("data") {
        let id = row.text("id");
        match row_of(&row) {
            Some(row) => page.rows.push(row),
            None => page.unreadable.push(id.clone().unwrap_or_default()),
        }
        last = id;
    }
    // Half a list is not taken for all of it.
    page.next = if fields.flag("has_more") { Some(last.ok_or_else(unreadable)?) } else { None };
    Ok(page)
}

fn row_of(row: &Fields<'_>) -> Option<Row> {
    let id = |name| row.text(name).as_deref().and_then(Id::parse);
    let kind = match row.word("type")?.as_str() {
        "payment" => RowKind::Payment,
        "refund" => RowKind::Refund,
        "chargeback" => RowKind::Chargeback,
        _ => RowKind::Other,
    };
    let settled = matches!(row.word("settlement_status").as_deref(), Some("settled" | "early_settled"));
    let state = match (kind, row.word("status").as_deref()) {
        (RowKind::Chargeback, Some("success")) => Some(State::ChargedBack),
        // Of how much, its amount says.
        (RowKind::Refund, Some("success")) => Some(State::PartiallyRefunded),
        (RowKind::Payment, Some("success")) => Some(if settled { State::Settled } else { State::Paid }),
        (RowKind::Payment, Some("pending")) => Some(State::Pending),
        (RowKind::Payment, Some("failed")) => Some(State::Failed),
        (RowKind::Payment, Some("reversed" | "voided")) => Some(State::Reversed),
        _ => None,
    };
    let request = row.object("product_data").and_then(|data| Id::parse(&data.text("payment_request_id")?));
    let (costs, is_paid) = (row.object("fee"), matches!(state, Some(State::Paid | State::Settled)));
    // Where taxes are withheld, what is left does not follow from the fee.
    let withheld = |name| costs.as_ref().is_some_and(|fee| fee.amount(name) != Ok(Some(0)) && fee.has(name));
    let is_whole = is_paid && !withheld("xendit_withholding_tax") && !withheld("third_party_withholding_tax");
    let fee = costs.as_ref().and_then(|fee| {
        // One that is not known yet is no fee of nothing.
        let is_known = fee.word("status").is_none_or(|status| status == "completed");
        let (own, tax) = (fee.amount("xendit_fee").ok()??, fee.amount("value_added_tax").ok()?);
        is_known.then(|| own + tax.unwrap_or_default())
    });
    Some(Row {
        id: row.text("id")?,
        kind,
        state,
        reference: row.text("reference_id"),
        ids: Ids { request, payment: id("product_id"), session: None },
        currency: row.text("currency")?.to_ascii_uppercase(),
        amount_minor: row.amount("amount").ok()??,
        fee_minor: fee,
        net_minor: row.amount("net_amount").ok().flatten().filter(|_| is_whole),
        settled,
        settles_at: moment(row, "estimated_settlement_time"),
    })
}

pub fn moment(fields: &Fields<'_>, name: &str) -> Option<Moment> {
    in_utc(Moment::parse(&fields.text(name)?, &Rfc3339).ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn keys() -> XenditKeys {
        XenditKeys { secret_key: "xnd_development_a".into(), callback_tokens: Vec::new(), business_id: "b".to_owned() }
    }

    fn read_page(body: &Value) -> Result<Page, Refusal> {
        let headers = reqwest::header::HeaderMap::new();
        page(&keys(), &Answer { status: 200, headers, body: body.to_string().into_bytes(), at: Moment::UNIX_EPOCH })
    }

    #[test]
    fn a_refund_of_which_something_unknown_is_said_is_not_taken_for_none() {
        let key = Id::parse("ours").unwrap();
        let list = |status: Value| {
            let row = json!({ "id": "rfd-1", "reference_id": "ours", "payment_request_id": "pr-1", "status": status,
                              "amount": 8_500, "currency": "IDR" });
            let body = json!({ "data": [row], "has_more": false }).to_string();
            list_of_refunds(&keys(), &Fields::parse(body.as_bytes()).unwrap(), &key)
        };
        assert_eq!(list(json!("PENDING")).unwrap().refunds.len(), 1);
        for status in [json!("PROCESSING"), Value::Null, json!(7)] {
            let refusal = list(status.clone()).unwrap_err();
            assert_eq!((refusal.again, refusal.code), (Again::Unknown, Code::Unreadable), "{status}");
        }
    }

    #[test]
    fn moments_that_nobody_can_reckon_with_are_none() {
        let read = |text: &str| {
            let body = json!({ "at": text }).to_string();
            moment(&Fields::parse(body.as_bytes()).unwrap(), "at")
        };
        assert!(read("2026-01-14T10:00:00+07:00").is_some());
        for text in
            ["9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    fn a_row(fee: Value) -> Value {
        json!({ "id": "txn_1", "type": "PAYMENT", "status": "SUCCESS", "currency": "IDR", "amount": 48_500, "fee": fee })
    }

    #[test]
    fn half_a_list_is_not_taken_for_all_of_it() {
        let row = a_row(Value::Null);
        for body in [
            json!({ "has_more": false }),
            json!({ "data": null, "has_more": false }),
            json!({ "data": {}, "has_more": false }),
            json!({ "data": [], "has_more": true }),
            json!({ "data": [row, { "type": "PAYMENT" }], "has_more": true }),
        ] {
            assert_eq!(read_page(&body).unwrap_err().code, Code::Unreadable, "{body}");
        }
        let next = |body| read_page(&body).unwrap().next;
        assert_eq!(next(json!({ "data": [row], "has_more": true })).as_deref(), Some("txn_1"));
        assert_eq!(next(json!({ "data": [row], "has_more": false })), None);
        assert_eq!(next(json!({ "data": [], "has_more": false })), None);
    }

    #[test]
    fn what_is_paid_out_is_told_where_it_follows_from_the_fee() {
        let net = |change: Value| {
            let mut row = a_row(json!({ "xendit_fee": 320, "xendit_withholding_tax": 0 }));
            row["net_amount"] = json!(48_180);
            for (name, value) in change.as_object().unwrap() {
                row[name] = value.clone();
            }
            read_page(&json!({ "data": [row], "has_more": false })).unwrap().rows[0].net_minor
        };
        assert_eq!(net(json!({})), Some(48_180));
        assert_eq!(net(json!({ "fee": null })), Some(48_180));
        for change in [
            json!({ "net_amount": 48_180.5 }),
            json!({ "net_amount": null }),
            json!({ "type": "REFUND" }),
            json!({ "status": "REVERSED" }),
            json!({ "fee": { "xendit_fee": 320, "third_party_withholding_tax": 10 } }),
            json!({ "fee": { "xendit_fee": 320, "xendit_withholding_tax": 0.5 } }),
        ] {
            assert_eq!(net(change.clone()), None, "{change}");
        }
    }

    #[test]
    fn a_fee_is_one_once_it_is_known() {
        let fee = |fee| read_page(&json!({ "data": [a_row(fee)], "has_more": false })).unwrap().rows[0].fee_minor;
        assert_eq!(fee(json!({ "xendit_fee": 320, "value_added_tax": 35, "status": "COMPLETED" })), Some(355));
        assert_eq!(fee(json!({ "xendit_fee": 320, "value_added_tax": 35 })), Some(355));
        assert_eq!(fee(json!({ "xendit_fee": 0 })), Some(0));
        assert_eq!(fee(json!({ "xendit_fee": 320, "value_added_tax": 35, "status": "PENDING" })), None);
        assert_eq!(fee(json!({ "value_added_tax": 35 })), None);
        assert_eq!(fee(json!({ "xendit_fee": null })), None);
        assert_eq!(fee(json!({})), None);
    }
}
