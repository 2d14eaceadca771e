//! Merchants are walled off, in the API and in the database.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::support::hub::{Shop, TestHub};

#[tokio::test]
async fn another_merchants_things_are_not_found() {
    let hub = TestHub::start().await;
    let (bakery, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = bakery.stocked("roti", 7_500, "10").await;
    let sale = bakery.post(&bakery.sales(), bakery.sale(&bread, "1", 7_500)).await.created();
    let product = bakery.get("/v1/products").await.ok()["items"][0].clone();
    let product_path = format!("/v1/products/{}", product["id"].as_str().unwrap());
    for path in [
        product_path.clone(),
        format!("/v1/sales/{}", sale["id"].as_str().unwrap()),
        format!("/v1/payments/{}/seen", sale["tenders"][0]["payment"].as_str().unwrap()),
        format!("/v1/outlets/{}", bakery.outlet),
        format!("/v1/outlets/{}/presence", bakery.outlet),
        format!("/v1/outlets/{}/sales", bakery.outlet),
        format!("/v1/outlets/{}/stock", bakery.outlet),
        format!("/v1/outlets/{}/stock/{bread}", bakery.outlet),
        format!("/v1/outlets/{}/stock/{bread}/moves", bakery.outlet),
    ] {
        assert_eq!(bakery.get(&path).await.status, 200, "{path} is there");
        rival.get(&path).await.refused(404, "not_found");
    }
    let cheap = json!({ "name": "roti", "variants": [{ "sku": "roti", "price_minor": 1 }] }).to_string();
    let headers = [("idempotency-key", "cheap"), ("content-type", "application/json")];
    let replaced = rival.owner().send("PUT", &product_path, &headers, cheap.into_bytes()).await.expect("an answer");
    replaced.refused(404, "not_found");
    let delivery = json!({ "reason": "received", "lines": [{ "variant": bread, "quantity": "1" }] });
    let moves = |shop: &Shop<'_>| format!("/v1/outlets/{}/stock/moves", shop.outlet);
    let register = json!({ "code": "R2", "name": "Kasir 2" });
    for (path, body) in [
        (bakery.sales(), bakery.sale(&bread, "1", 7_500)),
        (moves(&bakery), delivery.clone()),
        (format!("/v1/outlets/{}/registers", bakery.outlet), register),
    ] {
        rival.post(&path, body).await.refused(404, "not_found");
    }
    for (path, body, code) in [
        (rival.sales(), rival.sale(&bread, "1", 7_500), "unknown_variant"),
        (moves(&rival), delivery, "unknown_variant"),
        (rival.sales(), rival.sale_at(bakery.register, &bread, "1", 7_500), "unknown_register"),
    ] {
        rival.post(&path, body).await.refused(422, code);
    }
    assert_eq!((bakery.get(&product_path).await.ok(), bakery.stock_of(&bread).await), (product, "9.000".to_owned()));
    let registers = bakery.get(&format!("/v1/outlets/{}", bakery.outlet)).await.ok()["registers"].clone();
    assert_eq!(registers.as_array().map(Vec::len), Some(1), "{registers}");
    // Its journal is another one, and a position of the other's is not taken for its own.
    assert!(rival.journal().await.iter().all(|it| !it.to_string().contains("roti")));
    let foreign = bakery.journal().await.pop().unwrap()["position"].as_str().unwrap().to_owned();
    let gone = rival.get(&format!("/v1/journal?after={foreign}")).await.refused(410, "snapshot_required");
    assert_eq!(gone["snapshot"]["reason"], "diverged");
}

/// Somebody sits down as a role, with its own way in and none of ours.
async fn logged_in(hub: &TestHub, role: &str) -> PgConnection {
    PgConnection::connect(&hub.database.url(role)).await.expect("a way in")
}

/// The one value that a query answers.
async fn asked(sql: &mut PgConnection, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(sql).await.unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// A statement is refused for want of a privilege, or by a policy. Answers the database's words.
async fn is_denied(sql: &mut PgConnection, statement: &str) -> String {
    let answer = sqlx::raw_sql(AssertSqlSafe(statement)).execute(sql).await;
    let Err(sqlx::Error::Database(refusal)) = answer else { panic!("{statement}: {answer:?}") };
    assert_eq!(refusal.code().as_deref(), Some("42501"), "{statement}: {refusal}");
    refusal.message().to_owned()
}

/// A merchant with rows in every table that merchants have rows in.
async fn with_everything<'a>(hub: &'a TestHub, name: &str) -> Shop<'a> {
    let shop = hub.merchant(name).await;
    let body = json!({ "name": "roti", "variants": [{ "sku": "roti", "price_minor": 7_500, "barcodes": ["8991"] }] });
    let product = shop.post("/v1/products", body).await.created();
    let bread = product["variants"][0]["variant"].as_str().unwrap();
    let delivery = json!({ "reason": "received", "lines": [{ "variant": bread, "quantity": "10" }] });
    shop.post(&format!("/v1/outlets/{}/stock/moves", shop.outlet), delivery).await.created();
    shop.sells(bread, 7_500).await;
    let open = json!({ "register": shop.register, "open": true, "lines": [{ "variant": bread, "quantity": "1" }] });
    shop.post(&shop.sales(), open).await.created();
    let person = shop.post("/v1/staff", json!({ "name": "Ani", "role": "cashier" })).await.created();
    shop.post(&format!("/v1/staff/{}/revocations", person["id"].as_str().unwrap()), json!({})).await.created();
    let mut screen = shop.screen(&["sales", "payments"]).await;
    assert_eq!(screen.asks("join", json!({ "channels": ["stock"] })).await["ok"], true);
    let last = shop.journal().await.pop().unwrap()["position"].clone();
    assert_eq!(screen.asks("seen", json!({ "position": last })).await["ok"], true);
    // As a gateway writes it, which would soon take it back.
    let present = format!(
        "with node as (insert into gateway_nodes (node_id) values (gen_random_uuid()) returning node_id)
         insert into presence select '{}', '{}', node_id, '{{}}' from node",
        shop.merchant, shop.outlet
    );
    hub.database.psql(&present).await;
    let webhook = shop.post("/v1/webhooks", json!({ "url": "https://hooks.example/" })).await.created();
    let attempted = format!(
        "insert into webhook_attempts values
         ('{}', gen_random_uuid(), '{}', 'evt', 'sale.completed', 1, now(), 1, 'failed', '{{}}', null, null, 'nobody')",
        shop.merchant,
        webhook["id"].as_str().unwrap()
    );
    hub.database.psql(&attempted).await;
    let redelivery = json!({ "from": shop.journal().await.pop().unwrap()["position"] });
    let path = format!("/v1/webhooks/{}/redeliveries", webhook["id"].as_str().unwrap());
    shop.post(&path, redelivery).await.created();
    // As workers and whoever looks after them write it.
    let handled = format!(
        "insert into handled_events values ('{0}', 'push', 1, 1, '\\x00000000');
         insert into handler_cursors values ('{0}', 'other', 1, '\\x00000000');
         insert into parked_entries (merchant_id, letter_id, handler, seq, tag, state, attempts, reason)
         values ('{0}', gen_random_uuid(), 'push', 1, '\\x00000000', 'dead', 1, 'no');
         insert into audit_lines values ('{0}', gen_random_uuid(), now(), null, 'dead_letter.dropped', 'push', '')",
        shop.merchant
    );
    hub.database.psql(&handled).await;
    let notified = format!(
        "insert into push_devices (merchant_id, device_id, staff_id, role, outlets, issued_at, kind, registration, name, locale,
                                   payments, alerts, only_outlets)
         values ('{0}', gen_random_uuid(), gen_random_uuid(), 'owner', '{{}}', now(), 'fcm', 'token', '', 'id', true, true, '{{}}');
         insert into push_told select merchant_id, 1, 1, '\\x00000000', device_id from push_devices where merchant_id = '{0}'",
        shop.merchant
    );
    hub.database.psql(&notified).await;
    // As a node with a vault key writes it.
    let sealed = format!(
        "insert into data_keys (merchant_id, key_id, vault_key, sealed)
         values ('{0}', '{0}', '0123456789abcdef', decode(repeat('00', 61), 'hex'));
         insert into provider_accounts (merchant_id, account_id, provider, mode, label, merchant_there, enabled, sealed, data_key,
                                        key_ends)
         values ('{0}', gen_random_uuid(), 'midtrans', 'test', '', 'G1', true, decode(repeat('00', 40), 'hex'), '{0}', '')",
        shop.merchant
    );
    hub.database.psql(&sealed).await;
    let carried = format!(
        "insert into payment_attempts (merchant_id, payment_id, sale_id, outlet_id, register_id, account_id, provider, mode,
                                       method, amount_minor, currency, expires_at, actor_id)
         select merchant_id, gen_random_uuid(), sale_id, sales.outlet_id, register_id, account_id, 'midtrans', 'test', 'qris', 7500,
                'IDR', now(), actor_id
         from sales join provider_accounts using (merchant_id) where merchant_id = '{0}' and state = 'open';
         insert into payment_tasks (merchant_id, task_id, kind, payment_id, sale_id, outlet_id, detail)
         select merchant_id, payment_id, 'conflict', payment_id, sale_id, outlet_id, '' from payment_attempts
         where merchant_id = '{0}';
         insert into provider_inbox (merchant_id, inbox_id, account_id, headers, body, outcome)
         select merchant_id, payment_id, account_id, '{{}}', '', 'ignored' from payment_attempts where merchant_id = '{0}';
         insert into provider_notices (merchant_id, account_id, dedupe, inbox_id)
         select merchant_id, account_id, 'key', payment_id from payment_attempts where merchant_id = '{0}';
         insert into refunds (merchant_id, refund_id, payment_id, sale_id, outlet_id, register_id, origin, amount_minor, currency,
                              reason, note, state, actor_id)
         select merchant_id, payment_id, payment_id, sale_id, outlet_id, register_id, 'hub', 1, 'IDR', 'other', 'x', 'failed',
                actor_id
         from payment_attempts where merchant_id = '{0}'",
        shop.merchant
    );
    hub.database.psql(&carried).await;
    let compared = format!(
        "insert into reconciliations (merchant_id, run_id, account_id, from_at, until_at, phase, ended_at, next_at)
         select merchant_id, payment_id, account_id, now() - interval '1 day', now(), 'done', now(), null from payment_attempts
         where merchant_id = '{0}';
         insert into reconciliation_rows (merchant_id, run_id, source, row_id, kind, currency, amount_minor)
         select merchant_id, run_id, 'provider', 'row', 'payment', 'IDR', 7500 from reconciliations where merchant_id = '{0}';
         insert into settlement_lines (merchant_id, account_id, line_id, kind, reference, currency, amount_minor, settled)
         select merchant_id, account_id, decode(repeat('00', 32), 'hex'), 'payment', 'INV-1', 'IDR', 7500, true
         from payment_attempts where merchant_id = '{0}';
         insert into payment_differences (merchant_id, difference_id, account_id, class, subject, detail, found_by, seen_by)
         select merchant_id, payment_id, account_id, 'missing_in_hub', 'INV-1', '', payment_id, payment_id from payment_attempts
         where merchant_id = '{0}';
         insert into provider_health (merchant_id, account_id) select merchant_id, account_id from payment_attempts
         where merchant_id = '{0}';
         insert into payments_polled (merchant_id, payment_id, account_id, paid_at)
         select merchant_id, payment_id, account_id, now() from payment_attempts where merchant_id = '{0}'",
        shop.merchant
    );
    hub.database.psql(&compared).await;
    shop
}

