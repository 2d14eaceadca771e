//! Payments held against what providers tell and pay out; and accounts that are not heard.

use tillwire_channels::Moment;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::believed::is_left;
use super::*;
use crate::support::editor::Editor;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn text(at: Moment) -> String {
    at.format(&Rfc3339).expect("a moment")
}

/// So long ago.
fn ago(how_long: Duration) -> String {
    text(Moment::now_utc() - how_long)
}

fn id(of: &Value) -> &str {
    of["id"].as_str().expect("an id")
}

/// A shop's account at a provider.
async fn account(shop: &Shop<'_>, provider: &str) -> String {
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    let found = accounts["items"].as_array().expect("accounts").iter().find(|it| it["provider"] == provider);
    id(found.expect("an account")).to_owned()
}

/// Compares the last days at a provider, and waits for the end.
pub(super) async fn compares(shop: &Shop<'_>, provider: &str) -> Value {
    let run = begins(shop, &account(shop, provider).await, 2 * DAY).await.created();
    ends(shop, &run).await
}

async fn begins(shop: &Shop<'_>, account: &str, span: Duration) -> Answer {
    let now = Moment::now_utc();
    let span = json!({ "from": text(now - span), "until": text(now) });
    shop.post(&format!("/v1/provider-accounts/{account}/reconciliations"), span).await
}

