//! Push: phones and browsers are told what no screen of their people has shown, by the words of three services.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillwire::identity::tokens::Bearer;
use tillwire::journal::read::{self, Slice};
use tillwire::node::Faces;
use tillwire::push::ATTEMPT_MAX;
use tillwire::push::services::{Options, Services};
use tillwire::workers::handlers::{Failure, Handler as _, Heard};
use tillwire::workers::push::Push;
use tillwire::workers::subscribers::Steps;
use tillwire_channels::event::{AlertRaised, Event, Severity};
use tillwire_channels::{Moment, OutletId, Position, RegisterId, Role, StaffId, Stored};
use uuid::Uuid;

use super::support::buses::{Counts, Log, until};
use super::support::caller::{Caller, bearer};
use super::support::hub::{Answer, Shop, TestHub, TestNode};
use super::support::process::{TillwireProcess, environment};
use super::support::push::apns::{self, ApnsService};
use super::support::push::fcm::{self, FcmService};
use super::support::push::web::{Browser, WebService};
use super::support::push::{KeyFile, text};
use super::support::receiver::{Receiver, Reply};
use super::support::services::RabbitMq;
use super::support::vault;

const CONTACT: &str = "mailto:ops@toko.example";
/// The most that a service may keep a note of a payment for.
const PAYMENT_LIVES_SECONDS: u64 = 15 * 60;

/// Every service there is, and what an operator would say of each.
struct AllServices {
    web: WebService,
    fcm: FcmService,
    apns: ApnsService,
    vapid: KeyFile,
}

impl AllServices {
    async fn start() -> Self {
        tillwire::identity::tokens::install_crypto();
        let (web, fcm, apns) = (WebService::start().await, FcmService::start().await, ApnsService::start().await);
        Self { web, fcm, apns, vapid: KeyFile::new() }
    }

    fn options(&self) -> Options {
        Options {
            vapid_key: Some(self.vapid.path.clone()),
            contact: Some(CONTACT.to_owned()),
            networks: vec!["127.0.0.0/8".parse().unwrap()],
            fcm_credentials: Some(self.fcm.credentials.clone()),
            fcm_url: Some(self.fcm.url()),
            apns_key: Some(self.apns.key().path.clone()),
            apns_key_id: Some(apns::KEY_ID.to_owned()),
            apns_team: Some(apns::TEAM.to_owned()),
            apns_topic: Some(apns::TOPIC.to_owned()),
            apns_sandbox: false,
            apns_url: Some(self.apns.url()),
        }
    }

