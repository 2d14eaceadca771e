//! What Midtrans says of a payment, in an answer or by itself.

use secrecy::ExposeSecret as _;
use tillwire_channels::Moment;
use time::format_description::BorrowedFormatItem;
use time::macros::{format_description, offset};
use time::{PrimitiveDateTime, UtcOffset};

use super::super::credentials::MidtransKeys;
use super::super::fields::{Fields, NotMoneyIn, in_utc};
use super::super::payment::{Bank, Id, Ids};
use super::super::refusal::{Again, Code, Refusal};
use super::super::report::{RefundReport, RefundState, Report, Shown};
use super::super::request::{Answer, Asked};
use crate::commerce::payments::state::State;

/// Moments are written without one.
const JAKARTA: UtcOffset = offset!(+7);
const MOMENT: &[BorrowedFormatItem<'static>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

pub fn read(keys: &MidtransKeys, asked: &Asked, answer: &Answer) -> Result<Report, Refusal> {
    let fields = Fields::parse(&answer.body).unwrap_or_default();
    let code = code(answer.status, &fields);
    // The first call with the same key is still running.
    if answer.status == 202 && !fields.has("transaction_status") {
        return Err(Refusal::new(Again::Unknown, Code::InFlight, "202"));
    }
    let refused = |again, why| {
        let validations = fields.texts("validation_messages");
        let said = if validations.is_empty() { fields.text("status_message") } else { Some(validations.join("; ")) };
        let theirs = if code == 0 { answer.status } else { code };
        Refusal::new(again, why, theirs.to_string()).saying(said, keys.server_key.expose_secret())
    };
    let unless_money_moves = |again| if asked.moves_money() { Again::Unknown } else { again };
    match code {
        200 | 201 | 202 | 407 if fields.has("transaction_status") => {
            report(&fields).map(|report| of_asked(asked, &fields, code, report)).map_err(|NotMoneyIn(field)| {
                let refusal = Refusal::new(Again::Unknown, Code::Unreadable, code.to_string());
                refusal.saying(Some(format!("{field} is no amount in whole rupiah")), keys.server_key.expose_secret())
            })
        }
        202 => Err(refused(Again::Never, Code::Declined)),
        // It says so in a code alone. As a status of HTTP it is a proxy's word.
        407 if fields.has("status_code") => {
            Ok(Report { state: Some(State::Expired), said: Some("407".to_owned()), ..Report::default() })
        }
        400 | 403 | 405 | 408 | 413 => Err(refused(Again::Never, Code::Invalid)),
        401 => Err(refused(Again::Never, Code::WrongKeys)),
        402 | 410 => Err(refused(Again::Never, Code::NotEnabled)),
        404 => Err(refused(Again::Never, Code::NotFound)),
        407 => Err(refused(Again::Unknown, Code::Unreadable)),
        // It was asked for before; how it stands there is for the status to say.
        406 => Err(refused(Again::Unknown, Code::Duplicate)),
        411 => Err(refused(Again::Never, Code::CardToken)),
        // Whoever wants to end a payment and cannot finds it paid, most likely. A refund that is not possible is not.
        412 if matches!(asked, Asked::Refund { .. }) => Err(refused(Again::Never, Code::IllegalState)),
        412 => Err(refused(Again::Unknown, Code::IllegalState)),
        414 => Err(refused(Again::Never, Code::AmountTooLarge)),
        429 => Err(refused(Again::Later(answer.wait()), Code::TooManyRequests)),
        400..=499 => Err(refused(Again::Never, Code::Invalid)),
        500..=999 => Err(refused(unless_money_moves(Again::Later(answer.wait())), Code::Unavailable)),
        _ => Err(refused(Again::Unknown, Code::Unreadable)),
    }
}

/// The code that counts: the body's, if there is one that goes with what HTTP says.
fn code(status: u16, fields: &Fields<'_>) -> u16 {
    let inner = fields.text("status_code").and_then(|code| code.parse().ok());
    match inner {
        // Something in between has spoken.
        Some(inner) if (status < 400 || inner >= 400) && status != 429 => inner,
        Some(_) => status,
        None if (200..300).contains(&status) => 0,
        None => status,
    }
}

/// With what the answer to this question says besides.
fn of_asked(asked: &Asked, fields: &Fields<'_>, code: u16, mut report: Report) -> Report {
    if let Asked::Refund { key } = asked
        && !report.refunds.iter().any(|refund| refund.key.as_deref() == Some(key.as_str()))
    {
        let amount_minor = fields.amount("refund_amount").ok().flatten();
        // The bank has said no, and the payment stands as it did.
        let is_refused = code == 202 || amount_minor == Some(0);
        report.refunds.push(RefundReport {
            key: fields.text("refund_key").or_else(|| Some(key.to_string())),
            id: fields.text("refund_chargeback_id"),
            payment: None,
            amount_minor,
            state: if is_refused { RefundState::Failed } else { RefundState::Pending },
            failure: is_refused.then(|| failure(fields).or_else(|| fields.text("status_message"))).flatten(),
        });
        if is_refused {
            // Its code is the refund's, so that nothing can be said of the payment.
            report.state = None;
        }
    }
    report
}

/// Of which payment something is said, and of whose.
pub fn names(fields: &Fields<'_>) -> Report {
    Report {
        said: fields.word("transaction_status"),
        reference: fields.text("order_id"),
        ids: Ids { payment: fields.text("transaction_id").as_deref().and_then(Id::parse), ..Ids::default() },
        merchant: fields.text("merchant_id"),
        ..Report::default()
    }
}

/// What is said of a payment, whoever asked.
pub fn report(fields: &Fields<'_>) -> Result<Report, NotMoneyIn> {
    let method = fields.word("payment_type").unwrap_or_default();
    let state = state(fields, &method);
    let gross_minor = fields.amount("gross_amount")?;
    Ok(Report {
        state,
        may_reverse: state == Some(State::Failed) && may_reverse(fields, &method),
        failure: state.filter(|state| *state == State::Failed).and_then(|_| failure(fields)),
        amount_minor: gross_minor,
        captured_minor: if state.is_some_and(has_money) { paid_minor(fields)?.or(gross_minor) } else { None },
        currency: fields.text("currency").map(|it| it.to_ascii_uppercase()),
        refunds: refunds(fields)?,
        shown: shown(fields),
        // Some answers have the one, some the other.
        expires_at: moment(fields, "expiry_time").or_else(|| moment(fields, "expire_time")),
        paid_at: moment(fields, "settlement_time"),
        issuer: fields.text("issuer"),
        ..names(fields)
    })
}

fn has_money(state: State) -> bool {
    use State::{ChargedBack, Paid, PartiallyRefunded, Refunded, Settled};
    matches!(state, Paid | Settled | PartiallyRefunded | Refunded | ChargedBack)
}

/// A payment is good with code 200, in one of two states, and with nothing against it. Half of that is nothing.
fn state(fields: &Fields<'_>, method: &str) -> Option<State> {
    let fraud = fields.word("fraud_status");
    let unless_doubted = |fine: Option<State>| match fraud.as_deref() {
        None | Some("accept") => fine,
        Some("challenge") => Some(State::Review),
        // Money that moved, and a word against it: a person has to look.
        Some(_) => None,
    };
    let is_fine = fields.text("status_code").as_deref() == Some("200");
    let taken = |state| is_fine.then_some(state);
    match fields.word("transaction_status").as_deref()? {
        "pending" => Some(State::Pending),
        "authorize" => unless_doubted(Some(State::Authorized)),
        "capture" => unless_doubted(taken(State::Paid)),
        // A card is paid when it is captured; then the money comes.
        "settlement" if method == "credit_card" => unless_doubted(taken(State::Settled)),
        "settlement" => unless_doubted(taken(State::Paid)),
        "deny" | "failure" => Some(State::Failed),
        "cancel" => Some(State::Canceled),
        "expire" => Some(State::Expired),
        "partial_refund" => Some(State::PartiallyRefunded),
        "refund" => Some(State::Refunded),
        "chargeback" | "partial_chargeback" => Some(State::ChargedBack),
        _ => None,
    }
}

/// Whose banks may refuse, within minutes, what they have confirmed.
fn may_reverse(fields: &Fields<'_>, method: &str) -> bool {
    match method {
        "echannel" | "permata" => true,
        "bank_transfer" => fields.has("permata_va_number"),
        "cstore" => fields.word("store").as_deref() == Some("indomaret"),
        _ => false,
    }
}

fn failure(fields: &Fields<'_>) -> Option<String> {
    let [code, message] = ["channel_response_code", "channel_response_message"].map(|name| fields.text(name));
    match (code, message) {
        (Some(code), Some(message)) => Some(format!("{code} {message}")),
        (code, message) => code.or(message),
    }
}

/// What was transferred to a number that takes any amount.
fn paid_minor(fields: &Fields<'_>) -> Result<Option<i64>, NotMoneyIn> {
    let mut paid = None;
    for part in fields.objects("payment_amounts") {
        if let Some(amount) = part.amount("amount")? {
            paid = Some(paid.unwrap_or(0) + amount);
        }
    }
    Ok(paid)
}

/// Each refund is told twice: when it is taken on, and when the bank has confirmed it.
fn refunds(fields: &Fields<'_>) -> Result<Vec<RefundReport>, NotMoneyIn> {
    let of = |refund: &Fields<'_>| {
        Ok(RefundReport {
            key: refund.text("refund_key"),
            id: refund.text("refund_chargeback_id"),
            payment: None,
            amount_minor: refund.amount("refund_amount")?,
            state: if refund.text("bank_confirmed_at").is_some() {
                RefundState::Succeeded
            } else {
                RefundState::Pending
            },
            failure: None,
        })
    };
    fields.objects("refunds").iter().map(of).collect()
}

fn shown(fields: &Fields<'_>) -> Option<Shown> {
    if let Some(text) = fields.exact("qr_string").filter(|text| !text.is_empty()) {
        return Some(Shown::Qr { text });
    }
    if let (Some(biller_code), Some(bill_key)) = (fields.text("biller_code"), fields.text("bill_key")) {
        return Some(Shown::Bill { biller_code, bill_key });
    }
    if let Some(number) = fields.text("permata_va_number") {
        return Some(Shown::VirtualAccount { bank: Bank::Permata, number });
    }
    let account = fields.objects("va_numbers").iter().find_map(|account| {
        let bank = Bank::of(&account.text("bank")?)?;
        Some(Shown::VirtualAccount { bank, number: account.text("va_number")? })
    });
    account.or_else(|| Shown::page(&fields.exact("redirect_url")?))
}

fn moment(fields: &Fields<'_>, name: &str) -> Option<Moment> {
    let text = fields.text(name)?;
    in_utc(PrimitiveDateTime::parse(&text, MOMENT).ok()?.assume_offset(JAKARTA))
}