async fn ends(shop: &Shop<'_>, run: &Value) -> Value {
    let path = format!("/v1/reconciliations/{}", id(run));
    let started = Instant::now();
    loop {
        let run = shop.get(&path).await.ok();
        if run["state"] != "running" {
            return run;
        }
        assert!(started.elapsed() < 2 * PATIENCE, "it does not end: {run}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn differences(shop: &Shop<'_>, state: &str) -> Vec<Value> {
    let page = shop.get(&format!("/v1/payment-differences?state={state}")).await.ok();
    page["items"].as_array().expect("differences").clone()
}

/// What is open: its class and what it is about.
async fn open(shop: &Shop<'_>) -> Vec<(String, String)> {
    let mut open: Vec<(String, String)> = differences(shop, "open")
        .await
        .iter()
        .map(|it| (it["class"].as_str().unwrap().to_owned(), it["subject"].as_str().unwrap().to_owned()))
        .collect();
    open.sort();
    open
}

/// A payment that a customer has made, and whose sale is completed.
async fn paid(market: &Market, shop: &Shop<'_>, bread: &str, provider: &str) -> Value {
    let sale = opens(shop, bread).await;
    let payment = asks(shop, &sale, qris(provider)).await.created();
    market.pays(&payment).await;
    comes_to(shop, &payment, "paid").await
}

/// Somebody changes what the hub has of a payment, behind its back.
async fn changes(market: &Market, payment: &Value, what: &str) {
    let sql = format!("update payment_attempts set {what} where payment_id = '{}'", id(payment));
    market.hub.database.psql(&sql).await;
}

/// Another system asks Xendit, with the same keys.
async fn asks_xendit(providers: &Simulators, body: Value) -> Value {
    use base64::Engine as _;
    let key = base64::prelude::BASE64_STANDARD.encode(format!("xnd_development_{XENDIT_KEY}:"));
    let basic = format!("Basic {key}");
    let headers =
        [("content-type", "application/json"), ("authorization", basic.as_str()), ("api-version", "2024-11-11")];
    let body = body.to_string().into_bytes();
    request(providers.xendit, "POST", "/v3/payment_requests", &headers, body).await.expect("an answer").created()
}

fn a_request(reference: &str) -> Value {
    json!({ "reference_id": reference, "type": "PAY", "country": "ID", "currency": "IDR", "request_amount": 20_000,
            "channel_code": "QRIS" })
}

async fn imports(shop: &Shop<'_>, account: &str, file: &str) -> Answer {
    imports_as(shop, &shop.owner, account, file.as_bytes().to_vec()).await
}

async fn imports_as(shop: &Shop<'_>, token: &str, account: &str, file: Vec<u8>) -> Answer {
    let (path, key) = (format!("/v1/provider-accounts/{account}/settlements"), Uuid::new_v4().to_string());
    let headers = [("idempotency-key", key.as_str()), ("content-type", "text/csv; charset=utf-8")];
    let caller = crate::support::caller::Caller { address: shop.hub.address, token };
    caller.send("POST", &path, &headers, file).await.expect("an answer")
}

async fn alerts(shop: &Shop<'_>, alert: &str) -> Vec<Value> {
    let raised = shop.journal_of(&["alert.raised"]).await;
    raised.into_iter().map(|(_, event)| event["data"].clone()).filter(|it| it["alert"] == alert).collect()
}

#[tokio::test]
async fn what_a_provider_has_paid_out_is_learnt_and_what_fits_is_no_difference() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (settled, later) = (paid(market, &shop, bread, "xendit").await, paid(market, &shop, bread, "xendit").await);
    market.says("settle", json!({ "id": settled["id"], "provider": "xendit" })).await;
    let run = compares(&shop, "xendit").await;
    assert_eq!((&run["state"], &run["told"], &run["compared"]), (&json!("done"), &json!(2), &json!(2)), "{run}");
    assert_eq!(open(&shop).await, []);
    comes_to(&shop, &settled, "settled").await;
    comes_to(&shop, &later, "paid").await;
    // 0.7 % and the tax on it.
    let fees = "select string_agg(fee_minor::text, ' ') from payment_attempts";
    assert_eq!(market.hub.database.psql(fees).await.trim(), "376 376");

    assert!(tasks(&shop).await.is_empty() && alerts(&shop, "payments_differ").await.is_empty());

    // Midtrans tells of payouts by files alone: as far as they reach, what is in none is late.
    let (payment, overdue) =
        (paid(market, &shop, bread, "midtrans").await, paid(market, &shop, bread, "midtrans").await);
    changes(market, &overdue, "paid_at = now() - interval '20 days', created_at = now() - interval '20 days'").await;
    let run = compares(&shop, "midtrans").await;
    assert_eq!((&run["told"], &run["compared"], &run["found"]), (&json!(1), &json!(2), &json!(0)), "{run}");
    let midtrans = account(&shop, "midtrans").await;
    let line = |payment: &Value| format!("{},48500.00,340,48160,{}\n", id(payment), ago(DAY / 24));
    let file = format!("order id,amount,fee,net,settled at\n{}", line(&payment));
    assert_eq!(imports(&shop, &midtrans, &file).await.created(), json!({ "lines": 1, "new": 1, "matched": 1 }));
    let run = compares(&shop, "midtrans").await;
    assert_eq!((&run["state"], &run["found"]), (&json!("done"), &json!(1)), "{run}");
    comes_to(&shop, &payment, "settled").await;
    assert_eq!(open(&shop).await, [("unsettled_overdue".to_owned(), id(&overdue).to_owned())]);
    let file = format!("order id,amount,fee,net,settled at\n{}", line(&overdue));
    imports(&shop, &midtrans, &file).await.created();
    assert_eq!(compares(&shop, "midtrans").await["gone"], 1);
    comes_to(&shop, &overdue, "settled").await;
    assert_eq!(open(&shop).await, []);
    assert_eq!(market.hub.database.psql("select count(*) from reconciliation_rows").await.trim(), "0");
}

#[tokio::test]
async fn each_way_to_differ_is_found_once_told_once_and_closed() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    let fits = paid(market, &shop, bread, "xendit").await;
    // Of another amount, and of another fee.
    let amount = paid(market, &shop, bread, "xendit").await;
    changes(market, &amount, "amount_minor = 48000").await;
    let fee = paid(market, &shop, bread, "xendit").await;
    changes(market, &fee, "fee_minor = 1").await;
    // Paid here, and unknown there.
    let missing = asks(&shop, &opens(&shop, bread).await, qris("xendit")).await.created();
    changes(market, &missing, "state = 'paid', paid_at = now() - interval '10 minutes', next_at = null").await;
    // Paid twice: somebody has asked for it under the same name.
    let twice = paid(market, &shop, bread, "xendit").await;
    let mut again = a_request(id(&twice));
    again["request_amount"] = json!(48_500);
    let again = asks_xendit(&market.providers, again).await;
    market.says("pay", json!({ "id": again["payment_request_id"] })).await;
    // Nobody's.
    let stranger = asks_xendit(&market.providers, a_request("KIOSK-7")).await;
    let stranger = market.says("pay", json!({ "id": stranger["payment_request_id"] })).await;
    let xendit = account(&shop, "xendit").await;
    let file = format!("reference,amount,settled at\n{},48500,{}\n", id(&fits), ago(DAY));
    imports(&shop, &xendit, &file).await.created();

    let run = compares(&shop, "xendit").await;
    let mut expected = [
        ("amount_mismatch", id(&amount)),
        ("fee_mismatch", id(&fee)),
        ("missing_at_provider", id(&missing)),
        ("duplicate_paid", id(&twice)),
        ("missing_in_hub", stranger["payment"].as_str().expect("a payment")),
    ]
    .map(|(class, subject)| (class.to_owned(), subject.to_owned()));
    expected.sort();
    assert_eq!(open(&shop).await, expected);
    assert_eq!((&run["state"], &run["found"], &run["gone"]), (&json!("done"), &json!(5), &json!(0)), "{run}");
    let told = alerts(&shop, "payments_differ").await;
    assert_eq!((told.len(), &told[0]["subject"]), (1, &run["id"]));
    assert!(told[0]["detail"].as_str().unwrap().contains("1 missing_in_hub"), "{told:?}");
    comes_to(&shop, &fits, "settled").await;
    comes_to(&shop, &amount, "paid").await;

    // Another run finds nothing new, and what was mended is gone.
    changes(market, &amount, "amount_minor = 48500").await;
    let second = compares(&shop, "xendit").await;
    assert_eq!((&second["found"], &second["gone"]), (&json!(0), &json!(1)), "{second}");
    assert_eq!(alerts(&shop, "payments_differ").await.len(), 1);
    let closed = differences(&shop, "closed").await;
    assert_eq!((&closed[0]["class"], &closed[0]["gone_by"]), (&json!("amount_mismatch"), &second["id"]));

    // A person closes one; it stays closed, unless it becomes another.
    let all = differences(&shop, "open").await;
    let of = |class: &str| all.iter().find(|it| it["class"] == class).expect("a difference").clone();
    let path = |of: &Value| format!("/v1/payment-differences/{}/close", id(of));
    let cashier = shop.hub.token(shop.merchant, Role::Cashier, &[]);
    let reason = json!({ "reason": "Kiosk di lantai dua" });
    let key = Uuid::new_v4().to_string();
    let denied = shop.post_as(&cashier, &key, &path(&of("missing_in_hub")), reason.to_string().into_bytes()).await;
    assert_eq!(denied.status, 403);
    let closed = shop.post(&path(&of("missing_in_hub")), reason.clone()).await.ok();
    assert_eq!(closed["reason"], "Kiosk di lantai dua");
    shop.post(&path(&of("missing_in_hub")), reason.clone()).await.refused(409, "difference_closed");
    shop.post(&path(&of("fee_mismatch")), json!({ "reason": "" })).await.refused(422, "invalid");
    shop.post(&path(&of("fee_mismatch")), reason).await.ok();
    changes(market, &fee, "fee_minor = 2").await;
    let third = compares(&shop, "xendit").await;
    assert_eq!((&third["found"], &third["gone"]), (&json!(1), &json!(0)), "{third}");
    let classes: Vec<String> = open(&shop).await.into_iter().map(|(class, _)| class).collect();
    assert_eq!(classes, ["duplicate_paid", "fee_mismatch", "missing_at_provider"]);
    let audit = shop.get("/v1/audit").await.ok().to_string();
    assert!(audit.contains("payment_difference.closed") && audit.contains("settlements.imported"), "{audit}");
    market.hub.ledgers_add_up().await;
}

