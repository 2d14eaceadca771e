//! Settlement files: CSV, as a provider's dashboard or report gives it, or as a person makes it of that.
//!
//! The first line names the columns, in any order; those that nobody knows are passed over. A line that cannot be read is named
//! with its number, and then nothing of the file counts: half of one would be taken for all of it.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};
use csv::{ByteRecord, ReaderBuilder, Trim};
use tillwire_channels::Moment;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::{format_description, offset};
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use crate::connectors::ability::CURRENCY;
use crate::connectors::amount;
use crate::connectors::fields::in_utc;
use crate::connectors::report::RowKind;
use crate::error::{Error, Fault, Result};

/// The largest file, in bytes, and in lines.
pub const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
pub const LINES_MAX: usize = 50_000;
/// How many lines that are wrong are named.
const FAULTS_MAX: usize = 100;
/// The longest names, in bytes: of ours, and of the provider's.
const REFERENCE_BYTES_MAX: usize = 255;
const THERE_BYTES_MAX: usize = 100;

const MOMENTS: [&[BorrowedFormatItem<'static>]; 3] = [
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond]"),
    format_description!("[year]-[month]-[day] [hour]:[minute]"),
];
const DAY: &[BorrowedFormatItem<'static>] = format_description!("[year]-[month]-[day]");
const DAY_BYTES: usize = 10;
const ZONE: &[BorrowedFormatItem<'static>] = format_description!("[offset_hour sign:mandatory][offset_minute]");
/// Where nothing is said of a zone it is this, as at Midtrans.
const JAKARTA: UtcOffset = offset!(+7);

/// The columns, by all that they are called. Case, and what is no letter or digit, does not matter. Some say the same in two columns:
/// the later one counts in lines where the earlier says nothing.
const COLUMNS: [(Column, &[&str]); 16] = [
    (Column::Reference, &["orderid", "reference", "referenceid", "externalid"]),
    // As the payment is called; the next is a line of its books beside it.
    (Column::There, &["paymentid", "productid"]),
    (Column::There, &["transactionid", "id"]),
    (Column::Kind, &["type", "transactiontype"]),
    (Column::Status, &["status", "transactionstatus"]),
    (Column::Amount, &["amount", "grossamount"]),
    (Column::Fee, &["fee", "feeamount", "totalfee", "totalfeeamount"]),
    (Column::Tax, &["vat", "tax", "ppn", "valueaddedtax", "totalvat", "totalvatamount"]),
    (Column::Withheld, &["xenditwht"]),
    (Column::WithheldElsewhere, &["3rdpartywht"]),
    (Column::Net, &["net", "netamount"]),
    (Column::Settled, &["settlementstatus"]),
    (Column::SettledAt, &["settledat", "settlementtime", "settlementdate", "actualsettlementtime"]),
    (Column::SettledAt, &["timestampsettled"]),
    (Column::Zone, &["timezone"]),
    (Column::Currency, &["currency"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Column {
    Reference,
    There,
    Kind,
    Status,
    Amount,
    Fee,
    Tax,
    /// Tax that is kept back of what is paid out: by the provider, and by others.
    Withheld,
    WithheldElsewhere,
    Net,
    Settled,
    SettledAt,
    /// Of moments that name none.
    Zone,
    Currency,
}

/// Where columns are; of those that say the same the earlier first.
type Columns = HashMap<Column, Vec<usize>>;

/// A line, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// A hash of all that it says: the same line is the same.
    pub id: [u8; 32],
    pub kind: RowKind,
    pub reference: Option<String>,
    pub there: Option<String>,
    pub currency: String,
    pub amount_minor: i64,
    pub fee_minor: Option<i64>,
    pub net_minor: Option<i64>,
    pub settled: bool,
    pub settled_at: Option<Moment>,
}

/// Reads a file. The same line twice is one.
///
/// # Errors
/// `no_csv`, `column_missing`, `column_twice`, `too_many_lines`; or what is wrong with which lines, the first hundred of them.
pub fn read(bytes: &[u8]) -> Result<Vec<Line>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (bytes, delimiter) = delimited(bytes);
    let mut reader = ReaderBuilder::new().delimiter(delimiter).trim(Trim::All).from_reader(bytes);
    let no_csv = |error: &csv::Error| {
        let at = error.position().map(|at| format!("Line {}: ", at.line())).unwrap_or_default();
        let why = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("it has {len} fields, and there are {expected_len} columns")
            }
            _ => "this is no CSV".to_owned(),
        };
        Error::invalid("no_csv", "", format!("{at}{why}."))
    };
    let header = reader.byte_headers().map_err(|error| no_csv(&error))?.clone();
    let columns = columns(&header)?;
    let (mut lines, mut faults) = (HashMap::new(), Vec::new());
    let (mut record, mut order) = (ByteRecord::new(), 0_usize);
    while reader.read_byte_record(&mut record).map_err(|error| no_csv(&error))? {
        order += 1;
        if order > LINES_MAX {
            let detail = format!("A file has {LINES_MAX} lines at most: bring it in parts.");
            return Err(Error::invalid("too_many_lines", "", detail));
        }
        match line(&columns, &record) {
            Ok(line) => _ = lines.entry(line.id).or_insert((order, line)),
            Err((column, detail)) => {
                let number = record.position().map_or(0, csv::Position::line);
                let pointer = format!("/{number}/{column}");
                faults.push(Fault { code: "invalid_line", pointer, detail: format!("Line {number}: {detail}") });
                if faults.len() == FAULTS_MAX {
                    break;
                }
            }
        }
    }
    if !faults.is_empty() {
        return Err(Error::InvalidMany(faults));
    }
    let mut lines: Vec<(usize, Line)> = lines.into_values().collect();
    lines.sort_by_key(|(order, _)| *order);
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// What stands between two fields, and where it begins to count. Excel may say so in a line of its own; its end is left there, so
/// that lines keep their numbers.
fn delimited(bytes: &[u8]) -> (&[u8], u8) {
    let end = bytes.iter().position(|it| *it == b'\n').unwrap_or(bytes.len());
    let head = &bytes[..end];
    let said = head.trim_ascii_end().strip_prefix(b"sep=").or_else(|| head.trim_ascii_end().strip_prefix(b"SEP="));
    match said {
        Some([sign @ (b',' | b';')]) => (&bytes[end..], *sign),
        _ => {
            let count = |sign: u8| head.iter().filter(|it| **it == sign).count();
            (bytes, if count(b';') > count(b',') { b';' } else { b',' })
        }
    }
}

fn columns(header: &ByteRecord) -> Result<Columns> {
    let mut columns = Columns::new();
    for (column, names) in COLUMNS {
        let mut found = header.iter().enumerate().filter(|(_, name)| is_one_of(&String::from_utf8_lossy(name), names));
        let Some((at, _)) = found.next() else { continue };
        if found.next().is_some() {
            let detail = format!("Two columns say the same: {}.", names.join(", "));
            return Err(Error::invalid("column_twice", "/1", detail));
        }
        columns.entry(column).or_default().push(at);
    }
    let has = |column| columns.contains_key(&column);
    let missing = if !has(Column::Amount) {
        Some("`amount`")
    } else if !has(Column::Reference) && !has(Column::There) {
        Some("`order id` or `transaction id`")
    } else if !has(Column::SettledAt) && !has(Column::Settled) {
        Some("`settled at` or `settlement status`")
    } else {
        None
    };
    match missing {
        Some(names) => Err(Error::invalid("column_missing", "/1", format!("The first line names no column {names}."))),
        None => Ok(columns),
    }
}

/// One line; or which column is wrong, and why.
fn line(columns: &Columns, record: &ByteRecord) -> std::result::Result<Line, (&'static str, String)> {
    let field = |column: Column, called: &'static str| {
        let mut said = columns.get(&column).into_iter().flatten().filter_map(|at| record.get(*at));
        let Some(bytes) = said.find(|it| !it.is_empty()) else { return Ok(None) };
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains(char::is_control) => Err((called, format!("`{called}` has control characters."))),
            Ok(text) => Ok(Some(text)),
            Err(_) => Err((called, format!("`{called}` is no UTF-8."))),
        }
    };
    let named = |column, called, bytes_max: usize| match field(column, called)? {
        Some(text) if text.len() > bytes_max => Err((called, format!("`{called}` is longer than {bytes_max} bytes."))),
        text => Ok(text.map(str::to_owned)),
    };
    // What leaves the merchant is written with a sign, or without one.
    let money = |column, called| {
        let Some(text) = field(column, called)? else { return Ok(None) };
        let (is_less, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        // By many a program `48.000` is 48 thousand.
        let is_clear = digits.split_once('.').is_none_or(|(_, fraction)| fraction.len() <= 2);
        let amount = amount::parse(digits).ok().filter(|_| is_clear).ok_or_else(|| {
            (called, format!("`{called}` is no amount in whole rupiah, such as 48500 or 48500.00: `{}`.", cut(text)))
        })?;
        Ok(Some(if is_less { -amount } else { amount }))
    };
    // What it costs may have sen, and is not known then: the bills of fees do, and amounts never.
    let known = |column, called| match field(column, called)? {
        Some(text) if has_sen(text) => Ok(Some(None)),
        _ => Ok(money(column, called)?.map(Some)),
    };
    let cost = |column, called| Ok(known(column, called)?.map(|it| it.map(i64::abs)));
    let reference = named(Column::Reference, "order id", REFERENCE_BYTES_MAX)?;
    let there = named(Column::There, "transaction id", THERE_BYTES_MAX)?;
    if reference.is_none() && there.is_none() {
        return Err(("order id", "it names no payment: neither `order id` nor `transaction id`.".to_owned()));
    }
    let is_in_part = field(Column::Status, "status")?.is_some_and(|word| is_one_of(word, &IN_PART));
    let stands = match field(Column::Status, "status")? {
        Some(word) => status(word).ok_or_else(|| {
            let detail = format!(
                "`status` says what nobody here knows, such as `settlement`, `pending` or `refund`: `{}`.",
                cut(word)
            );
            ("status", detail)
        })?,
        None => RowKind::Payment,
    };
    let kind = match field(Column::Kind, "type")? {
        None => stands,
        Some(_) if stands == RowKind::Other && !is_in_part => RowKind::Other,
        Some(word) if is_one_of(word, &PAYMENT) => RowKind::Payment,
        Some(word) if is_one_of(word, &REFUND) => RowKind::Refund,
        Some(word) if is_one_of(word, &CHARGEBACK) => RowKind::Chargeback,
        Some(_) => RowKind::Other,
    };
    let amount = money(Column::Amount, "amount")?.ok_or(("amount", "there is no `amount`.".to_owned()))?;
    if kind == RowKind::Payment && amount < 0 {
        return Err(("amount", format!("the `amount` of a payment is less than nothing: {amount}.")));
    }
    // A fee is a cost, whatever its sign, and the tax on it is one: together they are what the provider keeps.
    let fee_minor = match (cost(Column::Fee, "fee")?, cost(Column::Tax, "vat")?) {
        (Some(Some(fee)), None) => Some(fee),
        (Some(Some(fee)), Some(Some(tax))) => Some(fee + tax),
        _ => None,
    };
    // A fee may be more than what was paid; what goes back has whichever sign.
    let net = if kind == RowKind::Payment { known(Column::Net, "net") } else { cost(Column::Net, "net") };
    // Where tax is withheld, what is left does not follow from the fee.
    let withheld = [cost(Column::Withheld, "xendit wht")?, cost(Column::WithheldElsewhere, "3rd party wht")?];
    let is_whole = withheld.into_iter().flatten().all(|it| it == Some(0));
    let net_minor = net?.flatten().filter(|_| is_whole);
    let currency = named(Column::Currency, "currency", 3)?.map_or(CURRENCY.to_owned(), |it| it.to_ascii_uppercase());
    let zone = match field(Column::Zone, "timezone")? {
        None => JAKARTA,
        Some(text) => zone(text).ok_or_else(|| {
            ("timezone", format!("`timezone` is none that is known, such as +0700, +0000 UTC or WIB: `{}`.", cut(text)))
        })?,
    };
    let settled_at = match field(Column::SettledAt, "settled at")? {
        None => None,
        Some(text) => Some(moment(text, zone).ok_or_else(|| {
            let detail = format!(
                "`settled at` is no moment, such as 2026-01-16T03:00:00Z, 2026-01-16 10:00:00 in Jakarta, or a date: `{}`.",
                cut(text)
            );
            ("settled at", detail)
        })?),
    };
    let settled = match field(Column::Settled, "settlement status")? {
        Some(word) => is_one_of(word, &["settled", "earlysettled"]),
        None => settled_at.is_some(),
    };
    let mut line = Line {
        id: [0; 32],
        kind,
        reference,
        there,
        currency,
        amount_minor: amount.abs(),
        fee_minor,
        net_minor,
        settled,
        settled_at,
    };
    let names = columns.get(&Column::There).into_iter().flatten().filter_map(|at| record.get(*at));
    let others = names.filter(|it| !it.is_empty()).skip(1);
    line.id = digest(&line, &others.collect::<Vec<_>>());
    Ok(line)
}

/// What is there, and words for what is not, or not yet.
const DONE: [&str; 10] = [
    "success",
    "successful",
    "succeeded",
    "settlement",
    "settled",
    "capture",
    "captured",
    "paid",
    "complete",
    "completed",
];
const NOT_DONE: [&str; 32] = [
    "pending",
    // What goes back was not given back yet, and what of the line's amount that is, it does not say.
    "refundpending",
    "processing",
    "inprogress",
    "waiting",
    "created",
    "active",
    "unpaid",
    "requiresaction",
    "authorize",
    "authorized",
    "challenge",
    "review",
    "fail",
    "failed",
    "failure",
    "expire",
    "expired",
    "cancel",
    "canceled",
    "cancelled",
    "deny",
    "denied",
    "declined",
    "rejected",
    "refused",
    "void",
    "voided",
    "reversal",
    "reversed",
    "inactive",
    "error",
];
const PAYMENT: [&str; 5] = ["payment", "settlement", "capture", "charge", "sale"];
const REFUND: [&str; 5] = ["refund", "refunds", "refunded", "partialrefund", "partiallyrefunded"];
const CHARGEBACK: [&str; 4] = ["chargeback", "chargedback", "partialchargeback", "partiallychargedback"];
/// As a status alone these do not say whose amount their line has: the payment's, or that of what went back.
const IN_PART: [&str; 4] = ["partialrefund", "partiallyrefunded", "partialchargeback", "partiallychargedback"];

/// What a line is of by its status alone: a payment, unless it says better; what came to nothing is something else. None of a word
/// that nobody knows, for a line that is passed over by mistake is money that nobody misses.
fn status(word: &str) -> Option<RowKind> {
    let kinds = [
        (&DONE[..], RowKind::Payment),
        (&NOT_DONE, RowKind::Other),
        (&IN_PART, RowKind::Other),
        (&REFUND, RowKind::Refund),
        (&CHARGEBACK, RowKind::Chargeback),
    ];
    kinds.into_iter().find(|(words, _)| is_one_of(word, words)).map(|(_, kind)| kind)
}

/// Whether it is a whole number of rupiah and some sen.
fn has_sen(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let Some((whole, sen)) = digits.split_once('.') else { return false };
    let are_sen =
        matches!(sen.len(), 1 | 2) && sen.bytes().all(|it| it.is_ascii_digit()) && sen.bytes().any(|it| it != b'0');
    are_sen && amount::parse(whole).is_ok()
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    let plain: String = word.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    words.contains(&plain.as_str())
}

/// `otherwise` is the zone where the text names none.
fn moment(text: &str, otherwise: UtcOffset) -> Option<Moment> {
    let read = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        let (clock, zone) = zoned(text, otherwise)?;
        let spaced = clock.replacen('T', " ", 1);
        let day = || Date::parse(clock, DAY).ok().map(|date| date.with_time(Time::MIDNIGHT));
        let read = MOMENTS.iter().find_map(|format| PrimitiveDateTime::parse(&spaced, format).ok()).or_else(day)?;
        Some(read.assume_offset(zone))
    });
    read.and_then(in_utc)
}

