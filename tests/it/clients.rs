//! Stock clients, which other people wrote, as screens: JavaScript's over each transport, and Python's.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tillwire::node::Faces;
use tillwire_channels::Role;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::support::clients::{Client, StockScreen, Transports, javascript_program, python_program};
use super::support::hub::{BOTH_FACES, Shop, TestHub};
use super::support::process::loopback;
use super::support::services::Proxy;

/// How long an example may take to say something.
const SAYS_MAX: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_stock_javascript_client_hears_a_sale_over_websocket() {
    hears_a_sale(Transports::Websocket).await;
}

#[tokio::test]
async fn the_stock_javascript_client_hears_a_sale_over_long_polling() {
    hears_a_sale(Transports::Polling).await;
}

#[tokio::test]
async fn the_stock_javascript_client_hears_a_sale_through_an_upgrade() {
    let mut screen = hears_a_sale(Transports::Upgrade).await;
    let upgraded = |screen: &StockScreen| screen.happened.iter().any(|happened| happened["on"] == "upgrade");
    while !upgraded(&screen) {
        screen.next().await;
    }
}

/// From `ready` over a sale, each packet with its position last, as the change feed has them.
async fn hears_a_sale(transports: Transports) -> StockScreen {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let display = hub.token(shop.merchant, Role::Display, &[]);
    let channels = ["sales", "stock", "payments"];
    let mut screen = StockScreen::javascript(hub.address, &display, &channels, transports).await;
    screen.happens("connect").await;
    let ready = screen.hears("ready").await;
    assert_eq!(ready.body()["joined"], json!(["sales", "stock"]));
    assert_eq!(ready.body()["denied"], json!([{ "channel": "payments", "code": "forbidden" }]));
    let start = ready.position().expect("where replay starts").to_owned();
    assert_eq!(screen.hears("caught_up").await.body()["replayed"], 0);

    shop.post(&shop.sales(), shop.sale(&bread, "2", 15_000)).await.created();
    let sale = screen.hears("sale.completed").await;
    let stock = screen.hears("stock.changed").await;
    assert_eq!(sale.body()["data"]["total_minor"], 15_000);
    assert_eq!(sale.body()["data"]["tenders"], Value::Null, "a wall shows no tenders");
    assert_eq!(stock.body()["data"]["on_hand"], "8.000");
    // The same positions and the same words as over REST.
    let path = format!("/v1/journal?after={start}&channels=sales,stock");
    let journal = shop.get_as(&display, &path).await.ok();
    let written: Vec<(Value, Value)> =
        events(&journal).map(|it| (it["position"].clone(), it["event"].clone())).collect();
    let heard: Vec<(Value, Value)> = screen.heard().iter().map(|it| (it.args[1].clone(), it.args[0].clone())).collect();
    assert_eq!(heard, written);
    screen
}

#[tokio::test]
async fn a_stock_client_that_was_cut_again_and_again_has_missed_nothing() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut way = Proxy::to(hub.address.port()).await;
    for transports in [Transports::Websocket, Transports::Polling, Transports::Upgrade] {
        let mut screen =
            StockScreen::javascript(loopback(way.port), &shop.owner, &["sales", "stock"], transports).await;
        let start = screen.hears("ready").await.position().expect("a position").to_owned();
        sell(&shop, &bread, 1).await;
        screen.hears("sale.completed").await;
        for _ in 0..3 {
            is_cut_off(&mut way, &mut screen).await;
            sell(&shop, &bread, 3).await;
            // It comes back by itself, with the last position that it heard.
            way.accept().await;
            screen.happens("connect").await;
            sell(&shop, &bread, 1).await;
        }
        hears_to_the_end(&shop, &mut screen, &start).await;
    }
}

#[tokio::test]
async fn a_stock_client_that_was_away_is_told_where_the_replay_begins_and_ends() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut screen = StockScreen::javascript(hub.address, &shop.owner, &["sales"], Transports::Upgrade).await;
    let start = screen.hears("ready").await.position().expect("a position").to_owned();
    sell(&shop, &bread, 1).await;
    let last = screen.hears("sale.completed").await.position().expect("a position").to_owned();

    screen.offline().await;
    let head = sell(&shop, &bread, 20).await;
    screen.online().await;
    let ready = screen.hears("ready").await;
    assert_eq!((ready.position(), &ready.body()["recovered"]), (Some(last.as_str()), &json!(true)));
    let caught_up = screen.hears("caught_up").await;
    assert_eq!((caught_up.position(), &caught_up.body()["replayed"]), (Some(head.as_str()), &json!(20)));
    hears_to_the_end(&shop, &mut screen, &start).await;
}

