//! Golden files: what providers write, byte by byte, and what it means, beside it. `golden/<provider>/` holds answers
//! (`<asked>.<status>.<name>`) and notifications (`notice.<name>`), each with its meaning in `….read.json`, and the requests
//! that are made (`request.<name>.json`). `TILLWIRE_FIX=1` writes meanings and requests anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use tillwire_channels::Moment;

use super::ability::tests::charge;
use super::credentials::{Credentials, Provider};
use super::payment::{Bank, Card, Charge, Id, Ids, Known, KnownRefund, Listing, Method, Reason, Refund};
use super::request::{Answer, Asked, Request};
use super::{Connector, Unable, Unreadable};
use crate::commerce::payments::state::State;

const REFERENCE: &str = "POS01-260114-000123-a1";
const REFUND_KEY: &str = "RF-000123-1";
const TOKEN: &str = "xendit-callback-token-1";

fn credentials(provider: Provider) -> Credentials {
    let json = match provider {
        Provider::Midtrans => json!({
            "provider": "midtrans", "server_key": "SB-Mid-server-EXAMPLEKEY1234567890ab", "merchant_id": "G552010987",
        }),
        Provider::Xendit => json!({
            "provider": "xendit", "secret_key": "xnd_development_EXAMPLEKEY1234567890", "callback_tokens": [TOKEN],
            "business_id": "64f0c1d2e3a4b5c6d7e8f901",
        }),
    };
    Credentials::of_json(json.to_string().as_bytes()).unwrap()
}

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn folder(provider: Provider) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/connectors/golden").join(provider.as_str())
}

fn fixes() -> bool {
    std::env::var("TILLWIRE_FIX").is_ok_and(|it| it == "1")
}

/// Compares with a file, or writes it.
fn is_golden(file: &Path, value: &Value) {
    let text = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
    if fixes() {
        fs::write(file, text).unwrap();
        return;
    }
    let golden = fs::read_to_string(file).unwrap_or_default();
    let shown = file.file_name().unwrap().to_string_lossy();
    let golden: Value = serde_json::from_str(&golden).unwrap_or_default();
    assert_eq!(golden, *value, "{shown} says something else: look at it, and then TILLWIRE_FIX=1");
}

fn asked(word: &str) -> Asked {
    match word {
        "charge" => Asked::Charge,
        "status" => Asked::Status { reference: id(REFERENCE) },
        "cancel" => Asked::Cancel,
        "expire" => Asked::Expire,
        "capture" => Asked::Capture,
        "refund" => Asked::Refund { key: id(REFUND_KEY) },
        "refund_status" => Asked::RefundStatus { key: id(REFUND_KEY) },
        "settlements" => Asked::Settlements,
        other => panic!("nobody asks for {other}"),
    }
}

