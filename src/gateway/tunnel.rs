//! Tunnels: WebSockets that came in here and whose session lives on another node. Bytes are passed on as they come;
//! where frames end is watched, so that a node that goes away can say so between two of them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long both ends may take to become a tunnel, once the other node has agreed.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// How long the rest of a tunnel may take to end when one end has.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);
/// How long an end may take nothing of what is held for it: meanwhile the other is not read, and might be gone. The other
/// node takes what it is sent long before, unless it is frozen; for a client the listener is less patient.
const HELD_MAX: Duration = Duration::from_secs(60);
/// How much is passed on at a time. On the stack, so that an idle tunnel keeps nothing.
const CHUNK_BYTES: usize = 8 * 1024;
/// A frame that closes with code 1012, service restart.
const RESTART: &[u8] = b"\x88\x11\x03\xf4service restart";

/// The tunnels of this node.
pub struct Tunnels {
    open: Mutex<HashMap<u64, CancellationToken>>,
    next: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Tunnels {
    /// Each is a task of `tasks`; they are closed at `stop` at the latest.
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { open: Mutex::default(), next: AtomicU64::new(0), tasks, stop }
    }

    /// Opens one as soon as both ends have been upgraded. `place` is kept as long as it lasts.
    pub fn open(self: &Arc<Self>, client: OnUpgrade, node: OnUpgrade, place: impl Send + 'static) {
        let (number, told) = (self.next.fetch_add(1, Ordering::Relaxed), self.stop.child_token());
        self.lock().insert(number, told.clone());
        let listed = Listed { tunnels: self.clone(), number };
        metrics::gauge!("tillwire_gateway_tunnels").increment(1.0);
        self.tasks.spawn(async move {
            let _held = (listed, place);
            let both = async { tokio::try_join!(client, node) };
            if let Ok(Ok((client, node))) = tokio::time::timeout(OPEN_MAX, both).await {
                carry(TokioIo::new(client), TokioIo::new(node), HELD_MAX, &told).await;
            }
        });
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Closes every tunnel there is now, `slice` at a time with a pause between.
    pub async fn close_in_slices(&self, slice: usize, pause: Duration) {
        let open: Vec<CancellationToken> = self.lock().values().cloned().collect();
        for slice in open.chunks(slice.max(1)) {
            slice.iter().for_each(CancellationToken::cancel);
            tokio::time::sleep(pause).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, CancellationToken>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tunnel's place among them.
struct Listed {
    tunnels: Arc<Tunnels>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.tunnels.lock().remove(&self.number);
        metrics::gauge!("tillwire_gateway_tunnels").decrement(1.0);
    }
}

/// Passes bytes on, both ways, until an end closes, takes nothing for `held_max`, or `told` says so.
async fn carry<C, N>(mut client: C, mut node: N, held_max: Duration, told: &CancellationToken)
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down, mut frames) = (Way::new(held_max), Way::new(held_max), Frames::default());
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = up.poll(&mut client, &mut node, cx, |_| Take::All) {
            return Poll::Ready((true, ended));
        }
        let watched = |bytes: &[u8]| {
            frames.pass(bytes);
            Take::All
        };
        down.poll(&mut node, &mut client, cx, watched).map(|ended| (false, ended))
    });
    let ended = tokio::select! {
        ended = ended => Some(ended),
        () = told.cancelled() => None,
    };
    // An error is an end that is gone: so is the tunnel.
    let last_words = async {
        match ended {
            Some((_, Err(_))) => {}
            Some((true, Ok(()))) => {
                node.shutdown().await?;
                poll_fn(|cx| down.poll(&mut node, &mut client, cx, |_| Take::All)).await?;
            }
            Some((false, Ok(()))) => {
                client.shutdown().await?;
                poll_fn(|cx| up.poll(&mut client, &mut node, cx, |_| Take::All)).await?;
            }
            None => {
                if !frames.is_between() {
                    let mut to_a_gap = |bytes: &[u8]| frames.pass(bytes).map_or(Take::All, Take::Last);
                    poll_fn(|cx| down.poll(&mut node, &mut client, cx, &mut to_a_gap)).await?;
                }
                poll_fn(|cx| down.poll_held(&mut client, cx)).await?;
                drop(node);
                client.write_all(RESTART).await?;
                client.shutdown().await?;
                // Closing on unread bytes would take the frame back.
                let mut waste = [0; 256];
                while client.read(&mut waste).await? > 0 {}
            }
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LAST_WORDS_MAX, last_words).await;
}

