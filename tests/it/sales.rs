//! A sale at the till.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire_channels::{OutletId, RegisterId, Role};
use uuid::Uuid;

use super::support::hub::{BOTH_FACES, TestHub};

#[tokio::test]
async fn a_sale_moves_stock_takes_payment_and_stands_in_the_journal() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let mut sale = shop.sale(&bread, "2", 14_500);
    sale["discount_minor"] = json!(500);
    let answer = shop.post(&shop.sales(), sale).await;
    let view = answer.created();
    assert_eq!((view["number"].as_str(), view["total_minor"].as_i64()), (Some("JKT-R1-000001"), Some(14_500)));
    assert_eq!(shop.stock_of(&bread).await, "8.000");
    let read = shop.get(&format!("/v1/sales/{}", view["id"].as_str().unwrap())).await.ok();
    assert_eq!(read, view);

    let journal = shop.journal().await;
    let last: Vec<&str> = journal.iter().rev().take(3).map(|it| it["event"]["type"].as_str().unwrap()).collect();
    assert_eq!(last, ["stock.changed", "payment.captured", "sale.completed"]);
    let [third, _, first] = [1, 2, 3].map(|back| &journal[journal.len() - back]);
    assert_eq!(first["event"]["of"], json!([1, 3]));
    assert_eq!(third["event"]["data"]["on_hand"], "8.000");
    let position = answer.position();
    let (seq, tag) = position.split_once('-').unwrap();
    assert_eq!(third["position"], format!("{seq}.3-{tag}"));
}

#[tokio::test]
async fn the_same_sale_posted_50_times_at_once_is_recorded_once() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let (key, sale, path) = (Uuid::new_v4().to_string(), shop.sale(&bread, "1", 7_500), shop.sales());
    let posts = (0..50).map(|_| shop.post_once(&key, &path, sale.clone()));
    let answers = futures_util::future::join_all(posts).await;
    let good: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    assert!(!good.is_empty());
    for answer in &answers {
        match answer.status {
            201 => assert_eq!((&answer.body, answer.position()), (&good[0].body, good[0].position())),
            409 => drop(answer.refused(409, "request_in_flight")),
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!(shop.stock_of(&bread).await, "99.000");
    let again = shop.post_once(&key, &path, sale.clone()).await;
    assert_eq!((again.created(), &again.headers["idempotent-replayed"]), (good[0].json(), &"true".parse().unwrap()));
    let other = shop.post_once(&key, &path, shop.sale(&bread, "2", 15_000)).await;
    other.refused(422, "idempotency_key_reused");
}

#[tokio::test]
async fn a_twin_of_a_sale_that_is_still_running_is_refused_at_once_on_every_node() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let (node, path) = (hub.node(BOTH_FACES, &[]).await, shop.sales());
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    // The first is held half-way, and again in its last statement.
    for (held, left) in [("stock_levels", "9.000"), ("journal_heads", "8.000")] {
        let (key, sale) = (Uuid::new_v4().to_string(), shop.sale(&bread, "1", 7_500));
        let hold = format!("begin; select 1 from {held} for update");
        sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut holder).await.unwrap();
        let twins = async {
            hub.someone_is_locked_out().await;
            let here = shop.post_once(&key, &path, sale.clone()).await;
            let there = shop.post_at(node.address, &key, &path, &sale).await;
            // Both were answered while the first was held: only now it may go on.
            sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
            [here, there]
        };
        let (first, twins) = tokio::join!(shop.post_once(&key, &path, sale.clone()), twins);
        for twin in twins {
            twin.refused(409, "request_in_flight");
            assert_eq!(twin.headers["retry-after"], "1");
        }
        let third = shop.post_at(node.address, &key, &path, &sale).await;
        assert_eq!((first.created(), first.position()), (third.created(), third.position()));
        assert_eq!(third.headers["idempotent-replayed"], "true");
        assert_eq!(shop.stock_of(&bread).await, left, "once");
    }
}