/// What merchants have rows in and the application does not see at all.
const RELAYS_OWN: &str = "relay_cursors";

/// The tables that merchants have rows in, and the partitions of those. The relay's own is apart.
async fn tables(hub: &TestHub, partitions: bool) -> Vec<String> {
    let sql = format!(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
           and relispartition = {partitions} and relname <> '{RELAYS_OWN}'
           and exists (select from pg_attribute where attrelid = pg_class.oid and attname = 'merchant_id')
         order by relname"
    );
    let tables: Vec<String> = hub.database.psql(&sql).await.lines().map(str::to_owned).collect();
    assert!(tables.len() > 3, "{tables:?}");
    tables
}

#[tokio::test]
async fn the_application_role_sees_one_merchant_in_every_table() {
    let hub = TestHub::start().await;
    let (bakery, _rival) = (with_everything(&hub, "Toko Roti").await, with_everything(&hub, "Saingan").await);
    let mut app = logged_in(&hub, "tillwire_app").await;
    let tables = tables(&hub, false).await;
    for table in &tables {
        let merchants = format!("select count(distinct merchant_id) from {table}");
        assert_eq!(hub.database.psql(&merchants).await.trim(), "2", "{table} has rows of both");
        assert_eq!(asked(&mut app, &merchants).await, 0, "{table}: nobody is named, nothing is seen");
    }
    let named = format!("set tillwire.merchant = '{}'", bakery.merchant);
    sqlx::raw_sql(AssertSqlSafe(named)).execute(&mut app).await.unwrap();
    for table in &tables {
        let others = format!("select count(distinct merchant_id) from {table}");
        assert_eq!(asked(&mut app, &others).await, 1, "{table}");
        let others = format!("select count(*) from {table} where merchant_id <> '{}'", bakery.merchant);
        assert_eq!(asked(&mut app, &others).await, 0, "{table}");
    }
    // What it once was set to does not let anyone in later.
    sqlx::raw_sql("reset tillwire.merchant").execute(&mut app).await.unwrap();
    for table in &tables {
        assert_eq!(asked(&mut app, &format!("select count(*) from {table}")).await, 0, "{table}");
    }
}

