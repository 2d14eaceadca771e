//! Months of the journal are made ahead, and dropped when they are old: whoever still needs them is told, and nobody is
//! left with a gap.

use std::time::Instant;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire::journal::{pool, upkeep};
use tillwire::node::Faces;
use tillwire_channels::Moment;

use super::support::hub::{Shop, TestHub};
use super::support::process::{Env, Outcome, run};
use super::support::screen::Screen;

/// The month before this one.
const LAST_MONTH: &str = "date_trunc('month', now() at time zone 'utc') - interval '1 month'";

/// Has the entries up to a number be of last month, as if they had been there all the time.
async fn grow_old(shop: &Shop<'_>, up_to: u64) {
    let merchant = shop.merchant;
    let sql = format!(
        "do $$ declare month timestamp := {LAST_MONTH}; begin
             execute format('create table journal_entries_%s partition of journal_entries for values from (%L) to (%L)',
                 to_char(month, 'YYYY_MM'), month at time zone 'utc',
                 (month + interval '1 month') at time zone 'utc');
             execute format('alter table journal_entries_%s owner to tillwire_migrate', to_char(month, 'YYYY_MM'));
         end $$;
         update journal_entries set recorded_at = ({LAST_MONTH}) at time zone 'utc' + seq * interval '1 second'
         where merchant_id = '{merchant}' and seq <= {up_to}"
    );
    shop.hub.database.psql(&sql).await;
}

/// Drops what is older than this month, as an operator does.
async fn prune(hub: &TestHub) {
    let pruned = tries_to_prune(hub).await;
    let expected = format!("Dropped {}.\n", old_partition(hub).await);
    assert_eq!((pruned.code, pruned.out), (Some(0), expected), "{}", pruned.err);
}

async fn tries_to_prune(hub: &TestHub) -> Outcome {
    tries_to_prune_with(hub, &[]).await
}

async fn tries_to_prune_with(hub: &TestHub, flags: &[&str]) -> Outcome {
    let now = hub.database.psql("select to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')").await;
    let owner = hub.database.url("tillwire_migrate");
    let command = ["journal", "prune", "--migrate-database-url", &owner, "--before", now.trim()];
    run(&[&command[..], flags].concat(), &Env::new()).await
}

/// What the entries of last month are kept in.
async fn old_partition(hub: &TestHub) -> String {
    let month = hub.database.psql(&format!("select to_char({LAST_MONTH}, 'YYYY_MM')")).await;
    format!("journal_entries_{}", month.trim())
}

/// The position of a whole entry, as its events name it.
fn entry_of(event: &Value) -> String {
    let (place, tag) = event["position"].as_str().unwrap().split_once('-').unwrap();
    format!("{}-{tag}", place.split('.').next().unwrap())
}

fn seq_of(event: &Value) -> u64 {
    event["event"]["seq"].as_u64().unwrap()
}

#[tokio::test]
async fn g3_whoever_comes_back_after_retention_is_told_over_rest_and_on_a_screen() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    for _ in 0..6 {
        shop.sells(&bread, 7_500).await;
    }
    // The last three sales are of this month.
    let last_gone = seq_of(shop.journal().await.last().unwrap()) - 3;
    grow_old(&shop, last_gone).await;
    let journal = shop.journal().await;
    let oldest = entry_of(journal.iter().find(|it| seq_of(it) == last_gone).unwrap());
    let gone: Vec<&str> = journal
        .iter()
        .filter(|it| seq_of(it) <= last_gone)
        .map(|it| it["position"].as_str().unwrap())
        .chain(["0-00000000"])
        .collect();
    prune(&hub).await;

    for position in gone {
        let answer = shop.get(&format!("/v1/journal?after={position}")).await.refused(410, "snapshot_required");
        assert_eq!(answer["snapshot"], json!({ "reason": "expired", "oldest": oldest }), "{position}");
        let mut screen = shop.screen_after(hub.address, &["sales"], position).await;
        assert_eq!(screen.hears("ready").await.position.as_deref(), Some(position));
        let told = screen.hears("snapshot_required").await;
        assert_eq!((told.body, told.position), (json!({ "reason": "expired", "oldest": oldest }), None), "{position}");
        assert_eq!(screen.hears("caught_up").await.body["replayed"], 0);
        // It goes on live.
        let sold = shop.sells(&bread, 7_500).await;
        assert_eq!(screen.hears("sale.completed").await.position.unwrap(), sold.replace('-', ".1-"));
    }
    // From the oldest that is said to be good, nothing is missing.
    let page = shop.get(&format!("/v1/journal?limit=500&after={oldest}")).await.ok();
    let kept = page["events"].as_array().unwrap();
    let before: Vec<Value> = journal.into_iter().filter(|it| seq_of(it) > last_gone).collect();
    assert_eq!(kept[..before.len()], before);
    let mut screen = shop.screen_after(hub.address, &["sales", "payments", "stock"], &oldest).await;
    let places: Vec<Value> = screen.catches_up().await.into_iter().map(|it| json!(it.position.unwrap())).collect();
    assert_eq!(places, kept.iter().map(|it| it["position"].clone()).collect::<Vec<_>>());
}

