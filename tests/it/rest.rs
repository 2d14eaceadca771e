//! Bad input gets a clear problem and changes nothing.

use serde_json::json;
use tillwire_channels::{OutletId, Role};

use super::support::hub::TestHub;

#[tokio::test]
async fn bad_sales_name_the_field_and_change_nothing() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let before = shop.journal().await.len();
    let good = || shop.sale(&bread, "1", 7_500);
    let cases = [
        ("/lines/0/quantity", json!("-1"), "/lines/0/quantity", "invalid"),
        ("/lines/0/quantity", json!("1.0005"), "/lines/0/quantity", "invalid_field"),
        ("/lines/0/quantity", json!(1), "/lines/0/quantity", "invalid_field"),
        ("/lines/0/discount_minor", json!(-1), "/lines/0/discount_minor", "invalid"),
        ("/lines/0/variant", json!(uuid::Uuid::nil()), "/lines/0/variant", "unknown_variant"),
        ("/tenders/0/amount_minor", json!(7_499), "/tenders", "tenders_mismatch"),
        ("/tenders/0/amount_minor", json!(i64::MAX), "/tenders/0/amount_minor", "invalid"),
        ("/tenders/0/method", json!("shells"), "/tenders/0/method", "invalid_field"),
        ("/lines", json!([]), "/lines", "invalid"),
        ("/register", json!(uuid::Uuid::nil()), "/register", "unknown_register"),
    ];
    for (at, value, pointer, code) in cases {
        let mut sale = good();
        *sale.pointer_mut(at).unwrap() = value;
        let problem = shop.post(&shop.sales(), sale).await.refused(422, code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let mut unknown = good();
    unknown["colour"] = json!("red");
    shop.post(&shop.sales(), unknown).await.refused(422, "invalid_field");
    let malformed = shop.post_as(&shop.owner, "k1", &shop.sales(), b"{\"lines\": [".to_vec()).await;
    malformed.refused(400, "malformed_json");
    let huge = shop.post_as(&shop.owner, "k2", &shop.sales(), vec![b' '; 2 * 1024 * 1024]).await;
    huge.refused(413, "too_large");
    let nowhere = format!("/v1/outlets/{}/sales", OutletId::new());
    shop.post(&nowhere, good()).await.refused(404, "not_found");

    assert_eq!(shop.journal().await.len(), before);
    assert_eq!(shop.stock_of(&bread).await, "10.000");
    // What was refused is not remembered: the same key may be used for the corrected request.
    shop.post_once("k1", &shop.sales(), good()).await.created();
}

#[tokio::test]
async fn a_sale_too_large_for_the_journal_is_refused_whole_and_may_be_sold_in_parts() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    // As long as names may be, in letters of four bytes.
    let product = |n: usize| {
        let variant = json!({ "sku": format!("{n}"), "name": "🧺".repeat(100), "price_minor": 1_000 });
        json!({ "name": "🥐".repeat(200), "variants": [variant] })
    };
    let items: Vec<_> = (0..200).map(product).collect();
    assert_eq!(shop.post("/v1/products/import", json!({ "items": items })).await.ok()["created"], 200);
    let products = shop.get("/v1/products?limit=200").await.ok();
    let variants: Vec<_> =
        products["items"].as_array().unwrap().iter().map(|it| &it["variants"][0]["variant"]).collect();
    for half in variants.chunks(100) {
        let lines: Vec<_> = half.iter().map(|it| json!({ "variant": it, "quantity": "5" })).collect();
        let delivery = json!({ "reason": "received", "lines": lines });
        shop.post(&format!("/v1/outlets/{}/stock/moves", shop.outlet), delivery).await.created();
    }
    let entries = shop.journal().await.len();
    let sale = |of: &[&serde_json::Value]| {
        let lines: Vec<_> = of.iter().map(|it| json!({ "variant": it, "quantity": "1" })).collect();
        let total = 1_000 * lines.len();
        json!({ "register": shop.register, "lines": lines, "tenders": [{ "method": "cash", "amount_minor": total }] })
    };
    let problem = shop.post_once("whole", &shop.sales(), sale(&variants)).await.refused(422, "entry_too_large");
    assert!(problem["detail"].as_str().unwrap().contains("262144 is the most"), "{problem}");
    assert_eq!(shop.journal().await.len(), entries);
    assert_eq!(shop.get(&shop.sales()).await.ok()["items"], json!([]));
    hub.ledgers_add_up().await;

    // Not even a number of the receipts was used, nor the key.
    let part = shop.post_once("whole", &shop.sales(), sale(&variants[..50])).await.created();
    assert_eq!(part["number"], "JKT-R1-000001");
    assert_eq!(shop.stock_of(variants[0].as_str().unwrap()).await, "4.000");
}

