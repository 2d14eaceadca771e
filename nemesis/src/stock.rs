//! Guests: stock JavaScript clients, each a process of its own around other people's package, who are there like any screen.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tillwire_channels::Position;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::record::{Line, Record, Who};
use crate::round::Guests;

/// `screen.mjs` with everyone's default transports, remembering nothing itself.
pub struct StockScreen {
    who: Who,
    heard: Arc<Mutex<Heard>>,
    /// INVARIANT: it ends when its input does.
    _orders: ChildStdin,
    _process: Child,
}

#[derive(Default)]
struct Heard {
    lines: Vec<Line>,
    seq: u64,
}

impl StockScreen {
    /// Starts Node.js with the program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn comes(mut node: Command, who: Who, hub: &str, token: &str) -> Result<Self> {
        node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = node.kill_on_drop(true).spawn().context("starting Node.js")?;
        let mut orders = process.stdin.take().context("its input")?;
        let lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        let opening = json!({
            "url": hub, "token": token, "channels": who.channels, "forgetful": true,
            "transports": ["polling", "websocket"],
        });
        orders.write_all(format!("{opening}\n").as_bytes()).await?;
        let heard: Arc<Mutex<Heard>> = Arc::default();
        tokio::spawn(write_down(lines, heard.clone()));
        Ok(Self { who, heard, _orders: orders, _process: process })
    }
}

async fn write_down(mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>, heard: Arc<Mutex<Heard>>) {
    let mut number = 0;
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(happened) = serde_json::from_str::<Value>(&line) else { continue };
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match happened["on"].as_str() {
            Some("connect") => Line::Entered { recovered: happened["recovered"] == true, brought: None },
            Some("disconnect") => Line::Left { why: happened["reason"].to_string() },
            Some("connect_error") if happened["tries_again"] == false => {
                Line::Refused { text: happened.to_string().into() }
            }
            Some("event") => {
                let args = happened["args"].as_array().cloned().unwrap_or_default();
                let position = args.last().and_then(|last| last.as_str()?.parse::<Position>().ok());
                heard.seq = position.map_or(heard.seq, |position| position.seq);
                number += 1;
                let packet: Vec<Value> = std::iter::once(happened["name"].clone()).chain(args).collect();
                Line::Heard { number, text: Value::from(packet).to_string().into() }
            }
            _ => continue,
        };
        heard.lines.push(line);
    }
}

impl Guests for Vec<StockScreen> {
    fn seen(&self) -> Vec<(usize, u64)> {
        let seq = |screen: &StockScreen| screen.heard.lock().unwrap_or_else(PoisonError::into_inner).seq;
        self.iter().map(|screen| (screen.who.shop, seq(screen))).collect()
    }

    fn go(self: Box<Self>) -> BoxFuture<'static, Result<Vec<Record>>> {
        async move {
            let record = |screen: StockScreen| {
                let lines = std::mem::take(&mut screen.heard.lock().unwrap_or_else(PoisonError::into_inner).lines);
                Record { who: screen.who, lines }
            };
            Ok(self.into_iter().map(record).collect())
        }
        .boxed()
    }
}
