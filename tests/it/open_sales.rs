//! Open sales: stock that is kept back until somebody pays, voids or lets the time pass, each once, whoever is killed meanwhile.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire::commerce::sales::{self, Captured, Expiry, PAYMENTS_MAX, SaleState, Settled};
use tillwire::identity::tokens::Bearer;
use tillwire::journal::{Journal, Pools, chain};
use tillwire_channels::event::Method;
use tillwire_channels::{MerchantId, Moment, OutletId, PaymentId, RegisterId, Role, SaleId, StaffId};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::support::buses::until;
use super::support::caller::bearer;
use super::support::hub::{Answer, BOTH_FACES, Shop, TestHub};
use super::support::invariants::{INVARIANTS, adds_up};
use super::support::process::{TillwireProcess, environment};
use super::support::services::postgres::{Database, Postgres, let_go, locked_out};
use super::support::services::proxy::{Cut, Proxy};
use super::support::till::Till;

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_does_not_add_up_is_found() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let (open, paid, voided) =
        (shop.opens(&bread, "1").await, shop.opens(&bread, "1").await, shop.opens(&bread, "1").await);
    shop.pays(&open, cash(2_500)).await.created();
    shop.pays(&paid, cash(7_500)).await.created();
    shop.voids(&voided).await.ok();
    adds_up(&hub.database).await;
    let mut sql = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    for (number, harm) in [
        (0, "update stock_levels set on_hand = on_hand + 1"),
        (1, "update stock_levels set reserved = 0"),
        (1, "update reservations set state = 'expired', ended_at = now() where state = 'pending'"),
        (2, "update reservations set state = 'voided' where state = 'posted'"),
        (2, "update sales set state = 'expired', void_note = null where state = 'voided'"),
        (3, "update reservations set quantity = quantity + 1"),
        (3, "delete from reservations where state = 'voided'"),
        (4, "delete from payments"),
        (4, "update sales set state = 'completed' where state = 'open'"),
        (4, "update payments set place = place + 1"),
        (5, "delete from journal_entries where seq = (select max(seq) from journal_entries)"),
        (
            5,
            "insert into payments select merchant_id, gen_random_uuid(), sale_id, 7, method, 1, 1, 0, now() from payments limit 1",
        ),
        (6, "update registers set last_receipt = last_receipt + 1"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(format!("begin; {harm}"))).execute(&mut sql).await.unwrap();
        let (what, query) = INVARIANTS[number];
        let count = format!("select count(*) from ({query}) wrong");
        let wrong: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut sql).await.unwrap();
        assert!(wrong > 0, "{what}: {harm} is not found");
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    }
    adds_up(&hub.database).await;
}

/// The journal alone, for commands that no route has.
fn journal_of(hub: &TestHub) -> Journal {
    let (announce, _) = tokio::sync::mpsc::channel(8);
    Journal::new(Pools { app: hub.pools.app.clone(), feed: hub.pools.feed.clone() }, announce, TaskTracker::new())
}

/// Ends a sale that is past its deadline, as a node does.
async fn expires(journal: &Journal, merchant: MerchantId, sale: SaleId) -> Expiry {
    journal.act(merchant, move |tx| sales::expire(tx, sale).boxed()).await.expect("a look at a sale")
}

fn id_of(sale: &Value) -> SaleId {
    SaleId(sale["id"].as_str().expect("an id").parse().expect("a UUID"))
}

/// A sale that may be open, of which nothing is paid yet.
fn open_at(register: RegisterId, variant: &str, quantity: &str) -> Value {
    json!({ "register": register, "open": true, "lines": [{ "variant": variant, "quantity": quantity }] })
}

fn cash(amount_minor: i64) -> Value {
    json!({ "method": "cash", "amount_minor": amount_minor })
}

impl Shop<'_> {
    async fn opens(&self, variant: &str, quantity: &str) -> Value {
        let opened = self.post(&self.sales(), open_at(self.register, variant, quantity)).await.created();
        assert_eq!(opened["state"], "open", "{opened}");
        opened
    }

    async fn pays(&self, sale: &Value, payment: Value) -> Answer {
        self.post(&payments(sale), payment).await
    }

    async fn voids(&self, sale: &Value) -> Answer {
        self.post(&void(sale), json!({ "reason": "Berubah pikiran" })).await
    }

    async fn sale_of(&self, sale: &Value) -> Value {
        self.get(&format!("/v1/sales/{}", id_of(sale))).await.ok()
    }

    /// On hand and reserved.
    async fn level_of(&self, variant: &str) -> (String, String) {
        let level = self.get(&format!("/v1/outlets/{}/stock/{variant}", self.outlet)).await.ok();
        let text = |field: &str| level[field].as_str().expect("a quantity").to_owned();
        (text("on_hand"), text("reserved"))
    }
}

fn payments(sale: &Value) -> String {
    format!("/v1/sales/{}/payments", id_of(sale))
}

fn void(sale: &Value) -> String {
    format!("/v1/sales/{}/void", id_of(sale))
}

fn level(on_hand: &str, reserved: &str) -> (String, String) {
    (on_hand.to_owned(), reserved.to_owned())
}

/// Lets the time of every open sale pass.
async fn time_passes(database: &Database) {
    database.psql("update sales set expires_at = now() - interval '1 second' where state = 'open'").await;
}