#[tokio::test]
async fn only_good_tokens_open_anything() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    hub.send("GET", "/v1/outlets", &[], vec![]).await.refused(401, "token_missing");
    for token in ["", "x", "a.b.c", "{}.{}.{}"] {
        assert_eq!(shop.get_as(token, "/v1/outlets").await.status, 401, "{token}");
    }
    let mut parts: Vec<String> = shop.owner.split('.').map(str::to_owned).collect();
    let other = if parts[2].starts_with('A') { "B" } else { "A" };
    parts[2].replace_range(..1, other);
    shop.get_as(&parts.join("."), "/v1/outlets").await.refused(401, "token_signature");

    let display = hub.token(shop.merchant, Role::Display, &[]);
    shop.get_as(&display, "/v1/outlets").await.ok();
    shop.post_as(&display, "k", "/v1/outlets", b"{}".to_vec()).await.refused(422, "invalid_field");
    let body = json!({ "code": "X", "name": "X", "time_zone": "Asia/Jakarta" }).to_string();
    shop.post_as(&display, "k", "/v1/outlets", body.into_bytes()).await.refused(403, "denied");
    let elsewhere = hub.token(shop.merchant, Role::Cashier, &[OutletId::new()]);
    shop.get_as(&elsewhere, &shop.sales()).await.refused(403, "denied");
}

#[tokio::test]
async fn a_revoked_token_is_dead_at_once_and_the_journal_says_so() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (staff, token) = hub.token_of_someone(shop.merchant, Role::Cashier);
    shop.get_as(&token, "/v1/outlets").await.ok();
    shop.post(&format!("/v1/staff/{staff}/revocations"), json!({})).await.created();
    shop.get_as(&token, "/v1/outlets").await.refused(401, "token_revoked");
    shop.post_as(
        &token,
        "k",
        &shop.sales(),
        shop.sale(&uuid::Uuid::nil().to_string(), "1", 1).to_string().into_bytes(),
    )
    .await
    .refused(401, "token_revoked");
    let last = shop.journal().await.pop().unwrap();
    assert_eq!(last["event"]["type"], "access.revoked");
    assert_eq!(last["event"]["data"]["staff"], staff.to_string());
}

#[tokio::test]
async fn a_catalogue_is_imported_in_chunks_with_a_result_for_each_item() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Besar").await;
    let mut items: Vec<_> = (0..450)
        .map(|n| json!({ "name": format!("Barang {n}"), "variants": [{ "sku": format!("S{n}"), "price_minor": n }] }))
        .collect();
    items[3]["variants"][0]["price_minor"] = json!(-1);
    items[9]["variants"][0]["sku"] = json!("S8");
    let import = json!({ "items": items });
    let before = shop.journal().await.len();
    let answer = shop.post_once("catalogue", "/v1/products/import", import.clone()).await;
    let imported = answer.ok();
    assert_eq!((&imported["created"], &imported["refused"]), (&json!(448), &json!(2)));
    assert_eq!(imported["results"][3]["errors"][0]["pointer"], "/variants/0/price_minor");
    assert_eq!(imported["results"][9]["errors"][0]["code"], "sku_repeated");
    let events = shop.journal().await;
    assert_eq!(events.len() - before, 448);
    let entries: std::collections::BTreeSet<_> =
        events[before..].iter().map(|it| it["event"]["seq"].as_u64().unwrap()).collect();
    assert_eq!(entries.len(), 3, "a transaction for each chunk");
    // The same request again is answered alike, and done once.
    let again = shop.post_once("catalogue", "/v1/products/import", import).await;
    assert_eq!((again.ok(), shop.journal().await.len()), (imported, events.len()));
}