#[tokio::test]
async fn g3_entries_that_vanish_in_mid_replay_are_missed_by_nobody_unknowingly() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Besar").await;
    // More than a gateway reads at once, in entries of which one is more than a screen may have unconfirmed.
    for chunk in 0..40 {
        let items: Vec<Value> = (0..100)
            .map(|item| {
                let name = format!("barang {chunk} {item} {}", "x".repeat(150));
                json!({ "name": name, "variants": [{ "sku": format!("{chunk}-{item}"), "price_minor": 1_000 }] })
            })
            .collect();
        shop.post("/v1/products/import", json!({ "items": items })).await.ok();
    }
    let journal: Vec<Value> =
        shop.journal().await.into_iter().filter(|it| it["event"]["type"] == "product.changed").collect();
    let last = seq_of(journal.last().unwrap());
    let oldest = entry_of(journal.iter().find(|it| seq_of(it) == last - 1).unwrap());
    grow_old(&shop, last - 1).await;

    let auth = json!({ "token": shop.owner, "channels": ["catalog"], "after": "0-00000000" });
    let mut screen = Screen::enters_narrow(hub.address, auth).await;
    screen.hears("ready").await;
    let mut heard = vec![screen.hears("product.changed").await];
    // Its replay has begun, and it reads no further. Meanwhile:
    prune(&hub).await;
    let told = loop {
        let next = screen.next().await;
        match next.name.as_str() {
            "product.changed" => heard.push(next),
            _ => break next,
        }
    };
    assert_eq!((told.name.as_str(), told.position), ("snapshot_required", None));
    assert_eq!(told.body, json!({ "reason": "expired", "oldest": oldest }));
    assert!(heard.len() < journal.len() - 100, "some of it was gone before it was read");
    let places: Vec<Value> = heard.iter().map(|it| json!(it.position.clone().unwrap())).collect();
    let without_a_gap: Vec<Value> = journal[..heard.len()].iter().map(|it| it["position"].clone()).collect();
    assert_eq!(places, without_a_gap, "what came before it is whole");
    assert_eq!(screen.hears("caught_up").await.body["replayed"], heard.len());
    shop.product("kopi", 20_000).await;
    assert_eq!(screen.hears("product.changed").await.data()["name"], "kopi");
}

#[tokio::test]
async fn g3_a_hole_in_the_journal_is_never_jumped_over() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    for _ in 0..6 {
        shop.sells(&bread, 7_500).await;
    }
    let journal = shop.journal().await;
    let hole = seq_of(journal.last().unwrap()) - 2;
    hub.database.psql(&format!("delete from journal_entries where seq = {hole}")).await;

    let before: Vec<Value> = journal.iter().filter(|it| seq_of(it) < hole).map(|it| it["position"].clone()).collect();
    let page = shop.get("/v1/journal?limit=500").await.ok();
    let places: Vec<Value> = page["events"].as_array().unwrap().iter().map(|it| it["position"].clone()).collect();
    assert_eq!((places, &page["more"]), (before, &json!(true)));
    let next = format!("/v1/journal?after={}", page["position"].as_str().unwrap());
    let told = shop.get(&next).await.refused(410, "snapshot_required");
    assert_eq!(told["snapshot"]["reason"], "expired");

    let mut screen = shop.screen_after(hub.address, &["sales"], "0-00000000").await;
    screen.hears("ready").await;
    let sales = journal.iter().filter(|it| it["event"]["type"] == "sale.completed" && seq_of(it) < hole);
    let mut replayed = 0;
    for sale in sales {
        assert_eq!(json!(screen.hears("sale.completed").await.position.unwrap()), sale["position"]);
        replayed += 1;
    }
    assert_eq!(screen.hears("snapshot_required").await.body["reason"], "expired");
    assert_eq!(screen.hears("caught_up").await.body["replayed"], replayed);
    shop.sells(&bread, 7_500).await;
    screen.hears("sale.completed").await;
}