#[tokio::test]
async fn of_200_buyers_of_the_last_unit_one_gets_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let cake = shop.stocked("kue", 90_000, "1").await;
    let path = shop.sales();
    // At a till each: at one till they would take turns before they come to the stock.
    let mut tills = vec![shop.register];
    while tills.len() < 200 {
        tills.push(shop.till().await);
    }
    let buyers = tills.iter().map(async |till| {
        loop {
            let answer = shop.post(&path, shop.sale_at(*till, &cake, "1", 90_000)).await;
            // Overload is refused early; the buyer tries again.
            if answer.status != 503 {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let answers = futures_util::future::join_all(buyers).await;
    let sold = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(sold, 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        let problem = answer.refused(409, "out_of_stock");
        assert_eq!(problem["errors"][0]["pointer"], "/lines/0/quantity");
    }
    assert_eq!(shop.stock_of(&cake).await, "0.000");
    hub.ledgers_add_up().await;
    let sales = shop.journal().await.iter().filter(|it| it["event"]["type"] == "sale.completed").count();
    assert_eq!(sales, 1);
}

#[tokio::test]
async fn a_sale_that_was_refused_lets_go_of_its_key_before_it_is_told() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1").await;
    let (path, too_many) = (shop.sales(), shop.sale(&bread, "2", 15_000));
    for _ in 0..50 {
        shop.post_once("basket", &path, too_many.clone()).await.refused(409, "out_of_stock");
    }
    // The corrected one, and what is refused from then on because of it.
    shop.post_once("basket", &path, shop.sale(&bread, "1", 7_500)).await.created();
    for _ in 0..50 {
        shop.post_once("basket", &path, too_many.clone()).await.refused(422, "idempotency_key_reused");
    }
    let (staff, gone) = hub.token_of_someone(shop.merchant, Role::Cashier);
    shop.post(&format!("/v1/staff/{staff}/revocations"), json!({})).await.created();
    for _ in 0..50 {
        let body = too_many.to_string().into_bytes();
        shop.post_as(&gone, "another", &path, body).await.refused(401, "token_revoked");
        shop.post_once("another", &path, too_many.clone()).await.refused(409, "out_of_stock");
    }
    assert_eq!(shop.stock_of(&bread).await, "0.000");
}

#[tokio::test]
async fn registers_whose_codes_make_up_the_same_numbers_share_them_out() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.product("roti", 7_500).await;
    let mut tills = Vec::new();
    for (outlet_code, register_code) in [("A", "B-C"), ("A-B", "C")] {
        let (outlet, register) = (OutletId::new(), RegisterId::new());
        let body = json!({ "id": outlet, "code": outlet_code, "name": "Toko", "time_zone": "Asia/Jakarta" });
        shop.post("/v1/outlets", body).await.created();
        let body = json!({ "id": register, "code": register_code, "name": "Kasir" });
        shop.post(&format!("/v1/outlets/{outlet}/registers"), body).await.created();
        shop.owner().receives(outlet, &bread, "100").await;
        tills.push((format!("/v1/outlets/{outlet}/sales"), shop.sale_at(register, &bread, "1", 7_500)));
    }
    let sells = async |till: usize| {
        let (path, sale) = &tills[till];
        shop.post(path, sale.clone()).await.created()["number"].as_str().unwrap().to_owned()
    };
    let mut numbers = Vec::new();
    for till in [0, 1, 1, 0] {
        numbers.push(sells(till).await);
    }
    assert_eq!(numbers, ["A-B-C-000001", "A-B-C-000002", "A-B-C-000003", "A-B-C-000004"]);
    // Both at once, and one of them finds that the other was quicker.
    for _ in 0..10 {
        let (one, other) = tokio::join!(sells(0), sells(1));
        numbers.extend([one, other]);
    }
    numbers.sort();
    let all: Vec<String> = (1..=24).map(|n| format!("A-B-C-{n:06}")).collect();
    assert_eq!(numbers, all);
}

#[tokio::test]
async fn a_register_passes_over_numbers_that_a_till_has_brought() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let numbered = |id: Uuid, number: &str| {
        let mut sale = shop.sale(&bread, "1", 7_500);
        sale["id"] = json!(id);
        sale["number"] = json!(number);
        sale
    };
    let sells = async || {
        let sold = shop.post(&shop.sales(), shop.sale(&bread, "1", 7_500)).await.created();
        sold["number"].as_str().unwrap().to_owned()
    };
    let brought = Uuid::new_v4();
    shop.post(&shop.sales(), numbered(brought, "JKT-R1-000002")).await.created();
    assert_eq!([sells().await, sells().await], ["JKT-R1-000001", "JKT-R1-000003"]);
    // More than are looked at in one go, as by a till that numbered its own receipts for years.
    let years = "insert into sales (merchant_id, sale_id, outlet_id, register_id, number, business_date, currency,
                                    subtotal_minor, discount_minor, total_minor, actor_id, occurred_at)
        select merchant_id, gen_random_uuid(), outlet_id, register_id, 'JKT-R1-' || lpad(n::text, 6, '0'),
               current_date, 'IDR', 0, 0, 0, gen_random_uuid(), now()
        from registers, generate_series(4, 2503) n";
    hub.database.psql(years).await;
    assert_eq!([sells().await, sells().await], ["JKT-R1-002504", "JKT-R1-002505"]);

    // Whoever brings a number is told that it is taken, and whether by this very sale.
    let again = shop.post(&shop.sales(), numbered(brought, "JKT-R1-000002")).await.refused(409, "sale_exists");
    assert_eq!(again["errors"][0]["pointer"], "/id");
    let other = shop.post(&shop.sales(), numbered(Uuid::new_v4(), "JKT-R1-000002")).await;
    assert_eq!(other.refused(409, "receipt_number_taken")["errors"][0]["pointer"], "/number");
    assert_eq!(sells().await, "JKT-R1-002506");
}

