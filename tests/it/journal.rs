//! The journal: gapless, in commit order, chained; and what happens when a commit's answer is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tillwire::journal::chain::{self, Broken};
use tillwire::journal::{Caller, Journal, pool, upkeep};
use tillwire_channels::{Moment, StaffId};
use tokio::sync::Barrier;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::support::hub::TestHub;
use super::support::process::{Env, run};
use super::support::services::postgres::Postgres;
use super::support::services::proxy::{Cut, Proxy};

#[tokio::test]
async fn numbers_have_no_gap_under_32_writers_and_every_link_is_good() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    // A till and a product each: nothing but the head of the journal is where they meet.
    let mut counters = Vec::new();
    for n in 0..32 {
        counters.push((shop.till().await, shop.stocked(&format!("roti {n}"), 7_500, "100").await));
    }
    let writers = counters.iter().map(async |(till, bread)| {
        let mut sold = Vec::new();
        for _ in 0..5 {
            let asked = Instant::now();
            let answer = shop.post(&shop.sales(), shop.sale_at(*till, bread, "1", 7_500)).await;
            answer.created();
            sold.push(Sold { seq: seq_of(&answer.position()), asked, answered: Instant::now() });
        }
        sold
    });
    let over = AtomicBool::new(false);
    // Whoever looks meanwhile never sees a number without all those before it.
    let looking = async {
        let mut looks = 0;
        while !over.load(Ordering::Relaxed) {
            let holes = "select max(seq) - count(*) from journal_entries where merchant_id = $1";
            let holes: i64 = sqlx::query_scalar(holes).bind(shop.merchant.0).fetch_one(&hub.pools.feed).await.unwrap();
            assert_eq!(holes, 0);
            looks += 1;
        }
        looks
    };
    let selling = async {
        let sold = futures_util::future::join_all(writers).await.concat();
        over.store(true, Ordering::Relaxed);
        sold
    };
    let (mut sold, looks) = tokio::join!(selling, looking);
    assert!(looks > 1, "somebody looked while they wrote");
    sold.sort_unstable_by_key(|sold| sold.seq);
    let first = sold[0].seq;
    let numbers: Vec<u64> = sold.iter().map(|sold| sold.seq).collect();
    assert_eq!(numbers, (first..first + 160).collect::<Vec<_>>());
    for (later, at) in sold.iter().zip(0..) {
        // Whoever was answered before another asked was committed before it.
        assert!(sold[..at].iter().all(|before| before.asked < later.answered), "number {} came too early", later.seq);
    }

    let verified = chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
    assert_eq!((verified.first, verified.entries), (1, first + 159));
    // On hand falls by one with each entry of a product: the order of the journal is the order of the commits.
    let journal = shop.journal().await;
    for (_, bread) in &counters {
        let levels: Vec<&str> = journal
            .iter()
            .map(|it| &it["event"]["data"])
            .filter(|it| it["reason"] == "sale" && it["variant"] == bread.as_str())
            .map(|it| it["on_hand"].as_str().unwrap())
            .collect();
        assert_eq!(levels, ["99.000", "98.000", "97.000", "96.000", "95.000"]);
    }
    let clock = "select count(*) from (select recorded_at < lag(recorded_at) over (order by seq) as back
        from journal_entries) t where back";
    assert_eq!(hub.database.psql(clock).await.trim(), "0", "recorded_at never runs backwards");
}

/// A sale, and when its till asked for it and was answered.
#[derive(Clone, Copy)]
struct Sold {
    seq: u64,
    asked: Instant,
    answered: Instant,
}

/// The number of the entry at a position.
fn seq_of(position: &str) -> u64 {
    position.split(['-', '.']).next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn whoever_changes_history_is_found_out() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    shop.stocked("roti", 7_500, "10").await;
    let verify = async || chain::verify(&hub.pools.feed, shop.merchant).await.unwrap();
    let whole = verify().await.unwrap();
    let change = "update journal_entries set events = replace(events, '7500', '7501') where seq = 3";
    hub.database.psql(change).await;
    assert_eq!(verify().await, Err(Broken::Changed { seq: 3 }));
    hub.database.psql("update journal_entries set events = replace(events, '7501', '7500') where seq = 3").await;
    assert_eq!(verify().await, Ok(whole));
    hub.database.psql("delete from journal_entries where seq = 2").await;
    assert_eq!(verify().await, Err(Broken::Hole { seq: 2 }));
}

