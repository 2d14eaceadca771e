//! A till as the documents show it, `docs/examples/payment.mjs`: it says LUNAS by whichever way it hears of it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tillwire::node::Faces;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::{asks, opens, qris};
use crate::support::clients::javascript_program;
use crate::support::hub::{BOTH_FACES, Shop};
use crate::support::process::loopback;
use crate::support::providers::{Market, Stage};
use crate::support::services::proxy::{Cut, Proxy};

/// How long it may take to say what it must: it asks every five seconds, on a busy machine.
const SAYS_MAX: Duration = Duration::from_secs(60);

/// How often the hub pings where its connection falls silent: a stock client gives it up 20 seconds after the next was due.
const PING_SECONDS: u64 = 10;

struct Till {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Till {
    /// Follows a payment at the shop's register.
    async fn follows(payment: &Value, shop: &Shop<'_>, hub: SocketAddr, silence_ms: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/payment.mjs");
        let (mut node, _folder) = javascript_program(&program).await;
        let place = format!("{}/{}", shop.outlet, shop.register);
        node.args([&format!("http://{hub}"), &shop.owner, &place, text(&payment["id"]), silence_ms]);
        let mut process = node.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("an example");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { lines, _process: process }
    }

    /// The next thing that it says.
    async fn says(&mut self, wanted: &str) {
        self.says_within(SAYS_MAX, wanted).await;
    }

    async fn says_within(&mut self, limit: Duration, wanted: &str) {
        let line = tokio::time::timeout(limit, self.lines.next_line()).await.expect("a line in time");
        assert_eq!(line.expect("its output").as_deref(), Some(wanted));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// On how many screens somebody has seen the payment.
async fn seen_on(shop: &Shop<'_>, payment: &Value) -> usize {
    let seen = shop.get(&format!("/v1/payments/{}/seen", text(&payment["id"]))).await.ok();
    seen["screens"].as_array().expect("screens").len()
}

async fn is_seen(shop: &Shop<'_>, payment: &Value) {
    let seen = async {
        while seen_on(shop, payment).await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SAYS_MAX, seen).await.expect("its receipt");
}

#[tokio::test]
async fn the_till_of_the_documents_hears_that_it_is_paid_and_says_that_it_was_seen() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let payment = asks(&shop, &opens(&shop, bread).await, qris("midtrans")).await.created();
    let mut till = Till::follows(&payment, &shop, market.hub.address, "30000").await;
    till.says("pending").await;
    market.pays(&payment).await;
    till.says("LUNAS").await;
    is_seen(&shop, &payment).await;
}

#[tokio::test]
async fn the_till_of_the_documents_says_of_a_part_that_it_is_paid_and_not_that_all_is() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for is_forced in [false, true] {
        let sale = opens(&shop, bread).await;
        let mut part = qris("midtrans");
        part["amount_minor"] = json!(20_000);
        let payment = asks(&shop, &sale, part).await.created();
        let mut till = Till::follows(&payment, &shop, market.hub.address, "30000").await;
        till.says("pending").await;
        if is_forced {
            let path = format!("/v1/payments/{}/force", text(&payment["id"]));
            shop.post(&path, json!({ "reason": "Her app shows the receipt" })).await.ok();
        }
        market.pays(&payment).await;
        till.says("paid").await;
        assert_eq!(seen_on(&shop, &payment).await, 0, "nothing that a cashier waits for");
    }
}

#[tokio::test]
async fn the_till_of_the_documents_asks_where_nobody_tells_it_anything() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    // Screens are served elsewhere.
    let node = market.hub.node(Faces::API, &[]).await;
    for is_forced in [false, true] {
        let payment = asks(&shop, &opens(&shop, bread).await, qris("xendit")).await.created();
        let mut till = Till::follows(&payment, &shop, node.address, "30000").await;
        till.says("pending").await;
        if is_forced {
            let path = format!("/v1/payments/{}/force", text(&payment["id"]));
            let forced = shop.post(&path, json!({ "reason": "Her app shows the receipt" })).await.ok();
            assert_eq!(forced["state"], "pending", "{forced}");
        } else {
            market.pays(&payment).await;
        }
        till.says("LUNAS").await;
        assert_eq!(seen_on(&shop, &payment).await, 0, "it heard nothing that it could have a receipt for");
    }
}

#[tokio::test]
async fn the_till_of_the_documents_asks_while_its_connection_is_silent_and_hears_afterwards_what_it_missed() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let node = market.hub.node(BOTH_FACES, &["--ping-seconds", &PING_SECONDS.to_string()]).await;
    let way = Proxy::to(node.address.port()).await;
    let payment = asks(&shop, &opens(&shop, bread).await, qris("midtrans")).await.created();
    let mut till = Till::follows(&payment, &shop, loopback(way.port), "3000").await;
    till.says("pending").await;
    // Its next pong is the last that anybody hears of that connection: a masked frame of one byte.
    let silenced = way.silence_when(|bytes| bytes.windows(2).any(|it| it == [0x81, 0x81]), Cut::Before);
    tokio::time::timeout(SAYS_MAX, silenced).await.expect("a pong in time").expect("a proxy");

    market.pays(&payment).await;
    // Before the client itself gives the connection up.
    till.says_within(Duration::from_secs(PING_SECONDS + 15), "LUNAS").await;
    assert_eq!(seen_on(&shop, &payment).await, 0, "its connection told it nothing");
    way.cut();
    is_seen(&shop, &payment).await;
}

#[tokio::test]
async fn what_is_listed_can_be_asked_for_in_the_same_words() {
    let stage = Stage::with(Market::opens().await, "50").await;
    let (_, shop, bread) = stage.cast();
    let listed = shop.get(&format!("/v1/outlets/{}/payment-methods", shop.outlet)).await.ok();
    let mut asked = 0;
    for way in listed.as_array().expect("ways") {
        // A card at Midtrans wants a token besides.
        if way["method"] == "card" && way["provider"] == "midtrans" {
            continue;
        }
        let sale = opens(&shop, bread).await;
        let mut wanted = json!({ "provider": way["provider"], "method": way["method"] });
        if let Some(bank) = way.get("bank") {
            wanted["bank"] = bank.clone();
        }
        let payment = asks(&shop, &sale, wanted).await.created();
        assert_eq!((&payment["state"], &payment["method"]), (&json!("pending"), &way["method"]), "{payment}");
        asked += 1;
    }
    assert_eq!(asked, 15, "{listed}");
}
