//! Tokens: minted by command, as the README says, and refused when they are not what they should be.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};
use tillwire::schema;
use tillwire_channels::MerchantId;
use uuid::Uuid;

use super::support::caller::Caller;
use super::support::hub::{TestHub, request};
use super::support::process::{TillwireProcess, environment, run, shell};
use super::support::screen::{End, Screen};
use super::support::services::dir;
use super::support::services::postgres::Postgres;

/// The line of the README's examples that begins so, without its comment.
fn readme_says(beginning: &str) -> &'static str {
    let line = include_str!("../../README.md").lines().find(|line| line.starts_with(beginning));
    line.unwrap_or_else(|| panic!("the README does not say {beginning}"))
        .split(" #")
        .next()
        .expect("a command")
        .trim_end()
}

#[tokio::test]
async fn a_token_minted_as_the_readme_says_opens_a_shop() {
    let database = Postgres::shared().await.database(async |url| schema::up(&url).await.unwrap()).await;
    let (mut env, _) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let home = dir("home");
    let script =
        format!("{}\n{}\necho \"$TOKEN\"", readme_says("tillwire token new-key"), readme_says("export TOKEN="));
    let minted = shell(&script, &env, &home).await;
    assert_eq!(minted.code, Some(0), "{}", minted.err);
    // The token and nothing else; for whom it is stands on the other stream.
    let token = minted.out.strip_suffix('\n').unwrap();
    assert_eq!((token.split('.').count(), token.split_whitespace().count()), (3, 1), "{token}");
    let merchant = minted.err.lines().find_map(|line| line.strip_prefix("merchant ")).expect("a merchant");
    let private = home.join("signing.pem");
    assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600, "for its owner only");
    let public = fs::read_to_string(home.join("keys.json")).unwrap();
    let parameter = serde_json::from_str::<Value>(&public).unwrap()["keys"][0].clone();
    assert_eq!(
        (&parameter["alg"], &parameter["crv"], &parameter["d"]),
        (&json!("EdDSA"), &json!("Ed25519"), &json!(null))
    );

    env.insert("TILLWIRE_TOKEN_KEYS", home.join("keys.json").display().to_string());
    let hub = TillwireProcess::start(&["serve"], &env).await;
    let owner = Caller { address: hub.public, token };
    assert_eq!(owner.creates("/v1/merchant", json!({ "name": "Toko Roti", "currency": "IDR" })).await["id"], merchant);
    let mut screen = Screen::enters(hub.public, json!({ "token": token, "channels": ["sales"] })).await;
    assert_eq!(screen.hears("ready").await.body["joined"], json!(["sales"]));

    // What only those who run it may see is on another listener.
    hub.get("/metrics").await.unwrap().refused(404, "not_found");
    let metrics = request(hub.metrics, "GET", "/metrics", &[], vec![]).await.unwrap();
    assert_eq!(metrics.status, 200);
}

#[tokio::test]
async fn what_cannot_be_minted_is_said_and_no_key_is_overwritten() {
    let home = dir("home");
    let path = home.join("signing.pem").display().to_string();
    let env = Default::default();
    assert_eq!(run(&["token", "new-key", &path], &env).await.code, Some(0));
    let key = fs::read(&path).unwrap();
    let again = run(&["token", "new-key", &path], &env).await;
    assert_eq!((again.code, again.out.as_str(), fs::read(&path).unwrap()), (Some(1), "", key), "{}", again.err);

    let mint = async |flags: &[&str]| {
        let usual = ["token", "mint", "--signing-key", &path];
        let said = run(&[&usual, flags].concat(), &env).await;
        assert_eq!(said.out, "", "{flags:?}");
        (said.code, said.err)
    };
    let merchant = MerchantId::new().to_string();
    for (flags, code, about) in [
        (["--merchant", "mine", "--role", "owner"].as_slice(), 1, "an id or `new`"),
        (&["--merchant", &merchant, "--role", "king"], 2, "king"),
        (&["--merchant", &merchant], 2, "--role"),
        (&["--merchant", &merchant, "--role", "owner", "--ttl-seconds", "86401"], 2, "1..=86400"),
        (&["--merchant", &merchant, "--role", "cashier", "--outlets", "Bandung"], 2, "Bandung"),
    ] {
        let (ended, said) = mint(flags).await;
        assert!(ended == Some(code) && said.contains(about), "{flags:?}: {ended:?} {said}");
    }
    fs::write(&path, "no key").unwrap();
    let (ended, said) = mint(&["--merchant", &merchant, "--role", "owner"]).await;
    assert!(ended == Some(1) && said.contains("private key"), "{ended:?} {said}");
}

#[tokio::test]
async fn a_token_of_another_kind_time_or_place_opens_neither_rest_nor_a_screen() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let key = EncodingKey::from_ed_pem(&fs::read(&hub.signing_key).unwrap()).unwrap();
    let good = jsonwebtoken::decode_header(&shop.owner).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(shop.owner.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let now = claims["iat"].as_i64().unwrap();
    // Our own key signs each of them: nothing but what is named here is wrong.
    let signed = |kind: Option<&str>, changes: Value| {
        let (mut header, mut changed) = (good.clone(), claims.clone());
        header.typ = kind.map(str::to_owned);
        changed.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        jsonwebtoken::encode(&header, &changed, &key).unwrap()
    };
    let right = Some("at+jwt");
    shop.get_as(&signed(right, json!({})), "/v1/outlets").await.ok();
    Screen::enters(hub.address, json!({ "token": signed(right, json!({})) })).await;
    for (token, code) in [
        (signed(Some("JWT"), json!({})), "token_type"),
        (signed(Some("refresh+jwt"), json!({})), "token_type"),
        (signed(None, json!({})), "token_type"),
        (signed(right, json!({ "iat": now - 90, "nbf": now - 90, "exp": now - 60 })), "token_expired"),
        (signed(right, json!({ "nbf": now + 600 })), "token_not_yet_valid"),
        (signed(right, json!({ "aud": "somewhere else" })), "token_audience"),
        (signed(right, json!({ "iss": "somebody else" })), "token_issuer"),
        (signed(right, json!({ "exp": now + 25 * 3600 })), "token_claims"),
        (signed(right, json!({ "role": "king" })), "token_claims"),
    ] {
        let answer = shop.get_as(&token, "/v1/outlets").await;
        answer.refused(401, code);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        let sale = shop.sale(&Uuid::nil().to_string(), "1", 1).to_string().into_bytes();
        shop.post_as(&token, "k", &shop.sales(), sale).await.refused(401, code);
        let End::Refused(data) = Screen::is_refused(hub.address, json!({ "token": token })).await else {
            panic!("no refusal")
        };
        assert_eq!(data, json!({ "code": code, "retry": false }));
    }
}
