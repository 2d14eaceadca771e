//! Bad input gets a clear problem and changes nothing.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tillwire::commerce::outlets::REGISTERS_MAX;
use tillwire_channels::{MerchantId, Moment, OutletId, Role};
use time::Duration;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::support::caller::Caller;
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
async fn a_text_with_a_control_character_is_refused_wherever_it_stands() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let before = shop.journal().await.len();
    let mut sale = shop.sale(&bread, "1", 7_500);
    sale["number"] = json!("R1");
    let product = json!({
        "name": "Kue", "department": "Roti", "category": "Manis", "brand": "Sari", "package": "kotak",
        "variants": [{ "sku": "kue", "name": "besar", "price_minor": 9_000, "barcodes": ["8991"] }],
    });
    let (outlets, registers) = ("/v1/outlets".to_owned(), format!("/v1/outlets/{}/registers", shop.outlet));
    let words = ["/name", "/department", "/category", "/brand", "/package"];
    let codes = ["/variants/0/sku", "/variants/0/name", "/variants/0/barcodes/0"];
    let cases = [
        ("/v1/merchant".to_owned(), json!({ "name": "Toko", "currency": "IDR" }), vec!["/name", "/currency"]),
        (
            outlets,
            json!({ "code": "BDG", "name": "Bandung", "time_zone": "Asia/Jakarta" }),
            vec!["/code", "/name", "/time_zone"],
        ),
        (registers, json!({ "code": "R2", "name": "Kasir 2" }), vec!["/code", "/name"]),
        ("/v1/staff".to_owned(), json!({ "name": "Ani", "role": "cashier" }), vec!["/name"]),
        ("/v1/products".to_owned(), product.clone(), [&words[..], &codes[..]].concat()),
        (shop.sales(), sale, vec!["/number"]),
    ];
    for (path, good, pointers) in &cases {
        for pointer in pointers {
            // The first cannot be stored at all; the others only look as if they were not there.
            for bad in ["\u{0}", "\n", "\u{1b}", "\u{7f}", "\u{85}"] {
                let mut body = good.clone();
                *body.pointer_mut(pointer).unwrap() = json!(format!("Ro{bad}ti"));
                let problem = shop.post(path, body).await.refused(422, "invalid");
                assert_eq!(problem["errors"][0]["pointer"], *pointer, "{problem}");
            }
        }
    }
    for code in ["%00", "89%0091", "8991%0A"] {
        let problem = shop.get(&format!("/v1/products?code={code}")).await.refused(400, "invalid_parameter");
        assert_eq!(problem["errors"][0]["pointer"], "code", "{problem}");
    }
    assert_eq!(shop.journal().await.len(), before);

    // In an import it is that item's own matter.
    let mut bad = product.clone();
    bad["variants"][0]["barcodes"][0] = json!("8992\u{0}");
    let imported = shop.post("/v1/products/import", json!({ "items": [bad, product] })).await.ok();
    assert_eq!((&imported["created"], &imported["refused"]), (&json!(1), &json!(1)));
    assert_eq!(imported["results"][0]["errors"][0]["pointer"], "/variants/0/barcodes/0");
}