    /// The same as a node is given it.
    fn flags(&self) -> Vec<String> {
        let flags = [
            ("--push-vapid-key", text(&self.vapid.path)),
            ("--push-contact", CONTACT.to_owned()),
            ("--fcm-credentials", text(&self.fcm.credentials)),
            ("--fcm-url", self.fcm.url()),
            ("--apns-key", text(&self.apns.key().path)),
            ("--apns-key-id", apns::KEY_ID.to_owned()),
            ("--apns-team", apns::TEAM.to_owned()),
            ("--apns-topic", apns::TOPIC.to_owned()),
            ("--apns-url", self.apns.url()),
            ("--push-networks", "127.0.0.0/8".to_owned()),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// A handler as a worker has it.
    fn handler(&self, hub: &TestHub) -> Push {
        let services = Services::open(&self.options()).expect("services");
        Push::new(Steps::over(hub.pools.clone()), Arc::new(services), vault::with(&[]))
    }

    /// A node that lets devices be registered.
    async fn node(&self, hub: &TestHub) -> TestNode {
        let flags = self.flags();
        hub.node(Faces::API, &flags.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Nobody was told anything that was not asked for.
    fn are_silent(&mut self) {
        self.web.came.is_empty();
        self.fcm.came.is_empty();
        self.apns.came.is_empty();
    }
}

/// Somebody of a shop, at a node.
struct Person<'a> {
    node: &'a TestNode,
    staff: StaffId,
    token: String,
}

impl<'a> Person<'a> {
    fn new(shop: &Shop<'_>, node: &'a TestNode, role: Role) -> Self {
        Self::bound(shop, node, role, &[], None)
    }

    fn bound(
        shop: &Shop<'_>,
        node: &'a TestNode,
        role: Role,
        outlets: &[OutletId],
        register: Option<RegisterId>,
    ) -> Self {
        let staff = StaffId::new();
        let bearer = Bearer { outlets: outlets.to_vec(), register, ..bearer(shop.merchant, staff, role) };
        let token = shop.hub.signer.mint(&bearer, Duration::from_secs(600)).expect("a token");
        Self { node, staff, token }
    }

    async fn asks(&self, method: &str, path: &str, body: Value) -> Answer {
        self.asks_once(&Uuid::new_v4().to_string(), method, path, body).await
    }

    async fn asks_once(&self, key: &str, method: &str, path: &str, body: Value) -> Answer {
        let headers = [("idempotency-key", key), ("content-type", "application/json")];
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        Caller { address: self.node.address, token: &self.token }
            .send(method, path, &headers, body)
            .await
            .expect("an answer")
    }

    /// Registers a device that is told everything. Answers its path.
    async fn registers(&self, registration: Value) -> String {
        self.registers_as(registration, json!({})).await
    }

    /// The same with these fields besides.
    async fn registers_as(&self, registration: Value, fields: Value) -> String {
        let body = device(registration, fields);
        let added = self.asks("POST", "/v1/devices", body).await.created();
        format!("/v1/devices/{}", added["id"].as_str().expect("an id"))
    }

    async fn devices(&self) -> Vec<Value> {
        self.asks("GET", "/v1/devices", Value::Null).await.ok()["items"].as_array().expect("devices").clone()
    }
}

fn device(registration: Value, fields: Value) -> Value {
    let mut body = json!({ "registration": registration, "topics": { "payments": true, "alerts": true } });
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

fn android(name: &str) -> Value {
    json!({ "kind": "fcm", "token": format!("{name}:APA91b_x-1") })
}

fn iphone(digit: char) -> Value {
    json!({ "kind": "apns", "token": digit.to_string().repeat(64) })
}

/// The journal's last event of a type, as a handler is told it.
async fn last(shop: &Shop<'_>, kind: &str) -> Heard {
    let mut sql = shop.hub.pools.feed.acquire().await.expect("a connection");
    let all = read::after(&mut sql, shop.merchant, Position::START, Slice::default()).await.expect("the journal");
    let heard = all.entries.iter().rev().find_map(|entry| {
        let events = entry.events().expect("events");
        let (at, event) = events.iter().enumerate().rfind(|(_, event)| &*event.kind == kind)?;
        let position = Position::of_event(entry.seq, at as u32 + 1, entry.tag);
        Some(Heard {
            merchant: shop.merchant,
            position,
            recorded_at: entry.recorded_at,
            trace: None,
            event: event.clone(),
        })
    });
    heard.expect("an event")
}

/// Sells something. Answers the payment, as a handler is told it.
async fn is_paid(shop: &Shop<'_>, bread: &str) -> Heard {
    shop.sells(bread, 25_000).await;
    last(shop, "payment.captured").await
}

/// An alert with these words, as if it had been raised in the entry that enrolled the register.
async fn alert(shop: &Shop<'_>, outlet: Option<OutletId>, title: &str, detail: &str) -> Heard {
    let raised = Event::AlertRaised(AlertRaised {
        alert: "stock_low".to_owned(),
        severity: Severity::Critical,
        title: title.to_owned(),
        detail: detail.to_owned(),
        subject: None,
        outlet,
        register: None,
    });
    let event = Stored::new(&raised, Moment::now_utc(), None).expect("an event");
    Heard { event, ..last(shop, "register.enrolled").await }
}

/// The same event when it is so old.
fn ago(heard: &Heard, age: Duration) -> Heard {
    Heard { recorded_at: Moment::now_utc() - age, ..heard.clone() }
}

async fn is_done(push: &Push, heard: &Heard) {
    push.handle(heard).await.unwrap_or_else(|failure| panic!("{failure:?}"));
}

/// It is to be tried again, after so long at least. Answers why.
async fn is_put_off(push: &Push, heard: &Heard) -> (String, Option<Duration>) {
    match push.handle(heard).await {
        Err(Failure::Later(why, at_least)) => (format!("{why:#}"), at_least),
        other => panic!("{other:?}"),
    }
}

fn note_keys(note: &Value) -> Vec<&str> {
    note.as_object().expect("a note").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_browser_is_told_what_it_alone_can_read() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let keys = owner.asks("GET", "/v1/push/keys", Value::Null).await.ok();
    assert_eq!(keys["kinds"], json!(["web", "fcm", "apns"]));
    let public_key = keys["vapid"].as_str().unwrap();

    let (phone, laptop) = (Browser::new("/push/phone"), Browser::new("/push/laptop"));
    owner.registers(phone.registration(&services.web)).await;
    owner.registers_as(laptop.registration(&services.web), json!({ "locale": "en" })).await;
    let heard = is_paid(&shop, &bread).await;
    is_done(&push, &heard).await;
    let mut pushed = [services.web.came.next().await, services.web.came.next().await];
    pushed.sort_by(|one, other| other.path.cmp(&one.path));
    let [to_phone, to_laptop] = &pushed;
    assert_eq!((&*to_phone.path, &*to_laptop.path), ("/push/phone", "/push/laptop"));

    let note = phone.reads(&services.web, to_phone, CONTACT, public_key).await;
    assert_eq!((&note["title"], &note["body"]), (&json!("Toko Roti"), &json!("Pembayaran tunai Rp 25.000 diterima")));
    assert_eq!(note["position"], heard.position.to_string());
    assert_eq!((&note["merchant"], &note["outlet"]), (&json!(shop.merchant), &json!(shop.outlet)));
    assert_eq!((&note["type"], &note["tag"]), (&json!("payment.captured"), &json!(to_phone.header("topic"))));
    assert_eq!(note_keys(&note), ["body", "merchant", "outlet", "position", "tag", "title", "type"]);
    let english = laptop.reads(&services.web, to_laptop, CONTACT, public_key).await;
    assert_eq!(english["body"], "Cash payment of Rp 25,000 received");
    assert_eq!(to_phone.bytes.len(), to_laptop.bytes.len(), "its length says nothing of the language");
    let ttl: u64 = to_phone.header("ttl").parse().unwrap();
    assert!((PAYMENT_LIVES_SECONDS - 120..=PAYMENT_LIVES_SECONDS).contains(&ttl), "{ttl}");
    // The same word for both: it is good for half a day.
    assert_eq!(to_phone.header("authorization"), to_laptop.header("authorization"));

    // Whoever hears it again tells nobody again. If that was not written down, it takes the place of what was there.
    is_done(&push, &heard).await;
    services.are_silent();
    hub.database.psql("delete from push_told").await;
    is_done(&push, &heard).await;
    let again = services.web.came.next().await;
    assert_eq!(again.header("topic"), to_phone.header("topic"));
    assert_ne!(again.bytes, to_phone.bytes, "with another key");
    services.web.came.next().await;
    let other = is_paid(&shop, &bread).await;
    is_done(&push, &other).await;
    assert_ne!(services.web.came.next().await.header("topic"), to_phone.header("topic"));
}

#[tokio::test]
async fn whoever_is_sealed_is_told_as_before_and_one_that_was_changed_keeps_nobody_from_it() {
    let (hub, key) = (TestHub::start().await, vault::key());
    let mut services = AllServices::start().await;
    let (flags, files) = (services.flags(), vault::list(&[&key]));
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--vault-key-file", &files]);
    let node = hub.node(Faces::API, &flags).await;
    let handler = |keys: &[&std::path::PathBuf]| {
        let services = Arc::new(Services::open(&services.options()).expect("services"));
        Push::new(Steps::over(hub.pools.clone()), services, vault::with(keys))
    };
    let (with, without) = (handler(&[&key]), handler(&[]));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let public_key = owner.asks("GET", "/v1/push/keys", Value::Null).await.ok()["vapid"].as_str().unwrap().to_owned();
    let laptop = Browser::new("/push/laptop");
    owner.registers(laptop.registration(&services.web)).await;
    owner.registers(android("one")).await;
    let changed = owner.registers(android("two")).await;
    owner.registers(iphone('a')).await;
    let clear =
        "select count(*) from push_devices where registration is not null or p256dh is not null or auth is not null";
    assert_eq!(hub.database.psql(clear).await.trim(), "0");
    let change = format!(
        "update push_devices set sealed = set_byte(sealed, 14, get_byte(sealed, 14) # 1) where device_id = '{}'",
        changed.rsplit('/').next().unwrap()
    );
    hub.database.psql(&change).await;

    let heard = is_paid(&shop, &bread).await;
    let (why, _) = is_put_off(&without, &heard).await;
    assert!(why.contains("vault_unavailable"), "{why}");
    is_done(&with, &heard).await;
    let pushed = services.web.came.next().await;
    let note = laptop.reads(&services.web, &pushed, CONTACT, &public_key).await;
    assert_eq!(note["position"], heard.position.to_string());
    assert_eq!(services.fcm.came.next().await.message.token, "one:APA91b_x-1");
    services.apns.came.next().await;
    services.are_silent();
    // Its app says that it is there, and it is told again.
    owner.asks("PUT", &changed, device(android("two"), json!({}))).await.ok();
    let next = is_paid(&shop, &bread).await;
    is_done(&with, &next).await;
    let mut told = [services.fcm.came.next().await.message.token, services.fcm.came.next().await.message.token];
    told.sort();
    assert_eq!(told, ["one:APA91b_x-1", "two:APA91b_x-1"]);
}

#[tokio::test]
async fn android_is_told_by_fcm_with_a_token_that_is_asked_for_once() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    owner.registers(android("one")).await;
    owner.registers_as(android("two"), json!({ "locale": "en" })).await;
    let heard = is_paid(&shop, &bread).await;
    is_done(&push, &heard).await;
    let mut sent = [services.fcm.came.next().await.message, services.fcm.came.next().await.message];
    sent.sort_by(|one, other| one.token.cmp(&other.token));
    let [one, two] = sent;
    assert_eq!((&*one.token, &*two.token), ("one:APA91b_x-1", "two:APA91b_x-1"));
    assert_eq!(one.notification.body, "Pembayaran tunai Rp 25.000 diterima");
    assert_eq!(two.notification.body, "Cash payment of Rp 25,000 received");
    assert_eq!(one.data["position"], heard.position.to_string());
    assert_eq!((&one.data["merchant"], &one.data["outlet"]), (&shop.merchant.to_string(), &shop.outlet.to_string()));
    assert_eq!(one.android.priority, fcm::Priority::High);
    let ttl: u64 = one.android.ttl.trim_end_matches('s').parse().unwrap();
    assert!((PAYMENT_LIVES_SECONDS - 120..=PAYMENT_LIVES_SECONDS).contains(&ttl), "{ttl}");
    assert_eq!(one.android.notification.tag, one.data["tag"]);
    is_done(&push, &heard).await;
    services.are_silent();

    // The token is kept; one that is not good any more is asked for anew, and one that soon will not be.
    let next = is_paid(&shop, &bread).await;
    is_done(&push, &next).await;
    for _ in 0..2 {
        assert_ne!(services.fcm.came.next().await.message.android.notification.tag, one.android.notification.tag);
    }
    assert_eq!(services.fcm.given(), 1);
    services.fcm.revokes();
    let after = is_paid(&shop, &bread).await;
    let (why, _) = is_put_off(&push, &after).await;
    assert!(why.contains("401"), "{why}");
    services.fcm.gives_for(200);
    is_done(&push, &after).await;
    let fresh = services.fcm.came.next().await.bearer;
    services.fcm.came.next().await;
    let last = is_paid(&shop, &bread).await;
    is_done(&push, &last).await;
    assert_ne!(services.fcm.came.next().await.bearer, fresh, "it had less than five minutes left");
}

#[tokio::test]
async fn iphones_are_told_by_apns_over_http_2_with_one_provider_token() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    owner.registers(iphone('A')).await;
    let heard = is_paid(&shop, &bread).await;
    is_done(&push, &heard).await;
    let sent = services.apns.came.next().await;
    assert_eq!(sent.device, "a".repeat(64));
    let shown = &sent.body["aps"]["alert"];
    assert_eq!((&shown["title"], &shown["body"]), (&json!("Toko Roti"), &json!("Pembayaran tunai Rp 25.000 diterima")));
    assert_eq!(sent.body["tillwire"]["position"], heard.position.to_string());
    assert_eq!(sent.body["tillwire"]["tag"], sent.header("apns-collapse-id"));
    assert_eq!((sent.header("apns-priority"), sent.header("apns-push-type")), ("10", "alert"));
    let expires: i64 = sent.header("apns-expiration").parse().unwrap();
    assert_eq!(expires, heard.recorded_at.unix_timestamp() + PAYMENT_LIVES_SECONDS as i64);
    for _ in 0..3 {
        let next = is_paid(&shop, &bread).await;
        is_done(&push, &next).await;
        let next = services.apns.came.next().await;
        assert_ne!(next.header("apns-collapse-id"), sent.header("apns-collapse-id"));
        assert_eq!(next.bearer, sent.bearer);
    }
    // Not another one so soon, even if this one is not taken.
    services.apns.desk.answers_next([apns::refusal(403, "ExpiredProviderToken")]);
    let refused = is_paid(&shop, &bread).await;
    is_put_off(&push, &refused).await;
    is_done(&push, &refused).await;
    assert_eq!(services.apns.shown(), 1);
}

#[tokio::test]
async fn apple_is_reached_by_tls_and_only_where_its_certificate_is_trusted() {
    let hub = TestHub::start().await;
    tillwire::identity::tokens::install_crypto();
    let (mut apple, authority) = ApnsService::start_with_tls().await;
    let shop = hub.merchant("Toko Roti").await;
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    env.insert("TILLWIRE_APNS_KEY", text(&apple.key().path));
    env.insert("TILLWIRE_APNS_KEY_ID", apns::KEY_ID.to_owned());
    env.insert("TILLWIRE_APNS_TEAM", apns::TEAM.to_owned());
    env.insert("TILLWIRE_APNS_TOPIC", apns::TOPIC.to_owned());
    env.insert("TILLWIRE_APNS_URL", format!("https://localhost:{}", apple.address.port()));
    for (is_trusted, outcome) in [(false, "later"), (true, "sent")] {
        if is_trusted {
            env.insert("SSL_CERT_FILE", text(&authority));
        }
        let mut serving = TillwireProcess::start(&["serve"], &env).await;
        let caller = Caller { address: serving.public, token: &shop.owner };
        let added = caller.creates("/v1/devices", device(iphone('a'), json!({}))).await;
        let path = format!("/v1/devices/{}/test", added["id"].as_str().unwrap());
        let tested = caller.post(outcome, &path, vec![]).await.expect("an answer").ok();
        assert_eq!(tested["outcome"], outcome, "{tested}");
        serving.kill().await;
    }
    assert_eq!(apple.came.next().await.body["tillwire"]["type"], "push.test");
    apple.came.is_empty();
}

#[tokio::test]
async fn a_registration_that_is_none_is_refused_with_the_field() {
    let hub = TestHub::start().await;
    let services = AllServices::start().await;
    let node = services.node(&hub).await;
    let shop = hub.merchant("Toko Roti").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let browser = Browser::new("/push").registration(&services.web);
    let web = |field: &str, value: Value| {
        let mut registration = browser.clone();
        *registration.pointer_mut(field).expect("a field") = value;
        registration
    };
    let point = browser["keys"]["p256dh"].as_str().unwrap().to_owned();
    let beside = format!("{}{}", &point[..86], if point.ends_with('A') { 'E' } else { 'A' });
    for (registration, code, pointer) in [
        (web("/endpoint", json!("https://10.0.0.1/push")), "url_refused", "/registration/endpoint"),
        (web("/endpoint", json!("http://push.example/")), "url_refused", "/registration/endpoint"),
        (web("/endpoint", json!("nothing")), "url_refused", "/registration/endpoint"),
        (web("/endpoint", Value::Null), "invalid_field", "/registration/endpoint"),
        (web("/keys", Value::Null), "invalid_field", "/registration/keys"),
        (web("/keys/p256dh", json!("!")), "invalid_field", "/registration/keys/p256dh"),
        (web("/keys/p256dh", json!(beside)), "invalid_field", "/registration/keys/p256dh"),
        (web("/keys/p256dh", json!(&point[..80])), "invalid_field", "/registration/keys/p256dh"),
        (web("/keys/auth", json!("AAAA")), "invalid_field", "/registration/keys/auth"),
        (web("/kind", json!("fcm")), "invalid_field", "/registration/endpoint"),
        (web("/kind", json!("pager")), "invalid_field", "/registration/kind"),
        (json!({ "kind": "fcm", "token": "with space" }), "invalid_field", "/registration/token"),
        (json!({ "kind": "fcm" }), "invalid_field", "/registration/token"),
        (json!({ "kind": "apns", "token": "abc" }), "invalid_field", "/registration/token"),
        (json!({ "kind": "apns", "token": "z".repeat(64) }), "invalid_field", "/registration/token"),
    ] {
        let answer = owner.asks("POST", "/v1/devices", device(registration.clone(), json!({}))).await;
        let problem = answer.json();
        let error = &problem["errors"][0];
        assert_eq!(answer.status, 422, "{registration}: {problem}");
        assert_eq!((&error["code"], &error["pointer"]), (&json!(code), &json!(pointer)), "{registration}: {problem}");
    }
    let night = |from: &str, to: &str, zone: &str| json!({ "quiet": { "from": from, "to": to, "time_zone": zone } });
    for (fields, code, pointer) in [
        (night("22:00", "06:00", "Asia/Atlantis"), "unknown_time_zone", "/quiet/time_zone"),
        (night("22:00", "22:00", "Asia/Jakarta"), "invalid_field", "/quiet"),
        (night("25:00", "06:00", "Asia/Jakarta"), "invalid_field", "/quiet/from"),
        (json!({ "outlets": [shop.outlet, OutletId::new()] }), "unknown_outlet", "/outlets/1"),
        (json!({ "topics": { "horoscopes": true } }), "invalid_field", "/topics/horoscopes"),
        (json!({ "locale": "fr" }), "invalid_field", "/locale"),
        (json!({ "name": "x".repeat(101) }), "invalid_field", "/name"),
        (json!({ "name": "a\u{0}b" }), "invalid_field", "/name"),
    ] {
        let answer = owner.asks("POST", "/v1/devices", device(android("one"), fields.clone())).await;
        let problem = answer.json();
        let error = &problem["errors"][0];
        assert_eq!(answer.status, 422, "{fields}: {problem}");
        assert_eq!((&error["code"], &error["pointer"]), (&json!(code), &json!(pointer)), "{fields}: {problem}");
    }
    assert_eq!(owner.devices().await, [] as [Value; 0]);

    // A hub that has no key says so, and which kind it is.
    let bare = hub.node(Faces::API, &[]).await;
    let elsewhere = Person { node: &bare, ..owner };
    assert_eq!(elsewhere.asks("GET", "/v1/push/keys", Value::Null).await.ok(), json!({ "vapid": null, "kinds": [] }));
    for registration in [browser.clone(), android("one"), iphone('a')] {
        let refused = elsewhere.asks("POST", "/v1/devices", device(registration, json!({}))).await;
        assert_eq!(refused.refused(422, "push_unavailable")["errors"][0]["pointer"], "/registration/kind");
    }
    // What is opened for webhooks, which owners add, is not for devices.
    let key = text(&services.vapid.path);
    let flags = ["--push-vapid-key", &key, "--push-contact", CONTACT, "--webhook-networks", "127.0.0.0/8"];
    let cautious = hub.node(Faces::API, &flags).await;
    let elsewhere = Person { node: &cautious, ..elsewhere };
    let refused = elsewhere.asks("POST", "/v1/devices", device(browser, json!({}))).await;
    assert_eq!(refused.refused(422, "url_refused")["errors"][0]["pointer"], "/registration/endpoint");
}

#[tokio::test]
async fn everybody_sees_and_changes_their_own_devices_alone() {
    let hub = TestHub::start().await;
    let services = AllServices::start().await;
    let node = services.node(&hub).await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let ani = Person::new(&shop, &node, Role::Cashier);
    let body = device(
        android("one"),
        json!({
            "name": "HP Ani", "locale": "en", "outlets": [shop.outlet],
            "quiet": { "from": "22:00", "to": "06:30", "time_zone": "Asia/Jakarta" },
            "topics": { "payments": true },
        }),
    );
    let answer = ani.asks_once("the-same", "POST", "/v1/devices", body.clone()).await;
    let added = answer.created();
    assert_eq!(ani.asks_once("the-same", "POST", "/v1/devices", body.clone()).await.created(), added);
    assert_eq!((&added["kind"], &added["name"], &added["locale"]), (&json!("fcm"), &json!("HP Ani"), &json!("en")));
    assert_eq!(added["quiet"], json!({ "from": "22:00", "to": "06:30", "time_zone": "Asia/Jakarta" }));
    assert_eq!(added["topics"], json!({ "payments": true, "alerts": false }));
    assert_eq!(added["outlets"], json!([shop.outlet]));
    assert!(!added.to_string().contains("APA91b"), "its service's name for it is shown nowhere");
    let path = format!("/v1/devices/{}", added["id"].as_str().unwrap());
    assert_eq!(ani.asks("GET", &path, Value::Null).await.ok(), added);

    // The same registration is the same device, and a token that its service has changed replaces the old one.
    let again = ani.asks("POST", "/v1/devices", body).await.created();
    assert_eq!(again["id"], added["id"]);
    assert!(again["renewed_at"].as_str() > added["renewed_at"].as_str());
    let changed = ani.asks("PUT", &path, device(android("rotated"), json!({ "name": "HP" }))).await.ok();
    assert_eq!((&changed["id"], &changed["name"], &changed["quiet"]), (&added["id"], &json!("HP"), &Value::Null));
    let kept = "select registration from push_devices";
    assert_eq!(hub.database.psql(kept).await.trim(), "rotated:APA91b_x-1");

    let (budi, stranger) = (Person::new(&shop, &node, Role::Owner), Person::new(&rival, &node, Role::Owner));
    for (method, path, body) in [
        ("GET", path.clone(), Value::Null),
        ("PUT", path.clone(), device(android("stolen"), json!({}))),
        ("DELETE", path.clone(), Value::Null),
        ("POST", format!("{path}/test"), Value::Null),
    ] {
        for other in [&budi, &stranger] {
            other.asks(method, &path, body.clone()).await.refused(404, "not_found");
        }
    }
    assert!(budi.devices().await.is_empty() && stranger.devices().await.is_empty());
    assert_eq!(hub.database.psql(kept).await.trim(), "rotated:APA91b_x-1");
    let wall = Person::new(&shop, &node, Role::Display);
    wall.asks("POST", "/v1/devices", device(android("wall"), json!({}))).await.refused(403, "denied");

    // A phone that is handed over is the other person's, and only theirs; another merchant's is another device.
    let taken = budi.asks("POST", "/v1/devices", device(android("rotated"), json!({}))).await.created();
    assert_ne!(taken["id"], added["id"]);
    assert!(ani.devices().await.is_empty());
    stranger.registers(android("rotated")).await;
    assert_eq!((budi.devices().await.len(), stranger.devices().await.len()), (1, 1));
    let other = budi.registers(android("other")).await;
    budi.asks("PUT", &other, device(android("rotated"), json!({}))).await.ok();
    assert_eq!(budi.devices().await.len(), 1, "one device has a registration");
    budi.asks("DELETE", &other, Value::Null).await.ok();
    budi.asks("GET", &other, Value::Null).await.refused(404, "not_found");

    for number in 0..10 {
        budi.registers(android(&number.to_string())).await;
    }
    let eleventh = budi.asks("POST", "/v1/devices", device(android("eleventh"), json!({}))).await;
    assert_eq!(eleventh.refused(409, "too_many_devices")["errors"][0]["pointer"], "/registration");
    budi.registers(android("3")).await;
    hub.database
        .psql(&format!(
            "insert into push_devices (merchant_id, device_id, staff_id, role, outlets, issued_at, kind, registration, name,
                                       locale, payments, alerts, only_outlets)
             select '{}', gen_random_uuid(), gen_random_uuid(), 'owner', '{{}}', now(), 'fcm', 'n' || n, '', 'id', true, true, '{{}}'
             from generate_series(1, 990) n",
            shop.merchant
        ))
        .await;
    ani.asks("POST", "/v1/devices", device(android("one"), json!({}))).await.refused(409, "too_many_devices");
}

#[tokio::test]
async fn quiet_hours_go_over_midnight_by_the_clocks_of_the_person() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    // Somewhere it is that hour now.
    let zone_at = async |hour: u8| {
        let query = format!(
            "select name from pg_timezone_names where extract(hour from now() at time zone name) = {hour} order by name limit 1"
        );
        hub.database.psql(&query).await.trim().to_owned()
    };
    for (name, hour) in [("before-midnight", 23), ("after-midnight", 3), ("noon", 12), ("evening", 20)] {
        let quiet = json!({ "from": "22:00", "to": "06:00", "time_zone": zone_at(hour).await });
        owner.registers_as(android(name), json!({ "quiet": quiet })).await;
    }
    let heard = is_paid(&shop, &bread).await;
    is_done(&push, &heard).await;
    let mut told = [services.fcm.came.next().await.message.token, services.fcm.came.next().await.message.token];
    told.sort();
    assert_eq!(told, ["evening:APA91b_x-1", "noon:APA91b_x-1"]);
    services.are_silent();
}

