//! Merchants' accounts at payment providers: kept, changed, shown without their secrets, and opened for whoever moves money.

use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tillwire::accounts::{self, Account, Confirm};
use tillwire::connectors::credentials::{Credentials, Mode, Provider};
use tillwire::error::Error;
use tillwire::journal::pool;
use tillwire::node::Faces;
use tillwire_channels::{OutletId, Role};
use uuid::Uuid;

use super::support::caller::Caller;
use super::support::hub::{Answer, Shop, TestHub, TestNode};
use super::support::vault::{self, midtrans, xendit};

const PATH: &str = "/v1/provider-accounts";

/// A hub, and a node of it that has a vault key.
struct Stage {
    hub: TestHub,
    node: TestNode,
    key: PathBuf,
}

async fn stage() -> Stage {
    let (hub, key) = (TestHub::start().await, vault::key());
    let node = hub.node(Faces::API, &["--vault-key-file", &vault::list(&[&key])]).await;
    Stage { hub, node, key }
}

impl Stage {
    async fn asks(
        &self,
        token: &str,
        key: &str,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let headers = [&[("idempotency-key", key), ("content-type", "application/json")], more].concat();
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        Caller { address: self.node.address, token }.send(method, path, &headers, body).await.expect("an answer")
    }

    async fn owner(&self, shop: &Shop<'_>, method: &str, path: &str, body: Value) -> Answer {
        self.asks(&shop.owner, &Uuid::new_v4().to_string(), method, path, &[], &body).await
    }

    /// As payments open it.
    async fn opens(&self, shop: &Shop<'_>, account: &Value) -> Result<Account, Error> {
        let mut sql = pool::begin_of(&self.hub.pools.app, shop.merchant).await.expect("a transaction");
        accounts::open(&mut sql, &vault::with(&[&self.key]), shop.merchant, id(account)).await
    }

    async fn pays(&self, shop: &Shop<'_>, outlet: OutletId, provider: Provider, mode: Mode) -> Option<Uuid> {
        let mut sql = pool::begin_of(&self.hub.pools.app, shop.merchant).await.expect("a transaction");
        let vault = vault::with(&[&self.key]);
        let found = accounts::for_outlet(&mut sql, &vault, shop.merchant, outlet, provider, mode).await;
        found.expect("an answer").map(|account| account.id)
    }
}

fn id(account: &Value) -> Uuid {
    account["id"].as_str().expect("an id").parse().expect("a UUID")
}

fn account(credentials: Value) -> Value {
    json!({ "credentials": credentials, "mode": "test" })
}

