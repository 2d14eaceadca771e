//! Reading over REST: the catalogue as it was put, and lists that give everything once.

use std::future::ready;

use serde_json::{Value, json};
use tillwire_channels::{OutletId, Role};
use uuid::Uuid;

use super::support::hub::{Answer, Shop, TestHub};

/// Puts a product; only at this version, if one is given.
async fn put(shop: &Shop<'_>, path: &str, version: Option<&str>, body: &Value) -> Answer {
    put_once(shop, &Uuid::new_v4().to_string(), path, version, body).await
}

async fn put_once(shop: &Shop<'_>, key: &str, path: &str, version: Option<&str>, body: &Value) -> Answer {
    let mut headers = vec![("idempotency-key", key), ("content-type", "application/json")];
    headers.extend(version.map(|version| ("if-match", version)));
    shop.owner().send("PUT", path, &headers, body.to_string().into_bytes()).await.expect("an answer")
}

#[tokio::test]
async fn a_product_is_read_back_as_it_was_put_and_replaced_only_by_who_has_seen_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Kopi").await;
    let mut coffee = json!({
        "name": "Kopi", "department": "Minuman", "category": "Panas", "brand": "Gayo", "package": "gelas",
        "variants": [
            { "sku": "kopi-k", "name": "kecil", "price_minor": 15_000, "barcodes": ["8991", "8990"] },
            { "sku": "kopi-b", "name": "besar", "price_minor": 20_000 },
        ],
    });
    let created = shop.post("/v1/products", coffee.clone()).await.created();
    let path = format!("/v1/products/{}", created["id"].as_str().unwrap());
    assert_eq!(shop.get(&path).await.ok(), created);
    assert_eq!(
        (&created["version"], &created["active"], &created["currency"]),
        (&json!(1), &json!(true), &json!("IDR"))
    );
    for word in ["name", "department", "category", "brand", "package"] {
        assert_eq!(created[word], coffee[word]);
    }
    let [small, large] = [0, 1].map(|at| &created["variants"][at]);
    assert_eq!((&small["sku"], &small["name"]), (&json!("kopi-k"), &json!("kecil")));
    assert_eq!((&small["price_minor"], &small["barcodes"]), (&json!(15_000), &json!(["8990", "8991"])));
    assert_eq!((&large["sku"], &large["barcodes"]), (&json!("kopi-b"), &json!([])));

    coffee["variants"][0]["price_minor"] = json!(16_000);
    coffee["variants"][0]["barcodes"] = json!(["8992"]);
    let changed = put(&shop, &path, Some("\"1\""), &coffee).await;
    let view = changed.ok();
    assert_eq!((&view["version"], &view["variants"][0]["price_minor"]), (&json!(2), &json!(16_000)));
    assert_eq!((&view["variants"][0]["variant"], &view["variants"][1]), (&small["variant"], large), "the same ones");
    assert_eq!((&view["variants"][0]["barcodes"], &shop.get(&path).await.ok()), (&json!(["8992"]), &view));
    let told = shop.journal().await.pop().unwrap();
    assert_eq!(
        (told["event"]["type"].as_str(), &told["event"]["data"]["version"]),
        (Some("product.changed"), &json!(2))
    );
    assert_eq!(told["position"].as_str().unwrap().replacen(".1-", "-", 1), changed.position());

    // Whoever has seen an older one does not overwrite what they have not seen.
    let entries = shop.journal().await.len();
    coffee["name"] = json!("Teh");
    put(&shop, &path, Some("\"1\""), &coffee).await.refused(412, "stale_version");
    for version in ["2", "\"two\"", "*"] {
        put(&shop, &path, Some(version), &coffee).await.refused(400, "invalid_header");
    }
    put(&shop, &format!("/v1/products/{}", Uuid::now_v7()), None, &coffee).await.refused(404, "not_found");
    shop.get(&format!("/v1/products/{}", Uuid::now_v7())).await.refused(404, "not_found");
    let mut other = coffee.clone();
    other["id"] = json!(Uuid::now_v7());
    put(&shop, &path, None, &other).await.refused(422, "invalid_field");
    assert_eq!((shop.get(&path).await.ok(), shop.journal().await.len()), (view, entries), "nothing changed");
    assert_eq!(put(&shop, &path, None, &coffee).await.ok()["version"], 3, "without a version it is replaced");
}

#[tokio::test]
async fn a_key_stands_for_the_version_that_was_to_be_replaced_as_well() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Kopi").await;
    let coffee = json!({ "name": "Kopi", "variants": [{ "sku": "kopi", "price_minor": 15_000 }] });
    let created = shop.post("/v1/products", coffee.clone()).await.created();
    let path = format!("/v1/products/{}", created["id"].as_str().unwrap());
    let first = put_once(&shop, "seen", &path, Some("\"1\""), &coffee).await;
    assert_eq!(first.ok()["version"], 2);
    for other in [Some("\"2\""), None] {
        put_once(&shop, "seen", &path, other, &coffee).await.refused(422, "idempotency_key_reused");
    }
    assert_eq!(put_once(&shop, "unseen", &path, None, &coffee).await.ok()["version"], 3);
    put_once(&shop, "unseen", &path, Some("\"3\""), &coffee).await.refused(422, "idempotency_key_reused");
    // The same request again is answered as the first was, whatever has become of the product.
    let again = put_once(&shop, "seen", &path, Some("\"1\""), &coffee).await;
    assert_eq!((again.ok(), &again.headers["idempotent-replayed"]), (first.json(), &"true".parse().unwrap()));
    assert_eq!(shop.get(&path).await.ok()["version"], 3);
}