/// What a list says is paid out, and what it says that its provider keeps, make up the amount.
#[tokio::test]
async fn what_a_list_pays_out_is_held_against_its_fee() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let bread = shop.stocked("roti", 48_500, "10").await;
    let payment = paid(&market, &shop, &bread, "xendit").await;
    assert_eq!(compares(&shop, "xendit").await["found"], 0);
    // A rupiah is lost on its way.
    let loses = "create function loses() returns trigger language plpgsql as $$
                 begin new.net_minor := new.net_minor - 1; return new; end $$;
                 create trigger loses before insert on reconciliation_rows for each row execute function loses()";
    market.hub.database.psql(loses).await;
    assert_eq!(compares(&shop, "xendit").await["found"], 1);
    assert_eq!(open(&shop).await, [("fee_mismatch".to_owned(), id(&payment).to_owned())]);
}

#[tokio::test]
async fn money_that_nobody_told_of_is_looked_at_and_never_written_past() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    for provider in ["midtrans", "xendit"] {
        // Nobody looks at it any more.
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        changes(market, &payment, "next_at = null").await;
        market.pays(&payment).await;
        let run = compares(&shop, provider).await;
        assert_eq!((&run["state"], &run["found"]), (&json!("done"), &json!(0)), "{provider}: {run}");
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
    assert_eq!(open(&shop).await, []);
    // What the provider itself does not confirm when it is asked stays a difference.
    let payment = asks(&shop, &opens(&shop, bread).await, qris("midtrans")).await.created();
    changes(market, &payment, "state = 'paid', paid_at = now() - interval '10 minutes', next_at = null").await;
    compares(&shop, "midtrans").await;
    assert_eq!(open(&shop).await, [("status_mismatch".to_owned(), id(&payment).to_owned())]);

    // Money that went back is told by Xendit's list alone.
    let back = paid_unheard(market, &shop, bread).await;
    market.says("chargeback", json!({ "id": back["id"], "provider": "xendit" })).await;
    compares(&shop, "xendit").await;
    comes_to(&shop, &back, "charged_back").await;
    assert!(kinds(&tasks(&shop).await).contains(&"charged_back"));
    assert_eq!(open(&shop).await.len(), 1, "what was learnt differs no more");
}

