//! A TCP proxy on the loopback address that breaks connections on purpose.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::port::free_port;

const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// A match may begin in one read and end in the next.
const OVERLAP_BYTES: usize = 64;
const LAST_WORDS_MAX: Duration = Duration::from_secs(10);

/// How long the first half of what is torn has to arrive, before the reset could overtake it.
const TORN_PAUSE: Duration = Duration::from_millis(20);

/// Forwards each connection to an upstream port: to the same one, or to several in turn as a balancer does. Its
/// connections end when it is dropped.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    faults: watch::Sender<Faults>,
    /// Invariant: the listener lives in this task; no task, no listener.
    accepting: Option<JoinHandle<()>>,
}

/// What connections suffer. A change of `cuts` ends those that there are, one of `tears` at the next bytes that they carry.
#[derive(Clone, Default)]
struct Faults {
    cuts: u64,
    tears: u64,
    paused: bool,
    silent: bool,
    delay: Duration,
    /// So much longer at most, another time for each read.
    jitter: Duration,
    bytes_per_second: Option<u32>,
}

struct Shared {
    upstreams: Mutex<Vec<u16>>,
    /// Counts the connections, so that they go to the upstreams in turn.
    turn: AtomicUsize,
    trap: Mutex<Option<Trap>>,
}

type Matches = dyn Fn(&[u8]) -> bool + Send;

/// Waits for the client's bytes that end their connection, or the talk on it.
struct Trap {
    matches: Box<Matches>,
    cut: Cut,
    /// It stays open, and nobody hears anything more on it.
    silently: bool,
    sprung: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The upstream never sees the bytes.
    Before,
    /// The upstream reads the bytes and then the end of the stream; the client never sees the answer.
    After,
}

impl Proxy {
    pub async fn to(upstream: u16) -> Proxy {
        Self::over(vec![upstream]).await
    }

    /// Leads each new connection to the next of these ports; past those at which nobody listens.
    pub async fn over(upstreams: Vec<u16>) -> Proxy {
        let (upstreams, turn) = (Mutex::new(upstreams), AtomicUsize::new(0));
        let shared = Arc::new(Shared { upstreams, turn, trap: Mutex::new(None) });
        let port = free_port().expect("one of twelve thousand ports is free");
        let mut proxy = Proxy { port, shared, faults: watch::Sender::default(), accepting: None };
        proxy.accept().await;
        proxy
    }

    /// Forwards new connections to this port from now on, as a balancer does when a node is gone.
    pub fn lead_to(&self, upstream: u16) {
        *lock(&self.shared.upstreams) = vec![upstream];
    }

    /// Resets every connection there is. New ones are welcome.
    pub fn cut(&self) {
        self.faults.send_modify(|faults| faults.cuts += 1);
    }