#[tokio::test]
async fn each_is_told_what_they_chose_and_no_more_than_their_screens_would_be() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let elsewhere = OutletId::new();
    let body = json!({ "id": elsewhere, "code": "BDG", "name": "Bandung", "time_zone": "Asia/Jakarta" });
    shop.post("/v1/outlets", body).await.created();

    let owner = Person::new(&shop, &node, Role::Owner);
    owner.registers_as(android("all"), json!({})).await;
    owner.registers_as(android("no-payments"), json!({ "topics": { "alerts": true } })).await;
    owner.registers_as(android("no-alerts"), json!({ "topics": { "payments": true } })).await;
    owner.registers_as(android("elsewhere"), json!({ "outlets": [elsewhere] })).await;
    owner.registers_as(android("here"), json!({ "outlets": [shop.outlet] })).await;
    let people = [
        ("manager-here", Person::bound(&shop, &node, Role::Manager, &[shop.outlet], None)),
        ("manager-elsewhere", Person::bound(&shop, &node, Role::Manager, &[elsewhere], None)),
        ("this-till", Person::bound(&shop, &node, Role::Cashier, &[shop.outlet], Some(shop.register))),
        ("another-till", Person::bound(&shop, &node, Role::Cashier, &[shop.outlet], Some(RegisterId::new()))),
        ("clerk", Person::new(&shop, &node, Role::Clerk)),
    ];
    for (name, person) in &people {
        person.registers(android(name)).await;
    }
    let mut told = async |heard: &Heard, count: usize| {
        is_done(&push, heard).await;
        let mut told = Vec::new();
        for _ in 0..count {
            let message = services.fcm.came.next().await.message;
            told.push(message.token.split(':').next().expect("a name").to_owned());
        }
        services.are_silent();
        told.sort();
        told
    };
    let paid = is_paid(&shop, &bread).await;
    assert_eq!(told(&paid, 5).await, ["all", "here", "manager-here", "no-alerts", "this-till"]);

    // Alerts are for those who run the place: of an outlet for whoever runs that, of none for who is bound to none.
    let here = alert(&shop, Some(shop.outlet), "Stok habis", "Roti").await;
    assert_eq!(told(&here, 4).await, ["all", "here", "manager-here", "no-payments"]);
    hub.database.psql("delete from push_told").await;
    let nowhere = alert(&shop, None, "Stok habis", "Roti").await;
    assert_eq!(told(&nowhere, 4).await, ["all", "elsewhere", "here", "no-payments"]);
    // A channel that this node does not know is nobody's.
    let unknown = Stored { channels: vec!["horoscopes".into()], ..nowhere.event.clone() };
    let unknown = Heard { event: unknown, ..nowhere };
    hub.database.psql("delete from push_told").await;
    assert_eq!(told(&unknown, 0).await, [] as [&str; 0]);
}