#[tokio::test]
async fn a_node_makes_the_partitions_that_are_missing_when_it_starts() {
    let hub = TestHub::start().await;
    let names = "select coalesce(string_agg(relname, ' ' order by relname), '')
        from pg_inherits join pg_class on oid = inhrelid where inhparent = 'journal_entries'::regclass";
    hub.has_done("partitions").await; // The first node makes no more of them.
    let made = hub.database.psql(names).await;
    assert_eq!(made.split(' ').count(), 4, "this month and three ahead: {made}");
    // At its start it may just be making them once more.
    while !hub.database.psql(names).await.is_empty() {
        for partition in made.split(' ') {
            hub.database.psql(&format!("drop table if exists {partition}")).await;
        }
    }
    let node = hub.node(Faces::API, &[]).await;
    let started = Instant::now();
    while hub.database.psql(names).await != made {
        assert!(started.elapsed().as_secs() < 30, "not made");
    }
    drop(node);
    // Walled like those that were there before, and written to at once.
    let open = "select count(*) from pg_inherits join pg_class on oid = inhrelid
        where inhparent = 'journal_entries'::regclass and not (relrowsecurity and relforcerowsecurity)";
    assert_eq!(hub.database.psql(open).await.trim(), "0");
    hub.merchant("Toko Roti").await;
}

#[tokio::test]
async fn old_partitions_are_dropped_by_the_owner_and_never_by_the_application() {
    let hub = TestHub::start().await;
    hub.has_done("partitions").await; // Nobody else makes any.
    assert_eq!(upkeep::make_partitions(&hub.pools.app).await.unwrap(), 0, "they are there already");
    let owner = pool::open_for_owner(&hub.database.url("tillwire_migrate")).unwrap();
    let (now, later) = (Moment::now_utc(), Moment::now_utc() + time::Duration::days(40));
    let mut dropped = Vec::new();
    upkeep::prune(&owner, now, false, |name| panic!("{name}: this month stays")).await.unwrap();
    assert!(
        upkeep::prune(&hub.pools.app, later, false, |name| panic!("{name}: not by the application")).await.is_err()
    );
    upkeep::prune(&owner, later, false, |name| dropped.push(name.to_owned())).await.unwrap();
    assert!((1..=2).contains(&dropped.len()), "{dropped:?}");
    // The application makes what is missing at its next start.
    let made = upkeep::make_partitions(&hub.pools.app).await.unwrap();
    assert_eq!(usize::try_from(made).unwrap(), dropped.len());
    owner.close().await;
}

#[tokio::test]
async fn a_journal_without_entries_is_good_only_where_retention_took_them() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Lama").await;
    let head = entry_of(shop.journal().await.last().unwrap());
    grow_old(&shop, seq_of(shop.journal().await.last().unwrap())).await;
    let last = "update journal_heads set recorded_at = (select max(recorded_at) from journal_entries)";
    hub.database.psql(last).await;
    let (feed, merchant) = (hub.database.url("tillwire_feed"), shop.merchant.to_string());
    let verify = ["journal", "verify", "--feed-database-url", &feed, "--merchant", &merchant];

    hub.database.psql("delete from journal_entries").await;
    let emptied = run(&verify, &Env::new()).await;
    assert_eq!((emptied.code, emptied.out.as_str()), (Some(1), ""), "their month is still kept");
    assert!(emptied.err.contains("no entry is left, and retention has not come that far"), "{}", emptied.err);
    prune(&hub).await;
    let good = run(&verify, &Env::new()).await;
    let expected = format!("No entries are left: retention has dropped them all. The head is at {head}.\n");
    assert_eq!((good.code, good.out), (Some(0), expected), "{}", good.err);

    // Its journal goes on where it was.
    shop.product("roti", 7_500).await;
    let good = run(&verify, &Env::new()).await;
    assert!(good.code == Some(0) && good.out.starts_with("1 entries from number 3, every link good"), "{good:?}");
}

