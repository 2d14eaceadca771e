//! Webhooks: a merchant's own servers are told what happens, in order, until they have it.

mod alerts;
mod faults;
mod health;
mod leases;
mod redelivery;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tillwire::node::Faces;
use tillwire_channels::Role;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::support::buses::{FACT_MAX, until};
use super::support::caller::Caller;
use super::support::clients::{javascript_program, python_program};
use super::support::hub::{Answer, Shop, TestHub, TestNode};
use super::support::process::{Env, TillwireProcess, environment};
use super::support::receiver::{Post, Receiver, Reply};
use super::support::services::Postgres;
use super::support::services::proxy::Proxy;

/// A hub, and a node of it that serves webhooks and lets them lead to this machine.
struct Stage {
    hub: TestHub,
    node: TestNode,
}

async fn stage() -> Stage {
    let hub = TestHub::start().await;
    let relay_url = hub.database.url("tillwire_relay");
    let flags = ["--relay-database-url", &relay_url, "--webhook-networks", "127.0.0.0/8"];
    let node = hub.node(Faces::ALL, &flags).await;
    Stage { hub, node }
}

impl Stage {
    async fn owner(&self, name: &str) -> Owner<'_> {
        Owner::at(&self.hub, self.node.address, name).await
    }
}

/// A merchant that calls a node.
struct Owner<'a> {
    shop: Shop<'a>,
    /// Whom it calls.
    address: SocketAddr,
    bread: String,
}

impl<'a> Owner<'a> {
    async fn at(hub: &'a TestHub, address: SocketAddr, name: &str) -> Self {
        let shop = hub.merchant(name).await;
        let bread = shop.stocked("roti", 7_500, "1000").await;
        Self { shop, address, bread }
    }

    async fn asks(&self, method: &str, path: &str, body: Value) -> Answer {
        self.asks_as(&self.shop.owner, method, path, body).await
    }

    async fn asks_as(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let key = Uuid::new_v4().to_string();
        let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        Caller { address: self.address, token }.send(method, path, &headers, body).await.expect("an answer")
    }

    /// A webhook that leads to a receiver. Answers its path.
    async fn tells(&self, receiver: &Receiver, events: &[&str]) -> String {
        let body = json!({ "url": receiver.url(), "events": events });
        let added = self.asks("POST", "/v1/webhooks", body).await.created();
        format!("/v1/webhooks/{}", added["id"].as_str().unwrap())
    }

    async fn looks(&self, webhook: &str) -> Value {
        self.asks("GET", webhook, Value::Null).await.ok()
    }

    async fn secret(&self, webhook: &str) -> String {
        let secret = self.asks("GET", &format!("{webhook}/secret"), Value::Null).await.ok();
        secret["secret"].as_str().unwrap().to_owned()
    }

    async fn attempts(&self, webhook: &str) -> Vec<Value> {
        let page = self.asks("GET", &format!("{webhook}/attempts"), Value::Null).await.ok();
        page["items"].as_array().unwrap().clone()
    }

    async fn sells(&self) -> String {
        self.shop.hub.sells_at(self.address, &self.shop, &self.bread, 7_500).await
    }

    /// So much time passes for whoever waits to be tried again.
    async fn later(&self, interval: &str) {
        let sql = format!(
            "update webhook_endpoints
             set next_at = next_at - interval '{interval}', failing_since = failing_since - interval '{interval}'
             where merchant_id = '{}'",
            self.shop.merchant
        );
        self.shop.hub.database.psql(&sql).await;
    }

    /// Waits until a webhook looks so.
    async fn until(&self, webhook: &str, looks: impl Fn(&Value) -> bool) -> Value {
        until(async || {
            let now = self.looks(webhook).await;
            looks(&now).then_some(now)
        })
        .await
    }

    /// Waits until its cursor stands behind an entry, and nothing fails.
    async fn stands_at(&self, webhook: &str, place: u64) -> Value {
        let is_whole = |now: &Value| now["position"].as_str().is_some_and(|position| !position.contains('.'));
        self.until(webhook, |now| seq(now) == place && is_whole(now) && now["attempts"] == 0).await
    }