#[tokio::test]
async fn who_has_a_live_screen_or_has_seen_it_is_not_disturbed() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let counts = Counts::begin();
    let owner = Person::new(&shop, &node, Role::Owner);
    let cashier = Person::bound(&shop, &node, Role::Cashier, &[shop.outlet], Some(shop.register));
    let away = Person::new(&shop, &node, Role::Auditor);
    for (name, person) in [("owner", &owner), ("cashier", &cashier), ("away", &away)] {
        person.registers(android(name)).await;
    }
    let present = async |people: &str| {
        let counted = "select coalesce(sum(json_array_length(people::json->'people')), 0) from presence";
        until(async || (hub.database.psql(counted).await.trim() == people).then_some(())).await;
    };
    let till = format!("payments/{}/{}", shop.outlet, shop.register);
    let mut screens = Vec::new();
    for (person, channel) in [(&owner, "payments"), (&cashier, till.as_str())] {
        let auth = json!({ "token": person.token, "channels": [channel] });
        let mut screen = super::support::screen::Screen::enters_at_last(hub.address, auth).await;
        screen.hears_until("caught_up").await;
        screens.push(screen);
    }
    // What hangs on the auditor's wall shows no payments.
    let wall = Bearer { outlets: vec![shop.outlet], ..bearer(shop.merchant, away.staff, Role::Display) };
    let wall = hub.signer.mint(&wall, Duration::from_secs(600)).expect("a token");
    let auth = json!({ "token": wall, "channels": [format!("sales/{}", shop.outlet)] });
    screens.push(super::support::screen::Screen::enters_at_last(hub.address, auth).await);
    present("3").await;
    // A screen may be there that is gone already: so it is looked again before its person is spared for good.
    let shown = is_paid(&shop, &bread).await;
    let (why, at_least) = is_put_off(&push, &shown).await;
    assert_eq!(at_least, Some(Duration::from_secs(60)), "{why}");
    assert_eq!(services.fcm.came.next().await.message.token, "away:APA91b_x-1");
    let spared = |why: &str| counts.of("tillwire_push_spared_total", &[("why", why)]);
    assert_eq!((spared("live"), spared("seen")), (0.0, 0.0));
    is_done(&push, &ago(&shown, Duration::from_secs(60))).await;
    services.are_silent();
    assert_eq!((spared("live"), spared("seen")), (2.0, 0.0));
    let unsure = is_paid(&shop, &bread).await;
    is_put_off(&push, &unsure).await;
    services.fcm.came.next().await;

    // The owner has seen a later one, and is gone; the cashier has seen none, and is gone as well.
    let next = is_paid(&shop, &bread).await;
    assert_eq!(screens[0].asks("seen", json!({ "position": next.position.to_string() })).await["ok"], true);
    drop(screens);
    present("0").await;
    // At the second look the cashier's screen is gone, and the owner has seen it.
    is_done(&push, &ago(&unsure, Duration::from_secs(60))).await;
    assert_eq!(services.fcm.came.next().await.message.token, "cashier:APA91b_x-1");
    services.are_silent();
    assert_eq!((spared("live"), spared("seen")), (2.0, 1.0));
    hub.database.psql("delete from push_told").await;
    for paid in [&shown, &next] {
        is_done(&push, paid).await;
        let mut told = [services.fcm.came.next().await.message.token, services.fcm.came.next().await.message.token];
        told.sort();
        assert_eq!(told, ["away:APA91b_x-1", "cashier:APA91b_x-1"]);
        services.are_silent();
    }
    assert_eq!((spared("live"), spared("seen")), (2.0, 3.0));
    // What comes after that nobody has seen.
    let unseen = is_paid(&shop, &bread).await;
    is_done(&push, &unseen).await;
    for _ in 0..3 {
        services.fcm.came.next().await;
    }
}

