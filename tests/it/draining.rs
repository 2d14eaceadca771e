//! A node that goes away with many screens: they are told, leave in slices, and are served elsewhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tillwire::gateway::{CLOSE_PAUSE, CLOSE_SLICE};
use tillwire::node::FINISH_MAX;
use tokio::net::TcpStream;
use tokio::sync::watch;
use uuid::Uuid;

use super::support::caller::Caller;
use super::support::hub::{BOTH_FACES, Shop, TestHub};
use super::support::line::Line;
use super::support::screen::{End, Heard, Screen};

const SCREENS: usize = 230;
/// One of so many polls.
const POLLING_EVERY: usize = 8;
/// How many have a session when the node is told to stop, and join only then. Not all of them are in the first slice.
const LATECOMERS: usize = 20;
/// How often someone new comes by.
const KNOCK_EVERY: Duration = Duration::from_millis(10);

/// What a screen went through until it was closed.
struct Gone {
    heard: Vec<Heard>,
    told: usize,
    end: End,
    at: Instant,
    after: String,
}

/// What has been heard by any screen.
#[derive(Clone, Copy, Default)]
struct News {
    sale: bool,
    draining: bool,
}

/// Listens until it is closed.
async fn goes(mut screen: Screen, news: watch::Sender<News>) -> Gone {
    let (mut heard, mut told) = (Vec::new(), 0);
    let end = loop {
        match screen.next_or_end().await {
            Ok(sale) if sale.name == "sale.completed" => {
                heard.push(sale);
                news.send_modify(|news| news.sale = true);
            }
            Ok(other) => {
                assert_eq!(other.name, "draining");
                told += 1;
                news.send_modify(|news| news.draining = true);
            }
            Err(end) => break end,
        }
    };
    Gone { heard, told, end, at: Instant::now(), after: screen.leaves() }
}

/// Sells at a node, one after the other, until nobody answers there.
async fn sells_on(shop: &Shop<'_>, bread: &str, node: SocketAddr) -> usize {
    let (till, sale) = (Caller { address: node, token: &shop.owner }, shop.sale(bread, "1", 7_500).to_string());
    let mut sold = 0;
    while let Ok(answer) = till.post(&Uuid::new_v4().to_string(), &shop.sales(), sale.clone().into_bytes()).await {
        answer.created();
        sold += 1;
    }
    sold
}

/// Comes by again and again, over each transport, until nobody listens there: what it was told.
async fn knocks(node: SocketAddr, auth: Value) -> [Vec<End>; 2] {
    let mut answers = [Vec::new(), Vec::new()];
    loop {
        let tried = [Screen::tries(node, auth.clone()).await, Screen::tries_polling(node, auth.clone()).await];
        for (answers, tried) in answers.iter_mut().zip(tried) {
            match tried {
                Ok(_) => panic!("let in by a node that goes away"),
                Err(End::Broken) => {}
                Err(end) => answers.push(end),
            }
        }
        if TcpStream::connect(node).await.is_err() {
            return answers;
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

/// Says who it is on a session that it had before: what it is told besides sales, and how that ends.
async fn comes_late(line: Line, auth: Value) -> (Vec<String>, End) {
    let mut screen = match Screen::asks_in(line, auth).await {
        Ok(screen) => screen,
        Err(end) => return (Vec::new(), end),
    };
    let mut told = Vec::new();
    loop {
        match screen.next_or_end().await {
            Ok(heard) => told.extend(Some(heard.name).filter(|name| name != "sale.completed")),
            Err(end) => return (told, end),
        }
    }
}

#[tokio::test]
async fn many_screens_leave_a_node_in_slices_and_miss_nothing_elsewhere() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100000").await;
    let node = hub.node(BOTH_FACES, &[]).await;
    let address = node.address;
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let (news, heard) = watch::channel(News::default());
    let mut listening = Vec::new();
    for n in 0..SCREENS {
        let entered = match n % POLLING_EVERY {
            0 => Screen::tries_polling(address, auth.clone()).await,
            _ => Screen::tries(address, auth.clone()).await,
        };
        let mut screen = entered.expect("let in");
        screen.catches_up().await;
        listening.push(goes(screen, news.clone()));
    }
    drop(news);
    let mut late = Vec::new();
    for n in 0..LATECOMERS {
        let line = match n % 2 {
            0 => Line::polling(address).await,
            _ => Line::websocket(TcpStream::connect(address).await.expect("a gateway"), address).await,
        };
        late.push(line.expect("a session"));
    }
    // A phone that sleeps: the node waits a second for it to fetch the last word.
    let _asleep = Line::polling(address).await.expect("a session");

    let once = async |fact: fn(&News) -> bool| _ = heard.clone().wait_for(fact).await.expect("someone hears of it");
    let stopping = async {
        once(|news| news.sale).await;
        let told_at = Instant::now();
        node.stops().await;
        told_at
    };
    let knocking = async {
        once(|news| news.draining).await;
        knocks(address, auth.clone()).await
    };
    let coming_late = async {
        once(|news| news.draining).await;
        join_all(late.into_iter().map(|line| comes_late(line, auth.clone()))).await
    };
    let selling = sells_on(&shop, &bread, address);
    let (gone, told_at, answers, latecomers, sold) =
        tokio::join!(join_all(listening), stopping, knocking, coming_late, selling);

    for (n, gone) in gone.iter().enumerate() {
        let end = if n % POLLING_EVERY == 0 { End::PollClosed } else { End::Closed(1012) };
        assert_eq!((&gone.end, gone.told), (&end, 1), "screen {n}");
    }
    let closed_by = |at: Instant| gone.iter().filter(|gone| gone.at < at).count();
    for pauses in 1..=2_u32 {
        let closed = closed_by(told_at + pauses * CLOSE_PAUSE);
        assert!(closed <= pauses as usize * CLOSE_SLICE, "{closed} before pause {pauses} was over");
    }
    assert_eq!(closed_by(told_at + FINISH_MAX), SCREENS);
    for answers in answers {
        assert!(!answers.is_empty() && answers.iter().all(|end| *end == End::TurnedAway(503)), "{answers:?}");
    }
    for (told, end) in &latecomers {
        assert!(matches!(end, End::Closed(1012) | End::PollClosed), "{end:?}");
        assert!(told.is_empty() || *told == ["ready", "caught_up", "draining"], "{told:?}");
    }
    assert!(latecomers.iter().any(|(told, _)| !told.is_empty()), "none was in a later slice");

    // Elsewhere they are sent what they missed, and one sale more.
    assert!(sold > 0, "it was sold until they left");
    shop.sells(&bread, 7_500).await;
    let journal = shop.journal_of(&["sale.completed"]).await;
    for Gone { mut heard, after, .. } in gone {
        let mut screen = shop.screen_after(hub.address, &["sales"], &after).await;
        while heard.len() < journal.len() {
            heard.push(screen.hears_next("sale.completed").await);
        }
        let heard: Vec<(String, Value)> =
            heard.into_iter().map(|heard| (heard.position.expect("a position"), heard.body)).collect();
        assert_eq!(heard, journal);
    }
}