#[tokio::test]
async fn the_application_role_writes_for_no_other_merchant_and_comes_in_by_no_other_door() {
    let hub = TestHub::start().await;
    let (bakery, rival) = (with_everything(&hub, "Toko Roti").await, with_everything(&hub, "Saingan").await);
    let mut app = logged_in(&hub, "tillwire_app").await;
    let named = format!("set tillwire.merchant = '{}'", bakery.merchant);
    sqlx::raw_sql(AssertSqlSafe(named)).execute(&mut app).await.unwrap();
    for table in tables(&hub, false).await {
        // A row of its own, as another's.
        let insert = format!(
            "insert into {table} select (jsonb_populate_record(own, jsonb_build_object('merchant_id', '{}'))).*
             from {table} own limit 1",
            rival.merchant
        );
        let why = is_denied(&mut app, &insert).await;
        assert!(why.contains(&format!("violates row-level security policy for table \"{table}\"")), "{why}");
        is_denied(&mut app, &format!("update {table} set merchant_id = '{}'", rival.merchant)).await;
        is_denied(&mut app, &format!("truncate {table} cascade")).await;
        is_denied(&mut app, &format!("set row_security = off; select count(*) from {table}")).await;
        sqlx::raw_sql("reset row_security").execute(&mut app).await.unwrap();
    }
    // The way in is the parent.
    for partition in tables(&hub, true).await {
        for statement in ["select count(*) from", "delete from", "truncate"] {
            let why = is_denied(&mut app, &format!("{statement} {partition}")).await;
            assert!(why.contains("permission denied"), "{why}");
        }
    }
    for statement in ["select count(*) from", "delete from", "truncate"] {
        let why = is_denied(&mut app, &format!("{statement} {RELAYS_OWN}")).await;
        assert!(why.contains("permission denied"), "{why}");
    }
    for other in ["set role tillwire_feed", "set role tillwire_migrate", "create table own_table (n int)"] {
        is_denied(&mut app, other).await;
    }
}