#[tokio::test]
async fn who_was_revoked_is_told_nothing_until_they_come_with_a_fresh_token() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let mut owner = Person::new(&shop, &node, Role::Owner);
    let path = owner.registers(android("one")).await;
    let first = is_paid(&shop, &bread).await;
    is_done(&push, &first).await;
    services.fcm.came.next().await;
    shop.post(&format!("/v1/staff/{}/revocations", owner.staff), json!({})).await.created();
    let second = is_paid(&shop, &bread).await;
    is_done(&push, &second).await;
    services.are_silent();
    owner.asks("PUT", &path, device(android("one"), json!({}))).await.refused(401, "token_revoked");

    // Tokens are dated by the second.
    let fresh = async || {
        let token = hub.token_for(shop.merchant, owner.staff, Role::Owner);
        let asked = Caller { address: node.address, token: &token }.get("/v1/devices").await.expect("an answer");
        (asked.status == 200).then_some(token)
    };
    owner.token = until(fresh).await;
    owner.asks("PUT", &path, device(android("one"), json!({}))).await.ok();
    is_done(&push, &second).await;
    services.fcm.came.next().await;
    // An app that was not heard of for three months may be anybody's.
    hub.database.psql("update push_devices set renewed_at = renewed_at - interval '91 days'").await;
    let third = is_paid(&shop, &bread).await;
    is_done(&push, &third).await;
    services.are_silent();
    assert_eq!(hub.database.psql("select push_devices_expire(100)").await.trim(), "1");
    assert!(owner.devices().await.is_empty());
}