#[tokio::test]
async fn an_account_is_added_shown_without_its_secrets_changed_and_opened() {
    let stage = stage().await;
    let shop = stage.hub.merchant("Toko Roti").await;
    let mut body = account(midtrans("G552010987", "hushhushhush"));
    body["label"] = json!("Roti di Midtrans");
    let answer = stage.asks(&shop.owner, "once", "POST", PATH, &[], &body).await;
    let added = answer.created();
    assert_eq!(stage.asks(&shop.owner, "once", "POST", PATH, &[], &body).await.created(), added, "it was done once");
    let fields = ["provider", "mode", "label", "outlet", "merchant_there", "confirm", "enabled", "key_ends", "version"];
    let shown: Vec<&Value> = fields.iter().map(|field| &added[*field]).collect();
    let expected = json!(["midtrans", "test", "Roti di Midtrans", null, "G552010987", "strict", true, "hush", 1]);
    assert_eq!(json!(shown), expected);
    let webhook = format!("/v1/providers/{}/{}/webhook", shop.merchant, id(&added));
    assert_eq!(added["webhook_path"], json!(webhook));

    let path = format!("{PATH}/{}", id(&added));
    assert_eq!(stage.owner(&shop, "GET", &path, Value::Null).await.ok(), added);
    let opened = stage.opens(&shop, &added).await.unwrap();
    assert_eq!((opened.provider, opened.mode, opened.confirm), (Provider::Midtrans, Mode::Test, Confirm::Strict));
    let Credentials::Midtrans(keys) = &opened.credentials else { panic!("{opened:?}") };
    assert_eq!(keys.server_key.expose_secret(), "SB-Mid-server-hushhushhush");
    assert!(!format!("{opened:?}").contains("hushhush"));

    // Settings, by whoever has seen the last ones.
    let put = json!({ "label": "Roti", "confirm": "fast", "enabled": false });
    let stale = stage.asks(&shop.owner, "a", "PUT", &path, &[("if-match", "\"2\"")], &put).await;
    stale.refused(412, "stale_version");
    let changed = stage.asks(&shop.owner, "b", "PUT", &path, &[("if-match", "\"1\"")], &put).await.ok();
    assert_eq!(
        json!([changed["label"], changed["confirm"], changed["enabled"], changed["version"]]),
        json!(["Roti", "fast", false, 2])
    );
    assert_eq!(changed["keys_since"], added["keys_since"]);
    let opened = stage.opens(&shop, &added).await.unwrap();
    assert_eq!(
        (opened.enabled, opened.confirm),
        (false, Confirm::Fast),
        "what it is told of older payments still counts"
    );

    // Other keys of the same account, and of no other.
    let credentials = format!("{path}/credentials");
    let other = json!({ "credentials": midtrans("G111111111", "quietquiet") });
    stage.owner(&shop, "PUT", &credentials, other).await.refused(422, "another_account");
    let other = json!({ "credentials": xendit("G552010987", "hushhushhush", &["token"]) });
    stage.owner(&shop, "PUT", &credentials, other).await.refused(422, "another_account");
    let live =
        json!({ "credentials": { "provider": "midtrans", "server_key": "Mid-server-x", "merchant_id": "G552010987" } });
    stage.owner(&shop, "PUT", &credentials, live).await.refused(422, "wrong_mode");
    let new = json!({ "credentials": midtrans("G552010987", "quietquiet") });
    let changed = stage.owner(&shop, "PUT", &credentials, new).await.ok();
    assert_eq!((&changed["key_ends"], &changed["version"]), (&json!("uiet"), &json!(3)));
    assert!(changed["keys_since"].as_str() > added["keys_since"].as_str());
    let opened = stage.opens(&shop, &added).await.unwrap();
    let Credentials::Midtrans(keys) = &opened.credentials else { panic!("{opened:?}") };
    assert_eq!(keys.server_key.expose_secret(), "SB-Mid-server-quietquiet");

    // Each of that is in the audit, and no secret.
    let audit = stage.owner(&shop, "GET", "/v1/audit", Value::Null).await.ok();
    let lines = audit["items"].as_array().unwrap();
    let actions: Vec<&str> = lines.iter().map(|line| line["action"].as_str().unwrap()).collect();
    let expected = ["provider_account.keys_changed", "provider_account.disabled", "provider_account.added"];
    assert_eq!(actions, expected);
    assert!(lines.iter().all(|line| line["subject"] == added["id"] && line["staff"].is_string()), "{audit}");
    for said in [answer.body, audit.to_string().into_bytes()] {
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("hushhush") && !said.contains("quietquiet"), "{said}");
    }
}

#[tokio::test]
async fn a_name_that_was_mistyped_is_mended_with_the_same_key() {
    let stage = stage().await;
    let shop = stage.hub.merchant("Toko Salah").await;
    let mistyped = |id: &str, key: &str| account(midtrans(id, key));
    let added = stage.owner(&shop, "POST", PATH, mistyped("G552010978", "hushhushhush")).await.created();
    let path = format!("{PATH}/{}", id(&added));
    let off = json!({ "label": "", "enabled": false });
    stage.owner(&shop, "PUT", &path, off).await.ok();
    stage.owner(&shop, "POST", PATH, mistyped("G2", "otherother")).await.created();

    let credentials = format!("{path}/credentials");
    let put = |credentials: Value| json!({ "credentials": credentials });
    let refused = stage.owner(&shop, "PUT", &credentials, put(midtrans("G2", "hushhushhush"))).await;
    refused.refused(409, "account_known");
    let new = put(midtrans("G552010987", "hushhushhush"));
    let stale = stage.asks(&shop.owner, "a", "PUT", &credentials, &[("if-match", "\"1\"")], &new).await;
    stale.refused(412, "stale_version");
    let changed = stage.owner(&shop, "PUT", &credentials, new).await.ok();
    assert_eq!((&changed["merchant_there"], &changed["version"]), (&json!("G552010987"), &json!(3)));
    assert_eq!(changed["keys_since"], added["keys_since"], "the key is what it was");
    assert_eq!(stage.opens(&shop, &added).await.unwrap().credentials.merchant_there(), "G552010987");
    let audit = stage.owner(&shop, "GET", "/v1/audit", Value::Null).await.ok();
    let line = &audit["items"][0];
    assert_eq!((&line["action"], &line["subject"]), (&json!("provider_account.renamed"), &added["id"]));
    let detail = line["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("G552010987 at midtrans") && detail.ends_with("before, it was `G552010978`"),
        "{detail}"
    );
}

