//! A whole catalogue comes in at once, and is not lost half-way.

use serde_json::{Value, json};
use tillwire::schema;
use uuid::Uuid;

use super::support::process::{Env, TillwireProcess, environment, run};
use super::support::services::postgres::Postgres;
use super::support::till::Till;

/// As many as the catalogue that the demo is made from.
const PRODUCTS: usize = 25_787;
/// Every so many, one is no product.
const BAD_EVERY: usize = 1_000;

fn item(n: usize) -> Value {
    let price = if n.is_multiple_of(BAD_EVERY) { -1 } else { 1_000 + i64::try_from(n).unwrap() };
    json!({
        "name": format!("Barang {n}"), "department": "Grosir", "category": format!("Rak {}", n % 300),
        "variants": [{ "sku": format!("S{n}"), "price_minor": price, "barcodes": [format!("899{n:010}")] }],
    })
}

#[tokio::test]
async fn g1_an_import_killed_half_way_is_completed_by_the_same_key() {
    let database = Postgres::shared().await.database(async |url| schema::up(&url).await.unwrap()).await;
    let (env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 1).await;
    let import = json!({ "items": (0..PRODUCTS).map(item).collect::<Vec<_>>() });
    let (key, path) = (Uuid::new_v4().to_string(), "/v1/products/import");
    let known = async || database.psql("select count(*) from products").await.trim().parse::<usize>().unwrap();

    let cut_off = async {
        hub.until("a quarter of it", async |_| known().await >= PRODUCTS / 4).await;
        hub.kill().await;
    };
    let (answer, ()) = tokio::join!(till.post(&key, path, &import), cut_off);
    assert!(answer.is_err(), "nobody was there to answer");
    let half = known().await;
    assert!((PRODUCTS / 4..PRODUCTS).contains(&half), "{half}");

    let _hub = TillwireProcess::start(&["serve"], &env).await;
    let answer = till.post(&key, path, &import).await.unwrap();
    let imported = answer.ok();
    let refused = PRODUCTS.div_ceil(BAD_EVERY);
    assert_eq!((&imported["created"], &imported["changed"]), (&json!(PRODUCTS - refused), &json!(0)));
    assert_eq!(imported["refused"], json!(refused));
    let results = imported["results"].as_array().unwrap();
    assert_eq!(results.len(), PRODUCTS);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["index"], n);
        if n.is_multiple_of(BAD_EVERY) {
            assert_eq!(result["errors"][0]["pointer"], "/variants/0/price_minor", "{result}");
        } else {
            assert_eq!(result["status"], "created", "{result}");
        }
    }
    let once = "select count(*) || ' of ' || count(distinct name) || ' in version ' || max(version) from products";
    let all = PRODUCTS - refused + 1; // And the till's own.
    assert_eq!(database.psql(once).await.trim(), format!("{all} of {all} in version 1"));
    let told = "select count(*) from journal_entries, jsonb_array_elements(events::jsonb) as event
        where event ->> 'type' = 'product.changed'";
    assert_eq!(database.psql(told).await.trim(), all.to_string());

    let again = till.post(&key, path, &import).await.unwrap();
    assert_eq!((again.ok(), &again.headers["idempotent-replayed"]), (imported, &"true".parse().unwrap()));
    let (feed, merchant) = (database.url("tillwire_feed"), till.merchant.to_string());
    let verify = ["journal", "verify", "--feed-database-url", &feed, "--merchant", &merchant];
    assert_eq!(run(&verify, &Env::new()).await.code, Some(0));
}
