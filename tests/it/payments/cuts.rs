//! P10: a till's stream is cut at random while its payments come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::screen::Screen;
use crate::support::services::proxy::Proxy;

/// In what time a screen that comes back shows what is so.
const RIGHT_MAX: Duration = Duration::from_secs(6);
/// How many payments come meanwhile at least, and how often the stream is cut at least.
const PAYMENTS: usize = 16;
const CUTS: usize = 12;

#[tokio::test]
async fn p10_a_till_whose_stream_is_cut_again_and_again_is_right_soon_after_and_misses_nothing() {
    let stage = Stage::with(Market::opens().await, "500").await;
    let (market, shop, bread) = stage.cast();
    let channel = format!("payments/{}/{}", shop.outlet, shop.register);
    let line = Proxy::to(market.hub.address.port()).await;
    let address = ([127, 0, 0, 1], line.port).into();
    let head = async || {
        let head = format!("select seq from journal_heads where merchant_id = '{}'", shop.merchant);
        market.hub.database.psql(&head).await.trim().parse::<u64>().expect("a number")
    };
    // How often it was back.
    let back = AtomicUsize::new(0);
    let cut_enough = tokio::sync::Notify::new();
    let paying = async {
        let (mut paid, mut enough) = (Vec::new(), std::pin::pin!(cut_enough.notified()));
        let mut is_cut_enough = false;
        while paid.len() < PAYMENTS || !is_cut_enough {
            let provider = ["midtrans", "xendit"][paid.len() % 2];
            let sale = opens(&shop, bread).await;
            let payment = asks(&shop, &sale, qris(provider)).await.created();
            market.pays(&payment).await;
            paid.push(comes_to(&shop, &payment, "paid").await);
            is_cut_enough |= futures_util::FutureExt::now_or_never(enough.as_mut()).is_some();
        }
        paid
    };
    let cutting = async {
        for cut in 0..CUTS {
            until(async || (back.load(Ordering::Relaxed) > cut).then_some(())).await;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..900))).await;
            // At once, or at the next bytes that come: in the midst of an event.
            if fastrand::bool() { line.cut() } else { line.tear() }
        }
        cut_enough.notify_one();
    };
    let mut screen = shop.screen(&[&channel]).await;
    let mut position = screen.position.take().expect("where it begins");
    drop(screen);
    let (mut heard, mut took) = (Vec::new(), Vec::new());
    let over = tokio_util::sync::CancellationToken::new();
    let watching = async {
        loop {
            // Off for a while, as phones are.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..600))).await;
            let (came, known) = (Instant::now(), head().await);
            let auth = json!({ "token": shop.owner, "channels": [channel], "after": position });
            let Ok(mut screen) = Screen::tries(address, auth).await else { continue };
            let mut is_right = false;
            loop {
                let next = tokio::select! {
                    biased;
                    next = screen.next_or_end() => next,
                    // All was paid: whatever is to come has come, when a while has passed without anything.
                    () = async { over.cancelled().await; tokio::time::sleep(Duration::from_secs(2)).await } => return,
                };
                let Ok(event) = next else { break };
                position = event.position.clone().unwrap_or(position);
                if event.name == "caught_up" && !is_right {
                    is_right = true;
                    let shown = position.split(['.', '-']).next().expect("a number").parse::<u64>().expect("a number");
                    assert!(shown >= known, "it shows what was so at {shown}, and {known} was so when it came back");
                    took.push(came.elapsed());
                    back.fetch_add(1, Ordering::Relaxed);
                }
                if event.name.starts_with("payment.") {
                    heard.push((position.clone(), event.body));
                }
            }
        }
    };
    let till = async {
        let paid = tokio::join!(paying, cutting).0;
        over.cancel();
        paid
    };
    let (paid, ()) = tokio::join!(till, watching);

    // Every event once, in order, and nothing else.
    let told = shop.journal_of(&["payment.changed", "payment.captured"]).await;
    let positions = |all: &[(String, Value)]| all.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
    assert_eq!(positions(&heard), positions(&told));
    // What it shows of each payment is so.
    let mut shows: BTreeMap<String, String> = BTreeMap::new();
    for (_, event) in &heard {
        let data = &event["data"];
        let state = data["state"].as_str().unwrap_or("paid");
        shows.insert(data["payment"].as_str().expect("a payment").to_owned(), state.to_owned());
    }
    assert!(paid.len() >= PAYMENTS && paid.len() == shows.len());
    for payment in &paid {
        assert_eq!(shows[payment["id"].as_str().unwrap()], payment["state"].as_str().unwrap());
    }
    let most = took.iter().max().expect("it came back");
    println!("cut {CUTS} times, back {} times, right after {most:?} at most, {} payments", took.len(), paid.len());
    assert!(took.len() >= CUTS && *most <= RIGHT_MAX, "{took:?}");
}