/// A payment at Xendit that is found paid without a notification.
async fn paid_unheard(market: &Market, shop: &Shop<'_>, bread: &str) -> Value {
    let payment = asks(shop, &opens(shop, bread).await, qris("xendit")).await.created();
    market.pays(&payment).await;
    let asked = format!("/v1/payments/{}?ask=true", id(&payment));
    shop.get(&asked).await.ok();
    comes_to(shop, &payment, "paid").await
}

#[tokio::test]
async fn what_notifications_told_of_no_payment_of_ours_is_a_difference() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    // The code that stands on the counter: of Midtrans there is no list that would have it.
    let pay = json!({ "merchant": MIDTRANS_ID, "provider": "midtrans", "amount": 15_000 });
    let there = market.says("pay", pay).await;
    until(async || {
        let unmatched = "select count(*) from provider_inbox where outcome = 'unmatched'";
        (market.hub.database.psql(unmatched).await.trim() != "0").then_some(())
    })
    .await;
    compares(&shop, "midtrans").await;
    let found = differences(&shop, "open").await;
    assert_eq!(
        (found.len(), &found[0]["class"], &found[0]["theirs_minor"]),
        (1, &json!("missing_in_hub"), &json!(15_000))
    );
    let transaction = found[0]["subject"].as_str().expect("a name");
    assert!(there.to_string().contains(transaction), "{there} {found:?}");
    // A file that names it as well tells nothing new.
    let file = format!("transaction id,amount,settled at\n{transaction},15000,{}\n", ago(DAY));
    let midtrans = account(&shop, "midtrans").await;
    assert_eq!(imports(&shop, &midtrans, &file).await.created()["matched"], 0);
    assert_eq!(compares(&shop, "midtrans").await["found"], 0);
    assert_eq!(open(&shop).await.len(), 1);
}