/// What of the bytes that were read is passed on.
enum Take {
    All,
    /// So many, and nothing after them.
    Last(usize),
}

/// One direction of a tunnel.
struct Way {
    /// What was read and has not been taken yet; nothing is read meanwhile.
    held: Vec<u8>,
    held_max: Duration,
    /// Runs while nothing of it is taken.
    stall: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Way {
    fn new(held_max: Duration) -> Self {
        Self { held: Vec::new(), held_max, stall: None, ended: false }
    }

    /// Passes on what there is, or what `take` says of it. Ready when that has ended and everything was taken.
    fn poll<R, W>(
        &mut self,
        source: &mut R,
        sink: &mut W,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]) -> Take,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_held(sink, cx))?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); CHUNK_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer))?;
            let mut bytes = buffer.filled();
            if bytes.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            if let Take::Last(taken) = take(bytes) {
                bytes = &bytes[..taken];
                self.ended = true;
            }
            let written = match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.held = bytes[written..].to_vec();
        }
    }

    fn poll_held<W: AsyncWrite + Unpin>(&mut self, sink: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            match Pin::new(&mut *sink).poll_write(cx, &self.held)? {
                Poll::Ready(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(written) => drop(self.held.drain(..written)),
                Poll::Pending => {
                    let held_max = self.held_max;
                    let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(held_max)));
                    ready!(stall.as_mut().poll(cx));
                    return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                }
            }
            self.stall = None;
        }
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }
}

/// Where in a stream of WebSocket frames it stands.
#[derive(Default)]
struct Frames {
    /// What of a frame's head has come.
    head: [u8; 14],
    have: usize,
    /// What of its payload has not.
    left: u64,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Goes on over these bytes. Answers how many of them come before the last gap between two frames, if there is one.
    fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        let (mut at, mut gap) = (0, None);
        while at < bytes.len() {
            if self.left > 0 {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= step as u64;
                at += step;
            } else {
                self.head[self.have] = bytes[at];
                (self.have, at) = (self.have + 1, at + 1);
                if let Some(payload) = payload(&self.head[..self.have]) {
                    (self.have, self.left) = (0, payload);
                }
            }
            if self.is_between() {
                gap = Some(at);
            }
        }
        gap
    }
}

