//! A watcher: someone else's client that always comes back, wherever it can, and writes down all it hears.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::account::{Noted, merged_in};
use super::hub::Shop;
use super::screen::{End, Screen};

/// How long a client waits before it tries the next gateway.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a fact may take to come about before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Watcher {
    noted: Arc<Mutex<Vec<Noted>>>,
    /// The number of the last entry it knows of.
    seen: watch::Receiver<u64>,
    /// How often it connected.
    connections: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Begins at the start of the journal, at the first gateway that lets it in, and goes from each to the next.
    pub fn begins(gateways: &[SocketAddr], token: &str, channels: &[&str]) -> Self {
        let noted = Arc::new(Mutex::new(Vec::new()));
        let ((see, seen), (count, connections)) = (watch::channel(0), watch::channel(0));
        let (gateways, record) = (gateways.to_vec(), noted.clone());
        let auth = json!({ "token": token, "channels": channels });
        let task = tokio::spawn(async move {
            let mut after = "0-00000000".to_owned();
            for gateway in gateways.iter().cycle() {
                let mut auth = auth.clone();
                auth["after"] = json!(after);
                match Screen::tries(*gateway, auth).await {
                    Ok(mut screen) => {
                        count.send_modify(|count| *count += 1);
                        while let Ok(next) = screen.next_or_end().await {
                            assert_ne!(next.name, "snapshot_required", "every position of this journal can be served");
                            let Some(position) = next.position else { continue };
                            after.clone_from(&position);
                            let seq = position.split(['.', '-']).next().and_then(|seq| seq.parse().ok());
                            if next.name == "ready" {
                                record.lock().expect("no panic").push(Noted::Began(position));
                            } else if next.body.get("seq").is_some() {
                                record.lock().expect("no panic").push(Noted::Heard(position, next.body));
                            }
                            see.send_replace(seq.expect("a position begins with a number"));
                        }
                    }
                    Err(End::Refused(why)) => panic!("refused: {why}"),
                    Err(_) => {}
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { noted, seen, connections, task }
    }

    /// Waits until it has heard of everything up to an entry.
    async fn reaches(&mut self, seq: u64) {
        let reached = self.seen.wait_for(|seen| *seen >= seq);
        tokio::time::timeout(PATIENCE, reached).await.expect("in time").expect("a watcher that watches");
    }

    /// What it was sent must be what the journal holds for its channels: all of it, in order, once, but for values that are
    /// accounted for. Answers how often it had to connect for that.
    pub async fn heard_the_journal_of(mut self, shop: &Shop<'_>, kinds: &[&str]) -> usize {
        let journal = shop.journal_of(kinds).await;
        let last = journal.last().expect("something happened").1["seq"].as_u64().expect("a number");
        self.reaches(last).await;
        merged_in(&self.noted.lock().expect("no panic"), &journal);
        *self.connections.borrow()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
