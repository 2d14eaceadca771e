//! The vault: what is secret is kept sealed, opens where it belongs, and survives a change of keys; whoever lacks a key says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire::accounts;
use tillwire::error::Error;
use tillwire::journal::pool;
use tillwire::node::Faces;
use tillwire_channels::Role;
use uuid::Uuid;

use super::support::buses::until;
use super::support::caller::Caller;
use super::support::hub::{Answer, Shop, TestHub, TestNode};
use super::support::process::{Env, Outcome, TillwireProcess, environment, run, shell};
use super::support::push::fcm::FcmService;
use super::support::receiver::Receiver;
use super::support::services::dir;
use super::support::vault::{self, id, list, midtrans, xendit};

const ACCOUNTS: &str = "/v1/provider-accounts";
const ANDROID: &str = "android-hushhushhush:APA91b";

/// A node with these vault keys, that serves webhooks and lets them lead to this machine, and sends to Android.
async fn node(hub: &TestHub, fcm: &FcmService, keys: &[&PathBuf]) -> TestNode {
    let (relay, keys) = (hub.database.url("tillwire_relay"), list(keys));
    let (credentials, url) = (fcm.credentials.display().to_string(), fcm.url());
    let mut flags = vec!["--relay-database-url", &relay, "--webhook-networks", "127.0.0.0/8"];
    flags.extend(["--fcm-credentials", &credentials, "--fcm-url", &url]);
    if !keys.is_empty() {
        flags.extend(["--vault-key-file", &keys]);
    }
    hub.node(Faces { gateway: false, ..Faces::ALL }, &flags).await
}

/// One that only answers.
async fn api(hub: &TestHub, keys: &[&PathBuf]) -> TestNode {
    let keys = list(keys);
    let flags: &[&str] = if keys.is_empty() { &[] } else { &["--vault-key-file", &keys] };
    hub.node(Faces::API, flags).await
}

async fn asks(node: std::net::SocketAddr, shop: &Shop<'_>, method: &str, path: &str, body: Value) -> Answer {
    let key = Uuid::new_v4().to_string();
    let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
    Caller { address: node, token: &shop.owner }.send(method, path, &headers, body).await.expect("an answer")
}

fn hook(url: &str) -> Value {
    json!({ "url": url, "events": ["sale.completed"] })
}

fn device(token: &str) -> Value {
    json!({ "registration": { "kind": "fcm", "token": token }, "topics": { "payments": true } })
}

fn account(merchant_there: &str, secret: &str) -> Value {
    json!({ "credentials": midtrans(merchant_there, secret), "mode": "test" })
}

/// Whether an account opens with these keys; and if not, why.
async fn opens(hub: &TestHub, shop: &Shop<'_>, account: &Value, keys: &[&PathBuf]) -> Result<(), String> {
    let mut sql = pool::begin_of(&hub.pools.app, shop.merchant).await.expect("a transaction");
    let account = account["id"].as_str().unwrap().parse().unwrap();
    match accounts::open(&mut sql, &vault::with(keys), shop.merchant, account).await {
        Ok(_) => Ok(()),
        Err(Error::Conflict { code: "vault_unavailable", detail, .. }) => Err(detail),
        Err(other) => panic!("{other:?}"),
    }
}

/// What `tillwire vault` needs.
fn keeper(hub: &TestHub, keys: &[&PathBuf]) -> Env {
    Env::from([("TILLWIRE_DATABASE_URL", hub.database.url("tillwire_app")), ("TILLWIRE_VAULT_KEY_FILE", list(keys))])
}