/// What a file means.
fn meaning(connector: &dyn Connector, name: &str, body: &[u8]) -> Value {
    let parts: Vec<&str> = name.split('.').collect();
    let ["notice", ..] = parts[..] else {
        let (asked, status) = (asked(parts[0]), parts[1].parse().unwrap());
        let mut headers = HeaderMap::new();
        if status == 429 {
            headers.insert(HeaderName::from_static("rate-limit-reset"), HeaderValue::from_static("17.25"));
        }
        let answer = Answer { status, headers, body: body.to_vec(), at: Moment::UNIX_EPOCH };
        let read = if asked == Asked::Settlements {
            connector.read_page(&answer).map(|page| json!({ "page": page }))
        } else {
            connector.read(&asked, &answer).map(|report| json!({ "says": report }))
        };
        return read.unwrap_or_else(|refusal| json!({ "refuses": refusal, "words": refusal.words() }));
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-callback-token", HeaderValue::from_static(TOKEN));
    let verified = connector.verify(&headers, body).is_ok();
    match connector.notice(body) {
        Ok(notice) => json!({ "verified": verified, "notice": notice }),
        Err(Unreadable::NotMoney(field, notice)) => {
            json!({ "verified": verified, "no_money": field, "notice": notice })
        }
        Err(why) => json!({ "verified": verified, "unreadable": why.to_string() }),
    }
}

#[test]
fn what_providers_write_means_what_stands_beside_it() {
    let (mut states, mut asked_of) = (BTreeSet::new(), BTreeMap::<Provider, BTreeSet<String>>::new());
    for provider in Provider::ALL {
        let credentials = credentials(provider);
        let entries = fs::read_dir(folder(provider)).unwrap().map(|entry| entry.unwrap().file_name());
        let names: BTreeSet<String> = entries.map(|name| name.into_string().unwrap()).collect();
        let (meanings, inputs): (BTreeSet<_>, BTreeSet<_>) = names
            .into_iter()
            .filter(|name| !name.starts_with("request."))
            .partition(|name| name.ends_with(".read.json"));
        assert!(inputs.len() > 20, "{provider} writes more than that");
        for name in &inputs {
            let body = fs::read(folder(provider).join(name)).unwrap();
            let means = meaning(credentials.connector(), name, &body);
            for pointer in ["/says/state", "/notice/claims/state"] {
                states.extend(means.pointer(pointer).and_then(Value::as_str).map(str::to_owned));
            }
            let text = means.to_string();
            assert!(!text.contains("EXAMPLEKEY") && !text.contains(TOKEN), "{name} shows a key");
            asked_of.entry(provider).or_default().insert(name.split('.').next().unwrap().to_owned());
            let (stem, _) = name.rsplit_once('.').unwrap();
            is_golden(&folder(provider).join(format!("{stem}.read.json")), &means);
        }
        let expected: BTreeSet<String> =
            inputs.iter().map(|name| format!("{}.read.json", name.rsplit_once('.').unwrap().0)).collect();
        assert!(fixes() || meanings == expected, "{:?}", meanings.symmetric_difference(&expected));
    }
    // Every state that a provider can tell of is told of.
    let ours = [State::Created, State::Unknown, State::PaidLate, State::Reversed];
    let told: BTreeSet<String> =
        State::ALL.into_iter().filter(|it| !ours.contains(it)).map(|it| it.to_string()).collect();
    assert_eq!(states, told);
    let all =
        ["cancel", "capture", "charge", "expire", "notice", "refund", "refund_status", "status"].map(str::to_owned);
    for words in asked_of.values() {
        assert!(words.is_superset(&BTreeSet::from(all.clone())), "{words:?}");
    }
}

fn known(provider: Provider, method: Method, state: State) -> Known {
    let ids = match provider {
        Provider::Midtrans => Ids { payment: Some(id("2f6d7a0e-8a11-4c57-9a1b-6f0a4b1c9d33")), ..Ids::default() },
        Provider::Xendit => Ids {
            request: Some(id("pr-5b8e2a34-7c1d-4f60-9a2b-3c4d5e6f7081")),
            payment: Some(id("py-1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f1")),
            session: None,
        },
    };
    Known { reference: id(REFERENCE), ids, method, state }
}

fn requests(provider: Provider) -> Vec<(String, Result<Request, Unable>)> {
    let credentials = credentials(provider);
    let connector = credentials.connector();
    let transfer = Method::BankTransfer;
    let mut made = Vec::new();

    let labels =
        BTreeMap::from([("outlet".to_owned(), "SBY-02".to_owned()), ("register".to_owned(), "K01".to_owned())]);
    let qris = Charge { labels, ..charge(Method::Qris, 48_500) };
    made.push(("charge-qris".to_owned(), connector.charge(&qris)));
    for bank in Bank::ALL {
        made.push((format!("charge-{}", bank.as_str()), connector.charge(&charge(transfer(bank), 312_000))));
    }
    let expires_in = Some(Duration::from_secs(90));
    let notify_url = Some("https://hub.example/v1/notices/a".to_owned());
    let timed = Charge { expires_in, notify_url, ..charge(transfer(Bank::Bni), 312_000) };
    made.push(("charge-bni-with-expiry".to_owned(), connector.charge(&timed)));
    let card = |hold| Card {
        token: Some("48111111-1114-9a0b1c2d-3e4f-4051-8263-748596a7b8c9".into()),
        hold,
        return_url: Some("https://shop.example/back".to_owned()),
    };
    for (name, hold) in [("charge-card", false), ("charge-card-hold", true)] {
        let charge = Charge {
            card: Some(card(hold)),
            expires_in: Some(Duration::from_secs(900)),
            ..charge(Method::Card, 125_000)
        };
        made.push((name.to_owned(), connector.charge(&charge)));
    }

    let (qris, card) =
        (known(provider, Method::Qris, State::Pending), known(provider, Method::Card, State::Authorized));
    let without_ids = Known { ids: Ids::default(), ..qris.clone() };
    let by_request = Known { ids: Ids { payment: None, ..qris.ids.clone() }, ..qris.clone() };
    let session = Ids { session: Some(id("ps-65a3f1e2d4c5b6a798877665")), ..Ids::default() };
    let by_session = Known { ids: session, ..card.clone() };
    made.push(("status".to_owned(), connector.status(&qris)));
    made.push(("status-without-ids".to_owned(), connector.status(&without_ids)));
    made.push(("cancel".to_owned(), connector.cancel(&qris)));
    made.push(("cancel-without-ids".to_owned(), connector.cancel(&without_ids)));
    made.push(("cancel-hold".to_owned(), connector.cancel(&card)));
    made.push(("expire".to_owned(), connector.expire(&qris)));
    made.push(("capture".to_owned(), connector.capture(&card, 120_000)));
    made.push(("capture-without-ids".to_owned(), connector.capture(&without_ids, 120_000)));
    if provider == Provider::Xendit {
        made.push(("status-by-request".to_owned(), connector.status(&by_request)));
        made.push(("status-by-session".to_owned(), connector.status(&by_session)));
        made.push(("cancel-session".to_owned(), connector.cancel(&by_session)));
    }

    let refund = |payment: &Known| Refund {
        payment: payment.clone(),
        key: id(REFUND_KEY),
        amount_minor: 8_500,
        currency: "IDR".to_owned(),
        reason: Reason::Customer,
        note: "barang rusak".to_owned(),
    };
    let paid = known(provider, Method::Qris, State::Paid);
    made.push(("refund".to_owned(), connector.refund(&refund(&paid))));
    made.push(("refund-without-ids".to_owned(), connector.refund(&refund(&without_ids))));
    for (name, refund_id, payment) in [
        ("refund_status", Some("rfd-0b1c2d3e-4f50-4617-8a9b-c0d1e2f30415"), &paid),
        ("refund_status-by-payment", None, &paid),
        ("refund_status-without-ids", None, &without_ids),
    ] {
        let refund = KnownRefund { payment: payment.clone(), key: id(REFUND_KEY), id: refund_id.map(id) };
        made.push((name.to_owned(), connector.refund_status(&refund)));
    }
    let at = |seconds| Moment::from_unix_timestamp(seconds).unwrap();
    let listing = Listing { from: at(1_768_348_800), until: at(1_768_435_200), after: Some(id("txn_123")) };
    made.push(("settlements".to_owned(), connector.settlements(&listing)));
    made
}

fn shown(request: &Result<Request, Unable>) -> Value {
    let request = match request {
        Ok(request) => request,
        Err(unable) => return json!({ "unable": format!("{unable:?}") }),
    };
    let headers = request.headers.iter().map(|(name, value)| {
        let shown = if value.is_sensitive() { "(the key)" } else { value.to_str().unwrap() };
        (name.to_string(), Value::from(shown))
    });
    json!({
        "asked": request.asked.as_str(),
        "method": request.method.as_str(),
        "path": request.path,
        "endpoint": request.endpoint,
        "headers": Map::from_iter(headers),
        "body": request.body.as_ref().map(|body| serde_json::from_str::<Value>(body).unwrap()),
    })
}

#[test]
fn requests_are_what_providers_want() {
    for provider in Provider::ALL {
        let requests = requests(provider);
        let mut expected = BTreeSet::new();
        for (name, request) in &requests {
            let name = format!("request.{name}.json");
            is_golden(&folder(provider).join(&name), &shown(request));
            assert!(expected.insert(name), "twice");
            if let Ok(request) = request {
                assert!(request.headers[AUTHORIZATION].is_sensitive());
                assert!(request.path.starts_with('/') && request.path.is_ascii() && !request.path.contains(".."));
                let pattern: Vec<&str> = request.endpoint.split("{id}").collect();
                assert!(pattern.iter().all(|part| request.path.contains(part)), "{request:?}");
                let key = request.headers.get("idempotency-key").map(|it| it.len());
                assert!(key.is_none_or(|it| it <= 46), "Midtrans would ignore it");
            }
        }
        let entries =
            fs::read_dir(folder(provider)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = entries.filter(|name| name.starts_with("request.")).collect();
        assert!(fixes() || there == expected, "{:?}", there.symmetric_difference(&expected));
    }
}

#[test]
fn two_operations_never_share_an_idempotency_key() {
    let requests = requests(Provider::Midtrans);
    let keys: Vec<String> = requests
        .iter()
        .filter_map(|(_, request)| {
            Some(request.as_ref().ok()?.headers.get("idempotency-key")?.to_str().unwrap().to_owned())
        })
        .collect();
    // All are of one payment: its charge, its capture and its refund.
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 3, "{keys:?}");
    assert!(keys.len() > 8);
}