#[tokio::test]
async fn a_file_is_taken_whole_or_not_at_all_and_each_line_once() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let rival = market.hub.merchant("Saingan").await;
    let midtrans = account(&shop, "midtrans").await;
    let file = "order id,amount,settled at\nINV-1,1000,2026-01-16\nINV-1,1000,2026-01-16\nINV-2,2000,2026-01-16\n";
    assert_eq!(imports(&shop, &midtrans, file).await.created(), json!({ "lines": 2, "new": 2, "matched": 0 }));
    assert_eq!(imports(&shop, &midtrans, file).await.created(), json!({ "lines": 2, "new": 0, "matched": 0 }));
    let longer = format!("{file}INV-3,3000,2026-01-17\n");
    assert_eq!(imports(&shop, &midtrans, &longer).await.created()["new"], 1);

    let wrong = format!("{file}INV-4,1.5,2026-01-16\nINV-5,5,yesterday\n");
    let problem = imports(&shop, &midtrans, &wrong).await.refused(422, "invalid");
    let pointers: Vec<&Value> = problem["errors"].as_array().unwrap().iter().map(|it| &it["pointer"]).collect();
    assert_eq!(pointers, ["/5/amount", "/6/settled at"], "{problem}");
    imports(&shop, &midtrans, "amount,settled at\n").await.refused(422, "column_missing");
    let key = Uuid::new_v4().to_string();
    let as_json =
        shop.post_as(&shop.owner, &key, &format!("/v1/provider-accounts/{midtrans}/settlements"), b"{}".to_vec()).await;
    as_json.refused(415, "unsupported_media_type");
    let large = vec![b'x'; tillwire::reconciliation::file::FILE_BYTES_MAX + 1];
    imports_as(&shop, &shop.owner, &midtrans, large).await.refused(413, "too_large");
    assert_eq!(market.hub.database.psql("select count(*) from settlement_lines").await.trim(), "3");

    // It is the merchant's own, and its owner's to bring.
    imports_as(&rival, &rival.owner, &midtrans, file.as_bytes().to_vec()).await.refused(404, "not_found");
    let manager = shop.hub.token(shop.merchant, Role::Manager, &[]);
    assert_eq!(imports_as(&shop, &manager, &midtrans, file.as_bytes().to_vec()).await.status, 403);
}

