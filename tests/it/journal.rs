//! The journal: gapless, in commit order, chained.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tillwire::journal::chain::{self, Broken};
use tillwire_channels::{Position, Tag};

use super::support::hub::TestHub;
use super::support::process::{Env, run};

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
async fn a_clock_that_is_put_back_does_not_take_the_journal_with_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    // As if it had been an hour later when the last entry was recorded.
    hub.database.psql("update journal_heads set recorded_at = now() + interval '1 hour'").await;
    for _ in 0..2 {
        shop.sells(&bread, 7_500).await;
    }
    let then = "select count(*) from journal_entries join journal_heads using (merchant_id, recorded_at)
        where recorded_at > now() + interval '30 minutes'";
    assert_eq!(hub.database.psql(then).await, "2", "both are of the moment of the entry before them");
    chain::verify(&hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_changes_history_is_found_out() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    shop.stocked("roti", 7_500, "10").await;
    let verify = async || chain::verify(&hub.pools.feed, shop.merchant).await.unwrap();
    let whole = verify().await.unwrap();
    let head = whole.head;
    let third: Position = shop.journal().await[2]["position"].as_str().unwrap().parse().unwrap();
    let third = Position { event: None, ..third };
    hub.database.psql("create table entries as table journal_entries; create table heads as table journal_heads").await;
    let other = Tag([1, 2, 3, 4, 5, 6, 7, 8]);
    for (change, finding) in [
        (
            "update journal_entries set events = replace(events, '7500', '7501') where seq = 3",
            Broken::Changed { seq: 3 },
        ),
        ("delete from journal_entries where seq = 2", Broken::Hole { seq: 2 }),
        ("update journal_entries set prev = '\\x0102030405060708' where seq = 1", Broken::Unchained { seq: 1 }),
        ("update journal_entries set prev = '\\x0102030405060708' where seq = 3", Broken::Unchained { seq: 3 }),
        (
            "update journal_entries set recorded_at = recorded_at + interval '1 hour' where seq = 2",
            Broken::BackInTime { seq: 3 },
        ),
        ("delete from journal_entries where seq = 4", Broken::Head { head, last: third }),
        (
            "update journal_heads set tag = '\\x0102030405060708'",
            Broken::Head { head: Position::of_entry(4, other), last: head },
        ),
        ("delete from journal_entries", Broken::Emptied { head }),
    ] {
        hub.database.psql(change).await;
        assert_eq!(verify().await, Err(finding), "{change}");
        let as_it_was = "truncate journal_entries, journal_heads; insert into journal_entries table entries;
            insert into journal_heads table heads";
        hub.database.psql(as_it_was).await;
    }
    assert_eq!(verify().await, Ok(whole));
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
    hub.database.psql("delete from journal_entries").await;
    let emptied = said().await;
    assert_eq!((emptied.code, emptied.out.as_str()), (Some(1), ""));
    let finding = format!("is broken: the head is at {head}, but no entry is left");
    assert!(emptied.err.contains(&finding), "{}", emptied.err);

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