/// `docs/decisions/0001-journal.md`: the catalogue is not locked, and the journal may tell of a new price before a sale at
/// the old one.
#[tokio::test]
async fn a_sale_is_at_the_prices_that_were_read_when_it_was_rung_up() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    // Somebody is about to take the register's next number: a sale has its prices by then, and waits.
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    let hold =
        "begin; insert into sales (merchant_id, sale_id, outlet_id, register_id, number, business_date, currency,
                                          subtotal_minor, discount_minor, total_minor, actor_id, occurred_at)
        select merchant_id, gen_random_uuid(), outlet_id, register_id, 'JKT-R1-000001', current_date, 'IDR', 0, 0, 0,
               gen_random_uuid(), now()
        from registers";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let dearer = async {
        hub.someone_is_locked_out().await;
        let variant = json!({ "sku": "roti", "price_minor": 8_000 });
        let import = json!({ "items": [{ "name": "roti", "variants": [variant] }] });
        assert_eq!(shop.post("/v1/products/import", import).await.ok()["changed"], 1);
        sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    };
    let path = shop.sales();
    let (sold, ()) = tokio::join!(shop.post(&path, shop.sale(&bread, "1", 7_500)), dearer);
    assert_eq!(sold.created()["total_minor"], 7_500);
    let journal = shop.journal_of(&["product.changed", "sale.completed"]).await;
    let told: Vec<_> = journal.iter().map(|(_, event)| event["type"].as_str().unwrap()).collect();
    assert_eq!(told, ["product.changed", "product.changed", "sale.completed"]);
    assert_eq!(journal[1].1["data"]["variants"][0]["price_minor"], 8_000);
    assert_eq!(journal[2].1["data"]["lines"][0]["unit_price_minor"], 7_500);

    // Once it was answered there is no other price, and whoever showed the old one is refused.
    let mut stale = shop.sale(&bread, "1", 7_500);
    stale["lines"][0]["unit_price_minor"] = json!(7_500);
    shop.post(&shop.sales(), stale).await.refused(409, "price_changed");
    shop.sells(&bread, 8_000).await;
}