#[tokio::test]
async fn an_import_may_be_larger_than_other_bodies_and_has_a_bound_of_its_own() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Besar").await;
    let blanks = |bytes: usize| {
        let mut body = br#"{"items": [{"name": "Roti", "variants": [{"sku": "1", "price_minor": 1}]}]}"#.to_vec();
        body.resize(bytes, b' ');
        body
    };
    let path = "/v1/products/import";
    shop.post_as(&shop.owner, "k1", path, blanks(4 * 1024 * 1024)).await.ok();
    let problem = shop.post_as(&shop.owner, "k2", path, blanks(33 * 1024 * 1024)).await.refused(413, "too_large");
    assert!(problem["detail"].as_str().unwrap().contains("33554432"), "{problem}");
}

#[tokio::test]
async fn a_snapshot_is_true_at_its_position_page_by_page() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    shop.stocked("kue", 9_000, "5").await;
    let sold = shop.post(&shop.sales(), shop.sale(&bread, "2", 15_000)).await;
    sold.created();
    let stock = format!("/v1/snapshot?limit=1&channel=stock/{}", shop.outlet);
    let first = shop.get(&stock).await.ok();
    assert_eq!(first["position"], sold.position());
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = shop.get(&format!("{stock}&cursor={cursor}")).await.ok();
    assert_eq!((&second["next_cursor"], second["state"].as_array().unwrap().len()), (&json!(null), 1));
    assert_eq!((&first["state"][0]["on_hand"], &second["state"][0]["on_hand"]), (&json!("8.000"), &json!("5.000")));
    let day = shop.get("/v1/snapshot?channel=sales").await.ok();
    assert_eq!((&day["state"][0]["count"], &day["state"][0]["total_minor"]), (&json!(1), &json!(15_000)));
    let elsewhere = hub.token(shop.merchant, Role::Cashier, &[OutletId::new()]);
    shop.get_as(&elsewhere, &stock).await.refused(403, "denied");
    shop.get("/v1/snapshot?channel=access").await.refused(422, "no_snapshot");
}

#[tokio::test]
async fn the_journal_is_read_by_channels_that_the_token_may_hear() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    shop.sells(&bread, 7_500).await;
    let read =
        async |token: &str, channels: &str| shop.get_as(token, &format!("/v1/journal?channels={channels}")).await;
    let kinds = |page: serde_json::Value| -> Vec<String> {
        let events = page["events"].as_array().unwrap();
        events.iter().map(|it| it["event"]["type"].as_str().unwrap().to_owned()).collect()
    };
    let here = format!("payments/{}", shop.outlet);
    assert_eq!(kinds(read(&shop.owner, &format!("sales,{here}")).await.ok()), ["sale.completed", "payment.captured"]);

    for unknown in ["weather", "sales,weather", "sales/nowhere", "sales/", "", "sales,", "Sales", "sales%20"] {
        let problem = read(&shop.owner, unknown).await.refused(422, "unknown_channel");
        assert_eq!(problem["errors"][0]["pointer"], "channels", "{unknown}");
    }
    // One that is not for them, and nothing is answered of the others.
    let clerk = hub.token(shop.merchant, Role::Clerk, &[]);
    assert_eq!(kinds(read(&clerk, "stock").await.ok()), ["stock.changed", "stock.changed"]);
    for denied in ["sales", "stock,payments", "access"] {
        read(&clerk, denied).await.refused(403, "denied");
    }
    let cashier = hub.token(shop.merchant, Role::Cashier, &[shop.outlet]);
    read(&cashier, &here).await.ok();
    for denied in ["payments".to_owned(), format!("payments/{}", OutletId::new())] {
        read(&cashier, &denied).await.refused(403, "denied");
    }
}