    /// From now on nobody listens; connections that there are go on.
    pub async fn refuse(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// Listens again after [`Proxy::refuse`].
    pub async fn accept(&mut self) {
        if self.accepting.is_some() {
            return;
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("a port that was kept for this proxy");
        let (shared, faults) = (self.shared.clone(), self.faults.subscribe());
        self.accepting = Some(tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(client, shared.clone(), faults.clone()));
            }
        }));
    }

    /// Bytes wait where they are, in both directions, and connections stay open.
    pub fn pause(&self) {
        self.faults.send_modify(|faults| faults.paused = true);
    }

    pub fn resume(&self) {
        self.faults.send_modify(|faults| faults.paused = false);
    }

    /// From now on nobody hears anything, nor that a connection has ended, as behind a firewall that has forgotten them.
    pub fn silence(&self) {
        self.faults.send_modify(|faults| faults.silent = true);
    }

    /// Ends [`Proxy::silence`]: whoever still hopes for an answer on a connection finds it reset.
    pub fn speak(&self) {
        self.faults.send_modify(|faults| (faults.silent, faults.cuts) = (false, faults.cuts + 1));
    }

    /// Lets the first half of what each connection carries next arrive, in whatever direction, and resets it then.
    pub fn tear(&self) {
        self.faults.send_modify(|faults| faults.tears += 1);
    }

    /// Holds each read this long before it goes on.
    pub fn delay(&self, delay: Duration) {
        self.delay_unevenly(delay, Duration::ZERO);
    }

    /// The same, and for up to `jitter` longer.
    pub fn delay_unevenly(&self, delay: Duration, jitter: Duration) {
        self.faults.send_modify(|faults| (faults.delay, faults.jitter) = (delay, jitter));
    }

    /// Limits each direction of each connection.
    pub fn throttle(&self, bytes_per_second: Option<u32>) {
        self.faults.send_modify(|faults| faults.bytes_per_second = bytes_per_second);
    }

    /// Cuts, once, the first connection whose client sends bytes that match, whatever connection that is. What was read
    /// together with them shares their fate. The answer arrives when it has happened; after [`Cut::After`] that is when
    /// the upstream has closed its side, and so has dealt with what it got.
    pub fn cut_when(&self, matches: impl Fn(&[u8]) -> bool + Send + 'static, cut: Cut) -> oneshot::Receiver<()> {
        self.set_trap(Box::new(matches), cut, false)
    }

    /// The same, but nobody is told: the connection stays open and silent until [`Proxy::cut`], as one does that a
    /// firewall has forgotten. Others are not concerned. The answer arrives as soon as it has happened.
    pub fn silence_when(&self, matches: impl Fn(&[u8]) -> bool + Send + 'static, cut: Cut) -> oneshot::Receiver<()> {
        self.set_trap(Box::new(matches), cut, true)
    }

    fn set_trap(&self, matches: Box<Matches>, cut: Cut, silently: bool) -> oneshot::Receiver<()> {
        let (sprung, happened) = oneshot::channel();
        *lock(&self.shared.trap) = Some(Trap { matches, cut, silently, sprung });
        happened
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

impl Shared {
    fn spring(&self, bytes: &[u8]) -> Option<Trap> {
        let mut trap = lock(&self.trap);
        if trap.as_ref().is_some_and(|trap| (trap.matches)(bytes)) { trap.take() } else { None }
    }

    fn is_set(&self) -> bool {
        lock(&self.trap).is_some()
    }

    /// The next upstream that takes a connection.
    async fn connect(&self) -> Option<TcpStream> {
        let upstreams = lock(&self.upstreams).clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for at in 0..upstreams.len() {
            let port = upstreams[(turn + at) % upstreams.len()];
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
                return Some(stream);
            }
        }
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, until either side closes it or a fault ends it.
async fn carry(mut client: TcpStream, shared: Arc<Shared>, mut faults: watch::Receiver<Faults>) {
    let Some(mut upstream) = shared.connect().await else { return reset(client) };
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_upstream, mut to_upstream) = upstream.split();

    let (cuts, tears) = {
        let faults = faults.borrow_and_update();
        (faults.cuts, faults.tears)
    };
    let (torn, mut is_torn) = watch::channel(false);
    let mut later = faults.clone();
    let fault = async {
        tokio::select! {
            _ = later.wait_for(|faults| faults.cuts != cuts) => {} // Fails when the proxy is dropped, which cuts too.
            _ = is_torn.wait_for(|torn| *torn) => {}
        }
    };
    tokio::pin!(fault);
    let sprung = tokio::select! {
        sprung = async {
            // Either side may close its half first.
            let suffers = |faults| Suffers { faults, tears, torn: &torn };
            let up = up(&mut from_client, &mut to_upstream, &shared, suffers(faults.clone()));
            let down = down(&mut from_upstream, &mut to_client, suffers(faults.clone()));
            tokio::pin!(up, down);
            tokio::select! {
                sprung = &mut up => match sprung {
                    Some(trap) => Some(trap),
                    None => { down.await; None }
                },
                () = &mut down => up.await,
            }
        } => sprung,
        () = &mut fault => {
            reset(upstream);
            return reset(client);
        }
    };
    let Some(Trap { cut, silently, sprung, .. }) = sprung else { return };
    if silently {
        let _ = sprung.send(());
        fault.await;
        reset(upstream);
        return reset(client);
    }
    reset(client);
    match cut {
        Cut::Before => reset(upstream),
        // A reset could overtake the bytes and make the upstream forget them. So: say goodbye, and hear it out.
        Cut::After => {
            let _ = upstream.shutdown().await;
            let _ = timeout(LAST_WORDS_MAX, tokio::io::copy(&mut upstream, &mut tokio::io::sink())).await;
        }
    }
    let _ = sprung.send(()); // Nobody has to wait for it.
}

/// From the client; answers with the trap that its bytes sprang.
async fn up(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    mut suffers: Suffers<'_>,
) -> Option<Trap> {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    let mut recent = Vec::new();
    while let Some(chunk) = suffers.read(from, to, &mut buffer).await {
        recent.extend_from_slice(chunk);
        let sprung = shared.spring(&recent);
        // Without a trap nothing is remembered: a later one is for later bytes.
        let forget = if shared.is_set() { recent.len().saturating_sub(OVERLAP_BYTES) } else { recent.len() };
        recent.drain(..forget);
        if sprung.as_ref().is_some_and(|trap| trap.cut == Cut::Before) {
            return sprung;
        }
        to.write_all(chunk).await.ok()?;
        if sprung.is_some() {
            return sprung;
        }
    }
    let _ = to.shutdown().await;
    None
}

async fn down(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), mut suffers: Suffers<'_>) {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    while let Some(chunk) = suffers.read(from, to, &mut buffer).await {
        if to.write_all(chunk).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// One direction of a connection, and what it has to go through.
struct Suffers<'a> {
    faults: watch::Receiver<Faults>,
    /// How often it had been torn when the connection began.
    tears: u64,
    /// Set when this connection is to be reset.
    torn: &'a watch::Sender<bool>,
}