#[tokio::test]
async fn feed_and_relay_read_journals_and_nothing_else() {
    let hub = TestHub::start().await;
    with_everything(&hub, "Toko Roti").await;
    with_everything(&hub, "Saingan").await;
    for role in ["tillwire_feed", "tillwire_relay"] {
        let mut sql = logged_in(&hub, role).await;
        for table in tables(&hub, false).await {
            let merchants = format!("select count(distinct merchant_id) from {table}");
            let readable = ["journal_entries", "journal_heads"].contains(&table.as_str());
            let whose_turn = ["webhook_endpoints", "webhook_redeliveries", "handler_cursors", "parked_entries"]
                .contains(&table.as_str());
            if readable || (role == "tillwire_relay" && whose_turn) {
                assert_eq!(asked(&mut sql, &merchants).await, 2, "{role} reads {table} of everybody");
            } else {
                is_denied(&mut sql, &merchants).await;
            }
            is_denied(&mut sql, &format!("insert into {table} default values")).await;
            is_denied(&mut sql, &format!("update {table} set merchant_id = null")).await;
            is_denied(&mut sql, &format!("delete from {table}")).await;
        }
        for partition in tables(&hub, true).await {
            is_denied(&mut sql, &format!("select from {partition}")).await;
        }
        // Of webhooks the relay sees whose turn it is, and not where they lead.
        is_denied(&mut sql, "select url from webhook_endpoints").await;
        is_denied(&mut sql, "select first from webhook_redeliveries").await;
        let cursors = format!("select count(*) from {RELAYS_OWN}");
        match role {
            "tillwire_relay" => assert_eq!(asked(&mut sql, &cursors).await, 0, "nobody has relayed"),
            _ => _ = is_denied(&mut sql, &cursors).await,
        }
        is_denied(&mut sql, &format!("delete from {RELAYS_OWN}")).await;
    }
}