#[tokio::test]
async fn a_stock_client_that_is_killed_goes_on_at_another_gateway() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let gateway = hub.node(Faces::GATEWAY, &[]).await;
    let channels = ["sales", "stock"];
    for transports in [Transports::Websocket, Transports::Polling, Transports::Upgrade] {
        let start = sell(&shop, &bread, 1).await;
        let (mut heard, mut after) = (Vec::new(), start.clone());
        for (client, address) in [
            (Client::JavaScript, hub.address),
            (Client::Python, gateway.address),
            (Client::JavaScript, gateway.address),
            (Client::Python, hub.address),
        ] {
            let mut screen = StockScreen::of(client, Some(&after), address, &shop.owner, &channels, transports).await;
            sell(&shop, &bread, 2).await;
            screen.hears("sale.completed").await;
            screen.hears("sale.completed").await;
            heard.extend(screen.positions());
            after = heard.last().expect("a position").clone();
            // Dropped: killed between an entry's first event and its last, perhaps.
        }
        let journal = shop.get(&format!("/v1/journal?limit=500&after={start}&channels=sales,stock")).await.ok();
        let written = events(&journal).map(|it| it["position"].as_str().expect("a position"));
        let written: Vec<&str> = written.take_while(|position| *position != after).chain([after.as_str()]).collect();
        assert_eq!(heard, written, "{transports:?}");
    }
}

#[tokio::test]
async fn a_stock_client_joins_and_leaves_and_is_answered_with_the_position() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut screen = StockScreen::javascript(hub.address, &shop.owner, &["sales"], Transports::Websocket).await;
    screen.hears("caught_up").await;

    let joined = screen.join(&["stock", "weather"]).await;
    assert_eq!(joined["joined"], json!(["sales", "stock"]));
    assert_eq!(joined["denied"], json!([{ "channel": "weather", "code": "unknown_channel" }]));
    assert!(joined["position"].is_string(), "{joined}");
    sell(&shop, &bread, 1).await;
    screen.hears("stock.changed").await;

    let left = screen.leave(&["sales"]).await;
    assert_eq!((&left["ok"], &left["joined"]), (&json!(true), &json!(["stock"])));
    sell(&shop, &bread, 1).await;
    screen.hears("stock.changed").await;
    let names: Vec<String> = screen.heard().into_iter().map(|heard| heard.name).collect();
    assert_eq!(names, ["sale.completed", "stock.changed", "stock.changed"]);
}

#[tokio::test]
async fn a_stock_client_renews_its_token_in_band() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let (staff, soon_over) = hub.short_token(shop.merchant, Role::Display, 45);
    let mut screen = StockScreen::javascript(hub.address, &soon_over, &["sales"], Transports::Upgrade).await;
    let notice = screen.hears("token_expiring").await;
    assert!(notice.body()["seconds"].as_u64().is_some_and(|seconds| seconds <= 45), "{notice:?}");
    assert_eq!(notice.position(), None, "only the journal's packets end in a string");

    assert_eq!(screen.renew("a.b.c").await["ok"], false);
    assert_eq!(screen.renew(&shop.owner).await, json!({ "ok": false, "code": "token_of_another" }));
    let renewed = screen.renew(&hub.token_for(shop.merchant, staff, Role::Display)).await;
    assert_eq!((&renewed["ok"], &renewed["joined"]), (&json!(true), &json!(["sales"])));
    sell(&shop, &bread, 1).await;
    screen.hears("sale.completed").await;
}

#[tokio::test]
async fn a_wrong_token_is_refused_with_a_code_and_the_client_stays_away() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    for transports in [Transports::Websocket, Transports::Polling] {
        let mut screen = StockScreen::javascript(hub.address, "a.b.c", &["sales"], transports).await;
        let refused = screen.happens("connect_error").await;
        assert_eq!(refused["data"]["retry"], false, "{refused}");
        assert!(refused["data"]["code"].as_str().is_some_and(|code| code.starts_with("token_")), "{refused}");
        assert_eq!(refused["tries_again"], false, "only a person can help");
    }
    let mut screen = StockScreen::python(hub.address, "a.b.c", &["sales"], Transports::Upgrade).await;
    let refused = screen.happens("connect_error").await;
    assert_eq!(refused["data"]["retry"], false, "{refused}");
    shop.get("/v1/merchant").await.ok();
}