/// How many data keys each vault key seals.
async fn sealed_with(hub: &TestHub) -> BTreeMap<String, usize> {
    let counts = hub.database.psql("select vault_key, count(*) from data_keys group by vault_key").await;
    counts
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(key, count)| (key.to_owned(), count.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn what_was_in_clear_is_sealed_when_there_is_a_key_and_goes_on_to_work() {
    let (hub, mut fcm, key) = (TestHub::start().await, FcmService::start().await, vault::key());
    let (without, mut receiver) = (node(&hub, &fcm, &[]).await, Receiver::start().await);
    let (shop, other) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 7_500, "100").await;
    let added = asks(without.address, &shop, "POST", "/v1/webhooks", hook(&receiver.url())).await.created();
    let secret = format!("/v1/webhooks/{}/secret", added["id"].as_str().unwrap());
    asks(without.address, &shop, "POST", &secret, Value::Null).await.created();
    let before = asks(without.address, &shop, "GET", &secret, Value::Null).await.ok();
    let phone = asks(without.address, &shop, "POST", "/v1/devices", device(ANDROID)).await.created();
    let in_clear = "select (select count(*) from webhook_secrets where secret is not null) || ' ' ||
                           (select count(*) from push_devices where registration is not null)";
    assert_eq!(hub.database.psql(in_clear).await.trim(), "2 1");
    without.stops().await;

    // A node with a key seals what it finds, and signs with it as before.
    let with = node(&hub, &fcm, &[&key]).await;
    hub.has_done("seal_secrets").await;
    assert_eq!(hub.database.psql(in_clear).await.trim(), "0 0");
    assert_eq!(asks(with.address, &shop, "GET", &secret, Value::Null).await.ok(), before);
    let text = before["secret"].as_str().unwrap();
    hub.sells_at(with.address, &shop, &bread, 7_500).await;
    let post = receiver.take(1).await.remove(0);
    assert_eq!(post.signed_with(text), Some(0));
    assert_eq!(post.header("webhook-signature").split(' ').count(), 2, "the one before signs along");
    // A device is told as before; one that says again that it is there is the same, and is taken over.
    let test = format!("/v1/devices/{}/test", phone["id"].as_str().unwrap());
    assert_eq!(asks(with.address, &shop, "POST", &test, Value::Null).await.ok()["outcome"], "sent");
    assert_eq!(fcm.came.next().await.message.token, ANDROID);
    let again = asks(with.address, &shop, "POST", "/v1/devices", device(ANDROID)).await.created();
    assert_eq!(again["id"], phone["id"]);
    let (_, colleague) = hub.token_of_someone(shop.merchant, Role::Owner);
    let headers = [("idempotency-key", "hers"), ("content-type", "application/json")];
    let body = device(ANDROID).to_string().into_bytes();
    let caller = Caller { address: with.address, token: &colleague };
    let taken = caller.send("POST", "/v1/devices", &headers, body).await.unwrap().created();
    assert_ne!(taken["id"], phone["id"]);
    assert_eq!(hub.database.psql("select count(*) from push_devices where sealed is not null").await.trim(), "1");
    // What is new is sealed at once.
    let renewed = asks(with.address, &shop, "POST", &secret, Value::Null).await;
    renewed.created();
    assert_eq!(hub.database.psql(in_clear).await.trim(), "0 0");

    // Whoever has no key says so, keeps nothing of this merchant's in clear, and serves the others as ever.
    let without = node(&hub, &fcm, &[]).await;
    for (method, path, body) in [
        ("GET", secret.clone(), Value::Null),
        ("POST", secret.clone(), Value::Null),
        ("POST", "/v1/webhooks".to_owned(), hook(&receiver.url())),
        ("POST", "/v1/devices".to_owned(), device("another")),
        ("POST", format!("/v1/devices/{}/test", taken["id"].as_str().unwrap()), Value::Null),
    ] {
        let answer = match path.ends_with("/test") {
            true => Caller { address: without.address, token: &colleague }.post("t", &path, vec![]).await.unwrap(),
            false => asks(without.address, &shop, method, &path, body).await,
        };
        let problem = answer.refused(409, "vault_unavailable");
        assert!(problem["detail"].as_str().unwrap().contains("--vault-key-file"), "{problem}");
    }
    asks(without.address, &other, "POST", "/v1/webhooks", hook(&receiver.url())).await.created();
    assert_eq!(hub.database.psql(in_clear).await.trim(), "1 0");
    // And tells nobody anything that it cannot sign: whoever can does.
    with.stops().await;
    hub.sells_at(without.address, &shop, &bread, 7_500).await;
    receiver.is_silent(Duration::from_secs(3)).await;
    let with = node(&hub, &fcm, &[&key]).await;
    let newest = asks(with.address, &shop, "GET", &secret, Value::Null).await.ok();
    assert_eq!(receiver.take(1).await.remove(0).signed_with(newest["secret"].as_str().unwrap()), Some(0));
}

#[tokio::test]
async fn two_devices_with_one_registration_become_the_one_that_was_renewed_last() {
    let (hub, fcm, key) = (TestHub::start().await, FcmService::start().await, vault::key());
    let (with, shop) = (node(&hub, &fcm, &[&key]).await, hub.merchant("Toko Roti").await);
    asks(with.address, &shop, "POST", "/v1/devices", device(ANDROID)).await.created();
    // As a node that had no key, and saw none, would have written them: one later than what is sealed, one earlier.
    for (token, later) in [(ANDROID, "1 minute"), ("early", "-1 minute")] {
        if token == "early" {
            asks(with.address, &shop, "POST", "/v1/devices", device(token)).await.created();
        }
        hub.database
            .psql(&format!(
                "insert into push_devices (merchant_id, device_id, staff_id, role, outlets, issued_at, kind, registration, name,
                                           locale, payments, alerts, only_outlets, renewed_at)
                 select '{}', gen_random_uuid(), gen_random_uuid(), 'owner', '{{}}', now(), 'fcm', '{token}', 'clear', 'id', true,
                        true, '{{}}', max(renewed_at) + interval '{later}' from push_devices",
                shop.merchant
            ))
            .await;
    }
    hub.has_done("seal_secrets").await;
    let kept = "select string_agg(name, ',' order by renewed_at desc) || ' ' || count(sealed) from push_devices";
    assert_eq!(hub.database.psql(kept).await.trim(), "clear, 2");
}