    /// The positions of the journal's events of these types after a place.
    async fn journal_after(&self, seq: u64, kinds: &[&str]) -> Vec<String> {
        let all = self.shop.journal_of(kinds).await.into_iter();
        all.filter(|(_, event)| event["seq"].as_u64() > Some(seq)).map(|(position, _)| position).collect()
    }
}

fn seq(view: &Value) -> u64 {
    view["position"].as_str().unwrap().split(['.', '-']).next().unwrap().parse().unwrap()
}

fn positions(posts: &[Post]) -> Vec<String> {
    posts.iter().map(Post::position).collect()
}

#[tokio::test]
async fn g6_a_webhook_is_told_what_happens_in_order_signed_and_as_the_journal_has_it() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let (mut all, mut sales) = (Receiver::start().await, Receiver::start().await);
    let (to_all, to_sales) = (owner.tells(&all, &[]).await, owner.tells(&sales, &["sale.completed"]).await);
    let start = seq(&owner.looks(&to_all).await);
    for _ in 0..5 {
        owner.sells().await;
    }
    let journal = owner.journal_after(start, &["sale.completed", "payment.captured", "stock.changed"]).await;
    let told = all.take(journal.len()).await;
    assert_eq!(positions(&told), journal);
    let of_sales = sales.take(5).await;
    assert_eq!(positions(&of_sales), owner.journal_after(start, &["sale.completed"]).await);

    let secret = owner.secret(&to_sales).await;
    for post in &of_sales {
        let body = post.json();
        assert_eq!((post.path.as_str(), post.kind().as_str()), ("/hook", "sale.completed"));
        assert_eq!(post.header("content-type"), "application/json");
        assert_eq!(post.signed_with(&secret), Some(0));
        assert_eq!(post.signed_with(&owner.secret(&to_all).await), None, "each has a secret of its own");
        assert_eq!(post.id(), format!("evt_{}_{}", owner.shop.merchant.0.simple(), post.position()));
        assert_eq!((&body["merchant"], &body["outlet"]), (&json!(owner.shop.merchant), &json!(owner.shop.outlet)));
        assert_eq!(body["data"]["total_minor"], 7_500);
        let age =
            time::OffsetDateTime::now_utc().unix_timestamp() - post.header("webhook-timestamp").parse::<i64>().unwrap();
        assert!((0..120).contains(&age), "{age}");
    }
    let done = owner.until(&to_sales, |now| seq(now) == start + 5).await;
    assert_eq!((&done["attempts"], &done["failing_since"], &done["enabled"]), (&json!(0), &Value::Null, &json!(true)));
    let attempts = owner.attempts(&to_sales).await;
    assert_eq!(attempts.len(), 5);
    let newest = &attempts[0];
    assert_eq!(
        (&newest["outcome"], &newest["response_status"], &newest["attempt"]),
        (&json!("delivered"), &json!(204), &json!(1))
    );
    assert_eq!((newest["message"].as_str(), newest["type"].as_str()), (Some(of_sales[4].id()), Some("sale.completed")));
    assert!(newest["request_body"].as_str().unwrap().contains("total_minor"));
}

/// What a published library of Standard Webhooks says to a post.
async fn judged(post: &Post, secret: &str, body: &str, in_python: bool) -> String {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let (mut command, _folder) = match in_python {
        true => python_program(&programs.join("receiver.py")).await,
        false => javascript_program(&programs.join("receiver.mjs")).await,
    };
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: BTreeMap<&str, &str> = names.iter().map(|name| (*name, post.header(name))).collect();
    let asked = json!({ "secret": secret, "headers": headers, "body": body }).to_string();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("a receiver's program");
    child.stdin.take().expect("its input").write_all(asked.as_bytes()).await.expect("asked");
    let output = timeout(FACT_MAX, child.wait_with_output()).await.expect("an answer in time").expect("an answer");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[tokio::test]
async fn the_published_libraries_verify_what_is_posted_and_nothing_else() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let old = owner.secret(&webhook).await;
    owner.asks("POST", &format!("{webhook}/secret"), Value::Null).await.created();
    let new = owner.secret(&webhook).await;
    owner.sells().await;
    let post = receiver.next().await;
    let body = String::from_utf8(post.bytes.to_vec()).unwrap();
    for in_python in [false, true] {
        for secret in [&old, &new] {
            assert_eq!(judged(&post, secret, &body, in_python).await, "good");
        }
        let changed = body.replace("7500", "7501");
        assert_ne!(judged(&post, &new, &changed, in_python).await, "good");
        let stranger = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_ne!(judged(&post, stranger, &body, in_python).await, "good");
    }
}

