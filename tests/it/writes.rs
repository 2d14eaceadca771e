//! Writing: what is left when a write is cut off, gives way, or meets another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire::journal::read::ReadTx;
use tillwire::journal::{Caller, Journal, Pools, chain, pool};
use tillwire_channels::event::AccessRevoked;
use tillwire_channels::{Event, Moment, StaffId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::support::hub::{Shop, TestHub};
use super::support::process::{TillwireProcess, environment};
use super::support::services::postgres::Postgres;
use super::support::services::proxy::{Cut, Proxy};
use super::support::till::Till;

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_settled_by_the_same_key() {
    let port = Postgres::shared().await.tcp_port().expect("a cluster with TCP");
    let proxy = Proxy::to(port).await;
    let hub = TestHub::start_through(Some(proxy.port)).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    for (cut, left) in [(Cut::Before, "9.000"), (Cut::After, "8.000")] {
        let (key, sale) = (Uuid::new_v4().to_string(), shop.sale(&bread, "1", 7_500));
        let entries = shop.journal().await.len();
        hub.database.has_no_job_due().await;
        let done = proxy.cut_when(|bytes| bytes.windows(6).any(|it| it.eq_ignore_ascii_case(b"commit")), cut);
        shop.post_once(&key, &shop.sales(), sale.clone()).await.refused(500, "internal");
        done.await.unwrap();
        let settled = shop.post_again(&key, &shop.sales(), sale.clone()).await;
        settled.created();
        let before_the_server_got_it = matches!(cut, Cut::Before);
        assert_eq!(settled.headers.contains_key("idempotent-replayed"), !before_the_server_got_it);
        assert_eq!(shop.stock_of(&bread).await, left);
        assert_eq!(shop.journal().await.len(), entries + 3, "once");
    }
    chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

/// Which a broken connection is not: here nothing ends, nothing answers, and only our own patience does.
#[tokio::test]
async fn g1_a_database_that_falls_silent_in_the_middle_of_a_sale_costs_an_answer_and_no_connection() {
    // Their patience would add up to a minute, one after the other.
    tokio::join!(
        a_sale_meets_silence(b"BEGIN\0", Cut::Before, Duration::from_secs(20)),
        a_sale_meets_silence(b"COMMIT\0", Cut::Before, PATIENCE),
        a_sale_meets_silence(b"COMMIT\0", Cut::After, PATIENCE),
    );
}

async fn a_sale_meets_silence(word: &'static [u8], cut: Cut, patience: Duration) {
    let postgres = Postgres::shared().await;
    let database = postgres.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let proxy = Proxy::to(postgres.tcp_port().expect("a cluster with TCP")).await;
    let (app, feed) = (database.url_through(proxy.port, "tillwire_app"), database.url("tillwire_feed"));
    let (mut env, signer) = environment(&app, &feed);
    env.insert("TILLWIRE_DATABASE_CONNECTIONS", "2".to_owned());
    let hub = TillwireProcess::start(&["api"], &env).await;
    let till = Till::open(hub.public, &signer, 10).await;
    database.has_no_job_due().await;

    // The connection of one sale falls silent for ever, and for a while the whole database does.
    let silent = proxy.silence_when(move |bytes| bytes.windows(word.len()).any(|it| it == word), cut);
    let falls_silent = async {
        silent.await.unwrap();
        proxy.pause();
    };
    let met = async { tokio::join!(till.sell("met-by-silence"), falls_silent).0 };
    timeout(patience, met).await.expect("silence, and an answer in time").unwrap().refused(500, "internal");
    let meanwhile = timeout(patience, till.sell("meanwhile")).await.expect("an answer in time");
    meanwhile.unwrap().refused(503, "busy");
    proxy.resume();

    let settled = till.sell_at_last("met-by-silence").await;
    let was_recorded = settled.headers.contains_key("idempotent-replayed");
    assert_eq!(was_recorded, (word, cut) == (b"COMMIT\0", Cut::After));
    till.sell_at_last("meanwhile").await;

    // Two sales hold a connection each at the same time, and there are no more than two.
    let mut holder = PgConnection::connect(&database.url("postgres")).await.unwrap();
    sqlx::raw_sql("begin; select 1 from stock_levels for update").execute(&mut holder).await.unwrap();
    let both_wait = async {
        let waiting = "select count(*) from pg_stat_activity
            where datname = current_database() and usename = 'tillwire_app' and wait_event_type = 'Lock'";
        let started = Instant::now();
        while database.psql(waiting).await.trim() != "2" && started.elapsed() < PATIENCE {}
        sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    };
    let (one, other, ()) = tokio::join!(till.sell("one"), till.sell("other"), both_wait);
    one.unwrap().created();
    other.unwrap().created();

    assert_eq!(till.on_hand().await, "6.000");
    let sold = till.journal().await.iter().filter(|it| it["event"]["type"] == "sale.completed").count();
    assert_eq!(sold, 4);
    let pools = Pools::open(&app, &feed, 1).unwrap();
    chain::verify(&pools.feed, till.merchant).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cancelled_begin_never_poisons_a_pooled_connection() {
    let hub = TestHub::start().await;
    hub.database.psql("create table kept (n int); grant insert, select on kept to tillwire_app").await;
    let mut cut = 0;
    for round in 0..300_u64 {
        let begin = pool::begin(&hub.pools.app);
        let patience = Duration::from_micros(round % 40 * 10);
        cut += u32::from(timeout(patience, begin).await.is_err());
    }
    assert!(cut > 0, "all of them were quicker than we lose patience");
    for n in 0..40 {
        sqlx::query("insert into kept values ($1)").bind(n).execute(&hub.pools.app).await.unwrap();
    }
    assert_eq!(hub.database.psql("select count(*) from kept").await.trim(), "40");
}

#[tokio::test]
async fn baskets_in_opposite_order_never_wait_for_each_other_in_a_ring() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut variants = Vec::new();
    for n in 0..6 {
        variants.push(shop.stocked(&format!("roti {n}"), 1_000, "500").await);
    }
    // A till each: at one till they would never meet at the stock.
    let mut tills = Vec::new();
    for _ in 0..40 {
        tills.push(shop.till().await);
    }
    let sell = |n: usize| {
        let mut lines: Vec<_> = variants.iter().map(|it| json!({ "variant": it, "quantity": "1" })).collect();
        if n.is_multiple_of(2) {
            lines.reverse();
        }
        let body = json!({ "register": tills[n], "lines": lines,
            "tenders": [{ "method": "qris", "amount_minor": 6_000 }] });
        let (path, shop) = (shop.sales(), &shop);
        async move { shop.post(&path, body).await.created() }
    };
    futures_util::future::join_all((0..40).map(sell)).await;
    assert_eq!(shop.stock_of(&variants[0]).await, "460.000");
    hub.ledgers_add_up().await;
    // A deadlock would have been retried unseen; the database counts them.
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(hub.database.psql(deadlocks).await.trim(), "0");
}

/// The test above could be lucky. Here somebody holds one level after the other, and whoever waits for it must by then have
/// locked those before it, and none after it.
#[tokio::test]
async fn stock_is_locked_in_variant_order_whatever_the_order_of_the_lines() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut variants = Vec::new();
    for n in 0..5 {
        variants.push(shop.stocked(&format!("roti {n}"), 1_000, "500").await);
    }
    // Ids are of their time: neither the order of the lines nor its opposite may pass for theirs.
    let lines: Vec<_> = [3, 0, 4, 2, 1].iter().map(|n| json!({ "variant": variants[*n], "quantity": "1" })).collect();
    let sale = json!({ "register": shop.register, "lines": lines,
        "tenders": [{ "method": "qris", "amount_minor": 5_000 }] });
    let delivery = json!({ "reason": "received", "lines": lines });
    variants.sort();
    let moves = format!("/v1/outlets/{}/stock/moves", shop.outlet);
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    for (path, body) in [(shop.sales(), sale), (moves, delivery)] {
        for (at, held) in variants.iter().enumerate() {
            sqlx::raw_sql("begin").execute(&mut holder).await.unwrap();
            let lock = "select 1 from stock_levels where variant_id = $1::uuid for update";
            sqlx::query(lock).bind(Uuid::parse_str(held).unwrap()).execute(&mut holder).await.unwrap();
            let key = Uuid::new_v4().to_string();
            let looking = async {
                hub.someone_is_locked_out().await;
                let free = "select variant_id from stock_levels order by variant_id for update skip locked";
                let free = hub.database.psql(free).await;
                // The head is for the last statement: whoever waits for stock keeps nobody else from it.
                let head = hub.database.psql("select 1 from journal_heads for update skip locked").await;
                assert_eq!(head, "1", "{path} waits for number {at}, and holds the head");
                sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
                free.lines().map(str::to_owned).collect::<Vec<_>>()
            };
            let (answer, free) = tokio::join!(shop.post_once(&key, &path, body.clone()), looking);
            answer.created();
            assert_eq!(free, variants[at + 1..], "{path} waits for number {at}");
        }
    }
}

#[tokio::test]
async fn merchants_never_wait_for_each_other() {
    let hub = TestHub::start().await;
    let (bakery, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let (bread, cake) = (bakery.stocked("roti", 7_500, "10").await, rival.stocked("kue", 9_000, "10").await);
    // Whoever writes for the bakery comes no further than its journal's head.
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    sqlx::raw_sql("begin").execute(&mut holder).await.unwrap();
    let lock = "select 1 from journal_heads where merchant_id = $1 for update";
    sqlx::query(lock).bind(bakery.merchant.0).execute(&mut holder).await.unwrap();
    let meanwhile = async {
        hub.someone_is_locked_out().await;
        for _ in 0..5 {
            rival.sells(&cake, 9_000).await;
        }
        hub.someone_is_locked_out().await;
        sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    };
    let path = bakery.sales();
    let (sold, ()) = tokio::join!(bakery.post(&path, bakery.sale(&bread, "1", 7_500)), meanwhile);
    sold.created();
    assert_eq!(bakery.stock_of(&bread).await, "9.000");
    assert_eq!(rival.stock_of(&cake).await, "5.000");
}

/// The journal alone, for commands that no route has.
fn journal_over(pools: Pools) -> Journal {
    let (announce, _) = tokio::sync::mpsc::channel(8);
    Journal::new(pools, announce, TaskTracker::new())
}

fn caller_of(shop: &Shop<'_>) -> Caller {
    Caller { merchant: shop.merchant, staff: StaffId::new(), issued_at: Moment::now_utc(), trace: None }
}

#[tokio::test]
async fn a_command_that_does_not_serialise_is_tried_three_times_and_leaves_what_the_last_try_did() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (journal, caller) = (journal_over(hub.pools.clone()), caller_of(&shop));
    let entries = shop.journal().await.len();
    // The database would have its reasons; here it is told how often.
    let write = async |refusals: u32, code: &'static str| {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let written = journal.write(caller, None, 200, move |tx| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let revoked = AccessRevoked { staff: StaffId::new(), issued_until: tx.now() };
                tx.append(&Event::AccessRevoked(revoked), tx.now())?;
                let merchant = tx.merchant();
                let row = "insert into staff (merchant_id, staff_id, name, role) values ($1, $2, 'Ani', 'cashier')";
                sqlx::query(row).bind(merchant.0).bind(Uuid::now_v7()).execute(tx.sql()).await?;
                if run < refusals {
                    let refusal = format!("do $$ begin raise exception 'no' using errcode = '{code}'; end $$");
                    sqlx::raw_sql(AssertSqlSafe(refusal)).execute(tx.sql()).await?;
                }
                Ok("done")
            }
            .boxed()
        });
        let written = written.await.map(|written| written.status).map_err(|error| format!("{error:?}"));
        (written.ok(), runs.load(Ordering::SeqCst))
    };
    for (refusals, code, expected) in [
        (2, "40001", (Some(200), 3)),
        (2, "40P01", (Some(200), 3)),
        (3, "40001", (None, 3)),
        (3, "40P01", (None, 3)),
        (1, "55P03", (None, 1)), // Nobody gets a lock sooner by asking again.
    ] {
        assert_eq!(write(refusals, code).await, expected, "{refusals} times {code}");
    }
    assert_eq!(shop.journal().await.len(), entries + 2, "one event for each that was done");
    assert_eq!(hub.database.psql("select count(*) from staff").await.trim(), "2");
    chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sale_that_gets_no_lock_in_time_is_not_done_and_may_be_tried_again() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    // It is held half-way, and in its last statement.
    for (held, left) in [("stock_levels", "9.000"), ("journal_heads", "8.000")] {
        let (key, sale) = (Uuid::new_v4().to_string(), shop.sale(&bread, "1", 7_500));
        let entries = shop.journal().await.len();
        let hold = format!("begin; select 1 from {held} for update");
        sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut holder).await.unwrap();
        let late = shop.post_once(&key, &shop.sales(), sale.clone()).await;
        late.refused(503, "busy");
        assert_eq!(late.headers["retry-after"], "1");
        sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
        assert_eq!(shop.journal().await.len(), entries);

        let sold = shop.post_once(&key, &shop.sales(), sale.clone()).await;
        sold.created();
        assert!(!sold.headers.contains_key("idempotent-replayed"), "{held}: there was no answer to keep");
        assert_eq!(shop.stock_of(&bread).await, left, "once");
    }
    hub.ledgers_add_up().await;
}