#[tokio::test]
async fn verification_is_a_command_that_ends_with_its_finding() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (feed, owner) = (hub.database.url("tillwire_feed"), hub.database.url("tillwire_migrate"));
    let merchant = shop.merchant.to_string();
    let verify = async |merchant: &str| {
        run(&["journal", "verify", "--feed-database-url", &feed, "--merchant", merchant], &Env::new()).await
    };
    let said = async || verify(&merchant).await;
    let good = said().await;
    let head = shop.journal().await.pop().unwrap()["position"].as_str().unwrap().replacen(".1-", "-", 1);
    let expected = format!("2 entries from number 1, every link good; the head is at {head}.\n");
    assert_eq!((good.code, good.out.as_str(), good.err.as_str()), (Some(0), expected.as_str(), ""));

    let changed = "update journal_entries set events = replace(events, 'JKT', 'BDG') where seq = 1";
    hub.database.psql(changed).await;
    let broken = said().await;
    assert_eq!((broken.code, broken.out.as_str()), (Some(1), ""));
    let finding = format!("the journal of {merchant} is broken: entry 1 was changed after it was committed");
    assert!(broken.err.contains(&finding), "{}", broken.err);

    let nobody = verify("00000000-0000-7000-8000-000000000000").await;
    assert!(nobody.code == Some(1) && nobody.err.contains("no such merchant"), "{nobody:?}");
    let nonsense = verify("Toko Roti").await;
    assert!(nonsense.code == Some(2) && nonsense.err.contains("--merchant"), "{nonsense:?}");
    let keeps_all =
        run(&["journal", "prune", "--migrate-database-url", &owner, "--before", "2020-01-01T00:00:00Z"], &Env::new())
            .await;
    assert_eq!((keeps_all.code, keeps_all.out.as_str()), (Some(0), ""), "{keeps_all:?}");
}

#[tokio::test]
async fn a_position_that_was_forgotten_or_never_was_needs_a_snapshot() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    shop.stocked("roti", 7_500, "10").await;
    let positions: Vec<String> =
        shop.journal().await.iter().map(|it| it["position"].as_str().unwrap().to_owned()).collect();
    let after = async |position: &str| shop.get(&format!("/v1/journal?after={position}")).await;
    let reason = async |position: &str| {
        after(position).await.refused(410, "snapshot_required")["snapshot"]["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(after(&positions[0]).await.ok()["events"].as_array().unwrap().len(), positions.len() - 1);
    assert_eq!(reason("2-00000000").await, "diverged");
    assert_eq!(reason("99-00000000").await, "diverged");
    // As retention does, though by the row.
    hub.database.psql("delete from journal_entries where seq <= 2").await;
    assert_eq!(reason(&positions[0]).await, "expired");
    assert_eq!(reason("0-00000000").await, "expired");
    // Right before the oldest that is left, nothing is missing.
    let whole_second = positions[1].replacen(".1", "", 1);
    assert_eq!(after(&whole_second).await.ok()["events"].as_array().unwrap().len(), positions.len() - 2);
    after("x").await.refused(400, "invalid_parameter");
}

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
        let done = proxy.cut_when(|bytes| bytes.windows(6).any(|it| it.eq_ignore_ascii_case(b"commit")), cut);
        shop.post_once(&key, &shop.sales(), sale.clone()).await.refused(500, "internal");
        done.await.unwrap();
        let settled = shop.post_once(&key, &shop.sales(), sale).await;
        settled.created();
        let before_the_server_got_it = matches!(cut, Cut::Before);
        assert_eq!(settled.headers.contains_key("idempotent-replayed"), !before_the_server_got_it);
        assert_eq!(shop.stock_of(&bread).await, left);
        assert_eq!(shop.journal().await.len(), entries + 3, "once");
    }
    chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cancelled_begin_never_poisons_a_pooled_connection() {
    let hub = TestHub::start().await;
    hub.database.psql("create table kept (n int); grant insert, select on kept to tillwire_app").await;
    for round in 0..300_u64 {
        let begin = tillwire::journal::pool::begin(&hub.pools.app);
        let patience = std::time::Duration::from_micros(round % 40 * 10);
        let _ = tokio::time::timeout(patience, begin).await;
    }
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
async fn a_command_that_deadlocks_is_run_again() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let [one, other] = [shop.stocked("roti", 7_500, "10").await, shop.stocked("kue", 9_000, "10").await];
    let (announce, _heard) = tokio::sync::mpsc::channel(8);
    let journal = Journal::new(hub.pools.clone(), announce, TaskTracker::new());
    let caller = Caller { merchant: shop.merchant, staff: StaffId::new(), issued_at: Moment::now_utc() };
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

#[tokio::test]
async fn old_partitions_are_dropped_by_the_owner_and_never_by_the_application() {
    let hub = TestHub::start().await;
    assert_eq!(upkeep::make_partitions(&hub.pools.app).await.unwrap(), 0, "they are there already");
    let owner = pool::open_for_owner(&hub.database.url("tillwire_migrate")).unwrap();
    assert_eq!(upkeep::prune(&owner, Moment::now_utc()).await.unwrap(), Vec::<String>::new(), "this month stays");
    assert!(upkeep::prune(&hub.pools.app, Moment::now_utc() + time::Duration::days(40)).await.is_err());
    let dropped = upkeep::prune(&owner, Moment::now_utc() + time::Duration::days(40)).await.unwrap();
    assert!((1..=2).contains(&dropped.len()), "{dropped:?}");
    // The application makes what is missing at its next start.
    let made = upkeep::make_partitions(&hub.pools.app).await.unwrap();
    assert_eq!(usize::try_from(made).unwrap(), dropped.len());
    owner.close().await;
}
