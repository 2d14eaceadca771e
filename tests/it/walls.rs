//! Merchants are walled off, in the API and in the database.

use super::support::hub::TestHub;

#[tokio::test]
async fn another_merchants_things_are_not_found() {
    let hub = TestHub::start().await;
    let (bakery, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = bakery.stocked("roti", 7_500, "10").await;
    let sale = bakery.post(&bakery.sales(), bakery.sale(&bread, "1", 7_500)).await.created();
    for path in [
        format!("/v1/sales/{}", sale["id"].as_str().unwrap()),
        format!("/v1/outlets/{}", bakery.outlet),
        format!("/v1/outlets/{}/stock", bakery.outlet),
        format!("/v1/outlets/{}/stock/{bread}", bakery.outlet),
    ] {
        rival.get(&path).await.refused(404, "not_found");
    }
    rival.post(&bakery.sales(), bakery.sale(&bread, "1", 7_500)).await.refused(404, "not_found");
    let foreign = rival.post(&rival.sales(), rival.sale(&bread, "1", 7_500)).await;
    foreign.refused(422, "unknown_variant");
    assert_eq!(bakery.stock_of(&bread).await, "9.000");
    // Its journal is another one, and a position of the other's is not taken for its own.
    assert!(rival.journal().await.iter().all(|it| !it.to_string().contains("roti")));
    let foreign = bakery.journal().await.pop().unwrap()["position"].as_str().unwrap().to_owned();
    let gone = rival.get(&format!("/v1/journal?after={foreign}")).await.refused(410, "snapshot_required");
    assert_eq!(gone["snapshot"]["reason"], "diverged");
}

/// What the application role sees when someone sits down with it at `psql`.
async fn as_application(hub: &TestHub, sql: &str) -> String {
    let wrapped = format!("set role tillwire_app; {sql}");
    hub.database.psql(&wrapped).await
}

#[tokio::test]
async fn the_application_role_sees_one_merchant_and_no_partition() {
    let hub = TestHub::start().await;
    let (bakery, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let count = "select count(*) from merchants";
    assert_eq!(as_application(&hub, count).await.trim(), "0", "nobody is set: nothing is seen");
    let own = format!("set tillwire.merchant = '{}'; {count}", bakery.merchant);
    assert_eq!(as_application(&hub, &own).await.trim(), "1");
    let other = format!(
        "set tillwire.merchant = '{}'; select count(*) from journal_entries where merchant_id = '{}'",
        bakery.merchant, rival.merchant
    );
    assert_eq!(as_application(&hub, &other).await.trim(), "0");
    // Grants are on parents only.
    let reachable = "select count(*) from pg_inherits join pg_class child on child.oid = inhrelid
        where has_table_privilege('tillwire_app', child.oid, 'select, insert, update, delete')";
    assert_eq!(hub.database.psql(reachable).await.trim(), "0");
    let partitions = "select count(*) >= 4 from pg_inherits where inhparent = 'journal_entries'::regclass";
    assert_eq!(hub.database.psql(partitions).await.trim(), "t", "made at migration, months ahead");
}

#[tokio::test]
async fn every_table_of_a_merchant_is_walled() {
    let hub = TestHub::start().await;
    let open = "select coalesce(string_agg(relname, ','), '') from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
          and exists (select from pg_attribute where attrelid = pg_class.oid and attname = 'merchant_id')
          and not (relrowsecurity and relforcerowsecurity and (relispartition or exists (
                select from pg_policy where polrelid = pg_class.oid and polwithcheck is not null)))";
    assert_eq!(hub.database.psql(open).await.trim(), "");
    let powers = "select count(*) from pg_roles where rolname in ('tillwire_app', 'tillwire_feed', 'tillwire_relay')
        and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb)";
    assert_eq!(hub.database.psql(powers).await.trim(), "0");
    let feed = "select coalesce(string_agg(relname, ',' order by relname), '') from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
          and has_table_privilege('tillwire_feed', oid, 'select, insert, update, delete')";
    assert_eq!(hub.database.psql(feed).await.trim(), "journal_entries,journal_heads");
    let rewritten = "select coalesce(string_agg(relname, ','), '') from pg_class
        where relname in ('stock_moves', 'journal_entries', 'sales', 'sale_lines', 'payments')
          and has_table_privilege('tillwire_app', oid, 'update, delete, truncate')";
    assert_eq!(hub.database.psql(rewritten).await.trim(), "", "written once");
}