#[tokio::test]
async fn whoever_writes_for_a_merchant_that_is_not_open_yet_is_told_so() {
    let hub = TestHub::start().await;
    let token = hub.token(MerchantId::new(), Role::Owner, &[]);
    let owner = Caller { address: hub.address, token: &token };
    let product = json!({ "name": "Roti", "variants": [{ "sku": "roti", "price_minor": 7_500 }] });
    let mut refused = product.clone();
    refused["variants"] = json!([product["variants"][0], product["variants"][0]]);
    let writes = [
        ("/v1/outlets".to_owned(), json!({ "code": "JKT", "name": "Jakarta", "time_zone": "Asia/Jakarta" })),
        ("/v1/products".to_owned(), product.clone()),
        ("/v1/products/import".to_owned(), json!({ "items": [product] })),
        // Nothing is put, and the answer alone is to be kept.
        ("/v1/products/import".to_owned(), json!({ "items": [refused] })),
        ("/v1/staff".to_owned(), json!({ "name": "Ani", "role": "cashier" })),
        (format!("/v1/staff/{}/revocations", Uuid::now_v7()), json!({})),
    ];
    for (path, body) in &writes {
        let key = Uuid::new_v4().to_string();
        let answer = owner.post(&key, path, body.to_string().into_bytes()).await.expect("an answer");
        assert_eq!(answer.refused(404, "not_found")["detail"], "There is no such merchant.", "{path}");
    }
    owner.creates("/v1/merchant", json!({ "name": "Toko Roti", "currency": "IDR" })).await;
    for (path, body) in &writes {
        let key = Uuid::new_v4().to_string();
        let answer = owner.post(&key, path, body.to_string().into_bytes()).await.expect("an answer");
        assert!([200, 201].contains(&answer.status), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_method_that_a_route_does_not_have_is_refused_and_those_that_it_has_are_named() {
    let hub = TestHub::start().await;
    for (method, path, has) in [
        ("DELETE", "/v1/merchant", &["GET", "POST"][..]),
        ("PUT", "/v1/products", &["GET", "POST"][..]),
        ("POST", "/v1/journal", &["GET"][..]),
    ] {
        let answer = hub.send(method, path, &[], vec![]).await;
        let problem = answer.refused(405, "method_not_allowed");
        assert_eq!((&problem["status"], &problem["title"]), (&json!(405), &json!("Method Not Allowed")), "{path}");
        assert_eq!((&problem["type"], &problem["instance"]), (&json!("/problems/method_not_allowed"), &json!(path)));
        let allowed: Vec<&str> = answer.headers["allow"].to_str().unwrap().split(',').collect();
        assert!(has.iter().all(|method| allowed.contains(method)) && !allowed.contains(&method), "{path}: {allowed:?}");
    }
    let problem = hub.send("GET", "/v1/nowhere", &[], vec![]).await.refused(404, "not_found");
    assert_eq!((&problem["status"], &problem["title"]), (&json!(404), &json!("Not Found")));
}

#[tokio::test]
async fn stock_of_what_the_merchant_does_not_have_names_the_line_as_a_sale_does() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (bread, cake) = (shop.stocked("roti", 7_500, "10").await, shop.stocked("kue", 9_000, "10").await);
    let entries = shop.journal().await.len();
    let moves = format!("/v1/outlets/{}/stock/moves", shop.outlet);
    // Whatever the order of the ids, the first of those lines is named.
    for unknown in [Uuid::nil(), Uuid::max()] {
        let delivery = json!({ "reason": "received", "lines": [
            { "variant": bread, "quantity": "1" },
            { "variant": unknown, "quantity": "1" },
            { "variant": cake, "quantity": "1" },
            { "variant": Uuid::new_v4(), "quantity": "1" },
        ] });
        let problem = shop.post(&moves, delivery).await.refused(422, "unknown_variant");
        assert_eq!(problem["errors"][0]["pointer"], "/lines/1/variant", "{problem}");
        let count = json!({ "reason": "counted", "lines": [
            { "variant": unknown, "quantity": "1", "expected_on_hand": "0" },
        ] });
        let problem = shop.post(&moves, count).await.refused(422, "unknown_variant");
        assert_eq!(problem["errors"][0]["pointer"], "/lines/0/variant", "{problem}");
    }
    // Where both are unknown it is the outlet that is missing, as with a sale.
    let nowhere = json!({ "reason": "received", "lines": [{ "variant": Uuid::nil(), "quantity": "1" }] });
    let path = format!("/v1/outlets/{}/stock/moves", OutletId::new());
    let problem = shop.post(&path, nowhere).await.refused(404, "not_found");
    assert_eq!(problem["detail"], "There is no such outlet.");
    assert_eq!((shop.journal().await.len(), shop.stock_of(&bread).await.as_str()), (entries, "10.000"));
}

/// No month goes by here: instead, the answer that is kept is made that of a request which is too old today.
#[tokio::test]
async fn what_was_answered_in_time_is_answered_again_when_it_has_become_too_old() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let long_ago = (Moment::now_utc() - Duration::days(32)).format(&Rfc3339).unwrap();
    let delivery = json!({ "reason": "received", "lines": [{ "variant": bread, "quantity": "1" }] });
    for (path, now) in
        [(shop.sales(), shop.sale(&bread, "1", 7_500)), (format!("/v1/outlets/{}/stock/moves", shop.outlet), delivery)]
    {
        let mut then = now.clone();
        then["occurred_at"] = json!(long_ago);
        let problem = shop.post(&path, then.clone()).await.refused(422, "occurred_at_too_old");
        assert_eq!(problem["errors"][0]["pointer"], "/occurred_at");
        let first = shop.post_once("once", &path, now).await;
        let (view, left) = (first.created(), shop.stock_of(&bread).await);
        // What the key stands for: path and body, each with its length before it.
        let asked = format!(
            "update idempotency_keys
             set fingerprint = sha256(int8send(length($it${path}$it$)) || convert_to($it${path}$it$, 'UTF8')
                                      || int8send(octet_length($it${then}$it$)) || convert_to($it${then}$it$, 'UTF8'))
             where key = 'once' and reply = $it${reply}$it$",
            reply = String::from_utf8_lossy(&first.body),
        );
        hub.database.psql(&asked).await;
        let again = shop.post_once("once", &path, then).await;
        assert_eq!((again.created(), again.position()), (view, first.position()), "{path}");
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(shop.stock_of(&bread).await, left, "once");
    }
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
async fn an_outlet_has_no_more_registers_than_it_may_also_when_two_are_enrolled_at_once() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    // With the one that it has, all but one.
    let almost_all = format!(
        "insert into registers (merchant_id, register_id, outlet_id, code, name)
         select merchant_id, gen_random_uuid(), outlet_id, 'N' || n, 'Kasir'
         from outlets, generate_series(3, {REGISTERS_MAX}) n"
    );
    hub.database.psql(&almost_all).await;
    let path = format!("/v1/outlets/{}/registers", shop.outlet);
    let enrols = |code: &str| shop.post(&path, json!({ "code": code, "name": "Kasir" }));
    // The first does not come to its end before the second has begun.
    let mut holder = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    sqlx::raw_sql("begin; select 1 from journal_heads for update").execute(&mut holder).await.unwrap();
    let both_wait = async {
        hub.are_locked_out(2).await;
        sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    };
    let (one, other, ()) = tokio::join!(enrols("X1"), enrols("X2"), both_wait);
    let (enrolled, refused) = if one.status == 201 { (one, other) } else { (other, one) };
    enrolled.created();
    refused.refused(409, "too_many_registers");
    let registers = hub.database.psql("select count(*) from registers").await;
    assert_eq!(registers, REGISTERS_MAX.to_string());
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