#[tokio::test]
async fn a_sale_is_opened_and_paid_in_parts_and_the_last_completes_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let mut screen = shop.screen(&["sales", "payments", "stock"]).await;
    let mut sale = open_at(shop.register, &bread, "2");
    sale["discount_minor"] = json!(500);
    sale["expires_in_seconds"] = json!(3_600);
    sale["tenders"] = json!([{ "method": "cash", "amount_minor": 4_000, "tendered_minor": 5_000 }]);
    let before = Moment::now_utc();
    let answer = shop.post(&shop.sales(), sale).await;
    let opened = answer.created();
    assert_eq!((&opened["state"], &opened["number"]), (&json!("open"), &json!("JKT-R1-000001")));
    assert_eq!([&opened["total_minor"], &opened["paid_minor"], &opened["due_minor"]], [14_500, 4_000, 10_500]);
    let format = &time::format_description::well_known::Rfc3339;
    let expires_at = Moment::parse(opened["expires_at"].as_str().unwrap(), format).unwrap();
    let in_seconds = (expires_at - before).whole_seconds();
    assert!((3_590..3_660).contains(&in_seconds), "{in_seconds}");
    assert_eq!((&opened["closed_at"], shop.level_of(&bread).await), (&Value::Null, level("10.000", "2.000")));
    assert_eq!(shop.sale_of(&opened).await, opened);
    let told = screen.hears_next("sale.opened").await;
    assert_eq!((&told.data()["due_minor"], &told.data()["lines"]), (&json!(10_500), &opened["lines"]));
    assert_eq!(screen.hears_next("payment.captured").await.data()["change_minor"], 1_000);
    let reserved = screen.hears_next("stock.reserved").await;
    let levels = json!([{ "variant": bread, "sku": "roti", "name": "roti", "reserved": "2.000", "change": "2.000" }]);
    assert_eq!((&reserved.data()["levels"], &reserved.data()["sale"]), (&levels, &opened["id"]));
    adds_up(&hub.database).await;

    // Nothing of it counts before it is complete, but for the money that is there.
    let state = async |topic: &str| shop.get(&format!("/v1/snapshot?channel={topic}")).await.ok()["state"][0].clone();
    assert_eq!((&state("sales").await["count"], &state("payments").await["amount_minor"]), (&json!(0), &json!(4_000)));
    assert_eq!(state(&format!("stock/{}", shop.outlet)).await["reserved"], "2.000");

    let part = shop.pays(&opened, json!({ "method": "qris", "amount_minor": 500 })).await.created();
    assert_eq!([&part["sale"]["paid_minor"], &part["sale"]["due_minor"]], [4_500, 10_000]);
    assert_eq!((&part["sale"]["state"], &part["payment"]["method"]), (&json!("open"), &json!("qris")));
    assert_eq!(screen.hears_next("payment.captured").await.data()["amount_minor"], 500);
    let listed = shop.get(&shop.sales()).await.ok()["items"][0].clone();
    assert_eq!((&listed, &listed["expires_at"]), (&part["sale"], &opened["expires_at"]));

    let last = json!({ "id": PaymentId::new(), "method": "cash", "amount_minor": 10_000, "tendered_minor": 20_000 });
    let answer = shop.pays(&opened, last.clone()).await;
    let paid = answer.created();
    assert_eq!([&paid["payment"]["change_minor"], &paid["sale"]["due_minor"]], [10_000, 0]);
    assert_eq!((&paid["sale"]["state"], &paid["payment"]["payment"]), (&json!("completed"), &last["id"]));
    let kinds = ["payment.captured", "sale.completed", "stock.changed", "stock.reserved"];
    for (at, kind) in (1..).zip(kinds) {
        let heard = screen.hears_next(kind).await;
        assert_eq!(heard.position.clone().unwrap(), answer.position().replace('-', &format!(".{at}-")), "one entry");
        match kind {
            "sale.completed" => {
                let methods: Vec<_> =
                    heard.data()["tenders"].as_array().unwrap().iter().map(|it| &it["method"]).collect();
                assert_eq!(methods, ["cash", "qris", "cash"]);
            }
            "stock.changed" => assert_eq!([&heard.data()["on_hand"], &heard.data()["change"]], ["8.000", "-2.000"]),
            "stock.reserved" => assert_eq!(heard.data()["levels"][0]["reserved"], "0.000"),
            _ => {}
        }
    }
    let completed = shop.sale_of(&opened).await;
    assert_eq!((&completed["state"], &completed["number"]), (&json!("completed"), &opened["number"]));
    assert!(completed["closed_at"].is_string() && completed["tenders"].as_array().unwrap().len() == 3, "{completed}");
    assert_eq!(shop.level_of(&bread).await, level("8.000", "0.000"));
    assert_eq!((&state("sales").await["count"], &state("sales").await["total_minor"]), (&json!(1), &json!(14_500)));
    // Each payment is found in the journal where it was recorded, the last far behind the sale.
    let seen = shop.get(&format!("/v1/payments/{}/seen", last["id"].as_str().unwrap())).await.ok();
    assert_eq!(seen["position"], answer.position().replace('-', ".1-"));
    shop.pays(&opened, cash(1)).await.refused(409, "sale_not_open");
    shop.voids(&opened).await.refused(409, "sale_not_open");
    adds_up(&hub.database).await;
    chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sale_that_is_covered_at_once_was_never_open() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (bread, gift) = (shop.stocked("roti", 7_500, "10").await, shop.stocked("hadiah", 0, "10").await);
    let mut paid = open_at(shop.register, &bread, "1");
    paid["tenders"] = json!([cash(7_500)]);
    for sale in [paid, open_at(shop.register, &gift, "1")] {
        let sold = shop.post(&shop.sales(), sale).await.created();
        assert_eq!((&sold["state"], &sold["expires_at"]), (&json!("completed"), &Value::Null));
        assert_eq!((&sold["closed_at"], &sold["due_minor"]), (&sold["occurred_at"], &json!(0)));
        assert_eq!(shop.sale_of(&sold).await, sold);
    }
    assert!(shop.journal_of(&["sale.opened", "stock.reserved"]).await.is_empty());
    assert_eq!(hub.database.psql("select count(*) from reservations").await.trim(), "0");
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn what_an_open_sale_has_reserved_nobody_else_can_take() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "3").await;
    let sale = shop.opens(&bread, "2").await;
    let short = shop.post(&shop.sales(), shop.sale(&bread, "2", 15_000)).await.refused(409, "out_of_stock");
    let wanted = "There are 3.000, of which 2.000 are reserved, and 2.000 are wanted.";
    let error = &short["errors"][0];
    assert_eq!((&error["pointer"], short["detail"].as_str()), (&json!("/lines/0/quantity"), Some(wanted)), "{short}");
    // Two lines of one variant are wanted together, by an open sale as well.
    let mut both = open_at(shop.register, &bread, "1");
    both["lines"] = json!([{ "variant": bread, "quantity": "0.6" }, { "variant": bread, "quantity": "0.6" }]);
    let short = shop.post(&shop.sales(), both).await.refused(409, "out_of_stock");
    assert_eq!(short["errors"][0]["pointer"], "/lines/1/quantity");
    let moves = format!("/v1/outlets/{}/stock/moves", shop.outlet);
    let moved = async |reason: &str, quantity: &str| {
        let mut line = json!({ "variant": bread, "quantity": quantity });
        if reason == "counted" {
            line["expected_on_hand"] = json!("3");
        }
        shop.post(&moves, json!({ "reason": reason, "lines": [line] })).await
    };
    moved("lost", "1.001").await.refused(409, "out_of_stock");
    moved("counted", "1.999").await.refused(409, "stock_is_reserved");
    adds_up(&hub.database).await;
    // What is free is sold, to the last.
    shop.sells(&bread, 7_500).await;
    assert_eq!(shop.level_of(&bread).await, level("2.000", "2.000"));
    shop.post(&shop.sales(), open_at(shop.register, &bread, "0.001")).await.refused(409, "out_of_stock");
    let voided = shop.voids(&sale).await.ok();
    assert_eq!((&voided["state"], &voided["void_note"]), (&json!("voided"), &json!("Berubah pikiran")));
    assert_eq!((shop.sale_of(&sale).await, shop.level_of(&bread).await), (voided, level("2.000", "0.000")));
    shop.post(&shop.sales(), shop.sale(&bread, "2", 15_000)).await.created();
    let told = shop.journal_of(&["sale.voided"]).await.pop().unwrap().1;
    assert_eq!([&told["data"]["reason"], &told["data"]["note"]], ["voided", "Berubah pikiran"]);
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn of_50_tills_that_open_or_complete_a_sale_of_the_last_unit_one_gets_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut tills = vec![shop.register];
    while tills.len() < 50 {
        tills.push(shop.till().await);
    }
    for round in 0..6 {
        let cake = shop.stocked(&format!("kue {round}"), 90_000, "1").await;
        let buyers = tills.iter().enumerate().map(|(at, till)| {
            // One who opens against all who complete, and the other way round.
            let opens = match round {
                0 => at == 49,
                1 => at != 49,
                _ => (at + round) % 2 == 0,
            };
            let mut sale = shop.sale_at(*till, &cake, "1", 90_000);
            if opens {
                sale["open"] = json!(true);
                sale["tenders"] = json!([]);
            }
            let (shop, path) = (&shop, shop.sales());
            async move {
                loop {
                    let answer = shop.post(&path, sale.clone()).await;
                    // Overload is refused early; the buyer tries again.
                    if answer.status != 503 {
                        return answer;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        let answers = join_all(buyers).await;
        let got: Vec<Value> = answers.iter().filter(|it| it.status == 201).map(Answer::json).collect();
        assert_eq!(got.len(), 1, "{got:?}");
        for answer in answers.iter().filter(|it| it.status != 201) {
            assert_eq!(answer.refused(409, "out_of_stock")["errors"][0]["pointer"], "/lines/0/quantity");
        }
        adds_up(&hub.database).await;
        match got[0]["state"].as_str() {
            Some("open") => {
                assert_eq!(shop.level_of(&cake).await, level("1.000", "1.000"));
                shop.pays(&got[0], cash(90_000)).await.created();
            }
            state => assert_eq!(state, Some("completed")),
        }
        assert_eq!(shop.level_of(&cake).await, level("0.000", "0.000"));
    }
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn a_payment_that_is_sent_50_times_is_taken_once() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let sale = shop.opens(&bread, "2").await;
    for (key, amount, state) in [("part", 5_000, "open"), ("rest", 10_000, "completed")] {
        let path = payments(&sale);
        let answers = join_all((0..50).map(|_| shop.post_once(key, &path, cash(amount)))).await;
        let good: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert!(!good.is_empty());
        for answer in &answers {
            match answer.status {
                201 => assert_eq!((&answer.body, answer.position()), (&good[0].body, good[0].position())),
                409 => drop(answer.refused(409, "request_in_flight")),
                _ => panic!("{answer:?}"),
            }
        }
        assert_eq!(good[0].json()["sale"]["state"], state);
        shop.post_once(key, &path, cash(amount + 1)).await.refused(422, "idempotency_key_reused");
    }
    // A key is one request's: at another sale it is refused.
    let other = shop.opens(&bread, "1").await;
    shop.post_once("part", &payments(&other), cash(5_000)).await.refused(422, "idempotency_key_reused");
    // And the same payment under another key is known as well.
    let payment = json!({ "id": PaymentId::new(), "method": "card", "amount_minor": 2_500 });
    shop.pays(&other, payment.clone()).await.created();
    let twice = shop.pays(&other, payment).await.refused(409, "payment_exists");
    assert_eq!(twice["errors"][0]["pointer"], "/id");
    assert_eq!(hub.database.psql("select sum(amount_minor) from payments").await.trim(), "17500");
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn no_more_is_taken_than_is_due() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 1_000, "100").await;
    let sale = shop.opens(&bread, "10").await;
    let refused = shop.pays(&sale, cash(10_001)).await.refused(409, "amount_exceeds_due");
    assert_eq!(
        (&refused["errors"][0]["pointer"], &refused["detail"]),
        (&json!("/amount_minor"), &json!("10000 is due."))
    );
    for (method, tendered) in [("card", 5_000), ("qris", 5_000), ("cash", 3_999)] {
        let body = json!({ "method": method, "amount_minor": 4_000, "tendered_minor": tendered });
        let refused = shop.pays(&sale, body).await.refused(422, "tendered_mismatch");
        assert_eq!(refused["errors"][0]["pointer"], "/tendered_minor");
    }
    for amount in [0, -1] {
        shop.pays(&sale, cash(amount)).await.refused(422, "invalid");
    }
    let mut too_much = open_at(shop.register, &bread, "1");
    too_much["tenders"] = json!([cash(1_001)]);
    shop.post(&shop.sales(), too_much).await.refused(422, "tenders_mismatch");
    assert_eq!(shop.sale_of(&sale).await, sale, "nothing was taken");
    // Ten who each would pay two fifths: two of them fit, whichever they are.
    let answers = join_all((0..10).map(|_| shop.pays(&sale, cash(4_000)))).await;
    let taken = answers.iter().filter(|it| it.status == 201).count();
    answers.iter().filter(|it| it.status != 201).for_each(|it| drop(it.refused(409, "amount_exceeds_due")));
    assert_eq!((taken, &shop.sale_of(&sale).await["due_minor"]), (2, &json!(2_000)));
    shop.pays(&sale, cash(2_000)).await.created();
    adds_up(&hub.database).await;

    // Parts are counted: the last that may be has to pay the rest.
    let slow = shop.opens(&bread, "10").await;
    for _ in 1..PAYMENTS_MAX {
        shop.pays(&slow, cash(1)).await.created();
    }
    let refused = shop.pays(&slow, cash(1)).await.refused(409, "too_many_payments");
    assert_eq!(refused["errors"][0]["pointer"], "/amount_minor");
    let rest = 10_000 - i64::try_from(PAYMENTS_MAX).unwrap() + 1;
    assert_eq!(shop.pays(&slow, cash(rest)).await.created()["sale"]["state"], "completed");
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn only_whoever_sells_there_may_take_payments_and_void() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 7_500, "10").await;
    let sale = shop.opens(&bread, "1").await;
    let till = shop.till().await;
    let bound = |role, outlets: &[OutletId], register: Option<RegisterId>| {
        let bearer = Bearer { outlets: outlets.to_vec(), register, ..bearer(shop.merchant, StaffId::new(), role) };
        hub.signer.mint(&bearer, Duration::from_secs(600)).expect("a token")
    };
    let elsewhere = OutletId::new();
    let [pay, end] = [(payments(&sale), cash(7_500)), (void(&sale), json!({ "reason": "no" }))];
    for token in [
        bound(Role::Cashier, &[elsewhere], None),
        bound(Role::Manager, &[elsewhere], None),
        bound(Role::Cashier, &[shop.outlet], Some(till)),
        bound(Role::Clerk, &[], None),
        bound(Role::Accountant, &[], None),
        bound(Role::Auditor, &[], None),
        bound(Role::Display, &[], None),
    ] {
        for (path, body) in [&pay, &end] {
            let key = Uuid::new_v4().to_string();
            shop.post_as(&token, &key, path, body.to_string().into_bytes()).await.refused(403, "denied");
        }
    }
    for (path, body) in [&pay, &end] {
        rival.post(path, body.clone()).await.refused(404, "not_found");
        let nobodys = path.replace(&id_of(&sale).to_string(), &SaleId::new().to_string());
        shop.post(&nobodys, body.clone()).await.refused(404, "not_found");
    }
    assert_eq!(shop.sale_of(&sale).await, sale);
    // A register of another outlet's opens nothing here.
    let foreign = open_at(rival.register, &bread, "1");
    shop.post(&shop.sales(), foreign).await.refused(422, "unknown_register");
    let own = bound(Role::Cashier, &[shop.outlet], Some(shop.register));
    shop.post_as(&own, "own", &pay.0, pay.1.to_string().into_bytes()).await.created();
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn what_an_open_sale_may_be_is_bounded() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let sale = |change: &dyn Fn(&mut Value)| {
        let mut sale = open_at(shop.register, &bread, "1");
        change(&mut sale);
        sale
    };
    let lines = |count| vec![json!({ "variant": bread, "quantity": "1" }); count];
    for (body, code, pointer) in [
        (sale(&|it| it["lines"] = json!(lines(201))), "invalid", "/lines"),
        (sale(&|it| it["lines"] = json!([])), "invalid", "/lines"),
        (sale(&|it| it["expires_in_seconds"] = json!(59)), "invalid", "/expires_in_seconds"),
        (sale(&|it| it["expires_in_seconds"] = json!(86_401)), "invalid", "/expires_in_seconds"),
        (sale(&|it| it["expires_in_seconds"] = json!(-1)), "invalid_field", "/expires_in_seconds"),
        (
            sale(&|it| {
                it["open"] = json!(false);
                it["expires_in_seconds"] = json!(60);
            }),
            "expires_in_unexpected",
            "/expires_in_seconds",
        ),
        (sale(&|it| it["open"] = json!(false)), "tenders_mismatch", "/tenders"),
        (sale(&|it| it["open"] = json!("yes")), "invalid_field", "/open"),
    ] {
        let refused = shop.post(&shop.sales(), body).await.refused(422, code);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
    // The most lines there may be, of as many products with names as long as most: what is opened can be completed.
    let items: Vec<_> = (0..200)
        .map(|n| json!({ "name": format!("{n} {}", "r".repeat(60)), "variants": [{ "sku": format!("s{n}"), "price_minor": 10 }] }))
        .collect();
    shop.post("/v1/products/import", json!({ "items": items })).await.ok();
    let variants = hub.database.psql("select variant_id from variants where sku like 's%'").await;
    let variants: Vec<&str> = variants.lines().collect();
    assert_eq!(variants.len(), 200);
    let of_each: Vec<_> = variants.iter().map(|it| json!({ "variant": it, "quantity": "1" })).collect();
    let moves = format!("/v1/outlets/{}/stock/moves", shop.outlet);
    shop.post(&moves, json!({ "reason": "received", "lines": of_each })).await.created();
    let long = shop.post(&shop.sales(), sale(&|it| it["lines"] = json!(of_each))).await.created();
    for _ in 1..PAYMENTS_MAX {
        shop.pays(&long, cash(1)).await.created();
    }
    let rest = 2_000 - i64::try_from(PAYMENTS_MAX).unwrap() + 1;
    assert_eq!(shop.pays(&long, cash(rest)).await.created()["sale"]["state"], "completed");
    // And what could not be completed is not opened.
    hub.database.psql("update products set name = repeat('ö', 200) where name like '%rrr%'").await;
    shop.post(&moves, json!({ "reason": "received", "lines": of_each[..100] })).await.created();
    shop.post(&moves, json!({ "reason": "received", "lines": of_each[100..] })).await.created();
    let refused = shop.post(&shop.sales(), sale(&|it| it["lines"] = json!(of_each))).await;
    refused.refused(422, "entry_too_large");

    let open = shop.opens(&bread, "1").await;
    for reason in ["", &"x".repeat(201), "a\nb"] {
        let refused = shop.post(&void(&open), json!({ "reason": reason })).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], "/reason");
    }
    shop.post(&void(&open), json!({})).await.refused(422, "invalid_field");
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn an_open_sale_that_nobody_pays_in_time_expires_once_whoever_looks() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(hub.node(BOTH_FACES, &[]).await);
    }
    let mut screen = shop.screen(&["sales", "stock"]).await;
    let late: Vec<Value> = join_all((0..20).map(|_| shop.opens(&bread, "1"))).await;
    assert_eq!(shop.level_of(&bread).await, level("100.000", "20.000"));
    let journal = journal_of(&hub);
    assert_eq!(expires(&journal, shop.merchant, id_of(&late[0])).await, Expiry::NotDue, "its time is not over");
    time_passes(&hub.database).await;
    let began = Instant::now();
    // Three nodes, and whoever looks besides.
    join_all(late.iter().map(|sale| expires(&journal, shop.merchant, id_of(sale)))).await;
    until(async || (shop.level_of(&bread).await == level("100.000", "0.000")).then_some(())).await;
    assert!(began.elapsed() < PATIENCE);
    for sale in &late {
        assert_eq!(expires(&journal, shop.merchant, id_of(sale)).await, Expiry::NotDue, "once");
        let sale = shop.sale_of(sale).await;
        assert_eq!((&sale["state"], &sale["due_minor"]), (&json!("expired"), &json!(0)));
        shop.pays(&sale, cash(7_500)).await.refused(409, "sale_not_open");
    }
    adds_up(&hub.database).await;
    let voided = screen.hears_next("sale.voided").await;
    assert_eq!((&voided.data()["reason"], &voided.data()["note"]), (&json!("expired"), &Value::Null));
    assert_eq!(screen.hears("stock.reserved").await.data()["levels"][0]["change"], "-1.000");
    let told = shop.journal_of(&["sale.voided"]).await;
    assert!(told.len() == 20 && told.iter().all(|(_, event)| event["actor"] == Value::Null), "nobody did it");
}