#[tokio::test]
async fn p15_g6_a_receiver_that_was_down_gets_everything_in_order_and_another_never_noticed() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let (mut down, mut well) = (Receiver::start().await, Receiver::start().await);
    let to_down = owner.tells(&down, &["sale.completed"]).await;
    let start = seq(&owner.looks(&to_down).await);
    owner.tells(&well, &["sale.completed"]).await;
    down.answers(Reply::status(503));
    for _ in 0..3 {
        owner.sells().await;
    }
    // It is tried with the first, and with the first again; the others wait.
    let first = down.next().await;
    let failing = owner.until(&to_down, |now| now["attempts"] == 1).await;
    assert!(failing["failing_since"].is_string() && failing["next_at"].is_string(), "{failing}");
    for attempts in 2..4 {
        owner.later("1 hour").await;
        let again = down.next().await;
        assert_eq!((again.id(), &again.bytes), (first.id(), &first.bytes), "the same message");
        owner.until(&to_down, |now| now["attempts"] == attempts).await;
    }
    assert_eq!(positions(&well.take(3).await), owner.journal_after(start, &["sale.completed"]).await);

    down.answers(Reply::status(200));
    owner.sells().await;
    owner.later("1 hour").await;
    let told = down.take(4).await;
    assert_eq!(positions(&told), owner.journal_after(start, &["sale.completed"]).await);
    let back = owner.until(&to_down, |now| now["attempts"] == 0 && seq(now) == start + 4).await;
    assert_eq!((&back["failing_since"], &back["next_at"]), (&Value::Null, &Value::Null));
    let log = owner.attempts(&to_down).await;
    let outcomes: Vec<&str> = log.iter().rev().map(|it| it["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["refused", "refused", "refused", "delivered", "delivered", "delivered", "delivered"]);
    let numbers: Vec<i64> = log.iter().rev().map(|it| it["attempt"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 1, 1, 1]);
}

#[tokio::test]
async fn p15_a_receiver_may_ask_for_time_say_that_it_is_gone_or_fail_for_too_long() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    receiver.answers_next([Reply::status(429).header("retry-after", "7200")]);
    owner.sells().await;
    receiver.next().await;
    owner.until(&webhook, |now| now["attempts"] == 1).await;
    owner.later("110 minutes").await;
    receiver.is_silent(Duration::from_secs(2)).await;
    receiver.answers_next([Reply::status(410)]);
    owner.later("15 minutes").await;
    receiver.next().await;
    let gone = owner.until(&webhook, |now| now["enabled"] == false).await;
    assert_eq!(gone["disabled_why"], "gone");
    assert_eq!(owner.shop.journal_of(&["alert.raised"]).await.len(), 1);
    owner.sells().await;
    receiver.is_silent(Duration::from_secs(2)).await;

    // Enabled again it is told what it missed.
    let change = json!({ "url": receiver.url(), "events": ["sale.completed"], "enabled": true });
    let enabled = owner.asks("PUT", &webhook, change.clone()).await.ok();
    assert_eq!(
        (&enabled["enabled"], &enabled["disabled_why"], &enabled["attempts"]),
        (&json!(true), &Value::Null, &json!(0))
    );
    assert_eq!(positions(&receiver.take(2).await), owner.journal_after(start, &["sale.completed"]).await);

    receiver.answers(Reply::status(500));
    owner.sells().await;
    for attempts in 1..10 {
        receiver.next().await;
        owner.until(&webhook, |now| now["attempts"] == attempts).await;
        owner.later("2 days").await;
    }
    receiver.next().await;
    let failing = owner.until(&webhook, |now| now["enabled"] == false).await;
    assert_eq!((&failing["disabled_why"], &failing["attempts"]), (&json!("failing"), &json!(10)));
    assert_eq!(seq(&failing), start + 3, "what it was not told is not passed over");
    let (_, alert) = owner.shop.journal_of(&["alert.raised"]).await.pop().unwrap();
    assert!(alert["data"]["detail"].as_str().unwrap().contains("failed 10 times"), "{alert}");
}