#[tokio::test]
async fn a_registration_that_has_expired_is_removed_unless_it_was_renewed_since() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let browser = Browser::new("/push");
    let now_ms = || (Moment::now_utc().unix_timestamp_nanos() / 1_000_000) as i64;
    // Gone for good, in the words of each service.
    owner.registers(browser.registration(&services.web)).await;
    owner.registers(android("one")).await;
    owner.registers(iphone('a')).await;
    owner.registers(iphone('b')).await;
    services.web.desk.answers_next([Reply::status(410)]);
    services.fcm.desk.answers_next([fcm::unregistered()]);
    services.apns.desk.answers_next([apns::unregistered(now_ms() + 60_000), apns::refusal(400, "BadDeviceToken")]);
    let heard = is_paid(&shop, &bread).await;
    is_done(&push, &heard).await;
    assert!(owner.devices().await.is_empty());
    services.web.came.next().await;
    services.fcm.came.next().await;
    services.apns.came.next().await;
    services.apns.came.next().await;

    // Renewed while the service was asked, or after the moment that the service names: it stays.
    let [web, one] = [owner.registers(browser.registration(&services.web)).await, owner.registers(iphone('a')).await];
    services.web.desk.answers_next([Reply::status(404).after(Duration::from_secs(3))]);
    services.apns.desk.answers_next([apns::unregistered(now_ms() - 60_000)]);
    let next = is_paid(&shop, &bread).await;
    let renewing = async {
        services.web.came.next().await;
        owner.asks("PUT", &web, device(browser.registration(&services.web), json!({}))).await.ok();
    };
    // It is told under its new name, and the other, who is there as far as we know, is not tried again.
    tokio::join!(is_put_off(&push, &next), renewing);
    services.apns.came.next().await;
    is_done(&push, &next).await;
    services.web.came.next().await;
    services.are_silent();
    let mut kept: Vec<String> =
        owner.devices().await.iter().map(|it| format!("/v1/devices/{}", it["id"].as_str().unwrap())).collect();
    kept.sort();
    let mut expected = [web, one];
    expected.sort();
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn one_that_fails_for_a_while_is_tried_again_and_the_others_are_not_told_again() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let browser = Browser::new("/push");
    owner.registers(browser.registration(&services.web)).await;
    owner.registers(android("one")).await;
    owner.registers(iphone('a')).await;
    let heard = is_paid(&shop, &bread).await;
    // Each asks for time in its own way, and the longest is waited for.
    services.web.desk.answers_next([Reply::status(429).header("retry-after", "7")]);
    services.apns.desk.answers_next([apns::refusal(503, "ServiceUnavailable")]);
    let (why, at_least) = is_put_off(&push, &heard).await;
    assert_eq!(at_least, Some(Duration::from_secs(7)), "{why}");
    services.web.came.next().await;
    services.fcm.came.next().await;
    services.apns.came.next().await;
    is_done(&push, &heard).await;
    services.web.came.next().await;
    services.apns.came.next().await;
    services.are_silent();

    // What is not taken for good is not tried again.
    services.web.desk.answers_next([Reply::status(413)]);
    services.apns.desk.answers_next([apns::refusal(400, "DeviceTokenNotForTopic")]);
    let next = is_paid(&shop, &bread).await;
    is_done(&push, &next).await;
    is_done(&push, &next).await;
    services.web.came.next().await;
    services.fcm.came.next().await;
    services.apns.came.next().await;
    services.are_silent();
    assert_eq!(owner.devices().await.len(), 3);

    // A word of ours that Google or Apple does not take is for whoever runs the hub, and nobody loses a device for it. What a
    // browser's service says of it is said by whoever its owner named.
    services.web.desk.answers_next([Reply::status(403)]);
    services.fcm.desk.answers_next([Reply::status(404)]);
    services.apns.desk.answers_next([apns::refusal(403, "InvalidProviderToken")]);
    let log = Log::begin();
    let third = is_paid(&shop, &bread).await;
    is_put_off(&push, &third).await;
    assert_eq!(log.text().matches("does not take this hub's word").count(), 2, "{}", log.text());
    is_done(&push, &third).await;
    services.web.came.next().await;
    for _ in 0..2 {
        services.fcm.came.next().await;
        services.apns.came.next().await;
    }
    services.are_silent();
    assert_eq!(owner.devices().await.len(), 3);
}

#[tokio::test]
async fn a_service_that_hangs_or_is_not_there_is_waited_for_no_longer_than_it_may_take() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let browser = Browser::new("/push");
    let mut nowhere = browser.registration(&services.web);
    nowhere["endpoint"] = format!("http://127.0.0.1:{}/secret-path", super::support::services::free_port()).into();
    owner.registers(browser.registration(&services.web)).await;
    owner.registers(Browser::new("/other").registration(&services.web)).await;
    owner.registers(nowhere).await;
    owner.registers(android("one")).await;
    owner.registers(iphone('a')).await;
    let hangs = Some(Reply::status(200).after(Duration::from_secs(60)));
    services.web.desk.answers(hangs.clone());
    services.apns.desk.answers(hangs);
    let heard = is_paid(&shop, &bread).await;
    let began = Instant::now();
    let (why, at_least) = is_put_off(&push, &heard).await;
    assert!(began.elapsed() < 2 * ATTEMPT_MAX, "they were asked at the same time");
    assert!(!why.contains("secret-path") && at_least.is_none(), "{why}");
    // Whoever could be told was.
    services.fcm.came.next().await;
    services.web.desk.answers(None);
    services.apns.desk.answers(None);
    for _ in 0..2 {
        services.web.came.next().await;
    }
    services.apns.came.next().await;
    is_put_off(&push, &heard).await;
    for _ in 0..2 {
        services.web.came.next().await;
    }
    services.apns.came.next().await;
    services.are_silent();
}

#[tokio::test]
async fn a_merchant_whose_devices_hang_holds_up_no_other() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 25_000, "100").await;
    let coffee = rival.stocked("kopi", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    for number in 0..10 {
        let browser = Browser::new(&format!("/push/{number}"));
        owner.registers(browser.registration(&services.web)).await;
    }
    Person::new(&rival, &node, Role::Owner).registers(android("rival")).await;
    services.web.desk.answers(Some(Reply::status(200).after(Duration::from_secs(60))));
    // As many as a node sends at once, and more.
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..9 {
        let (push, heard) = (push.clone(), is_paid(&shop, &bread).await);
        hanging.spawn(async move { push.handle(&heard).await });
    }
    for _ in 0..16 {
        services.web.came.next().await;
    }
    let paid = is_paid(&rival, &coffee).await;
    is_done(&push, &paid).await;
    services.fcm.came.next().await;
    assert!(hanging.try_join_next().is_none(), "all of them hang still");
    while let Some(ended) = hanging.join_next().await {
        assert!(matches!(ended.expect("no panic"), Err(Failure::Later(..))));
    }
}

#[tokio::test]
async fn a_device_that_fails_for_a_week_is_removed_and_one_that_is_reached_meanwhile_is_not() {
    let hub = TestHub::start().await;
    let services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let browser = Browser::new("/push");
    owner.registers(browser.registration(&services.web)).await;
    owner.registers(android("one")).await;
    let failing = async || hub.database.psql("select count(*) from push_devices where failing_since < now()").await;
    let days_pass = async || {
        hub.database.psql("update push_devices set failing_since = failing_since - interval '8 days'").await;
    };
    // Google's own trouble is not a device's.
    let unfriendly = [Reply::status(500), Reply::status(500)];
    services.web.desk.answers_next(unfriendly.clone());
    services.fcm.desk.answers_next(unfriendly.clone());
    let heard = is_paid(&shop, &bread).await;
    is_put_off(&push, &heard).await;
    is_put_off(&push, &heard).await;
    assert_eq!(failing().await.trim(), "1");
    days_pass().await;
    is_done(&push, &heard).await;
    assert_eq!(failing().await.trim(), "0", "it was reached");
    // Whatever it is that fails.
    services.web.desk.answers_next([Reply::status(403)]);
    let next = is_paid(&shop, &bread).await;
    is_done(&push, &next).await;
    assert_eq!((failing().await.trim(), owner.devices().await.len()), ("1", 2));
    days_pass().await;
    services.web.desk.answers_next([Reply::status(500)]);
    let last = is_paid(&shop, &bread).await;
    is_done(&push, &last).await;
    let kept = owner.devices().await;
    assert_eq!((kept.len(), &kept[0]["kind"]), (1, &json!("fcm")));

    // An alert is not tried for as long as its handler would: what fails then is no dead letter.
    owner.registers(browser.registration(&services.web)).await;
    services.web.desk.answers(Some(Reply::status(500)));
    let raised = alert(&shop, None, "Stok habis", "Roti").await;
    is_put_off(&push, &ago(&raised, Duration::from_secs(2 * 3_600))).await;
    is_done(&push, &ago(&raised, Duration::from_secs(7 * 3_600))).await;
}