#[tokio::test]
async fn a_secret_that_was_moved_or_changed_opens_nowhere_and_signs_nothing() {
    let (hub, fcm, key) = (TestHub::start().await, FcmService::start().await, vault::key());
    let (with, mut receiver) = (node(&hub, &fcm, &[&key]).await, Receiver::start().await);
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut hooks = Vec::new();
    for _ in 0..2 {
        let added = asks(with.address, &shop, "POST", "/v1/webhooks", hook(&receiver.url())).await.created();
        hooks.push(added["id"].as_str().unwrap().to_owned());
    }
    let [one, two] = &hooks[..] else { unreachable!("two were added") };
    let moved = format!(
        "update webhook_secrets own set sealed = it.sealed from webhook_secrets it
         where own.endpoint_id = '{two}' and it.endpoint_id = '{one}'"
    );
    hub.database.psql(&moved).await;
    asks(with.address, &shop, "GET", &format!("/v1/webhooks/{two}/secret"), Value::Null).await.refused(500, "internal");
    hub.sells_at(with.address, &shop, &bread, 7_500).await;
    let secret = asks(with.address, &shop, "GET", &format!("/v1/webhooks/{one}/secret"), Value::Null).await.ok();
    assert_eq!(receiver.take(1).await.remove(0).signed_with(secret["secret"].as_str().unwrap()), Some(0));
    // The other one is told nothing.
    receiver.is_silent(Duration::from_secs(2)).await;
    let verified = run(&["vault", "verify"], &keeper(&hub, &[&key])).await;
    assert_eq!((verified.code, verified.out.as_str()), (Some(1), "1 data keys and 1 secrets open.\n"), "{verified:?}");
    assert!(verified.err.contains(two.as_str()) && verified.err.contains("1 secrets do not open"), "{verified:?}");
    // Its owner gives it a new secret, and takes the old one away, for which it has to be another endpoint.
    asks(with.address, &shop, "DELETE", &format!("/v1/webhooks/{two}"), Value::Null).await.ok();

    // A device whose row was changed keeps no other from being told: see `push::devices::wanting`. Its own test is refused.
    let phone = asks(with.address, &shop, "POST", "/v1/devices", device(ANDROID)).await.created();
    hub.database.psql("update push_devices set sealed = set_byte(sealed, 15, get_byte(sealed, 15) # 1)").await;
    let path = format!("/v1/devices/{}/test", phone["id"].as_str().unwrap());
    asks(with.address, &shop, "POST", &path, Value::Null).await.refused(500, "internal");
}