#[tokio::test]
async fn g6_a_worker_that_is_killed_in_mid_delivery_is_replaced_and_two_do_not_tell_twice() {
    let hub = TestHub::start().await;
    let api = hub.node(Faces::API, &["--webhook-networks", "127.0.0.0/8"]).await;
    let owner = Owner::at(&hub, api.address, "Toko Roti").await;
    let env = worker_env(&hub);
    let mut killed = TillwireProcess::start(&["worker"], &env[0]).await;
    let mut receiver = Receiver::start().await;
    owner.tells(&receiver, &["sale.completed"]).await;
    receiver.answers_next([Reply::status(200).after(Duration::from_secs(15))]);
    owner.shop.sells(&owner.bread, 7_500).await;
    let first = receiver.next().await;
    killed.kill().await;
    let mut second = TillwireProcess::start(&["worker"], &env[1]).await;
    receiver.is_silent(Duration::from_secs(2)).await;
    hub.database.psql("update webhook_endpoints set leased_until = now()").await;
    assert_eq!(receiver.next().await.id(), first.id(), "nobody knows whether it was told");

    let _third = TillwireProcess::start(&["worker"], &env[2]).await;
    for _ in 0..30 {
        owner.shop.sells(&owner.bread, 7_500).await;
    }
    let told = receiver.take(30).await;
    let journal = owner.shop.journal_of(&["sale.completed"]).await;
    let expected: Vec<String> = journal.into_iter().map(|(position, _)| position).skip(1).collect();
    assert_eq!(positions(&told), expected);
    receiver.is_silent(Duration::from_secs(2)).await;
    // It ends in order, and lets go of what it serves.
    second.terminate();
    assert!(second.ended().await.success());
}