impl Suffers<'_> {
    /// The next bytes that may go on, after what they have to suffer.
    async fn read<'b>(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        buffer: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        loop {
            // Slowly is a little at a time, not much of it late.
            let length_max = match self.faults.borrow().bytes_per_second {
                Some(bytes_per_second) => (bytes_per_second as usize / 8).clamp(1, buffer.len()),
                None => buffer.len(),
            };
            let length = from.read(&mut buffer[..length_max]).await.ok().filter(|length| *length > 0);
            let now = self.faults.borrow().clone();
            if now.silent {
                match length {
                    Some(_) => continue,
                    None => pending::<()>().await, // The end is not heard either; whoever carries this connection ends it.
                }
            }
            let length = length?;
            if now.tears != self.tears {
                let _ = to.write_all(&buffer[..length / 2]).await;
                sleep(TORN_PAUSE).await;
                self.torn.send_replace(true);
                pending::<()>().await;
            }
            sleep(now.delay + now.jitter.mul_f64(fastrand::f64())).await;
            if let Some(bytes_per_second) = now.bytes_per_second {
                sleep(Duration::from_secs_f64(length as f64 / f64::from(bytes_per_second))).await;
            }
            if self.faults.wait_for(|faults| !faults.paused).await.is_err() {
                pending::<()>().await; // The proxy is gone.
            }
            return Some(&buffer[..length]);
        }
    }
}

fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    /// Answers each read with itself; says what it has heard when the client has gone.
    async fn echo() -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heard, hears) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let heard = heard.clone();
                connections.spawn(async move {
                    let (mut all, mut buffer) = (String::new(), [0; 1024]);
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        all.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
                        let _ = stream.write_all(&buffer[..length]).await;
                    }
                    let _ = heard.send(all);
                });
            }
        });
        (port, hears)
    }

    async fn client(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap()
    }

    async fn says(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8(answer).unwrap())
    }

    const A_MOMENT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn forwards_cuts_and_refuses() {
        let (upstream, _hears) = echo().await;
        let mut proxy = Proxy::to(upstream).await;
        let mut first = client(&proxy).await;
        assert_eq!(says(&mut first, "hello").await.unwrap(), "hello");

        proxy.cut();
        assert!(says(&mut first, "still there?").await.is_err());

        let mut second = client(&proxy).await;
        assert_eq!(says(&mut second, "again").await.unwrap(), "again");
        proxy.refuse().await;
        assert!(TcpStream::connect(("127.0.0.1", proxy.port)).await.is_err());
        assert_eq!(says(&mut second, "goes on").await.unwrap(), "goes on");
        proxy.accept().await;
        assert_eq!(says(&mut client(&proxy).await, "welcome").await.unwrap(), "welcome");

        drop(proxy);
        assert!(says(&mut second, "gone").await.is_err());
    }

    #[tokio::test]
    async fn pauses_delays_and_throttles() {
        let (upstream, _hears) = echo().await;
        let proxy = Proxy::to(upstream).await;
        let mut client = client(&proxy).await;

        proxy.pause();
        client.write_all(b"wait").await.unwrap();
        let mut answer = [0; 4];
        assert!(timeout(A_MOMENT, client.read_exact(&mut answer)).await.is_err());
        proxy.resume();
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"wait");

        proxy.delay(A_MOMENT);
        assert!(timeout(A_MOMENT, says(&mut client, "late")).await.is_err());
        client.read_exact(&mut answer).await.unwrap();
        proxy.delay(Duration::ZERO);

        proxy.throttle(Some(100)); // 50 bytes take half a second, each way.
        let started = std::time::Instant::now();
        says(&mut client, &"x".repeat(50)).await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(500));
    }

    #[tokio::test]
    async fn leads_to_each_in_turn_and_past_those_who_are_not_there() {
        let ((one, mut at_one), (other, mut at_other)) = (echo().await, echo().await);
        let nobody = free_port().unwrap();
        let proxy = Proxy::over(vec![one, nobody, other]).await;
        for _ in 0..6 {
            says(&mut client(&proxy).await, "hello").await.unwrap();
        }
        for heard in [&mut at_one, &mut at_other] {
            assert_eq!((heard.recv().await.unwrap(), heard.recv().await.unwrap()), ("hello".into(), "hello".into()));
        }
    }

    #[tokio::test]
    async fn is_silent_to_all_and_tells_them_when_it_is_over() {
        let (upstream, mut hears) = echo().await;
        let proxy = Proxy::to(upstream).await;
        let (mut before, mut gone) = (client(&proxy).await, client(&proxy).await);
        says(&mut before, "hello").await.unwrap();
        says(&mut gone, "hello").await.unwrap();
        proxy.silence();
        drop(gone);
        let mut during = client(&proxy).await;
        for stream in [&mut before, &mut during] {
            assert!(timeout(A_MOMENT, says(stream, "anybody?")).await.is_err());
        }
        assert!(timeout(A_MOMENT, hears.recv()).await.is_err(), "the upstream was told of an end");
        proxy.speak();
        for stream in [&mut before, &mut during] {
            assert!(stream.read_exact(&mut [0; 1]).await.is_err());
        }
        assert_eq!(says(&mut client(&proxy).await, "again").await.unwrap(), "again");
    }

    #[tokio::test]
    async fn tears_what_is_carried_next_in_two() {
        let (upstream, _hears) = echo().await;
        let proxy = Proxy::to(upstream).await;
        let mut torn = client(&proxy).await;
        says(&mut torn, "whole").await.unwrap();
        proxy.tear();
        torn.write_all(b"half").await.unwrap();
        let mut answer = Vec::new();
        assert!(torn.read_to_end(&mut answer).await.is_err(), "a reset, not an end");
        assert_eq!(says(&mut client(&proxy).await, "whole").await.unwrap(), "whole");
    }

    #[tokio::test]
    async fn cuts_before_the_upstream_hears() {
        let (upstream, mut hears) = echo().await;
        let proxy = Proxy::to(upstream).await;
        let mut client = client(&proxy).await;
        says(&mut client, "COMMIT one ").await.unwrap();

        let happened = proxy.cut_when(|bytes| bytes.windows(6).any(|word| word == b"COMMIT"), Cut::Before);
        says(&mut client, "insert ").await.unwrap();
        assert!(says(&mut client, "COMMIT two").await.is_err());
        happened.await.unwrap();
        assert_eq!(hears.recv().await.unwrap(), "COMMIT one insert ");
    }

    #[tokio::test]
    async fn cuts_after_the_upstream_heard_even_when_the_match_comes_in_pieces() {
        let (upstream, mut hears) = echo().await;
        let proxy = Proxy::to(upstream).await;
        let mut client = client(&proxy).await;

        let happened = proxy.cut_when(|bytes| bytes.windows(6).any(|word| word == b"COMMIT"), Cut::After);
        says(&mut client, "insert COM").await.unwrap();
        assert!(says(&mut client, "MIT").await.is_err());
        happened.await.unwrap();
        assert_eq!(hears.recv().await.unwrap(), "insert COMMIT");
    }

    #[tokio::test]
    async fn silences_one_connection_and_no_other() {
        let (upstream, mut hears) = echo().await;
        let proxy = Proxy::to(upstream).await;
        for (cut, heard) in [(Cut::Before, "insert "), (Cut::After, "insert COMMIT")] {
            let mut client = client(&proxy).await;
            let happened = proxy.silence_when(|bytes| bytes.windows(6).any(|word| word == b"COMMIT"), cut);
            says(&mut client, "insert ").await.unwrap();
            client.write_all(b"COMMIT").await.unwrap();
            happened.await.unwrap();
            let mut answer = [0; 6];
            assert!(timeout(A_MOMENT, client.read_exact(&mut answer)).await.is_err());
            let mut other = super::tests::client(&proxy).await;
            assert_eq!(says(&mut other, "hello").await.unwrap(), "hello");
            drop(other);
            assert_eq!(hears.recv().await.unwrap(), "hello");

            proxy.cut();
            assert!(client.read_exact(&mut answer).await.is_err());
            assert_eq!(hears.recv().await.unwrap(), heard);
        }
    }
}