#[tokio::test]
async fn of_an_account_one_run_is_under_way_and_others_cannot_see_it() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let rival = market.hub.merchant("Saingan").await;
    let xendit = account(&shop, "xendit").await;
    let path = format!("/v1/provider-accounts/{xendit}/reconciliations");
    market.says("faults", json!({ "fault": "slow_s", "on": "list_transactions", "seconds": 6, "times": null })).await;
    let (from, until) = (ago(DAY), ago(DAY / 24));
    let span = json!({ "from": from, "until": until });
    let asked = futures_util::future::join_all((0..5).map(|_| shop.post(&path, span.clone()))).await;
    let runs: Vec<Value> = asked.iter().map(|answer| answer.created()["id"].clone()).collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    let other = json!({ "from": from, "until": ago(DAY / 12) });
    shop.post(&path, other.clone()).await.refused(409, "reconciliation_running");
    for token in [&rival.owner, &shop.hub.token(shop.merchant, Role::Cashier, &[shop.outlet])] {
        let caller = crate::support::caller::Caller { address: market.hub.address, token };
        let of_one =
            caller.get(&format!("/v1/reconciliations/{}", runs[0].as_str().unwrap())).await.expect("an answer");
        assert!([403, 404].contains(&of_one.status), "{of_one:?}");
    }
    rival.post(&path, span.clone()).await.refused(404, "not_found");
    assert_eq!(rival.get("/v1/reconciliations").await.ok()["items"], json!([]));
    assert_eq!(rival.get("/v1/payment-differences").await.ok()["items"], json!([]));
    rival.get(&format!("/v1/provider-accounts/{xendit}/health")).await.refused(404, "not_found");

    market.says_delete("faults").await;
    let ended = ends(&shop, &json!({ "id": runs[0] })).await;
    assert_eq!(ended["state"], "done", "{ended}");
    assert_eq!(market.asked("xendit", "list_transactions").await, 1, "five asked, and one was done");
    ends(&shop, &shop.post(&path, other).await.created()).await;
    for (span, pointer) in [
        (json!({ "from": until, "until": from }), "/until"),
        (json!({ "from": from, "until": text(Moment::now_utc() + DAY) }), "/until"),
        (json!({ "from": ago(40 * DAY), "until": until }), "/from"),
        (json!({ "from": ago(600 * DAY), "until": ago(590 * DAY) }), "/from"),
    ] {
        let problem = shop.post(&path, span).await.refused(422, "invalid_span");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[tokio::test]
async fn a_provider_that_is_away_is_waited_for_and_one_that_refuses_is_told() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    paid(market, &shop, bread, "xendit").await;
    market.says("faults", json!({ "fault": "http_503", "on": "list_transactions", "times": 2 })).await;
    let run = compares(&shop, "xendit").await;
    assert_eq!((&run["state"], &run["told"]), (&json!("done"), &json!(1)), "{run}");
    assert_eq!(market.asked("xendit", "list_transactions").await, 3);
    let health = format!("/v1/provider-accounts/{}/health", account(&shop, "xendit").await);
    let known = shop.get(&health).await.ok();
    assert_eq!((&known["breaker"]["state"], &known["open_payments"]), (&json!("closed"), &json!(0)), "{known}");
    assert_eq!(known["last_reconciliation"]["id"], run["id"]);
    assert!(known["answered_at"].is_string() && known["notified_at"].is_string(), "{known}");

    // Its keys were changed there.
    let other = json!({ "provider": "xendit", "business_id": XENDIT_ID, "secret_key": "xnd_development_another-key" });
    market.says("accounts", other).await;
    let run = compares(&shop, "xendit").await;
    assert_eq!((&run["state"], &run["found"]), (&json!("failed"), &json!(0)), "{run}");
    assert!(run["error"].as_str().unwrap().contains("refuses"), "{run}");
    let told = alerts(&shop, "reconciliation_failed").await;
    assert_eq!((told.len(), &told[0]["subject"]), (1, &run["id"]));
    assert!(!format!("{run} {told:?}").contains(XENDIT_KEY));
}