fn worker_env(hub: &TestHub) -> [Env; 3] {
    std::array::from_fn(|_| {
        let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
        env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
        env.insert("TILLWIRE_RELAY_DATABASE_URL", hub.database.url("tillwire_relay"));
        env.insert("TILLWIRE_WEBHOOK_NETWORKS", "127.0.0.0/8".to_owned());
        env
    })
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_nobody_else() {
    let stage = stage().await;
    let (owner, other) = (stage.owner("Toko Roti").await, stage.owner("Saingan").await);
    let mut hanging = Receiver::start().await;
    hanging.answers(Reply::status(200).after(Duration::from_secs(60)));
    // More of them than are served of one merchant at once.
    for _ in 0..20 {
        owner.tells(&hanging, &["sale.completed"]).await;
    }
    let mut well = Receiver::start().await;
    other.tells(&well, &["sale.completed"]).await;
    owner.sells().await;
    hanging.take(16).await;
    for _ in 0..3 {
        other.sells().await;
        well.next().await;
    }
    hanging.is_silent(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_redirect_is_followed_nowhere_and_of_a_long_answer_only_the_beginning_is_read() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let (mut receiver, mut elsewhere) = (Receiver::start().await, Receiver::start().await);
    let webhook = owner.tells(&receiver, &[]).await;
    receiver.answers_next([
        Reply::status(307).header("location", &elsewhere.url()),
        Reply { body: "\u{0}é".repeat(200_000), ..Reply::status(500) },
    ]);
    let redirected = owner.asks("POST", &format!("{webhook}/test"), Value::Null).await.ok();
    assert_eq!((&redirected["outcome"], &redirected["response_status"]), (&json!("refused"), &json!(307)));
    let long = owner.asks("POST", &format!("{webhook}/test"), Value::Null).await.ok();
    assert_eq!(long["response_status"], 500);
    let body = long["response_body"].as_str().unwrap();
    assert!((1_000..=8_192).contains(&body.len()) && body.starts_with("·é"), "{} bytes", body.len());
    assert_eq!(receiver.take(2).await.iter().map(Post::kind).collect::<Vec<_>>(), ["webhook.test"; 2]);
    elsewhere.is_silent(Duration::from_millis(300)).await;
    let path = format!("{webhook}/test");
    let again = [("idempotency-key", "the-same"), ("content-type", "application/json")];
    let caller = Caller { address: stage.node.address, token: &owner.shop.owner };
    let first = caller.send("POST", &path, &again, vec![]).await.unwrap().ok();
    assert_eq!(caller.send("POST", &path, &again, vec![]).await.unwrap().ok(), first);
    assert!(receiver.next().await.id().starts_with("test_"));
    receiver.is_silent(Duration::from_millis(300)).await;
    // A test tells of nothing that happened.
    assert_eq!(owner.looks(&webhook).await["attempts"], 0);
    assert_eq!(owner.attempts(&webhook).await.len(), 3);
}

#[tokio::test]
async fn where_nobody_listens_is_said_and_tried_again() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let nowhere = format!("http://127.0.0.1:{}/secret-path", super::support::services::free_port());
    let added = owner.asks("POST", "/v1/webhooks", json!({ "url": nowhere })).await.created();
    let webhook = format!("/v1/webhooks/{}", added["id"].as_str().unwrap());
    owner.sells().await;
    owner.until(&webhook, |now| now["attempts"] == 1).await;
    let attempt = &owner.attempts(&webhook).await[0];
    assert_eq!((&attempt["outcome"], &attempt["response_status"]), (&json!("failed"), &Value::Null));
    assert!(!attempt["error"].as_str().unwrap().contains("secret-path"), "{attempt}");
}

#[tokio::test]
async fn while_a_secret_is_changed_both_sign() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let body = json!({ "url": receiver.url(), "secret": own, "events": ["sale.completed"] });
    let added = owner.asks("POST", "/v1/webhooks", body).await.created();
    assert!(!added.to_string().contains("whsec_"), "an answer that is stored holds no secret");
    let webhook = format!("/v1/webhooks/{}", added["id"].as_str().unwrap());
    assert_eq!(owner.secret(&webhook).await, own);
    let rotated = owner.asks("POST", &format!("{webhook}/secret"), Value::Null).await.created();
    assert!(rotated["old_until"].is_string() && !rotated.to_string().contains("whsec_"));
    let new = owner.secret(&webhook).await;
    owner.sells().await;
    let post = receiver.next().await;
    assert_eq!((post.signed_with(&new), post.signed_with(own)), (Some(0), Some(1)));
    owner.shop.hub.database.psql("update webhook_secrets set expires_at = now() where expires_at is not null").await;
    // Who is being served has the secrets of when that began.
    owner.until(&webhook, |now| now["position"].as_str().is_some_and(|it| !it.contains('.'))).await;
    until(async || {
        let leased =
            owner.shop.hub.database.psql("select count(*) from webhook_endpoints where lease is not null").await;
        (leased.trim() == "0").then_some(())
    })
    .await;
    owner.sells().await;
    let post = receiver.next().await;
    assert_eq!((post.signed_with(&new), post.signed_with(own)), (Some(0), None));
    for _ in 0..4 {
        owner.asks("POST", &format!("{webhook}/secret"), Value::Null).await;
    }
    owner.asks("POST", &format!("{webhook}/secret"), Value::Null).await.refused(409, "too_many_secrets");
    let short = json!({ "url": receiver.url(), "secret": "whsec_c2hvcnQ=" });
    owner.asks("POST", "/v1/webhooks", short).await.refused(422, "invalid_secret");
}