#[tokio::test]
async fn a_worker_tells_a_phone_of_a_sale_and_of_a_webhook_that_is_disabled() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let mut services = AllServices::start().await;
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let relay_url = hub.database.url("tillwire_relay");
    let keys = services.flags();
    let mut flags: Vec<&str> = keys.iter().map(String::as_str).collect();
    flags.extend(["--webhook-networks", "127.0.0.0/8"]);
    let node = hub.node(Faces::API, &flags).await;
    flags.extend(["--relay-database-url", &relay_url]);
    for amqp in [&[][..], &["--amqp-url", &url]] {
        let worker = hub.node(Faces::WORKER, &[&flags[..], amqp].concat()).await;
        let shop = hub.merchant("Toko Roti").await;
        let bread = shop.stocked("roti", 25_000, "100").await;
        let owner = Person::new(&shop, &node, Role::Owner);
        owner.registers(android("one")).await;
        shop.sells(&bread, 25_000).await;
        let paid = last(&shop, "payment.captured").await;
        let message = services.fcm.came.next().await.message;
        assert_eq!(message.data["position"], paid.position.to_string());
        assert_eq!(message.notification.body, "Pembayaran tunai Rp 25.000 diterima");

        let receiver = Receiver::start().await;
        receiver.answers(Reply::status(410));
        let webhook = json!({ "url": receiver.url(), "description": "Pembukuan", "events": ["sale.completed"] });
        owner.asks("POST", "/v1/webhooks", webhook).await.created();
        shop.sells(&bread, 25_000).await;
        let (mut kinds, mut alert) = (Vec::new(), None);
        for _ in 0..2 {
            let message = services.fcm.came.next().await.message;
            kinds.push(message.data["type"].clone());
            alert = alert.or((message.data["type"] == "alert.raised").then_some(message));
        }
        kinds.sort();
        assert_eq!(kinds, ["alert.raised", "payment.captured"]);
        let (alert, raised) = (alert.expect("an alert"), last(&shop, "alert.raised").await);
        assert_eq!(alert.data["position"], raised.position.to_string());
        assert!(alert.notification.body.contains("\"Pembukuan\""), "{alert:?}");
        worker.stops().await;
        services.are_silent();
    }
}

#[tokio::test]
async fn google_is_asked_for_a_token_once_however_many_wait_for_it_in_vain() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    for number in 0..8 {
        owner.registers(android(&number.to_string())).await;
    }
    services.fcm.refuses_tokens(true);
    let heard = is_paid(&shop, &bread).await;
    let (log, began) = (Log::begin(), Instant::now());
    let (why, _) = is_put_off(&push, &heard).await;
    assert!(why.contains("asking Google for a token: 400"), "{why}");
    assert_eq!((services.fcm.asked(), log.text().matches("does not take").count()), (1, 1), "{}", log.text());
    services.fcm.refuses_tokens(false);
    // Not again within five seconds; a machine that took longer over it has shown nothing.
    let soon = push.handle(&heard).await;
    if began.elapsed() < Duration::from_secs(5) {
        assert!(matches!(soon, Err(Failure::Later(..))), "{soon:?}");
        assert_eq!(services.fcm.asked(), 1, "so soon");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    is_done(&push, &heard).await;
    assert_eq!(services.fcm.asked(), 2);
    for _ in 0..8 {
        services.fcm.came.next().await;
    }
    // A worker that was given no key tries nothing, and says so.
    let counts = Counts::begin();
    let bare = Push::new(Steps::over(hub.pools.clone()), Arc::new(Services::default()), vault::with(&[]));
    let next = is_paid(&shop, &bread).await;
    is_done(&bare, &next).await;
    assert_eq!(counts.of("tillwire_push_spared_total", &[("why", "no_key")]), 8.0);
    services.are_silent();
}

#[tokio::test]
async fn a_note_that_comes_too_late_is_not_sent() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    owner.registers(android("one")).await;
    let paid = is_paid(&shop, &bread).await;
    is_done(&push, &ago(&paid, Duration::from_secs(15 * 60 + 5))).await;
    let raised = alert(&shop, None, "Kas kurang", "").await;
    is_done(&push, &ago(&raised, Duration::from_secs(24 * 3_600 + 5))).await;
    services.are_silent();
    is_done(&push, &ago(&paid, Duration::from_secs(14 * 60))).await;
    let message = services.fcm.came.next().await.message;
    let ttl: u64 = message.android.ttl.trim_end_matches('s').parse().unwrap();
    assert!((1..=60).contains(&ttl), "{ttl}: what is left of a quarter of an hour");
    is_done(&push, &ago(&raised, Duration::from_secs(23 * 3_600))).await;
    assert_eq!(services.fcm.came.next().await.message.notification.title, "Kas kurang");
    // Of another kind nobody is told anything, nor of what cannot be read.
    let sale = last(&shop, "sale.completed").await;
    is_done(&push, &sale).await;
    services.are_silent();
    hub.database.psql("update push_told set told_at = told_at - interval '4 days'").await;
    assert_eq!(hub.database.psql("select push_told_expire(100)").await.trim(), "2");
}

#[tokio::test]
async fn without_the_database_it_is_tried_again() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    Person::new(&shop, &node, Role::Owner).registers(android("one")).await;
    let heard = is_paid(&shop, &bread).await;
    // It answers while the device is looked up, and not when what was sent is to be written down.
    services.fcm.desk.answers_next([Reply::status(200).after(Duration::from_secs(2))]);
    let closing = async {
        services.fcm.came.next().await;
        hub.pools.close().await;
    };
    let ((why, _), ()) = tokio::join!(is_put_off(&push, &heard), closing);
    assert!(why.contains("writing it down"), "{why}");
    is_put_off(&push, &heard).await;
    services.are_silent();
}

#[tokio::test]
async fn the_longest_alert_fits_wherever_it_is_sent() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let browser = Browser::new("/push");
    owner.registers(browser.registration(&services.web)).await;
    owner.registers(android("one")).await;
    owner.registers(iphone('a')).await;
    let long = "\"\\🥐".repeat(5_000);
    let raised = alert(&shop, Some(shop.outlet), &long, &long).await;
    is_done(&push, &raised).await;
    let pushed = services.web.came.next().await;
    assert!(pushed.bytes.len() <= 4_096);
    let public_key = owner.asks("GET", "/v1/push/keys", Value::Null).await.ok()["vapid"].as_str().unwrap().to_owned();
    let note = browser.reads(&services.web, &pushed, CONTACT, &public_key).await;
    let title = note["title"].as_str().unwrap();
    assert!(title.starts_with("Toko Roti: \"\\🥐") && title.ends_with('…'), "{title}");
    services.fcm.came.next().await;
    services.apns.came.next().await;
}