/// A moment without its zone, and the zone: `Z`, `+0700` or `+07:00`. A day has none.
fn zoned(text: &str, otherwise: UtcOffset) -> Option<(&str, UtcOffset)> {
    if let Some(clock) = text.strip_suffix('Z') {
        return Some((clock, UtcOffset::UTC));
    }
    match text.get(DAY_BYTES..).and_then(|clock| clock.find(['+', '-'])) {
        Some(at) => {
            let (clock, zone) = text.split_at(DAY_BYTES + at);
            Some((clock.trim_end(), self::zone(zone)?))
        }
        None => Some((text, otherwise)),
    }
}

/// Zones by their names, in hours; all of Indonesia's.
const ZONES: [(&[&str], i8); 4] = [
    (&["UTC", "GMT", "Z"], 0),
    (&["WIB", "Asia/Jakarta", "Asia/Pontianak"], 7),
    (&["WITA", "Asia/Makassar"], 8),
    (&["WIT", "Asia/Jayapura"], 9),
];

/// A zone by its name; or by its distance, which may have a name behind it: `+0700`, `+07:00`, `+0000 UTC`.
fn zone(text: &str) -> Option<UtcOffset> {
    let named = ZONES.iter().find(|(names, _)| names.iter().any(|name| text.eq_ignore_ascii_case(name)));
    match named {
        Some((_, hours)) => UtcOffset::from_hms(*hours, 0, 0).ok(),
        None => UtcOffset::parse(&text.split(' ').next()?.replacen(':', "", 1), ZONE).ok(),
    }
}