#[tokio::test]
async fn a_drop_that_tills_would_wait_behind_gives_up() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    grow_old(&shop, 2).await;
    // Somebody reads for longer than anybody should wait.
    let mut reader = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    sqlx::raw_sql("begin; select count(*) from journal_entries").execute(&mut reader).await.unwrap();
    let selling = async {
        hub.someone_is_locked_out().await;
        shop.sells(&bread, 7_500).await;
    };
    let (gave_up, ()) = tokio::join!(tries_to_prune(&hub), selling);
    assert_eq!((gave_up.code, gave_up.out.as_str()), (Some(1), ""));
    let why = format!("dropping {}: journals are being read; try later: ", old_partition(&hub).await);
    assert!(gave_up.err.contains(&why), "{}", gave_up.err);
    sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();

    // Who reads the one month is in the way of no other, and the operator is told of what is gone all the same.
    let older = "create table journal_entries_2020_01 partition of journal_entries
                     for values from ('2020-01-01Z') to ('2020-02-01Z');
                 alter table journal_entries_2020_01 owner to tillwire_migrate";
    hub.database.psql(older).await;
    let reads = AssertSqlSafe(format!("begin; select count(*) from {}", old_partition(&hub).await));
    sqlx::raw_sql(reads).execute(&mut reader).await.unwrap();
    let gave_up = tries_to_prune(&hub).await;
    assert_eq!(
        (gave_up.code, gave_up.out.as_str()),
        (Some(1), "Dropped journal_entries_2020_01.\n"),
        "{}",
        gave_up.err
    );
    sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();
    prune(&hub).await;
    shop.sells(&bread, 7_500).await;
}

/// An endpoint of a merchant, which nobody serves.
async fn endpoint(shop: &Shop<'_>) -> String {
    let made = shop.post("/v1/webhooks", json!({ "url": "https://hooks.example/" })).await.created();
    made["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_a_webhook_or_the_relay_has_not_come_past_is_kept() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let (served, disabled) = (endpoint(&shop).await, endpoint(&shop).await);
    let bread = shop.stocked("roti", 7_500, "100").await;
    for _ in 0..3 {
        shop.sells(&bread, 7_500).await;
    }
    let last = seq_of(shop.journal().await.last().unwrap());
    grow_old(&shop, last).await;
    // One more, of this month: whoever stands before it is behind nothing that is dropped.
    shop.sells(&bread, 7_500).await;
    let disable = format!(
        "update webhook_endpoints set state = 'disabled', disabled_why = 'by_hand' where endpoint_id = '{disabled}'"
    );
    hub.database.psql(&disable).await;

    let stands = async |place: String| {
        hub.database.psql(&format!("update webhook_endpoints set {place} where endpoint_id = '{served}'")).await;
    };
    let behind = |reader: &str, next: u64| format!("merchant {}, {reader}, is before entry {next}", shop.merchant);
    let is_kept = async |by: String| {
        let kept = tries_to_prune(&hub).await;
        assert_eq!((kept.code, kept.out.as_str()), (Some(1), ""), "{by}");
        let why = format!("{} is still needed: {by}\n", old_partition(&hub).await);
        assert!(kept.err.ends_with(&why), "{}", kept.err);
    };
    for (place, next) in [
        (format!("seq = {}, event = null", last - 2), last - 1),
        (format!("seq = {}, event = null", last - 1), last),
        (format!("seq = {last}, event = 1"), last),
    ] {
        stands(place).await;
        is_kept(behind(&format!("webhook {served}"), next)).await;
    }
    stands(format!("seq = {last}, event = null")).await;

    // A relay has been at work elsewhere, and not come here yet; or not far enough.
    let relayed = async |merchant, seq| {
        let cursor = format!(
            "insert into relay_cursors values ('{merchant}', {seq}, '\\x00000000')
             on conflict (merchant_id) do update set seq = excluded.seq"
        );
        hub.database.psql(&cursor).await;
    };
    relayed(rival.merchant, 0).await;
    is_kept(behind("relay", 1)).await;
    relayed(shop.merchant, last - 1).await;
    is_kept(behind("relay", last)).await;
    relayed(shop.merchant, last).await;
    prune(&hub).await;
}

#[tokio::test]
async fn what_a_redelivery_or_a_handler_has_not_come_past_is_kept() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let webhook = endpoint(&shop).await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    for _ in 0..3 {
        shop.sells(&bread, 7_500).await;
    }
    let (merchant, newest) = (shop.merchant, shop.journal().await.pop().unwrap());
    let last = seq_of(&newest);
    let path = format!("/v1/webhooks/{webhook}/redeliveries");
    let added = shop.post(&path, json!({ "from": entry_of(&newest) })).await.created();
    let redelivery = added["id"].as_str().unwrap();
    grow_old(&shop, last).await;
    shop.sells(&bread, 7_500).await;
    // The endpoint has been told all of it; what was asked for once more it has not.
    hub.database.psql(&format!("update webhook_endpoints set seq = {last}, event = null")).await;
    let is_kept = async |reader: &str, next: u64| {
        let kept = tries_to_prune(&hub).await;
        assert_eq!((kept.code, kept.out.as_str()), (Some(1), ""), "{reader}");
        let partition = old_partition(&hub).await;
        let why = format!("{partition} is still needed: merchant {merchant}, {reader}, is before entry {next}\n");
        assert!(kept.err.ends_with(&why), "{}", kept.err);
    };
    let to_webhook = format!("redelivery {redelivery} to webhook {webhook}");
    is_kept(&to_webhook, last).await;
    hub.database.psql(&format!("update webhook_redeliveries set seq = {last}, event = 1")).await;
    is_kept(&to_webhook, last).await;
    hub.database.psql("update webhook_redeliveries set state = 'cancelled', ended_at = now()").await;

    // A handler that follows the journals itself. Of the two only one ever did.
    let cursors = format!(
        "insert into handler_cursors values ('{merchant}', 'push', {}, '\\x00000000', null, now()),
             ('{merchant}', 'other', 1, '\\x00000000', null, null)",
        last - 1
    );
    hub.database.psql(&cursors).await;
    is_kept("handler push", last).await;
    hub.database.psql(&format!("update handler_cursors set seq = {last} where handler = 'push'")).await;
    let parked = format!(
        "insert into parked_entries (merchant_id, letter_id, handler, seq, tag, state, attempts, reason, next_at)
         select '{merchant}', gen_random_uuid(), 'push', place, '\\x00000000', 'waiting', 1, 'no', now()
         from unnest(array[{last}, {last} - 1]) place"
    );
    hub.database.psql(&parked).await;
    is_kept("handler push once more", last - 1).await;
    // What is dead waits for a person, and keeps nothing.
    hub.database.psql("update parked_entries set state = 'dead', next_at = null").await;

    // Since there is a relay, its cursor is where the handler's queue is filled up to.
    hub.database.psql("update handler_cursors set seq = 1 where handler = 'push'").await;
    is_kept("handler push", 2).await;
    hub.database.psql(&format!("insert into relay_cursors values ('{merchant}', {last}, '\\x00000000')")).await;
    prune(&hub).await;
}