#[tokio::test]
async fn a_url_that_leads_inside_is_refused_with_the_field_and_the_reason() {
    let hub = TestHub::start().await;
    // As a deployment is configured: no network is allowed.
    let node = hub.node(Faces::API, &[]).await;
    let owner = Owner::at(&hub, node.address, "Toko Roti").await;
    for (url, why) in [
        ("http://hooks.example/", "https"),
        ("https://127.0.0.1/", "not public"),
        ("https://2130706433/", "not public"),
        ("https://0x7f.1/", "not public"),
        ("https://017700000001/", "not public"),
        ("https://[::ffff:169.254.169.254]/latest/meta-data", "not public"),
        ("https://[fe80::1%25eth0]/", "no URL"),
        ("https://10.0.0.1/", "not public"),
        ("https://user:secret@hooks.example/", "user"),
        ("https://hooks.example:8080/", "port"),
        ("https://hooks.example/#here", "fragment"),
        ("nothing", "no URL"),
    ] {
        let refused = owner.asks("POST", "/v1/webhooks", json!({ "url": url })).await.refused(422, "url_refused");
        let (pointer, detail) = (&refused["errors"][0]["pointer"], refused["detail"].as_str().unwrap());
        assert!(pointer == "/url" && detail.contains(why), "{url}: {refused}");
    }
    let unknown = json!({ "url": "https://hooks.example/", "events": ["sale.completed", "sale.dreamt"] });
    let refused = owner.asks("POST", "/v1/webhooks", unknown).await.refused(422, "unknown_event");
    assert_eq!(refused["errors"][0]["pointer"], "/events/1");
    assert_eq!(owner.asks("GET", "/v1/webhooks", Value::Null).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn webhooks_are_the_owners_and_no_other_merchants() {
    let hub = TestHub::start().await;
    let node = hub.node(Faces::API, &[]).await;
    let (owner, rival) =
        (Owner::at(&hub, node.address, "Toko Roti").await, Owner::at(&hub, node.address, "Saingan").await);
    let id = Uuid::now_v7();
    let body = json!({ "id": id, "url": "https://hooks.example/" });
    owner.asks("POST", "/v1/webhooks", body.clone()).await.created();
    owner.asks("POST", "/v1/webhooks", body).await.refused(409, "id_taken");
    let webhook = format!("/v1/webhooks/{id}");
    let change = json!({ "url": "https://hooks.example/", "enabled": false });
    let calls = [
        ("GET", webhook.clone(), Value::Null),
        ("PUT", webhook.clone(), change),
        ("DELETE", webhook.clone(), Value::Null),
        ("GET", format!("{webhook}/secret"), Value::Null),
        ("POST", format!("{webhook}/secret"), Value::Null),
        ("GET", format!("{webhook}/attempts"), Value::Null),
        ("POST", format!("{webhook}/test"), Value::Null),
    ];
    for (method, path, body) in &calls {
        rival.asks(method, path, body.clone()).await.refused(404, "not_found");
        for role in [Role::Manager, Role::Cashier, Role::Accountant, Role::Display] {
            let token = hub.token(owner.shop.merchant, role, &[]);
            owner.asks_as(&token, method, path, body.clone()).await.refused(403, "denied");
        }
    }
    // An owner who is bound to an outlet is not everybody's.
    let bound = hub.token(owner.shop.merchant, Role::Owner, &[owner.shop.outlet]);
    assert_eq!(owner.asks_as(&bound, "GET", &webhook, Value::Null).await.status, 403);
    assert_eq!(owner.looks(&webhook).await["enabled"], true);
    let disabled = owner.asks("PUT", &webhook, json!({ "url": "https://hooks.example/", "enabled": false })).await.ok();
    assert_eq!(disabled["disabled_why"], "by_hand");
    assert_eq!(owner.asks("DELETE", &webhook, Value::Null).await.ok()["id"], json!(id));
    owner.asks("GET", &webhook, Value::Null).await.refused(404, "not_found");
    for n in 0..50 {
        owner.asks("POST", "/v1/webhooks", json!({ "url": format!("https://hooks.example/{n}") })).await.created();
    }
    owner
        .asks("POST", "/v1/webhooks", json!({ "url": "https://hooks.example/" }))
        .await
        .refused(409, "too_many_webhooks");
}

#[tokio::test]
async fn g6_a_change_takes_effect_at_once_whoever_is_serving_what_was() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    for old_answer in [200, 410, 500] {
        let (mut old, mut new) = (Receiver::start().await, Receiver::start().await);
        let webhook = owner.tells(&old, &["sale.completed"]).await;
        let start = seq(&owner.looks(&webhook).await);
        old.answers(Reply::status(old_answer).after(Duration::from_secs(4)));
        owner.sells().await;
        let first = old.next().await;
        let change = json!({ "url": new.url(), "events": ["sale.completed", "payment.captured"], "enabled": true });
        owner.asks("PUT", &webhook, change).await.ok();
        owner.sells().await;
        // All of what the old one had not said that it has, as it is wanted now.
        let expected = owner.journal_after(start, &["sale.completed", "payment.captured"]).await;
        let told = new.take(expected.len()).await;
        assert_eq!((positions(&told), told[0].id()), (expected, first.id()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = owner.looks(&webhook).await;
        assert_eq!((&now["enabled"], &now["attempts"]), (&json!(true), &json!(0)), "{old_answer}: {now}");
        old.is_silent(Duration::from_millis(100)).await;
        owner.asks("DELETE", &webhook, Value::Null).await.ok();
    }
}

#[tokio::test]
async fn one_that_is_disabled_or_removed_while_it_is_served_is_told_no_more() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    for method in ["PUT", "DELETE"] {
        let webhook = owner.tells(&receiver, &["sale.completed"]).await;
        receiver.answers_next([Reply::status(200).after(Duration::from_secs(2))]);
        for _ in 0..3 {
            owner.sells().await;
        }
        receiver.next().await;
        let body = if method == "PUT" { json!({ "url": receiver.url(), "enabled": false }) } else { Value::Null };
        owner.asks(method, &webhook, body).await.ok();
        receiver.is_silent(Duration::from_secs(4)).await;
    }
}

#[tokio::test]
async fn a_journal_that_was_cut_goes_on_with_its_oldest_entry() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    receiver.answers_next([Reply::status(500)]);
    for _ in 0..3 {
        owner.sells().await;
    }
    receiver.next().await;
    owner.until(&webhook, |now| now["attempts"] == 1).await;
    let forget =
        format!("delete from journal_entries where merchant_id = '{}' and seq <= {}", owner.shop.merchant, start + 2);
    stage.hub.database.psql(&forget).await;
    owner.later("1 hour").await;
    assert_eq!(positions(&[receiver.next().await]), owner.journal_after_cut(start + 2).await);
}

impl Owner<'_> {
    async fn journal_after_cut(&self, seq: u64) -> Vec<String> {
        let sql = format!(
            "select seq || '.1-' || encode(substr(tag, 1, 4), 'hex') from journal_entries
             where merchant_id = '{}' and seq > {seq} order by seq",
            self.shop.merchant
        );
        self.shop.hub.database.psql(&sql).await.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for_and_nothing_is_lost() {
    let hub = TestHub::start().await;
    let mut near = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let relay_url = hub.database.url_through(near.port, "tillwire_relay");
    let flags = ["--relay-database-url", &relay_url, "--webhook-networks", "127.0.0.0/8"];
    let through = hub.node_through(near.port, Faces::WORKER, &flags).await;
    let api = hub.node(Faces::API, &["--webhook-networks", "127.0.0.0/8"]).await;
    let owner = Owner::at(&hub, api.address, "Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    owner.sells().await;
    receiver.next().await;
    near.refuse().await;
    near.cut();
    for _ in 0..3 {
        owner.sells().await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    near.accept().await;
    // What was being told when the database went may be told again, once its lease has expired.
    hub.database.psql("update webhook_endpoints set leased_until = now() where leased_until is not null").await;
    let expected = owner.journal_after(start, &["sale.completed"]).await;
    let (mut told, started) = (Vec::new(), Instant::now());
    while told.last() != expected.last() {
        assert!(started.elapsed() < FACT_MAX, "{told:?}");
        told.push(receiver.next().await.position());
    }
    told.dedup();
    assert!(told == expected[1..] || told == expected, "{told:?} of {expected:?}");
    through.stops().await;
}