#[tokio::test]
async fn the_ledger_is_only_ever_inserted_into_by_whomever() {
    let hub = TestHub::start().await;
    let shop = with_everything(&hub, "Toko Roti").await;
    let ledger = "select count(*) || ' ' || sum(quantity) from stock_moves";
    let before = hub.database.psql(ledger).await;
    let changes = ["update stock_moves set quantity = 1", "delete from stock_moves", "truncate stock_moves"];
    let mut app = logged_in(&hub, "tillwire_app").await;
    let named = format!("set tillwire.merchant = '{}'", shop.merchant);
    sqlx::raw_sql(AssertSqlSafe(named)).execute(&mut app).await.unwrap();
    for change in changes {
        is_denied(&mut app, change).await;
    }
    for role in ["tillwire_migrate", "postgres"] {
        let mut sql = logged_in(&hub, role).await;
        for change in changes {
            let refusal = sqlx::raw_sql(change).execute(&mut sql).await.unwrap_err().to_string();
            assert!(refusal.contains("stock_moves is only ever inserted into"), "{role}: {refusal}");
        }
    }
    assert_eq!(hub.database.psql(ledger).await, before);
}

/// All that anyone but the owner may do, a line for each role and table; columns in brackets.
const GRANTS: &str = "\
tillwire_app: audit_lines insert select
tillwire_app: barcodes delete insert select
tillwire_app: data_keys insert select update(sealed) update(sealed_at) update(vault_key)
tillwire_app: gateway_keys select
tillwire_app: gateway_nodes delete insert select update
tillwire_app: handled_events insert select
tillwire_app: handler_cursors insert select update
tillwire_app: idempotency_keys insert select
tillwire_app: jobs insert select update
tillwire_app: journal_entries insert select
tillwire_app: journal_heads insert select update
tillwire_app: merchants insert select
tillwire_app: outlets insert select
tillwire_app: parked_entries delete insert select update
tillwire_app: payment_attempts insert select update
tillwire_app: payment_differences insert select update
tillwire_app: payment_tasks insert select update(accepted_for) update(closed_at) update(closed_by) update(note) update(refund_id) update(resolution)
tillwire_app: payments insert select
tillwire_app: payments_polled delete insert select
tillwire_app: payments_seen insert select update(event) update(seen_at) update(seq) update(tag)
tillwire_app: presence delete insert select update
tillwire_app: products insert select update
tillwire_app: provider_accounts insert select update
tillwire_app: provider_health insert select update
tillwire_app: provider_inbox insert select update(due_at) update(outcome) update(payment_id) update(tries)
tillwire_app: provider_notices insert select
tillwire_app: push_devices delete insert select update
tillwire_app: push_told insert select
tillwire_app: reconciliation_rows delete insert select
tillwire_app: reconciliations insert select update
tillwire_app: refunds insert select update
tillwire_app: registers insert select update(last_receipt)
tillwire_app: reservations insert select update(ended_at) update(state)
tillwire_app: revocations insert select update
tillwire_app: sale_lines insert select
tillwire_app: sales insert select update(business_date) update(closed_at) update(expires_at) update(held_until) update(stalled_at) update(state) update(void_note)
tillwire_app: screens insert select update
tillwire_app: settlement_lines insert select update(compared_by)
tillwire_app: staff insert select
tillwire_app: stock_levels insert select update
tillwire_app: stock_moves insert select
tillwire_app: variants insert select update
tillwire_app: webhook_attempts insert select
tillwire_app: webhook_endpoints delete insert select update
tillwire_app: webhook_redeliveries insert select update
tillwire_app: webhook_secrets delete insert select update
tillwire_feed: journal_entries select
tillwire_feed: journal_heads select
tillwire_relay: handler_cursors select(handler) select(leased_until) select(merchant_id) select(seq) select(tag)
tillwire_relay: handler_progress insert select update
tillwire_relay: journal_entries select
tillwire_relay: journal_heads select
tillwire_relay: parked_entries select(attempts) select(handler) select(lease) select(leased_until) select(letter_id) select(merchant_id) select(next_at) select(parked_at) select(reason) select(seq) select(state) select(tag)
tillwire_relay: relay_cursors insert select update
tillwire_relay: webhook_endpoints select(endpoint_id) select(event) select(leased_until) select(merchant_id) select(next_at) select(seq) select(state)
tillwire_relay: webhook_redeliveries select(endpoint_id) select(leased_until) select(merchant_id) select(next_at) select(redelivery_id) select(state)";