#[tokio::test]
async fn what_cannot_be_read_is_counted_and_nothing_is_concluded_from_it() {
    let providers = Simulators::start(Options::default()).await.expect("providers");
    let (at_midtrans, at_xendit) = (Editor::before(providers.midtrans).await, Editor::before(providers.xendit).await);
    let market = Market::of(providers, &at_midtrans.url(), &at_xendit.url()).await;
    let stage = Stage::with(market, "10").await;
    let (market, shop, bread) = stage.cast();
    for (provider, editor) in [("midtrans", &at_midtrans), ("xendit", &at_xendit)] {
        let both = [paid(market, &shop, bread, provider).await, paid(market, &shop, bread, provider).await];
        for payment in &both {
            is_left(market, payment).await;
        }
        let both = both.map(|payment| id(&payment).to_owned());
        let odd = &both[0];
        // So long ago that its provider must have told of it.
        changes(market, &json!({ "id": odd }), "paid_at = paid_at - interval '10 minutes'").await;
        // Of half a rupiah nobody knows what it is.
        let of = odd.clone();
        editor.edits(move |answer| {
            if answer["order_id"] == of.as_str() {
                answer["gross_amount"] = json!("48500.50");
            }
            for row in answer["data"].as_array_mut().into_iter().flatten() {
                if row["reference_id"] == of.as_str() {
                    row["amount"] = json!(48_500.5);
                }
            }
        });
        // Nor does whoever looks at it meanwhile, in vain and as often as the pace allows, keep a run from ending.
        shop.get(&format!("/v1/payments/{odd}?ask=true")).await.ok();
        let began = Instant::now();
        let run = compares(&shop, provider).await;
        assert!(began.elapsed() < Duration::from_secs(40), "it waited for its turn for {:?}", began.elapsed());
        let counts = (&run["state"], &run["unreadable"], &run["compared"], &run["found"]);
        assert_eq!(counts, (&json!("done"), &json!(1), &json!(2), &json!(0)), "{provider}: {run}");
        assert_eq!(open(&shop).await, []);
        for payment in &both {
            comes_to(&shop, &json!({ "id": payment }), "paid").await;
        }
        if provider == "xendit" {
            // Were it not there at all, that would be a difference.
            let of = odd.clone();
            editor.edits(move |answer| {
                if let Some(rows) = answer["data"].as_array_mut() {
                    rows.retain(|row| row["reference_id"] != of.as_str());
                }
            });
            let run = compares(&shop, provider).await;
            assert_eq!((&run["unreadable"], &run["found"]), (&json!(0), &json!(1)), "{run}");
            assert_eq!(open(&shop).await, [("missing_at_provider".to_owned(), odd.clone())]);
        }
        editor.rests();
        let run = compares(&shop, provider).await;
        assert_eq!((&run["unreadable"], &run["found"]), (&json!(0), &json!(0)), "{run}");
        assert_eq!(open(&shop).await, []);
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn a_run_that_nobody_can_go_on_with_is_given_up_after_a_day_and_told() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let xendit = account(&shop, "xendit").await;
    let database = &market.hub.database;
    // Its keys do not open any more.
    database
        .psql(&format!("update provider_accounts set sealed = substr(sealed, 1, 40) where account_id = '{xendit}'"))
        .await;
    let run = begins(&shop, &xendit, DAY).await.created();
    let is_left =
        "select count(*) from reconciliations where next_at > begun_at + interval '5 seconds' and lease is null";
    until(async || (database.psql(is_left).await.trim() == "1").then_some(())).await;
    assert_eq!(shop.get(&format!("/v1/reconciliations/{}", id(&run))).await.ok()["state"], "running");
    assert!(alerts(&shop, "reconciliation_failed").await.is_empty(), "it is tried again");
    database.psql("update reconciliations set begun_at = begun_at - interval '25 hours', next_at = now()").await;
    let run = ends(&shop, &run).await;
    assert_eq!(
        (&run["state"], &run["error"]),
        (&json!("failed"), &json!("It could not be gone on with for a day.")),
        "{run}"
    );
    assert_eq!(alerts(&shop, "reconciliation_failed").await.len(), 1);
    // It stands in the way of no other.
    begins(&shop, &xendit, 2 * DAY).await.created();
}

#[tokio::test]
async fn each_day_every_account_is_compared_once() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    for _ in 0..2 {
        market.hub.has_done("reconciliations").await;
        let runs = shop.get("/v1/reconciliations").await.ok();
        let runs = runs["items"].as_array().expect("runs");
        assert_eq!(runs.len(), 2, "{runs:?}");
        for run in runs {
            assert_eq!(ends(&shop, run).await["state"], "done");
        }
    }
}