#[tokio::test]
async fn nobody_waits_for_another_merchants_many() {
    let hub = TestHub::start().await;
    let (many, one) = (hub.merchant("Toko Roti").await, hub.merchant("Warung").await);
    let (bread, cake) = (many.stocked("roti", 7_500, "100").await, one.stocked("kue", 9_000, "10").await);
    join_all((0..40).map(|_| many.opens(&bread, "1"))).await;
    let last = id_of(&one.opens(&cake, "1").await);
    // Nobody is at it meanwhile: asked in the moment in which the time is over.
    let mut sql = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    let begun = "begin; update sales set expires_at = now() - interval '1 hour'
                 * (select case name when 'Warung' then 1 else 2 end from outlets where outlet_id = sales.outlet_id)";
    sqlx::raw_sql(begun).execute(&mut sql).await.unwrap();
    let found = sales::due(&mut sql, 100, 3).await.unwrap();
    assert!(
        found.len() == 3 && found[..2].contains(&(one.merchant, last)),
        "its first is no later than anybody's second"
    );
    let found = sales::due(&mut sql, 10, 1_000).await.unwrap();
    assert_eq!(found.iter().filter(|(merchant, _)| *merchant == many.merchant).count(), 10);
    assert_eq!(found.len(), 11);
    sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    time_passes(&hub.database).await;
    until(async || {
        (hub.database.psql("select count(*) from sales where state = 'open'").await.trim() == "0").then_some(())
    })
    .await;
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn one_that_is_paid_in_part_stays_open_and_its_outlet_is_told_once() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let mut screen = shop.screen(&[&format!("alerts/{}", shop.outlet)]).await;
    let sale = shop.opens(&bread, "2").await;
    shop.pays(&sale, cash(5_000)).await.created();
    let refused = shop.voids(&sale).await.refused(409, "sale_has_payments");
    assert!(refused["detail"].as_str().unwrap().contains("there are no refunds"), "{refused}");
    time_passes(&hub.database).await;
    let alert = screen.hears("alert.raised").await;
    assert_eq!((&alert.data()["alert"], &alert.data()["subject"]), (&json!("sale_not_paid"), &sale["id"]));
    let detail = alert.data()["detail"].as_str().unwrap();
    assert!(detail.starts_with("5000 of 15000 IDR were taken for JKT-R1-000001."), "{detail}");
    let journal = journal_of(&hub);
    for _ in 0..3 {
        assert_eq!(expires(&journal, shop.merchant, id_of(&sale)).await, Expiry::NotDue);
    }
    assert_eq!(sales::due(&hub.pools.app, 10, 10).await.unwrap(), []);
    assert_eq!(
        (&shop.sale_of(&sale).await["state"], shop.level_of(&bread).await),
        (&json!("open"), level("10.000", "2.000"))
    );
    adds_up(&hub.database).await;
    assert_eq!(shop.pays(&sale, cash(10_000)).await.created()["sale"]["state"], "completed");
    assert_eq!(shop.journal_of(&["alert.raised"]).await.len(), 1);
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn money_from_elsewhere_completes_a_sale_or_is_told_that_it_came_too_late() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let journal = journal_of(&hub);
    let arrives = async |sale: SaleId, amount_minor: i64| {
        let payment = PaymentId::new();
        let settled = journal.act(shop.merchant, move |tx| {
            async move {
                let sale = sales::lock(tx, sale).await?;
                let captured = Captured {
                    payment,
                    method: Method::Qris,
                    amount_minor,
                    tendered_minor: amount_minor,
                    at: tx.now() - time::Duration::minutes(2),
                };
                let settled = sales::settle(tx, &sale, captured).await?;
                Ok(match settled {
                    Settled::Part { due_minor } => format!("part, {due_minor} due"),
                    Settled::Completed(sale) => format!("{} complete", sale.number),
                    Settled::NotOpen(state) => format!("not open: {}", state.as_str()),
                    Settled::TooMuch { due_minor } => format!("too much, {due_minor} due"),
                })
            }
            .boxed()
        });
        settled.await.unwrap()
    };
    let sale = shop.opens(&bread, "2").await;
    // As long as somebody outside has not said what became of a payment, no deadline ends the sale.
    let id = id_of(&sale);
    let held = async |id: SaleId, until: Option<time::Duration>| {
        let hold = journal.act(shop.merchant, move |tx| {
            async move {
                let (sale, now) = (sales::lock(tx, id).await?, tx.now());
                sales::hold(tx, &sale, until.map(|it| now + it)).await
            }
            .boxed()
        });
        hold.await.unwrap();
    };
    held(id, Some(time::Duration::hours(1))).await;
    time_passes(&hub.database).await;
    assert_eq!(expires(&journal, shop.merchant, id).await, Expiry::NotDue);
    assert_eq!(sales::due(&hub.pools.app, 10, 10).await.unwrap(), []);
    assert_eq!(arrives(id, 15_001).await, "too much, 15000 due");
    assert_eq!(arrives(id, 5_000).await, "part, 10000 due");
    assert_eq!(arrives(id, 10_000).await, "JKT-R1-000001 complete");
    assert_eq!(arrives(id, 1).await, "not open: completed");
    assert_eq!(shop.level_of(&bread).await, level("8.000", "0.000"));
    // Nobody but the hub was there, and the ledger names who rang it up.
    let moved = shop.get(&format!("/v1/outlets/{}/stock/{bread}/moves", shop.outlet)).await.ok()["items"][0].clone();
    assert_eq!((&moved["actor"], &moved["document"]), (&sale["actor"], &sale["id"]));
    adds_up(&hub.database).await;

    let gone = shop.opens(&bread, "1").await;
    shop.voids(&gone).await.ok();
    assert_eq!(arrives(id_of(&gone), 7_500).await, "not open: voided");
    let late = shop.opens(&bread, "1").await;
    let id = id_of(&late);
    held(id, Some(time::Duration::hours(1))).await;
    time_passes(&hub.database).await;
    assert_eq!(expires(&journal, shop.merchant, id).await, Expiry::NotDue, "it is held");
    held(id, None).await;
    until(async || (shop.sale_of(&late).await["state"] == "expired").then_some(())).await;
    assert_eq!(arrives(id, 7_500).await, format!("not open: {}", SaleState::Expired.as_str()));
    adds_up(&hub.database).await;
}