#[tokio::test]
async fn of_two_who_have_seen_the_same_version_one_replaces_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Kopi").await;
    let body = |price: i64| json!({ "name": "Kopi", "variants": [{ "sku": "kopi", "price_minor": price }] });
    let created = shop.post("/v1/products", body(0)).await.created();
    let path = format!("/v1/products/{}", created["id"].as_str().unwrap());
    let puts = (1..=8).map(async |price| put(&shop, &path, Some("\"1\""), &body(price)).await);
    let answers = futures_util::future::join_all(puts).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(good.len(), 1);
    assert_eq!(shop.get(&path).await.ok(), good[0].json());
    for answer in bad {
        answer.refused(412, "stale_version");
    }
}

#[tokio::test]
async fn a_scanner_finds_a_product_by_its_sku_and_by_each_of_its_barcodes() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Kopi").await, hub.merchant("Saingan").await);
    let product = |name: &str, sku: &str, barcodes: &[&str]| {
        json!({ "name": name, "variants": [
            { "sku": sku, "price_minor": 1_000, "barcodes": barcodes },
            { "sku": format!("{sku}-2"), "name": "dua", "price_minor": 2_000 },
        ] })
    };
    let coffee = shop.post("/v1/products", product("Kopi", "kopi", &["8990", "8991"])).await.created();
    let tea = shop.post("/v1/products", product("Teh", "8991", &[])).await.created();
    rival.post("/v1/products", product("Susu", "susu", &["8992"])).await.created();
    let find = async |code: &str| shop.get(&format!("/v1/products?code={code}")).await.ok()["items"].clone();
    for code in ["kopi", "kopi-2", "8990"] {
        assert_eq!(find(code).await, json!([coffee]), "{code}");
    }
    for code in ["susu", "8992", "899", "Kopi", "%25", ""] {
        assert_eq!(find(code).await, json!([]), "{code}");
    }
    // One product's barcode may be another's SKU: both are found, also one after the other.
    assert_eq!(find("8991").await, json!([coffee, tea]));
    assert_eq!(walk(&shop, "/v1/products?code=8991&limit=1", ready(())).await, [coffee, tea]);
    let again = shop.post("/v1/products", product("Kopi lain", "lain", &["8990"])).await;
    let problem = again.refused(409, "barcode_taken");
    assert_eq!(problem["errors"][0]["pointer"], "/variants/0/barcodes/0");
}

#[tokio::test]
async fn every_list_gives_everything_once_also_while_something_is_added() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Besar").await;
    let outlet = async |n: usize| {
        let body =
            json!({ "id": OutletId::new(), "code": format!("T{n}"), "name": "Toko", "time_zone": "Asia/Jakarta" });
        drop(shop.post("/v1/outlets", body).await.created());
    };
    let person = async |n: usize| {
        drop(shop.post("/v1/staff", json!({ "name": format!("Orang {n}"), "role": Role::Cashier })).await.created());
    };
    let goods = async |n: usize| drop(shop.stocked(&format!("barang {n}"), 1_000, "100").await);
    for n in 0..5 {
        outlet(n).await;
        person(n).await;
        goods(n).await;
    }
    let stock = format!("/v1/outlets/{}/stock", shop.outlet);
    let bread = shop.get(&stock).await.ok()["items"][0]["variant"].as_str().unwrap().to_owned();
    for _ in 0..4 {
        shop.sells(&bread, 1_000).await;
    }
    let moves = format!("{stock}/{bread}/moves");
    let sells = async || drop(shop.sells(&bread, 1_000).await);
    // What is added comes last where the order is that of the ids, and not at all where the newest comes first.
    gives_all(&shop, "/v1/outlets", 6, outlet(5), 1).await;
    gives_all(&shop, "/v1/staff", 5, person(5), 1).await;
    gives_all(&shop, "/v1/products", 5, goods(5), 1).await;
    gives_all(&shop, &stock, 6, goods(6), 1).await;
    gives_all(&shop, &moves, 5, sells(), 0).await;
    gives_all(&shop, &shop.sales(), 5, sells(), 0).await;

    for path in ["/v1/outlets", "/v1/staff", "/v1/products", &stock, &moves, &shop.sales()] {
        for wrong in ["limit=0", "limit=1000000", "limit=x", "cursor=x", "colour=red"] {
            shop.get(&format!("{path}?{wrong}")).await.refused(400, "invalid_parameter");
        }
    }
}

/// A list gives all that there is, and of what is added meanwhile so many.
async fn gives_all(shop: &Shop<'_>, path: &str, there: usize, adding: impl Future<Output = ()>, added: usize) {
    let whole = shop.get(path).await.ok();
    let whole = whole["items"].as_array().unwrap();
    assert_eq!(whole.len(), there, "{path}");
    let walked = walk(shop, &format!("{path}?limit=2"), adding).await;
    assert_eq!(walked[..there], whole[..], "{path}");
    assert_eq!(walked.len(), there + added, "{path}");
}

/// Every item of a list, page by page. Something else happens after the first page.
async fn walk(shop: &Shop<'_>, path: &str, meanwhile: impl Future<Output = ()>) -> Vec<Value> {
    let limit: usize = path.rsplit_once("limit=").expect("a limit").1.parse().expect("a number");
    let (mut items, mut next, mut meanwhile) = (Vec::new(), path.to_owned(), Some(meanwhile));
    loop {
        let page = shop.get(&next).await.ok();
        let given = page["items"].as_array().expect("items");
        items.extend(given.clone());
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile.await;
        }
        let Some(cursor) = page["next_cursor"].as_str() else { return items };
        assert_eq!(given.len(), limit, "a page that is followed by another is full");
        assert!(items.len() < 100, "{path} never ends");
        next = format!("{path}&cursor={cursor}");
    }
}