#[tokio::test]
async fn a_redelivery_that_waits_for_a_disabled_endpoint_keeps_nothing() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let webhook = endpoint(&shop).await;
    let last = shop.journal().await.pop().unwrap();
    let path = format!("/v1/webhooks/{webhook}/redeliveries");
    shop.post(&path, json!({ "from": entry_of(&last) })).await.created();
    grow_old(&shop, seq_of(&last)).await;
    assert_eq!(tries_to_prune(&hub).await.code, Some(1), "it runs");
    hub.database.psql("update webhook_endpoints set state = 'disabled', disabled_why = 'by_hand'").await;
    prune(&hub).await;
}

#[tokio::test]
async fn what_is_still_needed_is_dropped_by_force() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    endpoint(&shop).await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    shop.sells(&bread, 7_500).await;
    grow_old(&shop, seq_of(shop.journal().await.last().unwrap())).await;
    // An older one that nobody needs goes all the same.
    let older = "create table journal_entries_2020_01 partition of journal_entries
                     for values from ('2020-01-01Z') to ('2020-02-01Z');
                 alter table journal_entries_2020_01 owner to tillwire_migrate";
    hub.database.psql(older).await;
    let kept = tries_to_prune(&hub).await;
    assert_eq!((kept.code, kept.out.as_str()), (Some(1), "Dropped journal_entries_2020_01.\n"), "{}", kept.err);
    let pruned = tries_to_prune_with(&hub, &["--force"]).await;
    let expected = format!("Dropped {}.\n", old_partition(&hub).await);
    assert_eq!((pruned.code, pruned.out), (Some(0), expected), "{}", pruned.err);
    // Its walls hold for the owner who does not say that it prunes.
    let mut owner = PgConnection::connect(&hub.database.url("tillwire_migrate")).await.unwrap();
    let seen: i64 = sqlx::query_scalar("select count(*) from journal_readers").fetch_one(&mut owner).await.unwrap();
    assert_eq!(seen, 0);
}