/// What runs with its owner's rights, and who may call it.
const DOORS: &str = "\
handled_events_expire: tillwire_app
idempotency_keys_expire: tillwire_app
journal_partitions_ahead: tillwire_app tillwire_relay
payments_due: tillwire_app
payments_polled_due: tillwire_app
payments_seen_expire: tillwire_app
provider_accounts_enabled: tillwire_app
provider_inbox_due: tillwire_app
provider_inbox_expire: tillwire_app
push_devices_expire: tillwire_app
push_told_expire: tillwire_app
reconciliations_due: tillwire_app
reconciliations_expire: tillwire_app
refunds_due: tillwire_app
sales_due: tillwire_app
screens_expire: tillwire_app
vault_keys_needed: tillwire_app
vault_merchants: tillwire_app
vault_merchants_in_clear: tillwire_app
webhook_attempts_expire: tillwire_app
webhook_redeliveries_expire: tillwire_app";

async fn grants(sql: &mut PgConnection) -> String {
    let query = "select coalesce(rolname, 'public') || ': ' || relname || ' ' || string_agg(what, ' ' order by what)
        from (select relname, grantee, lower(privilege_type) as what
              from pg_class, aclexplode(relacl)
              where relnamespace = 'public'::regnamespace and grantee <> relowner
              union all
              select relname, grantee, lower(privilege_type) || '(' || attname || ')'
              from pg_class join pg_attribute on attrelid = pg_class.oid, aclexplode(attacl)
              where relnamespace = 'public'::regnamespace and grantee <> relowner) granted
        left join pg_roles on pg_roles.oid = grantee
        group by rolname, relname order by rolname, relname";
    let lines: Vec<String> = sqlx::query_scalar(query).fetch_all(sql).await.unwrap();
    lines.join("\n")
}