/// Somebody holds rows of a table in a transaction, until they let go.
async fn hold(database: &Database, table: &str) -> PgConnection {
    database.held(&format!("select 1 from {table} for update")).await
}

#[tokio::test]
async fn whoever_is_at_a_sale_first_has_it_and_the_other_finds_it_so() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let journal = journal_of(&hub);
    // The payment has the sale and waits for stock: whoever looks for sales to end leaves it alone, and does not wait.
    let sale = shop.opens(&bread, "1").await;
    let holder = hold(&hub.database, "stock_levels").await;
    hub.database.psql("update sales set expires_at = now() + interval '1.5 seconds'").await;
    let meanwhile = async {
        locked_out(&hub.database, 1).await;
        let due = vec![(shop.merchant, id_of(&sale))];
        until(async || (sales::due(&hub.pools.app, 10, 10).await.unwrap() == due).then_some(())).await;
        let looked = expires(&journal, shop.merchant, id_of(&sale)).await;
        let_go(holder).await;
        looked
    };
    let (paid, looked) = tokio::join!(shop.pays(&sale, cash(7_500)), meanwhile);
    assert_eq!((&paid.created()["sale"]["state"], looked), (&json!("completed"), Expiry::NotDue));
    adds_up(&hub.database).await;

    // The other way round: its time is over and it is being ended, when somebody comes to pay, and somebody to void it.
    let sale = shop.opens(&bread, "1").await;
    let holder = hold(&hub.database, "stock_levels").await;
    time_passes(&hub.database).await;
    let ending = expires(&journal, shop.merchant, id_of(&sale));
    let meanwhile = async {
        locked_out(&hub.database, 1).await;
        let others = async {
            locked_out(&hub.database, 3).await;
            let_go(holder).await;
        };
        tokio::join!(shop.pays(&sale, cash(7_500)), shop.voids(&sale), others)
    };
    let (_, (paid, voided, ())) = tokio::join!(ending, meanwhile);
    paid.refused(409, "sale_not_open");
    voided.refused(409, "sale_not_open");
    assert_eq!(shop.sale_of(&sale).await["state"], "expired");
    assert_eq!(shop.level_of(&bread).await, level("9.000", "0.000"));
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn a_sale_is_paid_or_voided_or_expires_and_never_two_of_them() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let journal = journal_of(&hub);
    let mut ends = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..8_u64 {
        let sales = join_all((0..15).map(|_| shop.opens(&bread, "1"))).await;
        time_passes(&hub.database).await;
        let racing = sales.iter().enumerate().map(|(at, sale)| {
            // Each of the three is first in turn, by a little.
            let pause =
                move |racer: u64| tokio::time::sleep(Duration::from_micros((at as u64 + racer + round) % 3 * 700));
            let (shop, journal) = (&shop, &journal);
            async move {
                let pays = async { (pause(0).await, shop.pays(sale, cash(7_500)).await).1 };
                let voids = async { (pause(1).await, shop.voids(sale).await).1 };
                let ends = async { (pause(2).await, expires(journal, shop.merchant, id_of(sale)).await).1 };
                tokio::join!(pays, voids, ends)
            }
        });
        for (sale, (paid, voided, _)) in sales.iter().zip(join_all(racing).await) {
            let state = until(async || {
                let state = shop.sale_of(sale).await["state"].as_str().unwrap().to_owned();
                (state != "open").then_some(state)
            });
            let state = state.await;
            // Too busy is an answer as well, and then nothing was done.
            assert_eq!(paid.status == 201, state == "completed", "{state}: {paid:?}");
            assert_eq!(voided.status == 200, state == "voided", "{state}: {voided:?}");
            for answer in [paid, voided].iter().filter(|it| it.status >= 400 && it.status != 503) {
                answer.refused(409, "sale_not_open");
            }
            *ends.entry(state).or_default() += 1;
        }
        adds_up(&hub.database).await;
    }
    assert_eq!(ends.values().sum::<u32>(), 120);
    assert!(ends.len() > 1, "the race had one winner every time: {ends:?}");
    let sold = ends.get("completed").copied().unwrap_or_default();
    assert_eq!(shop.level_of(&bread).await, level(&format!("{}.000", 1_000 - sold), "0.000"));
}

