//! What a screen speaks over: Engine.IO's packets, as the stock JavaScript client carries them, on a WebSocket, by
//! long-polling, or by long-polling at first. A task carries; the screen takes and says.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::http::request;

/// How a screen reaches the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Polling,
    /// Long-polling first, as stock clients begin.
    Upgrade,
}

/// How fast it reads.
#[derive(Clone, Debug)]
pub struct Appetite {
    pub bytes_per_second: Option<u32>,
    /// Set when it shall read as fast as everyone.
    pub hurry: Arc<AtomicBool>,
}

/// The stock client gives up a connection that is not open after so long.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// What a slow reader takes at a time.
const BITE_BYTES: usize = 512;
/// A receive buffer that a slow reader fills soon.
const NARROW_BYTES: u32 = 4 * 1024;
/// How many packets wait for a screen to take them; then no more are read.
const PACKETS_MAX: usize = 64;
/// What parts the packets of a polled payload.
const SEPARATOR: &str = "\x1e";

/// A session. It ends when it is dropped.
pub struct Line {
    packets: mpsc::Receiver<(u64, String)>,
    says: mpsc::UnboundedSender<String>,
    carrying: JoinHandle<anyhow::Error>,
}

impl Line {
    pub fn open(address: SocketAddr, transport: Transport, appetite: Appetite) -> Self {
        let (found, packets) = mpsc::channel(PACKETS_MAX);
        let (says, said) = mpsc::unbounded_channel();
        let carrier = Carrier { address, appetite, found, said, number: 0, silent_at: None, patience: Duration::ZERO };
        Self { packets, says, carrying: tokio::spawn(carrier.carry(transport)) }
    }

    /// The next packet with its number, or why there is none. Heartbeats are answered, and do not count.
    pub async fn next(&mut self) -> Result<(u64, String)> {
        match self.packets.recv().await {
            Some(packet) => Ok(packet),
            None => Err(match (&mut self.carrying).await {
                Ok(why) => why,
                Err(error) => error.into(),
            }),
        }
    }