async fn doors(sql: &mut PgConnection) -> String {
    let query = "select proname || ': ' || string_agg(coalesce(rolname, 'public'), ' ' order by rolname)
        from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
        left join pg_roles on pg_roles.oid = grantee
        where pronamespace = 'public'::regnamespace and prosecdef and grantee <> proowner
        group by proname order by proname";
    let lines: Vec<String> = sqlx::query_scalar(query).fetch_all(sql).await.unwrap();
    lines.join("\n")
}

/// Tables that merchants have rows in and that are not walled as they should be: forced, and with this one policy for the
/// application. Six more are known: feed and relay read all journals, the relay keeps its cursors, and the owner forgets what is
/// old, looks which sales are open, which payments, refunds, notifications and runs are to be attended to, which accounts are in
/// use, at journals and cursors while it says that it prunes, and sees which merchants have
/// something to be sealed, or sealed anew.
async fn open_tables(sql: &mut PgConnection) -> Vec<String> {
    let query = "select relname::text from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
          and exists (select from pg_attribute where attrelid = pg_class.oid and attname = 'merchant_id')
          and (not relrowsecurity or not relforcerowsecurity or exists (
                   select from pg_policies policy
                   where schemaname = 'public' and tablename = relname and not case policyname
                       when 'own' then roles = '{tillwire_app}' and cmd = 'ALL' and not relispartition
                           and qual = '(merchant_id = current_merchant())'
                           and with_check = '(merchant_id = current_merchant())'
                       when 'everyone' then roles <@ '{tillwire_feed,tillwire_relay}' and cmd = 'SELECT'
                           and relname in ('journal_entries', 'journal_heads')
                       when 'relay' then roles = '{tillwire_relay}'
                           and (relname = 'relay_cursors'
                                or relname in ('webhook_endpoints', 'webhook_redeliveries', 'handler_cursors',
                                               'parked_entries') and cmd = 'SELECT')
                       when 'pruning' then roles = array[pg_get_userbyid(relowner)] and cmd = 'SELECT'
                           and qual = 'is_pruning()'
                           and relname in ('journal_entries', 'journal_heads', 'relay_cursors', 'webhook_endpoints',
                                           'webhook_redeliveries', 'handler_cursors', 'parked_entries')
                       when 'vault' then roles = array[pg_get_userbyid(relowner)] and cmd = 'SELECT'
                           and (relname = 'data_keys'
                                or relname = 'webhook_secrets' and qual = '(secret IS NOT NULL)'
                                or relname = 'push_devices' and qual = '(registration IS NOT NULL)')
                       when 'due' then roles = array[pg_get_userbyid(relowner)] and cmd = 'SELECT'
                           and (relname = 'sales' and qual = '(state = ''open''::text)'
                                or relname in ('payment_attempts', 'reconciliations', 'refunds') and qual = '(next_at IS NOT NULL)'
                                or relname = 'provider_accounts' and qual = 'enabled'
                                or relname = 'payments_polled'
                                or relname = 'provider_inbox')
                       when 'old' then roles = array[pg_get_userbyid(relowner)]
                           and (relname in ('idempotency_keys', 'payments_seen', 'push_devices', 'push_told', 'screens',
                                            'webhook_attempts', 'webhook_redeliveries', 'handled_events',
                                            'provider_notices', 'reconciliations', 'settlement_lines',
                                            'payment_differences')
                                or relname = 'parked_entries' and cmd = 'SELECT'
                                or relname = 'provider_inbox' and cmd = 'DELETE')
                       else false end)
               or not relispartition and not exists (
                   select from pg_policies
                   where tablename = relname and policyname = case relname when 'relay_cursors' then 'relay' else 'own' end))
        order by relname";
    sqlx::query_scalar(query).fetch_all(sql).await.unwrap()
}