/// As much of a text as an error repeats.
fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Each part with its length, so that no two lines are told in the same way. The other names that the provider gives are among them:
/// of two refunds alike, by the payment's name, each has a transaction's of its own.
fn digest(line: &Line, others: &[&[u8]]) -> [u8; 32] {
    let number = |it: Option<i64>| it.map(|it| it.to_string()).unwrap_or_default();
    let parts = [
        format!("{:?}", line.kind),
        line.reference.clone().unwrap_or_default(),
        line.there.clone().unwrap_or_default(),
        line.currency.clone(),
        line.amount_minor.to_string(),
        number(line.fee_minor),
        number(line.net_minor),
        line.settled.to_string(),
        number(line.settled_at.map(Moment::unix_timestamp)),
    ];
    let mut context = Context::new(&SHA256);
    for part in parts.iter().map(String::as_bytes).chain(others.iter().copied()) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut id = [0; 32];
    id.copy_from_slice(context.finish().as_ref());
    id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIDTRANS: &str = "\
Order ID,Transaction ID,Type,Amount,Fee,Net,Settlement time,Currency
INV-1,2f6d,Payment,48500.00,340,48160,2026-01-16 10:00:00,IDR
INV-2,,Refund,-8500,0,-8500,2026-01-16,IDR
";

    fn fault(text: &str) -> (String, String) {
        match read(text.as_bytes()) {
            Err(Error::InvalidMany(faults)) => (faults[0].pointer.clone(), faults[0].detail.clone()),
            Err(Error::Invalid { code, detail, .. }) => (code.to_owned(), detail),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_read_in_whatever_order_its_columns_are() {
        let lines = read(MIDTRANS.as_bytes()).unwrap();
        let at = |text: &str| Some(Moment::parse(text, &Rfc3339).unwrap());
        assert_eq!(lines.len(), 2);
        let (paid, refund) = (&lines[0], &lines[1]);
        assert_eq!((paid.reference.as_deref(), paid.there.as_deref()), (Some("INV-1"), Some("2f6d")));
        assert_eq!(
            (paid.kind, paid.amount_minor, paid.fee_minor, paid.net_minor),
            (RowKind::Payment, 48_500, Some(340), Some(48_160))
        );
        assert_eq!((paid.settled, paid.settled_at), (true, at("2026-01-16T03:00:00Z")));
        assert_eq!(
            (refund.kind, refund.amount_minor, refund.settled_at),
            (RowKind::Refund, 8_500, at("2026-01-15T17:00:00Z"))
        );
        let turned = "\u{feff}currency;unknown;SETTLED AT;net;vat;fee;amount;transaction_id;order-id\r\n\
            idr;x;2026-01-16T03:00:00Z;48160;0;340;48500.00;2f6d;INV-1\r\n\r\n";
        assert_eq!(read(turned.as_bytes()).unwrap(), std::slice::from_ref(paid));
    }

    #[test]
    fn xendits_report_comes_in_by_the_same_door() {
        let report = "id,type,status,channel_code,reference_id,currency,amount,fee,vat,net_amount,settlement_status,created\n\
            txn_1,PAYMENT,SUCCESS,QRIS,INV-1,IDR,48500,320,35,48145,SETTLED,2026-01-14T03:06:42.501Z\n\
            txn_2,PAYMENT,SUCCESS,QRIS,INV-2,IDR,48500,320,35,48145,PENDING,2026-01-14T03:06:42.501Z\n\
            txn_3,PAYMENT,FAILED,QRIS,\"IN\"\"V,3\",IDR,48500,320,35,48145,,2026-01-14T03:06:42.501Z\n\
            txn_4,DISBURSEMENT,SUCCESS,QRIS,x,IDR,48500,,,,,2026-01-14T03:06:42.501Z\n";
        let lines = read(report.as_bytes()).unwrap();
        let shown: Vec<_> = lines.iter().map(|it| (it.kind, it.settled, it.fee_minor)).collect();
        assert_eq!(
            shown,
            [
                (RowKind::Payment, true, Some(355)),
                (RowKind::Payment, false, Some(355)),
                (RowKind::Other, false, Some(355)),
                (RowKind::Other, false, None)
            ]
        );
        assert_eq!(lines[2].reference.as_deref(), Some("IN\"V,3"));
    }

    /// A line of a report of Xendit's, whose other columns are empty.
    fn of_report(header: &str, says: &[(&str, &str)]) -> Result<Vec<Line>> {
        let columns: Vec<&str> = header.split(',').collect();
        assert!(says.iter().all(|(name, _)| columns.contains(name)), "{says:?}");
        let of = |column: &&str| says.iter().find(|(name, _)| name == column).map_or("", |(_, value)| *value);
        read(format!("{header}\n{}\n", columns.iter().map(of).collect::<Vec<_>>().join(",")).as_bytes())
    }

    /// docs.xendit.co/docs/transactions-report and detailed-transactions-report, as they were in April 2026.
    const VERSION_0: &str = "Status,Type,Channel,Channel Name,Account Number,Currency,Amount,Fee,VAT,3rd Party WHT,Xendit WHT,\
        Net Amount,Reference,Transaction ID,Invoice ID,Batch ID,Payment ID,Payment Date,Timestamp - Created,\
        Timestamp - Updated,Timestamp - Settled,Timezone,Description,Channel Reference";
    const VERSION_1: &str = "Status,Type,Channel,Channel Name,Account Number,Currency,Amount,Fee,VAT,3rd Party WHT,Xendit WHT,\
        Net Amount,Reference,Transaction ID,Invoice ID,Batch ID,Payment ID,Payment Date,Timestamp - Created,\
        Timestamp - Updated,Timestamp - Settled,Timezone,Description,Channel Reference,Settlement Status,\
        Actual Settlement Time,Estimated Settlement Time";
    const VERSION_2: &str = "Status,Type,Channel,Channel Name,Account Number,Currency,Amount,Total Fee,Total VAT,Net Amount,\
        Reference,Transaction ID,Invoice ID,Batch ID,Product ID,Payment Date,Timestamp - Created,Timestamp - Updated,\
        Estimated Settlement Time,Actual Settlement Time,Timezone,Description,Channel Reference,Settlement Status,\
        Transaction Fee,Transaction VAT,Xendit WHT,Early Settlement Fee,Early Settlement VAT,Payment Request ID,Capture ID,\
        Payment Session ID,Metadata";
    const DETAILED: &str = "Status,Type,Payment Method,Payment Channel,Account Number,Currency,Amount,Total Fee Amount,\
        Total VAT Amount,Net Amount,Reference,Transaction ID,Invoice ID,Request Time,Payment Time,Timezone,Description,\
        Settlement Status,Actual Settlement Time,Estimated Settlement Time,Product ID,Failure Reason,VA Number,\
        Payment Metadata,Payment Request ID,Payment Refund ID";

    #[test]
    fn xendits_reports_come_in_as_they_are() {
        let both = [
            ("Type", "PAYMENT"),
            ("Currency", "IDR"),
            ("Amount", "48500"),
            ("Net Amount", "48145"),
            ("Reference", "INV-1"),
            ("Transaction ID", "txn_1"),
            ("Timezone", "+0000 UTC"),
        ];
        let morning = Some(Moment::parse("2026-01-16T03:00:00Z", &Rfc3339).unwrap());
        for (header, status, [fee, vat, there], settled) in [
            (VERSION_0, "SUCCESS", ["Fee", "VAT", "Payment ID"], &[("Timestamp - Settled", "2026-01-16 03:00:00")][..]),
            (
                VERSION_1,
                "SUCCESS",
                ["Fee", "VAT", "Payment ID"],
                &[
                    ("Settlement Status", "SETTLED"),
                    ("Actual Settlement Time", "2026-01-16T03:00:00Z"),
                    ("Timestamp - Settled", "2026-01-17 00:00:00"),
                ],
            ),
            (
                VERSION_2,
                "SUCCESS",
                ["Total Fee", "Total VAT", "Product ID"],
                &[("Settlement Status", "Early settled"), ("Actual Settlement Time", "2026-01-16 03:00:00")],
            ),
            (
                DETAILED,
                "SUCCESSFUL",
                ["Total Fee Amount", "Total VAT Amount", "Product ID"],
                &[("Settlement Status", "Settled"), ("Actual Settlement Time", "2026-01-16T03:00:00.000Z")],
            ),
        ] {
            let own = [("Status", status), (fee, "320"), (vat, "35"), (there, "py-1")];
            let said = [&both[..], &own, settled].concat();
            let line = of_report(header, &said).unwrap().remove(0);
            assert_eq!((line.there.as_deref(), line.reference.as_deref()), (Some("py-1"), Some("INV-1")), "{header}");
            assert_eq!((line.kind, line.amount_minor), (RowKind::Payment, 48_500));
            // With its tax, as Xendit's list is read; so that what is paid out follows.
            assert_eq!((line.fee_minor, line.net_minor), (Some(355), Some(48_145)), "{header}");
            assert_eq!((line.settled, line.settled_at), (true, morning), "{header}");

            // What is no payment may have no other name.
            let said: Vec<_> = said.into_iter().filter(|(name, _)| *name != there).collect();
            assert_eq!(of_report(header, &said).unwrap()[0].there.as_deref(), Some("txn_1"));
            // What its bank or the office keeps back of it is in no fee.
            let withheld = [said, vec![("Xendit WHT", "10")]].concat();
            if header != DETAILED {
                let line = of_report(header, &withheld).unwrap().remove(0);
                assert_eq!((line.fee_minor, line.net_minor), (Some(355), None), "{header}");
            }
        }
        let waits = [("Status", "REFUND_PENDING"), ("Type", "PAYMENT"), ("Amount", "48500"), ("Product ID", "py-1")];
        assert_eq!(of_report(DETAILED, &waits).unwrap()[0].kind, RowKind::Other);
        let kept = [
            ("Status", "SUCCESS"),
            ("Type", "PAYMENT"),
            ("Amount", "48500"),
            ("Net Amount", "48000"),
            ("Payment ID", "py-1"),
            ("Xendit WHT", "0"),
            ("3rd Party WHT", "145.50"),
        ];
        assert_eq!(of_report(VERSION_1, &kept).unwrap()[0].net_minor, None);
    }

    #[test]
    fn a_zone_beside_a_moment_is_that_of_the_moment_unless_it_names_its_own() {
        let at = |moment: &str, zone: &str| {
            let file = format!("order id,settled at,timezone,amount\nINV-1,{moment},{zone},5\n");
            read(file.as_bytes()).unwrap()[0].settled_at.unwrap().format(&Rfc3339).unwrap()
        };
        for zone in ["+0000 UTC", "+00:00", "UTC", "gmt"] {
            assert_eq!(at("2026-01-16 10:00:00", zone), "2026-01-16T10:00:00Z");
        }
        assert_eq!(at("2026-01-16", "+0800 Asia/Makassar"), "2026-01-15T16:00:00Z");
        assert_eq!(at("2026-01-16T10:00:00+07:00", "+0000 UTC"), "2026-01-16T03:00:00Z");
        for unsaid in ["", "Asia/Jakarta", "WIB"] {
            assert_eq!(at("2026-01-16 10:00:00", unsaid), "2026-01-16T03:00:00Z");
        }
        assert_eq!(at("2026-01-16 10:00:00", "WITA"), "2026-01-16T02:00:00Z");
        let unknown = read(b"order id,settled at,timezone,amount\nINV-1,2026-01-16,Mars,5\n").unwrap_err();
        assert!(format!("{unknown:?}").contains("/2/timezone"), "{unknown:?}");
    }

    #[test]
    fn two_refunds_alike_of_one_payment_are_two_by_their_transactions() {
        let file = "reference,payment id,transaction id,type,amount,settled at\n\
                    INV-1,py-1,txn-1,REFUND,5000,2026-01-16\n\
                    INV-1,py-1,txn-2,REFUND,5000,2026-01-16\n\
                    INV-1,py-1,txn-2,REFUND,5000,2026-01-16\n";
        let lines = read(file.as_bytes()).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.there.as_deref() == Some("py-1")));
    }

    #[test]
    fn a_status_is_known_or_the_line_is_wrong() {
        let kind = |head: &str, rest: &str| {
            let file = format!("order id,settled at,amount,{head}\nINV-1,2026-01-16,5,{rest}\n");
            read(file.as_bytes()).map(|lines| lines[0].kind)
        };
        for word in ["Paid", "COMPLETED", "captured", "Settlement", "success"] {
            assert_eq!(kind("status", word).unwrap(), RowKind::Payment, "{word}");
            assert_eq!(kind("status,type", &format!("{word},refund")).unwrap(), RowKind::Refund, "{word}");
        }
        for (word, meant) in [
            ("refund", RowKind::Refund),
            ("chargeback", RowKind::Chargeback),
            // Whose amount that is it does not say.
            ("Partial Refund", RowKind::Other),
            ("partial_chargeback", RowKind::Other),
        ] {
            assert_eq!(kind("transaction status", word).unwrap(), meant, "{word}");
        }
        assert_eq!(kind("status,type", "partial_refund,refund").unwrap(), RowKind::Refund);
        assert_eq!(kind("status,type", "partial_refund,payment").unwrap(), RowKind::Payment);
        for word in ["PENDING", "REFUND_PENDING", "Expire", "cancelled", "deny", "voided", "REVERSED", "authorize"] {
            assert_eq!(kind("status", word).unwrap(), RowKind::Other, "{word}");
            assert_eq!(kind("status,type", &format!("{word},payment")).unwrap(), RowKind::Other, "{word}");
        }
        let known = [&DONE[..], &NOT_DONE, &REFUND, &CHARGEBACK].concat();
        assert!(known.iter().all(|word| known.iter().filter(|it| *it == word).count() == 1), "each means one thing");
    }

    #[test]
    fn a_fee_with_sen_is_not_known_and_the_rest_of_its_line_is() {
        let costs = |fee: &str, vat: &str, net: &str| {
            let file = format!("order id,settled at,amount,fee,vat,net\nINV-1,2026-01-16,48500,{fee},{vat},{net}\n");
            let line = read(file.as_bytes()).unwrap().remove(0);
            assert_eq!(line.amount_minor, 48_500);
            (line.fee_minor, line.net_minor)
        };
        assert_eq!(costs("339.50", "", "48160.50"), (None, None));
        assert_eq!(costs("-339.5", "", "48160"), (None, Some(48_160)));
        assert_eq!(costs("300", "33.95", ""), (None, None), "half a fee is none");
        assert_eq!(costs("", "33", ""), (None, None));
        assert_eq!(costs("340.00", "34", "48126.00"), (Some(374), Some(48_126)));
    }

    #[test]
    fn a_moment_is_written_in_many_ways() {
        let morning = Moment::parse("2026-01-16T03:00:00Z", &Rfc3339).unwrap();
        for text in [
            "2026-01-16T03:00:00Z",
            "2026-01-16T03:00:00.000Z",
            "2026-01-16T03:00Z",
            "2026-01-16T10:00:00+07:00",
            "2026-01-16T10:00:00+0700",
            "2026-01-16T10:00:00.000+0700",
            "2026-01-16 10:00:00 +0700",
            "2026-01-16 10:00:00+07:00",
            "2026-01-16T10:00:00",
            "2026-01-16 10:00:00",
            "2026-01-16 10:00:00.000",
            "2026-01-16 10:00",
            "2026-01-16T10:00",
            "2026-01-15 22:00 -0500",
        ] {
            assert_eq!(moment(text, JAKARTA), Some(morning), "{text}");
        }
        for text in [
            "",
            "10:00",
            "16/01/2026",
            "2026-13-01",
            "2026-01-16 25:00",
            "2026-01-16 10:00 WIB",
            "2026-01-16Z\u{e9}",
            "2026-01-16 +",
            "1999-01-16 10:00",
            "2026-01-16 10:00 +7",
        ] {
            assert_eq!(moment(text, JAKARTA), None, "{text}");
        }
    }

    #[test]
    fn a_first_line_of_excels_says_what_stands_between_fields() {
        for (first, sign) in [("sep=;\r\n", ';'), ("sep=,\n", ','), ("\u{feff}SEP=;\n", ';')] {
            let file = format!("{first}order id{sign}settled at{sign}amount\nINV-1{sign}2026-01-16{sign}x\n");
            assert_eq!(fault(&file).0, "/3/amount", "lines keep their numbers");
            assert_eq!(read(file.replace('x', "5").as_bytes()).unwrap()[0].amount_minor, 5);
        }
    }

    /// A file that comes again years later brings nothing new: so no line's id ever changes.
    #[test]
    fn a_line_keeps_its_id_for_ever() {
        let id = |file: &str| read(file.as_bytes()).unwrap()[0].id.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(
            id("order id,settled at,amount\nINV-1,2026-01-16,5\n"),
            "38ebe53270b52d4b4806f3e687ba46e6b9893620288c20f8faf747db94e4d433"
        );
        assert_eq!(
            id("transaction id,settled at,amount\n2f6d,2026-01-16,5\n"),
            "f7684041601e103bdcd886c53c8a21519d80ab9f7628db873fd5952ce70631de"
        );
        assert_eq!(
            id("order id,payment id,transaction id,settled at,amount\nINV-1,py-1,txn-1,2026-01-16,5\n"),
            "d425ad7d3cf667b6bd142fc4a2a6005d69e852576ed6f62fa6e77dcf85425bca"
        );
    }

    #[test]
    fn the_same_line_twice_is_one() {
        let line = "INV-1,2026-01-16,5";
        let file = format!("order id,settled at,amount\n{line}\n{line}\nINV-1,2026-01-17,5\n");
        assert_eq!(read(file.as_bytes()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let with = |line: &str| {
            format!("order id,settled at,amount,fee\nINV-0,2026-01-16,5,1\n{line}\nINV-2,2026-01-16,5,1\n")
        };
        for (line, pointer, words) in [
            ("INV-1,2026-01-16,5.50,1", "/3/amount", "`5.50`"),
            ("INV-1,2026-01-16,\"48,500\",1", "/3/amount", "whole rupiah"),
            ("INV-1,2026-01-16,48.000,1", "/3/amount", "`48.000`"),
            ("INV-1,2026-01-16,5,1.000", "/3/fee", "`1.000`"),
            ("INV-1,2026-01-16,5,1.505", "/3/fee", "`1.505`"),
            ("INV-1,2026-01-16,,1", "/3/amount", "there is no `amount`"),
            ("INV-1,2026-01-16,-5,1", "/3/amount", "less than nothing"),
            ("INV-1,2026-01-16,5,Rp 1", "/3/fee", "`fee`"),
            ("INV-1,16/01/2026,5,1", "/3/settled at", "2026-01-16T03:00:00Z"),
            (",2026-01-16,5,1", "/3/order id", "names no payment"),
            ("IN\u{7}V,2026-01-16,5,1", "/3/order id", "control"),
            ("INV-1,2026-01-16,5", "no_csv", "Line 3: it has 3 fields, and there are 4 columns."),
        ] {
            let (found, detail) = fault(&with(line));
            assert_eq!(found, pointer, "{line}: {detail}");
            assert!(detail.contains("ine 3") && detail.contains(words), "{line}: {detail}");
        }
        let (found, detail) = fault("order id,settled at,amount,status\nINV-1,2026-01-16,5,Lunas\n");
        assert!(found == "/2/status" && detail.contains("`Lunas`"), "{found}: {detail}");
        let long = with(&format!("{},2026-01-16,5,1", "x".repeat(256)));
        assert_eq!(fault(&long).0, "/3/order id");
        // All of them, within bounds.
        let many = format!("order id,settled at,amount\n{}", "x,y,z\n".repeat(FAULTS_MAX + 5));
        let Err(Error::InvalidMany(faults)) = read(many.as_bytes()) else { panic!() };
        assert_eq!((faults.len(), faults[99].pointer.as_str()), (FAULTS_MAX, "/101/amount"));
    }

    #[test]
    fn a_file_without_its_columns_is_none() {
        for (file, code) in [
            ("", "column_missing"),
            ("order id,settled at\n", "column_missing"),
            ("amount,settled at\n", "column_missing"),
            ("order id,amount\n", "column_missing"),
            ("order id,reference,settled at,amount\n", "column_twice"),
        ] {
            assert_eq!(fault(file).0, code, "{file}");
        }
        let many = format!("order id,settled at,amount\n{}", "x,2026-01-16,1\n".repeat(LINES_MAX + 1));
        assert_eq!(fault(&many).0, "too_many_lines");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(read(&bytes));
            let with = [MIDTRANS.as_bytes(), &bytes].concat();
            drop(read(&with));
        }

        #[test]
        fn what_is_written_is_what_is_read(amount in 0..=1_000_000_000_000_i64, fee in 0..1_000_000_i64, name in "[a-zA-Z0-9._~-]{1,50}") {
            let file = format!("fee,amount,order id,settled at\n{fee},{amount}.00,\"{name}\",2026-01-16\n");
            let lines = read(file.as_bytes()).unwrap();
            prop_assert_eq!((lines[0].amount_minor, lines[0].fee_minor), (amount, Some(fee)));
            prop_assert_eq!(lines[0].reference.as_deref(), Some(name.as_str()));
        }
    }
}