#[tokio::test]
async fn a_device_can_be_tried_and_one_that_is_gone_goes() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let node = services.node(&hub).await;
    let shop = hub.merchant("Toko Roti").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let device = owner.registers_as(android("one"), json!({ "locale": "en" })).await;
    let path = format!("{device}/test");
    let tested = owner.asks_once("the-same", "POST", &path, Value::Null).await.ok();
    assert_eq!(tested, json!({ "outcome": "sent", "detail": null }));
    let first = services.fcm.came.next().await.message;
    assert_eq!((&*first.data["type"], &*first.notification.body), ("push.test", "Notifications reach this device."));
    assert!(!first.data.contains_key("position"));
    owner.asks_once("the-same", "POST", &path, Value::Null).await.ok();
    let second = services.fcm.came.next().await.message;
    assert_eq!(second.android.notification.tag, first.android.notification.tag, "it takes the first one's place");
    services.fcm.desk.answers_next([Reply::status(503), fcm::unregistered()]);
    let later = owner.asks("POST", &path, Value::Null).await.ok();
    assert_eq!((&later["outcome"], &later["detail"]), (&json!("later"), &json!("FCM answers 503")));
    assert_eq!(owner.asks("POST", &path, Value::Null).await.ok()["outcome"], "gone");
    owner.asks("POST", &path, Value::Null).await.refused(404, "not_found");

    // Whoever aims one at a port learns nothing of who is there.
    let mut nowhere = Browser::new("/push").registration(&services.web);
    nowhere["endpoint"] = format!("http://127.0.0.1:{}/", super::support::services::free_port()).into();
    let path = format!("{}/test", owner.registers(nowhere).await);
    let tested = owner.asks("POST", &path, Value::Null).await.ok();
    assert_eq!(tested, json!({ "outcome": "later", "detail": "nobody answered" }));
}

#[tokio::test]
async fn no_secret_is_said_aloud() {
    let hub = TestHub::start().await;
    let services = AllServices::start().await;
    let options = services.options();
    let shown = format!("{options:?}");
    let secrets = [&services.vapid.secret, &services.apns.key().secret, &services.fcm.secret];
    assert!(secrets.iter().all(|secret| !shown.contains(&***secret)), "{shown}");

    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    env.insert("TILLWIRE_LOG", "debug,hyper=trace,h2=trace,reqwest=trace".to_owned());
    env.insert("TILLWIRE_PUSH_VAPID_KEY", text(&services.vapid.path));
    env.insert("TILLWIRE_PUSH_CONTACT", CONTACT.to_owned());
    env.insert("TILLWIRE_FCM_CREDENTIALS", text(&services.fcm.credentials));
    env.insert("TILLWIRE_FCM_URL", services.fcm.url());
    env.insert("TILLWIRE_PUSH_NETWORKS", "127.0.0.0/8".to_owned());
    let serving = TillwireProcess::start(&["serve"], &env).await;
    let shop = hub.merchant("Toko Roti").await;
    let caller = Caller { address: serving.public, token: &shop.owner };
    let browser = Browser::new("/secret-path").registration(&services.web);
    let unfriendly = [Reply::status(503), Reply::status(403)];
    services.web.desk.answers_next(unfriendly.clone());
    services.fcm.desk.answers_next(unfriendly);
    for registration in [browser.clone(), android("secret-token")] {
        let added = caller.creates("/v1/devices", device(registration, json!({}))).await;
        for _ in 0..2 {
            let key = Uuid::new_v4().to_string();
            let path = format!("/v1/devices/{}/test", added["id"].as_str().unwrap());
            caller.post(&key, &path, vec![]).await.expect("an answer").ok();
        }
    }
    let bad = json!({ "kind": "fcm", "token": "secret token" });
    caller.post("bad", "/v1/devices", device(bad, json!({})).to_string().into_bytes()).await.unwrap();
    let log = serving.log();
    assert!(log.len() > 1_000, "{log}");
    let auth = browser["keys"]["auth"].as_str().unwrap();
    let said: Vec<&str> = ["secret-token", "secret token", auth, "ya29.", "PRIVATE KEY"]
        .into_iter()
        .chain(secrets.iter().map(|secret| &secret[..40]))
        .filter(|secret| log.contains(secret))
        .collect();
    assert_eq!(said, [] as [&str; 0]);
    let stored = hub.database.psql("select count(*) from idempotency_keys where reply ~ 'secret|p256dh'").await;
    assert_eq!(stored.trim(), "0", "an answer that is stored holds no registration");
}

/// The page's examples in a language, in their order.
fn examples(language: &str) -> Vec<String> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/push.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let begins = format!("```{language}\n");
    let blocks = page.split(&begins).skip(1);
    blocks.map(|rest| rest.split("```").next().expect("an end").to_owned()).collect()
}

/// The same with every value left out that is no object.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        _ => Value::Null,
    }
}

#[tokio::test]
async fn what_the_page_shows_is_taken_and_is_what_is_sent() {
    let hub = TestHub::start().await;
    let mut services = AllServices::start().await;
    let (node, push) = (services.node(&hub).await, services.handler(&hub));
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 25_000, "100").await;
    let owner = Person::new(&shop, &node, Role::Owner);
    let shown: Vec<Value> = examples("json").iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
    let [web, android, iphone, to_worker, to_android, to_iphone] = &*shown else { panic!("{} examples", shown.len()) };
    for registration in [web, android, iphone] {
        let added = owner.asks("POST", "/v1/devices", registration.clone()).await.created();
        assert_eq!(added["kind"], registration["registration"]["kind"]);
    }
    // Of those only the iPhone wants payments and leads here; a browser that does is added.
    for device in owner.devices().await.iter().filter(|device| device["kind"] != "apns") {
        owner.asks("DELETE", &format!("/v1/devices/{}", device["id"].as_str().unwrap()), Value::Null).await.ok();
    }
    let browser = Browser::new("/push");
    owner.registers(browser.registration(&services.web)).await;
    owner.registers(json!({ "kind": "fcm", "token": android["registration"]["token"] })).await;
    let heard = is_paid(&shop, &bread).await;
    is_done(&push, &heard).await;
    let keys = owner.asks("GET", "/v1/push/keys", Value::Null).await.ok();
    let pushed = services.web.came.next().await;
    let note = browser.reads(&services.web, &pushed, CONTACT, keys["vapid"].as_str().unwrap()).await;
    assert_eq!(shape(&note), shape(to_worker));
    let data = services.fcm.came.next().await.message.data;
    assert_eq!(shape(&serde_json::to_value(&data).unwrap()), shape(to_android));
    assert!(to_android.as_object().unwrap().values().all(Value::is_string));
    let sent = services.apns.came.next().await;
    assert_eq!(shape(&sent.body), shape(to_iphone));
    assert_eq!(sent.body["aps"]["alert"]["body"], "Cash payment of Rp 25,000 received");

    // The service worker, on Node.js in a browser's clothes.
    let program = super::support::services::dir("worker").join("worker.mjs");
    let worker = examples("js").pop().expect("a service worker");
    let clothes = format!(
        "const heard = {{}}, shown = [];
         globalThis.self = {{
           addEventListener: (name, listener) => (heard[name] = listener),
           registration: {{ showNotification: async (...said) => shown.push(said) }},
         }};
         {worker}
         const waits = [];
         heard.push({{ data: {{ json: () => ({note}) }}, waitUntil: (wait) => waits.push(wait) }});
         await Promise.all(waits);
         console.log(JSON.stringify(shown));"
    );
    std::fs::write(&program, clothes).expect("a program");
    let output = tokio::process::Command::new("node").arg(&program).output().await.expect("Node.js");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let notifications: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(notifications, json!([[note["title"], { "body": note["body"], "tag": note["tag"], "data": note }]]));
}