#[tokio::test]
async fn time_is_bounded_in_the_transaction_itself_whatever_the_connection_allows() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    // As behind a pooler, which drops what a client asks for when it connects.
    let app = PgPoolOptions::new().max_connections(1).connect(&hub.database.url("tillwire_app")).await.unwrap();
    let settings = "select current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') || ' '
        || current_setting('idle_in_transaction_session_timeout') || ' '
        || coalesce(current_setting('tillwire.merchant', true), '')";
    let outside: String = sqlx::query_scalar(settings).fetch_one(&app).await.unwrap();
    assert_eq!(outside, "0 0 0 ");

    let (journal, caller) = (journal_over(Pools { app: app.clone(), feed: hub.pools.feed.clone() }), caller_of(&shop));
    let written = journal.write(caller, None, 200, move |tx| {
        async move { Ok(sqlx::query_scalar::<_, String>(settings).fetch_one(tx.sql()).await?) }.boxed()
    });
    assert_eq!(written.await.unwrap().reply, format!("\"10s 3s 2s {}\"", shop.merchant));
    let mut read = ReadTx::begin(&app, caller).await.unwrap();
    let inside: String = sqlx::query_scalar(settings).fetch_one(read.sql()).await.unwrap();
    assert_eq!(inside, format!("10s 0 2s {}", shop.merchant), "a reader waits for no lock");
    drop(read);
    let outside: String = sqlx::query_scalar(settings).fetch_one(&app).await.unwrap();
    assert_eq!(outside, "0 0 0 ", "and nothing is left behind");
}