/// How long the payload is that follows this head; `None` while the head is not complete.
fn payload(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let mask = if second & 0x80 > 0 { 4 } else { 0 };
    let (length_bytes, short) = match second & 0x7f {
        126 => (2, None),
        127 => (8, None),
        short => (0, Some(u64::from(short))),
    };
    let length = head.get(2..2 + length_bytes + mask)?;
    Some(short.unwrap_or_else(|| length[..length_bytes].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))))
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// A frame of so many bytes, with its head.
    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = match payload {
            0..126 => vec![0x81, mask | payload as u8],
            126..65_536 => [&[0x81, mask | 126][..], &(payload as u16).to_be_bytes()].concat(),
            _ => [&[0x81, mask | 127][..], &(payload as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + payload + if masked { 4 } else { 0 }, b'x');
        frame
    }

    #[test]
    fn gaps_between_frames_are_found_however_the_bytes_come() {
        for masked in [false, true] {
            let frames = [0, 1, 125, 126, 300, 65_535, 65_536, 0].map(|payload| frame(payload, masked));
            let mut gaps: Vec<usize> = Vec::new();
            for frame in &frames {
                gaps.push(gaps.last().unwrap_or(&0) + frame.len());
            }
            let bytes = frames.concat();
            for step in [1, 2, 3, 7, 1_000, bytes.len()] {
                let (mut seen, mut at) = (Frames::default(), 0);
                for chunk in bytes.chunks(step) {
                    let wanted = gaps.iter().rfind(|gap| (at + 1..=at + chunk.len()).contains(*gap));
                    assert_eq!(seen.pass(chunk).map(|gap| at + gap), wanted.copied(), "step {step} at {at}");
                    at += chunk.len();
                    assert_eq!(seen.is_between(), gaps.contains(&at));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_tunnel_that_is_closed_ends_with_a_whole_frame_and_says_why() {
        let whole = frame(300, false);
        for cut in [0, 1, 3, 200] {
            let ((mut screen, client), (node, mut owner)) = (duplex(64), duplex(64));
            let told = CancellationToken::new();
            let carrying = tokio::spawn({
                let told = told.clone();
                async move { carry(client, node, HELD_MAX, &told).await }
            });
            let reading = tokio::spawn(async move {
                let mut heard = Vec::new();
                screen.read_to_end(&mut heard).await.map(|_| heard)
            });
            owner.write_all(&[&whole, &whole[..cut]].concat()).await.unwrap();
            told.cancel();
            // The rest, and more than the rest.
            let _ = owner.write_all(&[&whole[cut..], &whole].concat()).await;
            let heard = tokio::time::timeout(LAST_WORDS_MAX * 2, reading).await.unwrap().unwrap().unwrap();
            let before = heard.strip_suffix(RESTART).expect("it is told why");
            assert!(
                before.len().is_multiple_of(whole.len()),
                "{} bytes are no whole frames, cut at {cut}",
                before.len()
            );
            carrying.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_said_last_still_arrives() {
        let ((mut screen, client), (node, mut owner)) = (duplex(16), duplex(16));
        tokio::spawn(async move { carry(client, node, HELD_MAX, &CancellationToken::new()).await });
        let said = frame(1_000, false);
        owner.write_all(&said[..10]).await.unwrap();
        let saying = async {
            owner.write_all(&said[10..]).await.unwrap();
            drop(owner);
        };
        let mut heard = Vec::new();
        let ((), read) = tokio::join!(saying, screen.read_to_end(&mut heard));
        assert_eq!((read.unwrap(), heard == said), (said.len(), true));
    }

    #[tokio::test]
    async fn an_end_that_takes_nothing_ends_the_tunnel_and_a_slow_one_does_not() {
        const HELD_MAX: Duration = Duration::from_millis(400);
        let tunnel = || {
            let ((screen, client), (node, owner)) = (duplex(64), duplex(64));
            let carrying = async move { carry(client, node, HELD_MAX, &CancellationToken::new()).await };
            (screen, owner, tokio::spawn(carrying))
        };
        for owner_says in [true, false] {
            let (mut screen, mut owner, carrying) = tunnel();
            let silent = if owner_says {
                owner.write_all(&[b'x'; 100]).await.unwrap();
                drop(owner); // Nobody sees it, as long as something is held.
                screen
            } else {
                screen.write_all(&[b'x'; 100]).await.unwrap();
                drop(screen);
                owner
            };
            tokio::time::timeout(20 * HELD_MAX, carrying).await.expect("an end in time").unwrap();
            drop(silent);
        }

        let (mut screen, mut owner, carrying) = tunnel();
        owner.write_all(&[b'x'; 180]).await.unwrap();
        for _ in 0..18 {
            tokio::time::sleep(HELD_MAX / 4).await;
            screen.read_exact(&mut [0; 10]).await.unwrap();
        }
        assert!(!carrying.is_finished());
    }
}