#[tokio::test]
async fn two_callback_tokens_are_good_while_one_is_changed() {
    let stage = stage().await;
    let shop = stage.hub.merchant("Toko Roti").await;
    let added = stage.owner(&shop, "POST", PATH, account(xendit("64f0c1", "hushhushhush", &["old"]))).await.created();
    let path = format!("{PATH}/{}/credentials", id(&added));
    for tokens in [&["new", "old"][..], &["new"]] {
        let body = json!({ "credentials": xendit("64f0c1", "hushhushhush", tokens) });
        stage.owner(&shop, "PUT", &path, body).await.ok();
        let opened = stage.opens(&shop, &added).await.unwrap();
        let Credentials::Xendit(keys) = &opened.credentials else { panic!("{opened:?}") };
        assert_eq!(keys.callback_tokens.iter().map(|it| it.expose_secret()).collect::<Vec<_>>(), tokens);
    }
    let three = json!({ "credentials": xendit("64f0c1", "hushhushhush", &["a", "b", "c"]) });
    let refused = stage.owner(&shop, "PUT", &path, three).await.refused(422, "invalid_credentials");
    assert_eq!(refused["errors"][0]["pointer"], "/credentials/callback_tokens");
}

#[tokio::test]
async fn who_is_paid_is_never_a_matter_of_chance() {
    let stage = stage().await;
    let shop = stage.hub.merchant("Toko Roti").await;
    let second = OutletId::new();
    let body = json!({ "id": second, "code": "BDG", "name": "Bandung", "time_zone": "Asia/Jakarta" });
    shop.post("/v1/outlets", body).await.created();
    let all = stage.owner(&shop, "POST", PATH, account(midtrans("G1", "hushhushhush"))).await.created();
    let again = stage.owner(&shop, "POST", PATH, account(midtrans("G1", "otherother"))).await;
    assert_eq!(again.refused(409, "account_known")["errors"][0]["pointer"], "/credentials");
    stage.owner(&shop, "POST", PATH, account(midtrans("G2", "hushhushhush"))).await.refused(409, "another_enabled");
    let mut body = account(midtrans("G2", "hushhushhush"));
    body["outlet"] = json!(OutletId::new());
    assert_eq!(
        stage.owner(&shop, "POST", PATH, body.clone()).await.refused(422, "unknown_outlet")["errors"][0]["pointer"],
        "/outlet"
    );
    body["outlet"] = json!(second);
    let own = stage.owner(&shop, "POST", PATH, body).await.created();
    // Of another provider, or of the other mode, is another matter.
    let xendit = stage.owner(&shop, "POST", PATH, account(xendit("64f0c1", "hushhushhush", &["t"]))).await.created();
    let live = json!({ "provider": "midtrans", "server_key": "Mid-server-hushhushhush", "merchant_id": "G1" });
    let live = stage.owner(&shop, "POST", PATH, json!({ "credentials": live, "mode": "live" })).await.created();

    let (test, first) = (Mode::Test, shop.outlet);
    assert_eq!(stage.pays(&shop, first, Provider::Midtrans, test).await, Some(id(&all)));
    assert_eq!(stage.pays(&shop, second, Provider::Midtrans, test).await, Some(id(&own)));
    assert_eq!(stage.pays(&shop, first, Provider::Midtrans, Mode::Live).await, Some(id(&live)));
    assert_eq!(stage.pays(&shop, second, Provider::Xendit, test).await, Some(id(&xendit)));
    assert_eq!(stage.pays(&shop, second, Provider::Xendit, Mode::Live).await, None);
    let off = json!({ "outlet": second, "enabled": false });
    stage.owner(&shop, "PUT", &format!("{PATH}/{}", id(&own)), off).await.ok();
    assert_eq!(stage.pays(&shop, second, Provider::Midtrans, test).await, Some(id(&all)), "the merchant's, then");
    let everywhere = json!({ "enabled": true });
    let both = stage.owner(&shop, "PUT", &format!("{PATH}/{}", id(&own)), everywhere).await;
    both.refused(409, "another_enabled");
    stage.owner(&shop, "PUT", &format!("{PATH}/{}", id(&all)), json!({ "enabled": false })).await.ok();
    stage.owner(&shop, "PUT", &format!("{PATH}/{}", id(&own)), json!({ "enabled": true })).await.ok();
    assert_eq!(stage.pays(&shop, first, Provider::Midtrans, test).await, Some(id(&own)));

    let page = stage.owner(&shop, "GET", &format!("{PATH}?limit=3"), Value::Null).await.ok();
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = stage.owner(&shop, "GET", &format!("{PATH}?limit=3&cursor={cursor}"), Value::Null).await.ok();
    assert_eq!((page["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (3, 1));
}

#[tokio::test]
async fn two_who_enable_at_once_do_not_both_have_their_way() {
    let stage = stage().await;
    let shop = stage.hub.merchant("Toko Roti").await;
    let bodies = ["G1", "G2", "G3", "G4"].map(|there| account(midtrans(there, "hushhushhush")));
    let adding = bodies.map(|body| stage.owner(&shop, "POST", PATH, body));
    let mut statuses: Vec<u16> = futures_util::future::join_all(adding).await.iter().map(|it| it.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409]);
    // Whoever is first makes the data key, once.
    let keys = stage.hub.database.psql("select count(*) from data_keys").await;
    assert_eq!(keys.trim(), "1");
}

#[tokio::test]
async fn what_are_no_credentials_is_refused_by_field_and_repeated_nowhere() {
    let stage = stage().await;
    let shop = stage.hub.merchant("Toko Roti").await;
    let with = |field: &str, value: Value| {
        let mut body = account(midtrans("G1", "hushhushhush"));
        body["credentials"][field] = value;
        body
    };
    let mut live = account(midtrans("G1", "hushhushhush"));
    live["mode"] = json!("live");
    let mut sandbox =
        account(json!({ "provider": "midtrans", "server_key": "Mid-server-hushhushhush", "merchant_id": "G1" }));
    sandbox["label"] = json!("live keys where no money moves");
    let long = format!("SB-Mid-server-{}", "h".repeat(300));
    for (body, code, pointer) in [
        (live, "wrong_mode", "/credentials/server_key"),
        (sandbox, "wrong_mode", "/credentials/server_key"),
        (with("server_key", json!("hushhushhush")), "invalid_credentials", "/credentials/server_key"),
        (with("server_key", json!("SB-Mid-server-hush hush\n")), "invalid_credentials", "/credentials/server_key"),
        (with("server_key", json!(long)), "invalid_credentials", "/credentials/server_key"),
        (with("client_key", json!("Mid-client-hushhush")), "wrong_mode", "/credentials/client_key"),
        (with("merchant_id", json!("")), "invalid_credentials", "/credentials/merchant_id"),
        (with("server_key", json!(["hushhushhush"])), "invalid_field", "/credentials"),
        (with("provider", json!("hushhushhush")), "invalid_field", "/credentials"),
        (with("hushhushhush", json!(1)), "invalid_field", "/credentials"),
        (json!({ "credentials": "hushhushhush", "mode": "test" }), "invalid_field", "/credentials"),
        (json!({ "mode": "test" }), "invalid_field", ""),
        (account(xendit("b", "hushhushhush", &[])), "invalid_credentials", "/credentials/callback_tokens"),
    ] {
        let answer = stage.owner(&shop, "POST", PATH, body).await;
        let problem = answer.refused(422, code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        assert!(!problem.to_string().contains("hushhush"), "{problem}");
    }
    assert_eq!(stage.owner(&shop, "GET", PATH, Value::Null).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn accounts_are_the_owners_alone_and_of_one_merchant() {
    let stage = stage().await;
    let (shop, rival) = (stage.hub.merchant("Toko Roti").await, stage.hub.merchant("Saingan").await);
    let added = stage.owner(&shop, "POST", PATH, account(midtrans("G1", "hushhushhush"))).await.created();
    let path = format!("{PATH}/{}", id(&added));
    let requests = [
        ("GET", PATH.to_owned(), Value::Null),
        ("POST", PATH.to_owned(), account(midtrans("G9", "hushhushhush"))),
        ("GET", path.clone(), Value::Null),
        ("PUT", path.clone(), json!({ "enabled": false })),
        ("PUT", format!("{path}/credentials"), json!({ "credentials": midtrans("G1", "otherother") })),
    ];
    let bound = stage.hub.token(shop.merchant, Role::Owner, &[shop.outlet]);
    let others = Role::ALL.iter().filter(|role| **role != Role::Owner);
    let tokens = others.map(|role| stage.hub.token(shop.merchant, *role, &[])).chain([bound]);
    for token in tokens {
        for (method, path, body) in &requests {
            stage.asks(&token, &Uuid::new_v4().to_string(), method, path, &[], body).await.refused(403, "denied");
        }
    }
    for (method, path, body) in requests.iter().skip(2) {
        stage.owner(&rival, method, path, body.clone()).await.refused(404, "not_found");
    }
    assert_eq!(stage.owner(&rival, "GET", PATH, Value::Null).await.ok()["items"], json!([]));
    let foreign = stage.opens(&rival, &added).await.unwrap_err();
    assert!(matches!(foreign, Error::NotFound("provider account")), "{foreign:?}");
    // The same account at a provider, of two merchants of ours, is two; an id is one's own.
    let mut same = account(midtrans("G1", "hushhushhush"));
    same["id"] = added["id"].clone();
    stage.owner(&rival, "POST", PATH, same.clone()).await.created();
    same["credentials"]["merchant_id"] = json!("G7");
    same["outlet"] = json!(shop.outlet);
    stage.owner(&shop, "POST", PATH, same).await.refused(409, "id_taken");
    assert_eq!(stage.owner(&shop, "GET", &path, Value::Null).await.ok(), added);
    // A merchant that is not open yet has none.
    let nobody = stage.hub.token(tillwire_channels::MerchantId::new(), Role::Owner, &[]);
    let body = account(midtrans("G1", "hushhushhush"));
    stage.asks(&nobody, "a", "POST", PATH, &[], &body).await.refused(404, "not_found");
}

#[tokio::test]
async fn sealed_credentials_open_in_their_own_row_alone() {
    let stage = stage().await;
    let (shop, rival) = (stage.hub.merchant("Toko Roti").await, stage.hub.merchant("Saingan").await);
    let one = stage.owner(&shop, "POST", PATH, account(midtrans("G1", "hushhushhush"))).await.created();
    let two = stage.owner(&shop, "POST", PATH, account(xendit("64f0c1", "hushhushhush", &["t"]))).await.created();
    let theirs = stage.owner(&rival, "POST", PATH, account(midtrans("G3", "hushhushhush"))).await.created();
    let psql = async |sql: String| stage.hub.database.psql(&sql).await;
    let copies = async |from: &Value, to: &Value, with_key: bool| {
        let key = if with_key { ", data_key = it.data_key" } else { "" };
        let (from, to) = (id(from), id(to));
        psql(format!(
            "update provider_accounts own set sealed = it.sealed{key} from provider_accounts it
             where own.account_id = '{to}' and it.account_id = '{from}'"
        ))
        .await;
    };
    let is_refused = async |shop: &Shop<'_>, account: &Value| {
        let error = stage.opens(shop, account).await.unwrap_err();
        assert!(matches!(error, Error::Internal(_)), "{error:?}");
        let words = format!("{error:?}") + &format!("{:#}", error.into_anyhow());
        assert!(!words.contains("hushhush"), "{words}");
    };
    let kept = psql(
        "select string_agg(account_id || ' ' || encode(sealed, 'hex'), ',' order by account_id) from provider_accounts"
            .to_owned(),
    )
    .await;
    // Into another row of the same merchant, and of another with the very same row of a data key beside it.
    copies(&one, &two, true).await;
    is_refused(&shop, &two).await;
    copies(&one, &theirs, false).await;
    is_refused(&rival, &theirs).await;
    psql(format!(
        "insert into data_keys select '{}', key_id, vault_key, sealed from data_keys where merchant_id = '{}'",
        rival.merchant, shop.merchant
    ))
    .await;
    copies(&one, &theirs, true).await;
    let error = stage.opens(&rival, &theirs).await.unwrap_err();
    // A data key of another merchant is none: this node has not the key that it would need.
    assert!(matches!(error, Error::Conflict { code: "vault_unavailable", .. }), "{error:?}");
    // One that was flipped, one that was cut to another length, and what a row says of itself.
    psql(format!(
        "update provider_accounts set sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) where account_id = '{}'",
        id(&one)
    ))
    .await;
    is_refused(&shop, &one).await;
    psql(format!("update provider_accounts set sealed = substr(sealed, 1, 40) where account_id = '{}'", id(&one)))
        .await;
    is_refused(&shop, &one).await;
    for row in kept.trim().split(',') {
        let (account, sealed) = row.split_once(' ').unwrap();
        psql(format!("update provider_accounts set sealed = decode('{sealed}', 'hex') where account_id = '{account}'"))
            .await;
    }
    stage.opens(&shop, &one).await.unwrap();
    psql(format!("update provider_accounts set mode = 'live' where account_id = '{}'", id(&one))).await;
    is_refused(&shop, &one).await;
    // What is shown of it needs no secret, and it can be put right: by its owner, with its keys.
    psql(format!(
        "update provider_accounts set mode = 'test', sealed = substr(sealed, 1, 40) where account_id = '{}'",
        id(&one)
    ))
    .await;
    is_refused(&shop, &one).await;
    let path = format!("{PATH}/{}", id(&one));
    stage.owner(&shop, "GET", &path, Value::Null).await.ok();
    let body = json!({ "credentials": midtrans("G1", "hushhushhush") });
    stage.owner(&shop, "PUT", &format!("{path}/credentials"), body).await.ok();
    stage.opens(&shop, &one).await.unwrap();
}