/// Two hundred customers have paid by the code on the counter, four pages of them; the hub is killed between two pages.
#[tokio::test]
async fn a_run_that_is_killed_goes_on_where_it_was() {
    let (staged, mut hub) = Staged::starts().await;
    let accounts = staged.till.get("/v1/provider-accounts").await.ok();
    let xendit = accounts["items"].as_array().expect("accounts").iter().find(|it| it["provider"] == "xendit");
    let counter = json!({ "reference_id": "COUNTER", "type": "REUSABLE_PAYMENT_CODE", "country": "ID", "currency": "IDR",
                          "channel_code": "QRIS" });
    let counter = asks_xendit(&staged.providers, counter).await;
    let pages = 4;
    for at in 0..50 * pages {
        staged.says("pay", json!({ "id": counter["payment_request_id"], "amount": 10_000 + at })).await;
    }
    staged.says("faults", json!({ "fault": "slow_s", "on": "list_transactions", "seconds": 1, "times": null })).await;
    let span = json!({ "from": ago(DAY), "until": ago(Duration::from_secs(1)) });
    let path = format!("/v1/provider-accounts/{}/reconciliations", id(xendit.expect("an account")));
    let run = staged.till.post("compare", &path, &span).await.expect("an answer").created();
    let told =
        async || staged.database.psql("select told from reconciliations").await.trim().parse::<i64>().expect("a count");
    until(async || (told().await >= 50).then_some(())).await;
    hub.kill().await;
    let before = told().await;
    assert!(before < 50 * pages, "it is in the middle: {before}");
    request(staged.providers.midtrans, "DELETE", "/_sim/faults", &[], vec![]).await.expect("an answer").ok();
    hub = staged.restarts().await;
    staged.comes_true("select phase from reconciliations", "done").await;
    let counted = "select told || ' ' || found from reconciliations";
    assert_eq!(staged.database.psql(counted).await.trim(), "200 200", "each once: {run}");
    let asked = staged.requests("list_transactions").await.len();
    assert!((4..=5).contains(&asked), "the first pages are not asked for again: {asked}");
    hub.kill().await;
}

#[tokio::test]
async fn an_account_whose_notifications_do_not_come_is_told_of_once_until_they_do() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    let xendit = account(&shop, "xendit").await;
    let health = async || shop.get(&format!("/v1/provider-accounts/{xendit}/health")).await.ok();
    // So many are found by a look alone, and it is known half a minute later that nobody has told of them.
    let unheard = async |many: usize| {
        for _ in 0..many {
            let payment = asks(&shop, &opens(&shop, bread).await, qris("xendit")).await.created();
            market.pays(&payment).await;
            changes(market, &payment, "next_at = now()").await;
            comes_to(&shop, &payment, "paid").await;
        }
        let database = &market.hub.database;
        until(async || {
            (database.psql("select count(*) from payments_polled").await.trim() == many.to_string()).then_some(())
        })
        .await;
        // As if that had been so long ago.
        let ago = "update payments_polled set found_at = found_at - interval '31 seconds';
                   update provider_health set noticed_at = noticed_at - interval '31 seconds'";
        database.psql(ago).await;
        until(async || (database.psql("select count(*) from payments_polled").await.trim() == "0").then_some(())).await;
    };
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    unheard(2).await;
    assert!(alerts(&shop, "webhooks_missing").await.is_empty(), "it may be chance");
    unheard(1).await;
    let told = alerts(&shop, "webhooks_missing").await;
    assert_eq!((told.len(), &told[0]["subject"]), (1, &json!(xendit)));
    assert!(told[0]["detail"].as_str().unwrap().contains(&format!("{xendit}/webhook")), "{told:?}");
    assert!(health().await["webhooks_missing_since"].is_string());
    unheard(3).await;
    assert_eq!(alerts(&shop, "webhooks_missing").await.len(), 1, "once");

    market.says_delete("faults").await;
    paid(market, &shop, bread, "xendit").await;
    until(async || health().await["webhooks_missing_since"].is_null().then_some(())).await;
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    unheard(3).await;
    assert_eq!(alerts(&shop, "webhooks_missing").await.len(), 2, "and again when they are gone again");
}