#[tokio::test]
async fn a_commit_of_a_payment_whose_answer_is_lost_is_settled_by_the_same_key() {
    let port = Postgres::shared().await.tcp_port().expect("a cluster with TCP");
    let proxy = Proxy::to(port).await;
    let hub = TestHub::start_through(Some(proxy.port)).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    for cut in [Cut::Before, Cut::After] {
        let mut sale = open_at(shop.register, &bread, "1");
        sale["id"] = json!(SaleId::new());
        for (path, body) in
            [(shop.sales(), sale.clone()), (payments(&sale), cash(2_500)), (payments(&sale), cash(5_000))]
        {
            let key = Uuid::new_v4().to_string();
            hub.database.has_no_job_due().await;
            let done = proxy.cut_when(|bytes| bytes.windows(6).any(|it| it.eq_ignore_ascii_case(b"commit")), cut);
            shop.post_once(&key, &path, body.clone()).await.refused(500, "internal");
            done.await.unwrap();
            let settled = shop.post_again(&key, &path, body).await;
            settled.created();
            assert_eq!(settled.headers.contains_key("idempotent-replayed"), cut == Cut::After, "{path}");
        }
        assert_eq!(shop.sale_of(&sale).await["state"], "completed");
    }
    assert_eq!(shop.level_of(&bread).await, level("8.000", "0.000"));
    adds_up(&hub.database).await;
    chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

/// Every step of a write takes a lock that somebody else holds in turn; there the hub is killed.
#[tokio::test]
async fn a_hub_that_is_killed_at_any_step_of_an_open_sale_leaves_all_of_it_or_nothing() {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 100).await;
    let at_last = async |key: &str, path: &str, body: &Value| {
        let started = Instant::now();
        loop {
            match till.post(key, path, body).await {
                Ok(answer) if answer.status < 300 => return answer.json(),
                // Not there yet, or still at it, says the database.
                Ok(answer) => assert!(answer.status == 409 || answer.status >= 500, "{answer:?}"),
                Err(_) => {}
            }
            assert!(started.elapsed() < PATIENCE, "{key} is not done");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut killed = 0;
    for step in ["sales", "stock_levels", "journal_heads"] {
        for deed in ["open", "pay", "pay in part", "void", "expire"] {
            let key = format!("{deed}-at-{step}").replace(' ', "-");
            // What opens a sale has none to lock, and what pays a part takes no stock.
            // And who ends sales passes over one that somebody has.
            let never = [("open", "sales"), ("expire", "sales"), ("pay in part", "stock_levels")];
            if never.contains(&(deed, step)) {
                continue;
            }
            let mut opening = open_at(till.register, &till.variant, "1");
            opening["id"] = json!(SaleId::new());
            if deed != "open" {
                at_last(&format!("first-{key}"), &till.sales(), &opening).await;
            }
            let (path, body) = match deed {
                "open" => (till.sales(), opening.clone()),
                "void" => (void(&opening), json!({ "reason": "no" })),
                "pay" => (payments(&opening), cash(7_500)),
                _ => (payments(&opening), cash(2_500)),
            };
            let holder = hold(&database, step).await;
            let asked = async {
                match deed {
                    // It ends sales by itself.
                    "expire" => time_passes(&database).await,
                    _ => drop(till.post(&key, &path, &body).await),
                }
            };
            let killing = async {
                locked_out(&database, 1).await;
                hub.kill().await;
                let_go(holder).await;
            };
            tokio::join!(asked, killing);
            killed += 1;
            hub = TillwireProcess::start(&["serve"], &env).await;
            adds_up(&database).await;
            if deed == "expire" {
                let state = format!("select state from sales where sale_id = '{}'", id_of(&opening));
                until(async || (database.psql(&state).await.trim() == "expired").then_some(())).await;
            } else {
                at_last(&key, &path, &body).await;
            }
            adds_up(&database).await;
            if deed == "open" || deed == "pay in part" {
                let due = if deed == "open" { 7_500 } else { 5_000 };
                let rest = at_last(&format!("rest-{key}"), &payments(&opening), &cash(due)).await;
                assert_eq!(rest["sale"]["state"], "completed");
            }
        }
    }
    assert_eq!(killed, 12);
    adds_up(&database).await;
    // Two were opened and then paid, three paid, two paid in two parts.
    let states = "select string_agg(state || ' ' || count, ', ' order by state)
        from (select state, count(*) from sales group by state) states";
    assert_eq!(database.psql(states).await.trim(), "completed 7, expired 2, voided 3");
    assert_eq!(till.on_hand().await, "93.000");
    let pools = Pools::open(&database.url("tillwire_app"), &database.url("tillwire_feed"), 1).unwrap();
    chain::verify(&pools.feed, till.merchant).await.unwrap().unwrap();
    hub.kill().await;
}

#[tokio::test]
async fn time_that_passes_while_the_database_or_every_node_is_away_is_made_up_for() {
    let port = Postgres::shared().await.tcp_port().expect("a cluster with TCP");
    let mut proxy = Proxy::to(port).await;
    let hub = TestHub::start_through(Some(proxy.port)).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let (late, paid) = (shop.opens(&bread, "1").await, shop.opens(&bread, "2").await);
    proxy.refuse().await;
    proxy.cut();
    time_passes(&hub.database).await;
    until(async || (hub.send("GET", "/readyz", &[], vec![]).await.status == 503).then_some(())).await;
    assert_eq!(
        hub.database.psql("select count(*) from sales where state = 'open'").await.trim(),
        "2",
        "nobody is there"
    );
    // One of the two was given more time meanwhile.
    let more = format!("update sales set expires_at = now() + interval '1 hour' where sale_id = '{}'", id_of(&paid));
    hub.database.psql(&more).await;
    proxy.accept().await;
    until(async || {
        let state = hub.database.psql("select state from sales order by state").await;
        (state.lines().collect::<Vec<_>>() == ["expired", "open"]).then_some(())
    })
    .await;
    adds_up(&hub.database).await;
    assert_eq!(shop.sale_of(&late).await["state"], "expired");
    shop.pays(&paid, cash(15_000)).await.created();
    adds_up(&hub.database).await;

    // Every node is gone, and one comes back.
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let mut process = TillwireProcess::start(&["api"], &env).await;
    let till = Till::open(process.public, &signer, 10).await;
    till.post("open", &till.sales(), &open_at(till.register, &till.variant, "1")).await.unwrap().created();
    process.kill().await;
    time_passes(&database).await;
    adds_up(&database).await;
    let mut process = TillwireProcess::start(&["api"], &env).await;
    until(async || (database.psql("select state from sales").await.trim() == "expired").then_some(())).await;
    adds_up(&database).await;
    let counted =
        async |hub: &TillwireProcess| hub.counts("tillwire_open_sales_overdue_total", &[("outcome", "expired")]).await;
    process.until("it is counted", async |hub| counted(hub).await == 1.0).await;
    process.kill().await;
}

#[tokio::test]
async fn a_voided_receipt_stays_in_its_series_and_a_sale_counts_on_the_day_it_was_completed() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let (first, second) = (shop.opens(&bread, "1").await, shop.opens(&bread, "1").await);
    shop.voids(&first).await.ok();
    let third = shop.opens(&bread, "1").await;
    let numbers = [&first, &second, &third].map(|it| it["number"].as_str().unwrap());
    assert_eq!(numbers, ["JKT-R1-000001", "JKT-R1-000002", "JKT-R1-000003"]);
    let states: Vec<Value> = shop.get(&shop.sales()).await.ok()["items"].as_array().unwrap().clone();
    let states: Vec<_> =
        states.iter().map(|it| (it["number"].as_str().unwrap(), it["state"].as_str().unwrap())).collect();
    assert_eq!(states, [(numbers[2], "open"), (numbers[1], "open"), (numbers[0], "voided")]);
    // It was opened on another day: what it counts for is today.
    hub.database
        .psql("update sales set business_date = business_date - 3, occurred_at = occurred_at - interval '3 days'")
        .await;
    shop.pays(&second, cash(7_500)).await.created();
    let (completed, open) = (shop.sale_of(&second).await, shop.sale_of(&third).await);
    assert_ne!(completed["business_date"], open["business_date"]);
    let today = shop.get("/v1/snapshot?channel=sales").await.ok()["state"][0].clone();
    assert_eq!((&today["count"], &today["business_date"]), (&json!(1), &completed["business_date"]));
    let told = shop.journal_of(&["sale.completed"]).await.pop().unwrap().1;
    assert_eq!(told["data"]["business_date"], completed["business_date"]);
    adds_up(&hub.database).await;
}

#[tokio::test]
async fn sales_are_listed_by_how_they_stand() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut all = Vec::new();
    for _ in 0..3 {
        let [open, paid, voided, late] =
            [shop.opens(&bread, "1"), shop.opens(&bread, "1"), shop.opens(&bread, "1"), shop.opens(&bread, "1")];
        let (open, paid, voided, late) = (open.await, paid.await, voided.await, late.await);
        shop.pays(&open, cash(2_500)).await.created();
        shop.pays(&paid, cash(7_500)).await.created();
        shop.voids(&voided).await.ok();
        hub.database.psql(&format!("update sales set expires_at = now() where sale_id = '{}'", id_of(&late))).await;
        until(async || (shop.sale_of(&late).await["state"] == "expired").then_some(())).await;
        all.push([("open", open, 2_500), ("completed", paid, 7_500), ("voided", voided, 0), ("expired", late, 0)]);
    }
    all.reverse(); // The newest first.
    for at in 0..4 {
        let (state, ..) = all[0][at];
        let mut listed = Vec::new();
        let mut cursor = Value::Null;
        loop {
            let after = cursor.as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page = shop.get(&format!("{}?state={state}&limit=2{after}", shop.sales())).await.ok();
            listed.extend(page["items"].as_array().expect("sales").iter().cloned());
            cursor = page["next_cursor"].clone();
            if cursor.is_null() {
                break;
            }
        }
        let expected: Vec<_> = all.iter().map(|round| (&round[at].1["id"], json!(state), json!(round[at].2))).collect();
        let found: Vec<_> =
            listed.iter().map(|sale| (&sale["id"], sale["state"].clone(), sale["paid_minor"].clone())).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(shop.get(&shop.sales()).await.ok()["items"].as_array().map(Vec::len), Some(12));
    shop.get(&format!("{}?state=paid", shop.sales())).await.refused(400, "invalid_parameter");
    rival.get(&format!("{}?state=open", shop.sales())).await.refused(404, "not_found");
}