/// A sale as it goes over the wire.
fn over_the_wire(shop: &Shop<'_>, key: &str, sale: &Value) -> Vec<u8> {
    let (path, owner, body) = (shop.sales(), &shop.owner, sale.to_string());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: tillwire\r\nauthorization: Bearer {owner}\r\nidempotency-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

#[tokio::test]
async fn g1_a_till_that_hangs_up_leaves_one_whole_sale_or_none() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let sale = shop.sale(&bread, "1", 7_500);
    let says = async |bytes: &[u8]| {
        let mut till = TcpStream::connect(hub.address).await.unwrap();
        till.write_all(bytes).await.unwrap();
        till
    };
    // What became of a sale: the same key tells, as soon as it is over.
    let settles = async |key: &str| {
        let started = Instant::now();
        loop {
            let answer = shop.post_once(key, &shop.sales(), sale.clone()).await;
            if ![409, 503].contains(&answer.status) || started.elapsed() > PATIENCE {
                answer.created();
                return answer.headers.contains_key("idempotent-replayed");
            }
        }
    };

    // In the middle of the write, which waits for a row; the hub has seen it go when it closes its own end.
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    sqlx::raw_sql("begin; select 1 from stock_levels for update").execute(&mut holder).await.unwrap();
    let mut till = says(&over_the_wire(&shop, "held", &sale)).await;
    hub.someone_is_locked_out().await;
    till.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // It may be reset as well.
    let _ = timeout(PATIENCE, till.read_to_end(&mut answer)).await.expect("the hub hangs up as well");
    assert_eq!(answer, b"", "nobody is there to be answered");
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    assert!(settles("held").await, "what had begun was completed");

    // Before all of it was said.
    let whole = over_the_wire(&shop, "half", &sale);
    drop(says(&whole[..whole.len() - 1]).await);
    assert!(!settles("half").await, "nothing had begun");

    // At any time; and those who only read hang up as well.
    let keys: Vec<String> = (0..30).map(|n| format!("any-{n}")).collect();
    for key in &keys {
        drop(says(&over_the_wire(&shop, key, &sale)).await);
        let read =
            format!("GET /v1/journal HTTP/1.1\r\nhost: tillwire\r\nauthorization: Bearer {}\r\n\r\n", shop.owner);
        drop(says(read.as_bytes()).await);
    }
    for key in &keys {
        settles(key).await;
    }
    // Whoever has their connections next finds them sound.
    futures_util::future::join_all((0..20).map(|_| shop.sells(&bread, 7_500))).await;
    assert_eq!(shop.stock_of(&bread).await, "48.000");
    hub.ledgers_add_up().await;
    let whole = "select count(*) from sales where
        (select count(*) from sale_lines where sale_lines.sale_id = sales.sale_id) = 1
        and (select count(*) from payments where payments.sale_id = sales.sale_id) = 1
        and (select count(*) from stock_moves where document_id = sales.sale_id) = 1";
    assert_eq!(hub.database.psql(whole).await.trim(), "52");
    let told = shop.journal().await.iter().filter(|it| it["event"]["type"] == "sale.completed").count();
    assert_eq!(told, 52);
    chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_command_that_deadlocks_is_run_again() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let [one, other] = [shop.stocked("roti", 7_500, "10").await, shop.stocked("kue", 9_000, "10").await];
    let (journal, caller) = (journal_over(hub.pools.clone()), caller_of(&shop));
    let (runs, meet) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(2)));
    let write = |order: [String; 2]| {
        let (runs, meet) = (runs.clone(), meet.clone());
        journal.write(caller, None, 200, move |tx| {
            let (order, meet, run) = (order.clone(), meet.clone(), runs.fetch_add(1, Ordering::SeqCst));
            async move {
                for (at, variant) in order.iter().enumerate() {
                    let lock = "select 1 from stock_levels where variant_id = $1::uuid for update";
                    sqlx::query(lock).bind(Uuid::parse_str(variant)?).execute(tx.sql()).await?;
                    // Both hold their first lock before either asks for its second; a second run goes straight on.
                    if at == 0 && run < 2 {
                        meet.wait().await;
                    }
                }
                Ok("done")
            }
            .boxed()
        })
    };
    let (first, second) = tokio::join!(write([one.clone(), other.clone()]), write([other.clone(), one.clone()]));
    assert_eq!((first.unwrap().status, second.unwrap().status), (200, 200));
    assert_eq!(runs.load(Ordering::SeqCst), 3, "one of the two was chosen to give way, and ran again");
}