/// What could take a lock that no command asks for: constraints that may be looked at as late as at the commit, and
/// triggers.
async fn locks_out_of_turn(sql: &mut PgConnection) -> Vec<String> {
    let query = "select conrelid::regclass::text || ' ' || conname from pg_constraint
            where connamespace = 'public'::regnamespace and condeferrable
        union all
        select tgrelid::regclass::text || ' ' || tgname from pg_trigger where not tgisinternal
        order by 1";
    sqlx::query_scalar(query).fetch_all(sql).await.unwrap()
}

#[tokio::test]
async fn the_catalogue_locks_nothing_that_a_command_does_not_ask_for() {
    let hub = TestHub::start().await;
    let mut sql = logged_in(&hub, "postgres").await;
    assert_eq!(locks_out_of_turn(&mut sql).await, ["stock_moves insert_only"], "which looks at no row: it refuses");
    for (change, found) in [
        ("alter table payments alter constraint payments_sale_fkey deferrable", "payments payments_sale_fkey"),
        ("create trigger too after insert on sales for each row execute function refuse_change()", "sales too"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(format!("begin; {change}"))).execute(&mut sql).await.unwrap();
        assert!(locks_out_of_turn(&mut sql).await.contains(&found.to_owned()), "{change}");
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    }
}

#[tokio::test]
async fn the_catalogue_says_who_may_do_what_and_no_more() {
    let hub = TestHub::start().await;
    let mut sql = logged_in(&hub, "postgres").await;
    assert_eq!(grants(&mut sql).await, GRANTS);
    assert_eq!(doors(&mut sql).await, DOORS);
    assert_eq!(open_tables(&mut sql).await, Vec::<String>::new());
    let powers = "select count(*) from pg_roles where rolname in ('tillwire_app', 'tillwire_feed', 'tillwire_relay')
        and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication
             or exists (select from pg_auth_members where member = pg_roles.oid))";
    assert_eq!(asked(&mut sql, powers).await, 0);
    let partitions = "select count(*) from pg_inherits where inhparent = 'journal_entries'::regclass";
    assert!(asked(&mut sql, partitions).await >= 4, "made at migration, months ahead");

    // And it would say so if somebody opened a door.
    for (change, table) in [
        ("create policy too on sales to tillwire_app using (true)", "sales"),
        ("create policy too on sales using (true)", "sales"),
        ("drop policy own on staff; create policy own on staff to tillwire_app using (true)", "staff"),
        ("alter policy own on staff with check (true)", "staff"),
        ("alter policy everyone on journal_heads to public", "journal_heads"),
        ("drop policy own on payments", "payments"),
        ("alter table payments no force row level security", "payments"),
        ("alter table payments disable row level security", "payments"),
        ("create table tips (merchant_id uuid)", "tips"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(format!("begin; {change}"))).execute(&mut sql).await.unwrap();
        assert_eq!(open_tables(&mut sql).await, [table], "{change}");
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    }
    let partition = tables(&hub, true).await.remove(0);
    for change in [
        "grant select on sales to tillwire_feed",
        "grant update (name) on staff to tillwire_relay",
        "grant select on merchants to public",
        &format!("grant select on {partition} to tillwire_app"),
        "revoke select on journal_entries from tillwire_relay",
    ] {
        sqlx::raw_sql(AssertSqlSafe(format!("begin; {change}"))).execute(&mut sql).await.unwrap();
        assert_ne!(grants(&mut sql).await, GRANTS, "{change}");
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    }
}