#[tokio::test]
async fn the_vault_key_is_changed_while_nodes_serve() {
    let hub = TestHub::start().await;
    let (old, new) = (vault::key(), vault::key());
    let before = api(&hub, &[&old]).await;
    let mut shops = Vec::new();
    for name in ["Toko Roti", "Saingan", "Warung"] {
        let shop = hub.merchant(name).await;
        let kept = asks(before.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
        shops.push((shop, kept));
    }
    assert_eq!(sealed_with(&hub).await, [(id(&old), 3)].into());
    // First every node opens with the new one, then they seal with it; whoever has not heard of it says so.
    let (opens_it, seals_with_it) = (api(&hub, &[&old, &new]).await, api(&hub, &[&new, &old]).await);
    let warung = hub.merchant("Baru").await;
    let kept = asks(seals_with_it.address, &warung, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
    assert_eq!(sealed_with(&hub).await, [(id(&old), 3), (id(&new), 1)].into());
    let path = format!("{ACCOUNTS}/{}/credentials", kept["id"].as_str().unwrap());
    let changed = json!({ "credentials": midtrans("G1", "quietquiet") });
    asks(opens_it.address, &warung, "PUT", &path, changed.clone()).await.ok();
    let problem = asks(before.address, &warung, "PUT", &path, changed).await.refused(409, "vault_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains(&id(&new)), "{problem}");
    shops.push((warung, kept));

    // Without the old one, nothing is done to what only that opens; the rest is.
    let refused = run(&["vault", "rotate"], &keeper(&hub, &[&new])).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains(&format!("3 of {}", id(&old))), "{refused:?}");
    let done = run(&["vault", "rotate"], &keeper(&hub, &[&new, &old])).await;
    assert_eq!((done.code, done.out.as_str()), (Some(0), "Sealed 3 data keys anew.\n"), "{done:?}");
    assert_eq!(sealed_with(&hub).await, [(id(&new), 4)].into());
    let again = run(&["vault", "rotate"], &keeper(&hub, &[&new, &old])).await;
    assert_eq!((again.code, again.out.as_str()), (Some(0), "Sealed 0 data keys anew.\n"), "{again:?}");
    let verified = run(&["vault", "verify"], &keeper(&hub, &[&new])).await;
    assert_eq!((verified.code, verified.out.as_str()), (Some(0), "4 data keys and 4 secrets open.\n"), "{verified:?}");
    assert_eq!(run(&["vault", "verify"], &keeper(&hub, &[&old])).await.code, Some(1));

    // Nodes that have been serving all the while go on, and the old key opens nothing more.
    for (shop, kept) in &shops {
        let path = format!("{ACCOUNTS}/{}/credentials", kept["id"].as_str().unwrap());
        let changed = json!({ "credentials": midtrans("G1", "stillstill") });
        asks(seals_with_it.address, shop, "PUT", &path, changed).await.ok();
        assert_eq!(opens(&hub, shop, kept, &[&new]).await, Ok(()));
        assert!(opens(&hub, shop, kept, &[&old]).await.unwrap_err().contains(&id(&new)));
    }
    let audit = asks(before.address, &shops[0].0, "GET", "/v1/audit", Value::Null).await.ok();
    let lines: Vec<&Value> =
        audit["items"].as_array().unwrap().iter().filter(|line| line["action"] == "data_key.rewrapped").collect();
    assert_eq!(lines.len(), 1, "{audit}");
    let said = lines[0]["detail"].as_str().unwrap();
    assert!(said.contains(&id(&old)) && said.contains(&id(&new)) && lines[0]["staff"].is_null(), "{said}");
}

#[tokio::test]
async fn a_change_of_the_vault_key_that_was_killed_goes_on_where_it_was() {
    let hub = TestHub::start().await;
    let (old, new) = (vault::key(), vault::key());
    let with = api(&hub, &[&old]).await;
    let mut shops = Vec::new();
    for number in 0..8 {
        let shop = hub.merchant(&format!("Toko {number}")).await;
        let kept = asks(with.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
        shops.push((shop, kept));
    }
    shops.sort_by_key(|(shop, _)| shop.merchant.0);
    // It comes to a merchant whom somebody holds, and is killed there.
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    let held = format!("begin; select from data_keys where merchant_id = '{}' for update", shops[4].0.merchant);
    sqlx::raw_sql(AssertSqlSafe(held)).execute(&mut holder).await.unwrap();
    let mut env = keeper(&hub, &[&new, &old]);
    env.extend(environment("", "").0.into_iter().filter(|(name, _)| name.ends_with("LISTEN")));
    let mut rotating = TillwireProcess::spawn(&["vault", "rotate"], &env);
    hub.someone_is_locked_out().await;
    rotating.kill().await;
    holder.close().await.unwrap();
    assert_eq!(sealed_with(&hub).await, [(id(&old), 4), (id(&new), 4)].into());
    for (shop, kept) in &shops {
        assert_eq!(opens(&hub, shop, kept, &[&old, &new]).await, Ok(()));
    }

    // Two who begin it again share it.
    let env = keeper(&hub, &[&new, &old]);
    let [one, two] = [run(&["vault", "rotate"], &env), run(&["vault", "rotate"], &env)];
    let (one, two): (Outcome, Outcome) = tokio::join!(one, two);
    assert_eq!((one.code, two.code), (Some(0), Some(0)), "{one:?} {two:?}");
    assert_eq!(sealed_with(&hub).await, [(id(&new), 8)].into());
    for (shop, kept) in &shops {
        assert_eq!(opens(&hub, shop, kept, &[&new]).await, Ok(()));
    }
    let lines =
        "select count(*) || ' ' || count(distinct subject) from audit_lines where action = 'data_key.rewrapped'";
    assert_eq!(hub.database.psql(lines).await.trim(), "8 8", "each once");
}

#[tokio::test]
async fn without_a_key_or_with_a_wrong_one_nothing_is_kept_and_the_reason_is_said() {
    let hub = TestHub::start().await;
    let (right, wrong) = (vault::key(), vault::key());
    let shop = hub.merchant("Toko Roti").await;
    let (none, with, other) = (api(&hub, &[]).await, api(&hub, &[&right]).await, api(&hub, &[&wrong]).await);
    let refused = asks(none.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await;
    let problem = refused.refused(409, "vault_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("--vault-key-file"), "{problem}");
    assert_eq!(hub.database.psql("select count(*) from provider_accounts").await.trim(), "0");
    let kept = asks(with.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
    let refused = asks(other.address, &shop, "POST", ACCOUNTS, account("G2", "hushhushhush")).await;
    let problem = refused.refused(409, "vault_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains(&id(&right)), "{problem}");
    assert_eq!(
        hub.database.psql("select count(*) from data_keys").await.trim(),
        "1",
        "no second one is made beside it"
    );
    assert!(opens(&hub, &shop, &kept, &[]).await.unwrap_err().contains("--vault-key-file"));
    assert!(opens(&hub, &shop, &kept, &[&wrong]).await.unwrap_err().contains(&id(&right)));
    // What needs no secret is answered by anybody.
    let path = format!("{ACCOUNTS}/{}", kept["id"].as_str().unwrap());
    assert_eq!(asks(none.address, &shop, "GET", &path, Value::Null).await.ok(), kept);
    // A data key whose row is broken.
    hub.database.psql("update data_keys set sealed = set_byte(sealed, 30, get_byte(sealed, 30) # 1)").await;
    assert!(opens(&hub, &shop, &kept, &[&right]).await.is_err());
    let said = run(&["vault", "verify"], &keeper(&hub, &[&right])).await;
    assert_eq!((said.code, said.out.as_str()), (Some(1), "0 data keys and 0 secrets open.\n"), "{said:?}");
}

#[tokio::test]
async fn a_merchant_whose_secrets_cannot_be_sealed_keeps_no_other_in_clear() {
    let hub = TestHub::start().await;
    let (right, wrong) = (vault::key(), vault::key());
    let (shop, other) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let clear = shop.post("/v1/webhooks", hook("https://hooks.example/")).await.created();
    let with = api(&hub, &[&right]).await;
    asks(with.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
    hub.has_done("seal_secrets").await;
    with.stops().await;
    // Somebody brings back what was in clear, and the only node that seals has another key.
    let back = format!(
        "update webhook_secrets set sealed = null, data_key = null, secret = decode(repeat('07', 32), 'hex')
         where endpoint_id = '{}'",
        clear["id"].as_str().unwrap()
    );
    hub.database.psql(&back).await;
    other.post("/v1/webhooks", hook("https://hooks.example/")).await.created();
    let with_another = api(&hub, &[&wrong]).await;
    assert!(tillwire::jobs::ask_for(&hub.pools.app, "seal_secrets").await.unwrap());
    let outcome = "select error from jobs where job = 'seal_secrets' and outcome = 'failed'";
    let why = until(async || Some(hub.database.psql(outcome).await).filter(|why| !why.trim().is_empty())).await;
    assert!(why.contains("the secrets of 1 merchants"), "{why}");
    let in_clear = "select merchant_id from webhook_secrets where secret is not null";
    assert_eq!(hub.database.psql(in_clear).await.trim(), shop.merchant.to_string());
    // Whoever has the key does it when it is tried again.
    with_another.stops().await;
    let _with = api(&hub, &[&right, &wrong]).await;
    hub.has_done("seal_secrets").await;
    assert_eq!(hub.database.psql(in_clear).await.trim(), "");
}

#[tokio::test]
async fn a_data_key_that_a_restore_has_lost_seals_nothing() {
    let (hub, key) = (TestHub::start().await, vault::key());
    let (with, shop) = (api(&hub, &[&key]).await, hub.merchant("Toko Roti").await);
    asks(with.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
    asks(with.address, &shop, "POST", "/v1/webhooks", hook("https://hooks.example/")).await.created();
    // The database is as it was before, and the node knows a key that there is not any more.
    hub.database.psql("delete from provider_accounts; delete from webhook_secrets; delete from data_keys").await;
    for (path, body) in [(ACCOUNTS, account("G1", "hushhushhush")), ("/v1/webhooks", hook("https://hooks.example/"))] {
        let answer = asks(with.address, &shop, "POST", path, body).await;
        answer.refused(503, "busy");
        assert_eq!(answer.headers["retry-after"], "60", "by then it has looked again");
    }
    assert_eq!(hub.database.psql("select count(*) from provider_accounts").await.trim(), "0");
    let other = api(&hub, &[&key]).await;
    let kept = asks(other.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
    assert_eq!(opens(&hub, &shop, &kept, &[&key]).await, Ok(()));
}

#[tokio::test]
async fn the_doctor_says_whether_the_key_opens_what_is_there() {
    let hub = TestHub::start().await;
    let (old, new) = (vault::key(), vault::key());
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    let says = async |env: &Env| {
        let outcome = run(&["doctor", "--json"], env).await;
        let report: Value = serde_json::from_str(&outcome.out).unwrap_or_else(|_| panic!("{outcome:?}"));
        let found = report["checks"].as_array().unwrap().iter().find(|it| it["check"] == "vault").unwrap().clone();
        (found["verdict"].as_str().unwrap().to_owned(), found.to_string())
    };
    let is = async |env: &Env, verdict: &str, about: &str| {
        let (said, words) = says(env).await;
        assert!(said == verdict && words.contains(about), "{words}");
    };
    let with = |files: &[&PathBuf]| {
        let mut env = env.clone();
        env.insert("TILLWIRE_VAULT_KEY_FILE", list(files));
        env
    };
    is(&env, "warning", "tillwire vault new-key").await;
    is(&with(&[&old]), "good", "0 data keys").await;
    let (node, shop) = (api(&hub, &[&old]).await, hub.merchant("Toko Roti").await);
    asks(node.address, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush")).await.created();
    is(&with(&[&old]), "good", "1 data keys").await;
    is(&with(&[&new, &old]), "warning", "tillwire vault rotate").await;
    is(&with(&[&new]), "wrong", &id(&old)).await;
    is(&env, "wrong", &id(&old)).await;
    // By the variable that holds the keys themselves.
    let key = std::fs::read_to_string(&old).unwrap();
    env.insert("TILLWIRE_VAULT_KEYS", key.trim().to_owned());
    is(&env, "good", "1 data keys").await;
    env.insert("TILLWIRE_VAULT_KEYS", format!("{},{}", key.trim(), key.trim()));
    is(&env, "wrong", "twice").await;
    env.insert("TILLWIRE_VAULT_KEYS", key.trim()[2..].to_owned());
    let (verdict, words) = says(&env).await;
    assert!(verdict == "wrong" && !words.contains(&key.trim()[4..20]), "{words}");
    env.remove("TILLWIRE_VAULT_KEYS");
    hub.database.psql("update data_keys set sealed = set_byte(sealed, 30, get_byte(sealed, 30) # 1)").await;
    let mut broken = env.clone();
    broken.insert("TILLWIRE_VAULT_KEY_FILE", list(&[&old]));
    is(&broken, "wrong", "does not open").await;
}

#[tokio::test]
async fn a_key_that_others_may_read_or_that_is_the_demos_starts_no_node() {
    let hub = TestHub::start().await;
    let folder = dir("keys");
    let made = shell(
        "tillwire vault new-key mine.key > id; test $(stat -c %a mine.key) = 600; test $(wc -c < id) = 17
         if tillwire vault new-key mine.key; then exit 1; fi
         cp mine.key open.key; chmod 644 open.key",
        &Env::new(),
        &folder,
    )
    .await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.err.contains("mine.key"), "it says which file is there: {made:?}");
    let demo = folder.join("demo.key");
    tillwire::vault::keys::write_new_key(&demo, true).unwrap();
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    let key = std::fs::read_to_string(folder.join("mine.key")).unwrap();
    for (file, why) in [("open.key", "chmod 400"), ("demo.key", "the demo's"), ("none.key", "none.key")] {
        env.insert("TILLWIRE_VAULT_KEY_FILE", folder.join(file).display().to_string());
        let refused = run(&["serve"], &env).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains(why) && !refused.err.contains(&key.trim()[..12]), "{refused:?}");
    }
    env.insert("TILLWIRE_VAULT_KEY_FILE", folder.join("mine.key").display().to_string());
    TillwireProcess::start(&["serve"], &env).await;
}

/// P16, as far as the hub keeps secrets: they are in no answer, log, message or row.
#[tokio::test]
async fn p16_no_secret_is_in_a_log_an_answer_or_the_database() {
    let (hub, fcm, key) = (TestHub::start().await, FcmService::start().await, vault::key());
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    env.insert("TILLWIRE_RELAY_DATABASE_URL", hub.database.url("tillwire_relay"));
    env.insert("TILLWIRE_WEBHOOK_NETWORKS", "127.0.0.0/8".to_owned());
    env.insert("TILLWIRE_FCM_CREDENTIALS", fcm.credentials.display().to_string());
    env.insert("TILLWIRE_VAULT_KEY_FILE", list(&[&key]));
    env.insert("TILLWIRE_LOG", "trace".to_owned());
    let hub_process = TillwireProcess::start(&["serve"], &env).await;
    let (shop, node, mut receiver) = (hub.merchant("Toko Roti").await, hub_process.public, Receiver::start().await);
    let bread = shop.stocked("roti", 7_500, "100").await;
    let whsec = format!("whsec_{}", BASE64_STANDARD.encode("hushhushhush-webhook-secret!"));

    let mut answers = Vec::new();
    let kept = asks(node, &shop, "POST", ACCOUNTS, account("G1", "hushhushhush-server")).await;
    let path = format!("{ACCOUNTS}/{}", kept.created()["id"].as_str().unwrap());
    answers.push(kept);
    let mut hooked = hook(&receiver.url());
    hooked["secret"] = json!(whsec);
    let two = json!({ "credentials": xendit("64f0c1", "hushhushhush-secret", &["hushhushhush-one", "hushhushhush-two"]), "mode": "test" });
    for (method, path, body) in [
        ("POST", ACCOUNTS.to_owned(), two),
        ("POST", ACCOUNTS.to_owned(), account("G1", "hushhushhush-again")),
        ("POST", ACCOUNTS.to_owned(), json!({ "credentials": midtrans("G2", "hushhushhush-live"), "mode": "live" })),
        ("POST", ACCOUNTS.to_owned(), json!({ "credentials": ["hushhushhush"], "mode": "test" })),
        ("PUT", format!("{path}/credentials"), json!({ "credentials": midtrans("G1", "hushhushhush-changed") })),
        ("PUT", path.clone(), json!({ "enabled": false })),
        ("GET", path.clone(), Value::Null),
        ("GET", ACCOUNTS.to_owned(), Value::Null),
        ("POST", "/v1/webhooks".to_owned(), hooked),
        ("POST", "/v1/devices".to_owned(), device(ANDROID)),
        ("GET", "/v1/devices".to_owned(), Value::Null),
        ("GET", "/v1/webhooks".to_owned(), Value::Null),
    ] {
        answers.push(asks(node, &shop, method, &path, body).await);
    }
    hub.sells_at(node, &shop, &bread, 7_500).await;
    assert_eq!(receiver.take(1).await.remove(0).signed_with(&whsec), Some(0));
    // What does not open is said aloud, and does not say what it is.
    hub.database.psql("update provider_accounts set sealed = substr(sealed, 1, 50)").await;
    hub.database.psql("update webhook_secrets set sealed = set_byte(sealed, 15, get_byte(sealed, 15) # 1)").await;
    let webhooks: Value = answers.last().unwrap().json();
    let secret = format!("/v1/webhooks/{}/secret", webhooks["items"][0]["id"].as_str().unwrap());
    answers.push(asks(node, &shop, "GET", &secret, Value::Null).await);
    assert_eq!(answers.last().unwrap().status, 500);
    answers.push(asks(node, &shop, "GET", "/v1/audit", Value::Null).await);
    let log = until(async || Some(hub_process.log()).filter(|log| log.contains("does not open"))).await;

    let tables = "select string_agg(relname, ' ') from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and relname <> 'jobs'";
    let mut rows = String::new();
    for table in hub.database.psql(tables).await.split_whitespace() {
        rows += &hub.database.psql(&format!("select row_to_json(t) from {table} t")).await;
    }
    // It looks at something.
    assert!(rows.contains("G1") && rows.contains("64f0c1"), "{rows}");
    assert!(log.contains("TRACE") && log.contains("secret of webhook_secrets, row"), "{log}");
    let vault_key = std::fs::read_to_string(&key).unwrap().trim().to_owned();
    let vault_hex =
        BASE64_STANDARD.decode(&vault_key).unwrap().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let hush = "hushhushhush".bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let texts = answers.iter().map(|it| String::from_utf8_lossy(&it.body).into_owned()).chain([log, rows]);
    for text in texts.chain([hub_process.printed(), hub_process.metrics().await]) {
        for secret in
            ["hushhushhush", &hush, &BASE64_STANDARD.encode("hushhushhush"), &vault_key, &vault_hex, &whsec[6..30]]
        {
            if let Some(at) = text.find(secret) {
                let from = (0..=at.saturating_sub(200)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
                panic!("a secret is shown: …{}", &text[from..at]);
            }
        }
    }
}