    /// If the other end is gone, [`Line::next`] will say so.
    pub fn say(&self, packet: String) {
        let _ = self.says.send(packet);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

type Socket = WebSocketStream<Reader>;

struct Carrier {
    address: SocketAddr,
    appetite: Appetite,
    found: mpsc::Sender<(u64, String)>,
    said: mpsc::UnboundedReceiver<String>,
    number: u64,
    /// When the other end has been silent for too long.
    silent_at: Option<Instant>,
    patience: Duration,
}

impl Carrier {
    /// Answers why it ended.
    async fn carry(mut self, transport: Transport) -> anyhow::Error {
        let outcome = match transport {
            Transport::WebSocket => match timeout(OPEN_MAX, self.websocket(None)).await {
                Ok(Ok(socket)) => self.over_websocket(socket).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(anyhow!("not open in time")),
            },
            Transport::Polling => self.by_polling(false).await,
            Transport::Upgrade => self.by_polling(true).await,
        };
        outcome.err().unwrap_or_else(|| anyhow!("closed"))
    }

    async fn websocket(&self, sid: Option<&str>) -> Result<Socket> {
        open_websocket(self.address, self.appetite.clone(), sid.map(str::to_owned)).await
    }

    async fn over_websocket(&mut self, mut socket: Socket) -> Result<()> {
        loop {
            let silent_at = self.silent_at;
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        if let Some(answer) = self.finds(text.as_str()).await? {
                            socket.send(Message::text(answer)).await?;
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        bail!("closed with {}", frame.map_or(1005, |frame| u16::from(frame.code)));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => bail!("ended"),
                },
                // As the stock client, which says nothing before it was greeted.
                said = self.said.recv(), if silent_at.is_some() => match said {
                    Some(packet) => socket.send(Message::text(packet)).await?,
                    None => return Ok(()),
                },
                () = until(silent_at) => bail!("silent for too long"),
            }
        }
    }

    /// Until it has changed to a WebSocket, and then over that.
    async fn by_polling(&mut self, upgrades: bool) -> Result<()> {
        let path = "/socket.io/?EIO=4&transport=polling";
        let greeting = timeout(OPEN_MAX, poll(self.address, path.to_owned())).await??;
        let open: Value = serde_json::from_str(greeting.strip_prefix('0').unwrap_or_default())?;
        let sid = open["sid"].as_str().ok_or_else(|| anyhow!("no session: {greeting}"))?.to_owned();
        self.finds(&greeting).await?;
        let path = format!("{path}&sid={sid}");
        let (mut unsaid, mut posting) = (Vec::<String>::new(), None);
        let mut polling = Box::pin(poll(self.address, path.clone()));
        let probe = probe(self.address, self.appetite.clone(), sid);
        let mut probing = if upgrades { Some(Box::pin(probe)) } else { None };
        let mut probed = None;
        loop {
            if posting.is_none() && !unsaid.is_empty() {
                let payload = std::mem::take(&mut unsaid).join(SEPARATOR);
                posting = Some(post(self.address, path.clone(), payload).boxed());
            }
            let silent_at = self.silent_at;
            tokio::select! {
                payload = &mut polling => {
                    for packet in payload?.split(SEPARATOR) {
                        match packet {
                            "1" => bail!("closed by the answer to a poll"),
                            "6" => {}
                            packet => unsaid.extend(self.finds(packet).await?),
                        }
                    }
                    if let Some(socket) = probed.take() {
                        if let Some(posting) = posting.take() {
                            posting.await?;
                        }
                        return self.over_upgraded(socket, unsaid).await;
                    }
                    polling = Box::pin(poll(self.address, path.clone()));
                }
                outcome = some(&mut posting) => {
                    posting = None;
                    outcome?;
                }
                socket = some(&mut probing) => {
                    probing = None;
                    probed = socket.ok(); // If there is none, it goes on polling.
                }
                said = self.said.recv() => match said {
                    Some(packet) => unsaid.push(packet),
                    None => return Ok(()),
                },
                () = until(silent_at) => bail!("silent for too long"),
            }
        }
    }

    async fn over_upgraded(&mut self, mut socket: Socket, unsaid: Vec<String>) -> Result<()> {
        socket.send(Message::text("5")).await?;
        for packet in unsaid {
            socket.send(Message::text(packet)).await?;
        }
        self.over_websocket(socket).await
    }

    /// Takes a packet. Answers what to say to it at once.
    async fn finds(&mut self, packet: &str) -> Result<Option<String>> {
        match packet.as_bytes().first() {
            Some(b'0') => {
                let open: Value = serde_json::from_str(&packet[1..])?;
                let ms = |name: &str| open[name].as_u64().ok_or_else(|| anyhow!("no {name}: {packet}"));
                self.patience = Duration::from_millis(ms("pingInterval")? + ms("pingTimeout")?);
                self.silent_at = Some(Instant::now() + self.patience);
                Ok(None)
            }
            Some(b'2') => {
                self.silent_at = Some(Instant::now() + self.patience);
                Ok(Some("3".to_owned()))
            }
            Some(b'4') => {
                self.number += 1;
                let found = (self.number, packet[1..].to_owned());
                self.found.send(found).await.map_err(|_| anyhow!("nobody listens"))?;
                Ok(None)
            }
            _ => bail!("an unexpected packet: {packet}"),
        }
    }
}

async fn poll(address: SocketAddr, path: String) -> Result<String> {
    let answer = request(address, "GET", &path, &[], String::new()).await?;
    if answer.status != 200 {
        bail!("a poll was answered {} {}", answer.status, answer.body);
    }
    Ok(answer.body)
}

async fn post(address: SocketAddr, path: String, payload: String) -> Result<()> {
    let answer = request(address, "POST", &path, &[("content-type", "text/plain;charset=UTF-8")], payload).await?;
    if answer.status != 200 {
        bail!("a post was answered {} {}", answer.status, answer.body);
    }
    Ok(())
}

/// A WebSocket that the session can change to.
async fn probe(address: SocketAddr, appetite: Appetite, sid: String) -> Result<Socket> {
    let mut socket = open_websocket(address, appetite, Some(sid)).await?;
    socket.send(Message::text("2probe")).await?;
    match socket.next().await {
        Some(Ok(Message::Text(text))) if text.as_str() == "3probe" => Ok(socket),
        other => Err(anyhow!("the probe was answered {other:?}")),
    }
}

async fn open_websocket(address: SocketAddr, appetite: Appetite, sid: Option<String>) -> Result<Socket> {
    let socket = TcpSocket::new_v4()?;
    if appetite.bytes_per_second.is_some() {
        socket.set_recv_buffer_size(NARROW_BYTES)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let sid = sid.map(|sid| format!("&sid={sid}")).unwrap_or_default();
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket{sid}");
    let reader = Reader { stream, appetite, pause: None };
    Ok(tokio_tungstenite::client_async(url.into_client_request()?, reader).await?.0)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// What there is to wait for, if there is anything.
async fn some<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// A connection of which no more is read than its owner's appetite allows.
struct Reader {
    stream: TcpStream,
    appetite: Appetite,
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let slow = this.appetite.bytes_per_second.filter(|_| !this.appetite.hurry.load(Ordering::Relaxed));
        let Some(bytes_per_second) = slow else { return Pin::new(&mut this.stream).poll_read(cx, buffer) };
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let mut bite = [0; BITE_BYTES];
        let size = buffer.remaining().min(BITE_BYTES);
        let mut bite = ReadBuf::new(&mut bite[..size]);
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut bite))?;
        let taken = bite.filled();
        this.pause = Some(Box::pin(sleep(Duration::from_secs_f64(taken.len() as f64 / f64::from(bytes_per_second)))));
        buffer.put_slice(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Reader {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
