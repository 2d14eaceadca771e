//! The public listener: it takes as many connections as there are file descriptors for, and tells the next one so.
//!
//! INVARIANT: the database, the brokers and the log never go without a descriptor because somebody connects.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::warn;

/// Descriptors for what is neither the database nor the public's: brokers, the log, metrics, name look-ups, idle
/// connections to other gateways.
const OTHER_FILES: usize = 64;
/// How many connections that are turned away may be open at once, to hear why. Further ones are closed without a word.
const LINGERING_MAX: usize = 32;
/// How long one of them may take to hear it.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// A node that has fewer than these makes no sense.
const CONNECTIONS_MIN: usize = 16;
/// How long the listener rests after a connection could not be accepted: descriptors are freed meanwhile, or not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may be open without a byte of a request.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of what it is sent. One that reads 1 KB/s takes something every 22 s: the kernel may
/// hold 64 KB for it (see `SEND_BUFFER_BYTES` in `node.rs`) and takes more when a third of that is free. A WebSocket has a
/// deadline of its own, which is sooner, and says why.
const STALL_MAX: Duration = Duration::from_secs(45);
/// The longest `Retry-After`, in seconds; each is told another, or all would come back together.
const RETRY_AFTER_MAX: u64 = 5;

/// How many connections the public may have at once, `own` descriptors being kept for the database and for workers.
///
/// # Errors
/// If that is next to nothing: the message says what to raise.
pub fn connections_max(own: usize) -> anyhow::Result<usize> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).context("asking how many files may be open")?;
    let open = std::fs::read_dir("/proc/self/fd").map_or(OTHER_FILES, Iterator::count);
    // A limit that does not fit a number is none.
    connections_within(usize::try_from(limit).unwrap_or(usize::MAX), open + own)
}

fn connections_within(limit: usize, taken: usize) -> anyhow::Result<usize> {
    let kept = taken + OTHER_FILES + LINGERING_MAX;
    let left = limit.saturating_sub(kept).min(Semaphore::MAX_PERMITS);
    ensure!(
        left >= CONNECTIONS_MIN,
        "at most {limit} files may be open, of which the node itself may need {kept}: raise it, e.g. with `ulimit -n`"
    );
    Ok(left)
}

/// A listener that knows how many connections there may be.
pub struct Listener {
    listener: TcpListener,
    free: Arc<Semaphore>,
    lingering: Arc<Semaphore>,
    tasks: TaskTracker,
    is_failing: bool,
}

impl Listener {
    /// Each connection takes one of `free`.
    pub fn new(listener: TcpListener, free: Arc<Semaphore>, tasks: TaskTracker) -> Self {
        let lingering = Arc::new(Semaphore::new(LINGERING_MAX));
        // What first appears when it happens has not risen, says Prometheus.
        for reason in ["file_descriptors", "accept_failed", "silent", "stalled"] {
            metrics::counter!("tillwire_connections_refused_total", "reason" => reason).increment(0);
        }
        Self { listener, free, lingering, tasks, is_failing: false }
    }

    fn turn_away(&self, stream: TcpStream) {
        metrics::counter!("tillwire_connections_refused_total", "reason" => "file_descriptors").increment(1);
        let Ok(permit) = self.lingering.clone().try_acquire_owned() else { return };
        self.tasks.spawn(async move {
            // Whoever has gone needs no answer.
            let _ = timeout(LINGER_MAX, say_full(stream)).await;
            drop(permit);
        });
    }
}

/// Says so to whatever is asked, and waits until it is heard: closing on unread bytes would take it back.
async fn say_full(mut stream: TcpStream) -> io::Result<()> {
    let mut waste = [0; 1024];
    // Some clients take an answer that comes before their question for nonsense.
    if stream.read(&mut waste).await? == 0 {
        return Ok(());
    }
    let body = r#"{"code":"file_descriptors","message":"As many connections as there may be"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\nRetry-After: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len(),
        fastrand::u64(1..=RETRY_AFTER_MAX),
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut waste).await? > 0 {}
    Ok(())
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_the_peers(&error) => continue,
                Err(error) => {
                    metrics::counter!("tillwire_connections_refused_total", "reason" => "accept_failed").increment(1);
                    if !std::mem::replace(&mut self.is_failing, true) {
                        warn!("Connections cannot be accepted now: {error}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.is_failing = false;
            // Small answers must not wait for company: Nagle's algorithm costs 40 ms.
            let _ = stream.set_nodelay(true);
            match self.free.clone().try_acquire_owned() {
                Ok(permit) => return (Connection::new(stream, permit), address),
                Err(_) => self.turn_away(stream),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// It has gone before it was accepted.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A connection that has its place among them, and gives it back when it is dropped. One that says nothing at first is
/// cut, and so is one that takes nothing of what it is sent.
pub struct Connection {
    stream: TcpStream,
    silence: Option<Pin<Box<Sleep>>>,
    /// Runs while the peer takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    is_stalled: bool,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        let silence = Some(Box::pin(sleep(SILENCE_MAX)));
        Self { stream, silence, stall: None, is_stalled: false, _place: place }
    }

    /// What came of a write: one that waits for the peer does not wait for ever.
    fn in_time<T>(&mut self, write: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stall = None;
            return write;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        ready!(stall.as_mut().poll(cx));
        if !std::mem::replace(&mut self.is_stalled, true) {
            metrics::counter!("tillwire_connections_refused_total", "reason" => "stalled").increment(1);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(silence) = &mut self.silence else { return read };
        if read.is_ready() {
            self.silence = None;
            return read;
        }
        ready!(silence.as_mut().poll(cx));
        metrics::counter!("tillwire_connections_refused_total", "reason" => "silent").increment(1);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(write, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.in_time(write, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_needs_is_kept() {
        assert_eq!(connections_within(1024, 50).unwrap(), 1024 - 50 - OTHER_FILES - LINGERING_MAX);
        let error = connections_within(128, 50).unwrap_err().to_string();
        assert!(error.contains("at most 128") && error.contains("ulimit"), "{error}");
        assert_eq!(connections_within(usize::MAX, 50).unwrap(), Semaphore::MAX_PERMITS);
    }
}