#[tokio::test]
async fn the_stock_python_client_with_after_misses_nothing() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut way = Proxy::to(hub.address.port()).await;
    for transports in [Transports::Websocket, Transports::Polling, Transports::Upgrade] {
        let mut screen = StockScreen::python(loopback(way.port), &shop.owner, &["sales", "stock"], transports).await;
        let start = screen.hears("ready").await.position().expect("a position").to_owned();
        sell(&shop, &bread, 1).await;
        screen.hears("sale.completed").await;
        is_cut_off(&mut way, &mut screen).await;
        sell(&shop, &bread, 3).await;
        // It comes back by itself.
        way.accept().await;
        screen.happens("connect").await;
        screen.hears("caught_up").await;
        screen.offline().await;
        sell(&shop, &bread, 3).await;
        screen.online().await;
        hears_to_the_end(&shop, &mut screen, &start).await;
        assert_eq!(screen.join(&["outlets"]).await["joined"], json!(["sales", "stock", "outlets"]));
    }
}

#[tokio::test]
async fn the_stock_python_client_goes_elsewhere_by_itself_when_its_node_goes_away_unless_it_polls() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    for transports in [Transports::Websocket, Transports::Upgrade, Transports::Polling] {
        let node = hub.node(BOTH_FACES, &[]).await;
        let way = Proxy::to(node.address.port()).await;
        let mut screen = StockScreen::python(loopback(way.port), &shop.owner, &["sales", "stock"], transports).await;
        let start = screen.hears("ready").await.position().expect("a position").to_owned();
        screen.hears("caught_up").await;
        node.stops().await;
        let reason = screen.happens("disconnect").await["reason"].clone();
        if matches!(transports, Transports::Polling) {
            // Long-polling has no close codes, and the package takes every close there for one that is meant to last.
            assert_eq!(reason, "server disconnect");
            continue;
        }
        assert_eq!(reason, "transport error");
        sell(&shop, &bread, 2).await;
        way.lead_to(hub.address.port());
        hears_to_the_end(&shop, &mut screen, &start).await;
    }
}

#[tokio::test]
async fn the_examples_in_the_documents_show_sales_and_miss_none() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100000").await;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    let (node, _) = javascript_program(&examples.join("screen.mjs")).await;
    let (python, _) = python_program(&examples.join("screen.py")).await;
    for mut example in [node, python] {
        example.args([format!("http://{}", hub.address), shop.owner.clone()]);
        shows_sales(&shop, &bread, example).await;
    }
}

async fn shows_sales(shop: &Shop<'_>, bread: &str, mut example: Command) {
    let mut process = example.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().expect("an example");
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    // It says nothing until it hears a sale, so sales go on until it does.
    let first = loop {
        sell(shop, bread, 1).await;
        if let Ok(line) = tokio::time::timeout(Duration::from_millis(200), lines.next_line()).await {
            break line.expect("its output").expect("a line");
        }
    };
    assert!(first.ends_with(" 7500"), "{first}");
    let number = shop.post(&shop.sales(), shop.sale(bread, "3", 22_500)).await.created()["number"].clone();
    let wanted = format!("{} 22500", number.as_str().expect("a number"));
    let shown = async { while lines.next_line().await.expect("its output").expect("a line") != wanted {} };
    tokio::time::timeout(SAYS_MAX, shown).await.expect("the sale is shown");
}

/// The network goes, and a client that was just about to poll finds nobody either. It stays away until [`Proxy::accept`].
async fn is_cut_off(way: &mut Proxy, screen: &mut StockScreen) {
    way.refuse().await;
    way.cut();
    screen.happens("disconnect").await;
}

/// Sells so many times, and answers the position of the last.
async fn sell(shop: &Shop<'_>, variant: &str, times: u32) -> String {
    let mut position = None;
    for _ in 0..times {
        let answer = shop.post(&shop.sales(), shop.sale(variant, "1", 7_500)).await;
        answer.created();
        position = Some(answer.position());
    }
    position.expect("a sale")
}

/// Waits until the screen has heard the journal's last event of its channels, and compares all that it heard with it.
async fn hears_to_the_end(shop: &Shop<'_>, screen: &mut StockScreen, start: &str) {
    let ready = screen.happened.iter().find(|happened| happened["name"] == "ready").expect("it was ready");
    let joined: Vec<&str> =
        ready["args"][0]["joined"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let path = format!("/v1/journal?limit=500&after={start}&channels={}", joined.join(","));
    let journal = shop.get(&path).await.ok();
    let written: Vec<String> =
        events(&journal).map(|it| it["position"].as_str().expect("a position").to_owned()).collect();
    while screen.positions().last() != written.last() {
        screen.next().await;
    }
    assert_eq!(screen.positions(), written);
}

fn events(journal: &Value) -> impl Iterator<Item = &Value> {
    assert_eq!(journal["more"], false, "more than a page");
    journal["events"].as_array().into_iter().flatten()
}
