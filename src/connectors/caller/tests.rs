//! The caller, over TCP, with servers that do what providers do on a bad day.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::payment::Id;
use super::super::request::Asked;
use super::*;

/// How long the caller of a test waits for an answer.
const SOON: Duration = Duration::from_millis(300);
const SECRET: &str = "SB-Mid-server-hush";

/// What a server does with a request.
#[derive(Clone)]
enum Does {
    Answers(u16, &'static str, String),
    /// Answers, and keeps the connection.
    Stays,
    /// Answers, says that it keeps the connection, and does not.
    Forgets,
    /// Reads it, and says nothing.
    Hangs,
    /// Reads it, and goes away.
    Leaves,
    /// Says half of an answer, and goes away.
    Breaks,
    /// Says half of an answer, and stops.
    Stops,
}

impl Does {
    fn answers(status: u16) -> Self {
        Self::Answers(status, "", "{}".to_owned())
    }
}

struct Server {
    address: std::net::SocketAddr,
    heard: Arc<AtomicUsize>,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    /// One that does this with its first request, its second and so on.
    async fn start(does: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, requests) = (Arc::new(AtomicUsize::new(0)), Arc::<std::sync::Mutex<Vec<String>>>::default());
        let (counted, kept, does) = (heard.clone(), requests.clone(), Arc::new(does));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counted, kept, does) = (counted.clone(), kept.clone(), does.clone());
                tokio::spawn(async move {
                    let mut stream = Some(stream);
                    while let Some(open) = stream.take() {
                        let (mut open, request) = read(open).await;
                        if request.is_empty() {
                            return;
                        }
                        kept.lock().unwrap().push(request);
                        let does = does(counted.fetch_add(1, Ordering::SeqCst));
                        let stays = matches!(does, Does::Stays);
                        serve(&mut open, does).await;
                        stream = stays.then_some(open);
                    }
                });
            }
        });
        Self { address, heard, requests, serving }
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    fn caller(&self) -> Caller {
        caller_of(&format!("http://{}", self.address))
    }
}

async fn read(mut stream: TcpStream) -> (TcpStream, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (stream, text);
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&more[..read]),
            _ => return (stream, text),
        }
    }
}

async fn serve(stream: &mut TcpStream, does: Does) {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
    match does {
        Does::Answers(status, headers, body) => {
            let head =
                format!("HTTP/1.1 {status} It\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await; // Whoever asked may be gone.
        }
        Does::Stays | Does::Forgets => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        }
        Does::Hangs => tokio::time::sleep(Duration::from_secs(60)).await,
        Does::Leaves => {}
        Does::Breaks => {
            let _ = stream.write_all(half.as_bytes()).await;
        }
        Does::Stops => {
            let _ = stream.write_all(half.as_bytes()).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}

fn caller_of(base: &str) -> Caller {
    let here = Place { test: base.to_owned(), live: "https://127.0.0.1:1".to_owned() };
    Caller::within(&Options { midtrans: here.clone(), xendit: here }, SOON).unwrap()
}

fn status(reference: &str) -> Request {
    let asked = Asked::Status { reference: Id::parse(reference).unwrap() };
    Request::get(asked, "/v2/{id}/status", format!("/v2/{reference}/status"), &SECRET.into())
}

fn charge() -> Request {
    let body = serde_json::json!({ "hush": "body" });
    Request::post(Asked::Charge, "/v2/charge", "/v2/charge".to_owned(), &SECRET.into(), Some(body))
}

fn call(provider: Provider, merchant: MerchantId, request: &Request) -> Call<'_> {
    Call { merchant, provider, mode: Mode::Test, request, prompted: false, patient: false }
}

async fn carries(caller: &Caller, provider: Provider, request: &Request) -> Outcome {
    caller.carry(call(provider, MerchantId::new(), request)).await
}

async fn charges(caller: &Caller) -> Outcome {
    carries(caller, Provider::Midtrans, &charge()).await
}

#[tokio::test]
async fn a_request_goes_out_as_it_is_and_its_answer_comes_back() {
    let server = Server::start(|_| Does::Answers(201, "rate-limit-remaining: 7\r\n", "{\"a\":1}".to_owned())).await;
    let Outcome::Answered(answer) = charges(&server.caller()).await else { panic!("no answer") };
    assert_eq!((answer.status, &answer.body[..]), (201, &b"{\"a\":1}"[..]));
    assert_eq!(answer.headers["rate-limit-remaining"], "7");
    let request = server.requests.lock().unwrap()[0].clone();
    assert!(request.starts_with("POST /v2/charge HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"hush\":\"body\"}"), "{request}");
    for header in [
        "authorization: Basic U0ItTWlkLXNlcnZlci1odXNoOg==",
        "accept: application/json",
        "content-type: application/json",
    ] {
        assert!(request.contains(header), "{header}: {request}");
    }
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_unknown() {
    for (does, expected) in [
        (Does::Hangs, Unknown::TimedOut),
        (Does::Stops, Unknown::TimedOut),
        (Does::Leaves, Unknown::Cut),
        (Does::Breaks, Unknown::Cut),
        (Does::Answers(200, "", " ".repeat(ANSWER_BYTES_MAX + 1)), Unknown::TooLong),
    ] {
        let server = Server::start(move |_| does.clone()).await;
        let outcome = charges(&server.caller()).await;
        assert!(matches!(&outcome, Outcome::Unknown(why) if *why == expected), "{outcome:?}, not {expected:?}");
        assert_eq!(server.heard(), 1, "and it was sent once");
    }
    let longest = Server::start(|_| Does::Answers(200, "", " ".repeat(ANSWER_BYTES_MAX))).await;
    assert!(matches!(charges(&longest.caller()).await, Outcome::Answered(_)));
}

/// Also on a connection that was used before, where a client may believe that it was closed before it was heard.
#[tokio::test]
async fn nothing_is_sent_twice_by_itself() {
    let server = Server::start(|at| if at == 0 { Does::Stays } else { Does::Leaves }).await;
    let caller = server.caller();
    assert!(matches!(charges(&caller).await, Outcome::Answered(_)));
    let outcome = charges(&caller).await;
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Cut)), "{outcome:?}");
    assert_eq!(server.heard(), 2);

    // One that was closed meanwhile: it is seen to be so, or nobody knows.
    let server = Server::start(|_| Does::Forgets).await;
    let (caller, mut answered) = (server.caller(), 0);
    for _ in 0..20 {
        match charges(&caller).await {
            Outcome::Answered(_) => answered += 1,
            Outcome::Unknown(Unknown::Cut) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(server.heard(), answered);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(answered > 0);
}

#[tokio::test]
async fn what_was_never_sent_is_known_to_be_so() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let outcome = charges(&caller_of(&format!("http://{free}"))).await;
    assert!(matches!(outcome, Outcome::NotSent(NotSent::Unreachable)), "{outcome:?}");
}

#[tokio::test]
async fn nobody_is_led_elsewhere() {
    let elsewhere = Server::start(|_| Does::answers(200)).await;
    let location: &'static str = format!("location: http://{}/\r\n", elsewhere.address).leak();
    let server = Server::start(move |_| Does::Answers(307, location, String::new())).await;
    let outcome = charges(&server.caller()).await;
    assert!(matches!(&outcome, Outcome::Answered(answer) if answer.status == 307), "{outcome:?}");
    assert_eq!(elsewhere.heard(), 0, "keys go to the provider alone");
}

#[tokio::test]
async fn a_provider_that_fails_is_left_alone_and_then_tried_with_one_call() {
    let server = Server::start(|at| if at < 5 { Does::answers(503) } else { Does::answers(200) }).await;
    let caller = server.caller();
    for _ in 0..breaker::FAILURES_MAX {
        assert!(matches!(charges(&caller).await, Outcome::Answered(answer) if answer.status == 503));
    }
    let outcome = charges(&caller).await;
    assert!(matches!(outcome, Outcome::NotSent(NotSent::Down(after)) if after <= breaker::OPEN_MIN), "{outcome:?}");
    // Another provider is another matter, even at the same address.
    assert!(matches!(carries(&caller, Provider::Xendit, &charge()).await, Outcome::Answered(_)));
    assert_eq!(server.heard(), 6);

    tokio::time::sleep(breaker::OPEN_MIN).await;
    let outcomes = join_all((0..8).map(|_| charges(&caller))).await;
    let answered = outcomes.iter().filter(|it| matches!(it, Outcome::Answered(answer) if answer.status == 200)).count();
    // Those that came while one tried were not sent, or came after it had been answered.
    assert!(
        answered >= 1
            && outcomes.iter().all(|it| matches!(it, Outcome::Answered(_) | Outcome::NotSent(NotSent::Down(_))))
    );
    assert!(matches!(charges(&caller).await, Outcome::Answered(_)), "and it is back");
}

#[tokio::test]
async fn a_bank_that_is_away_takes_no_provider_with_it() {
    let answer = Does::Answers(503, "", r#"{"error_code":"CHANNEL_UNAVAILABLE","message":"away"}"#.to_owned());
    let server = Server::start(move |_| answer.clone()).await;
    let caller = server.caller();
    for _ in 0..2 * breaker::FAILURES_MAX {
        let outcome = carries(&caller, Provider::Xendit, &charge()).await;
        assert!(matches!(&outcome, Outcome::Answered(answer) if answer.status == 503), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_trial_is_one_call_however_many_want_to() {
    let server = Server::start(|at| if at < 5 { Does::answers(500) } else { Does::Hangs }).await;
    let caller = server.caller();
    for _ in 0..breaker::FAILURES_MAX {
        charges(&caller).await;
    }
    tokio::time::sleep(breaker::OPEN_MIN).await;
    let outcomes = join_all((0..8).map(|_| charges(&caller))).await;
    let tried = outcomes.iter().filter(|it| matches!(it, Outcome::Unknown(Unknown::TimedOut))).count();
    assert_eq!((tried, server.heard()), (1, 6), "{outcomes:?}");
    let outcome = charges(&caller).await;
    assert!(matches!(outcome, Outcome::NotSent(NotSent::Down(after)) if after > breaker::OPEN_MIN), "{outcome:?}");
}

#[tokio::test]
async fn p17_after_429_nothing_is_sent_before_the_time_that_was_named() {
    let server = Server::start(|at| match at {
        0 => Does::Answers(429, "rate-limit-reset: 1.2\r\n", "{}".to_owned()),
        _ => Does::answers(200),
    })
    .await;
    let (caller, merchant, request) = (server.caller(), MerchantId::new(), charge());
    let call = Call { prompted: true, ..call(Provider::Xendit, merchant, &request) };
    assert!(matches!(caller.carry(call).await, Outcome::Answered(answer) if answer.status == 429));
    let begun = Instant::now();
    loop {
        match caller.carry(call).await {
            Outcome::NotSent(NotSent::Held(after)) => {
                assert_eq!(server.heard(), 1);
                assert!(after <= Duration::from_millis(1_200));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Outcome::Answered(answer) => break assert_eq!(answer.status, 200),
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(1_150), "{:?}", begun.elapsed());
    // Others were never held.
    assert!(matches!(carries(&caller, Provider::Xendit, &request).await, Outcome::Answered(_)));
}

#[tokio::test]
async fn a_payments_state_is_asked_for_every_ten_seconds_at_most() {
    let server = Server::start(|_| Does::answers(200)).await;
    let (caller, merchant, request) = (server.caller(), MerchantId::new(), status("A-1"));
    let call = call(Provider::Midtrans, merchant, &request);
    assert!(matches!(caller.carry(call).await, Outcome::Answered(_)));
    let outcome = caller.carry(call).await;
    assert!(matches!(outcome, Outcome::NotSent(NotSent::Held(after)) if after > Duration::from_secs(8)), "{outcome:?}");
    assert_eq!(server.heard(), 1);
}

#[tokio::test]
async fn a_provider_that_hangs_takes_its_own_turns_and_nobody_elses() {
    let hanging = Server::start(|_| Does::Hangs).await;
    let well = Server::start(|_| Does::answers(200)).await;
    let place =
        |server: &Server| Place { test: format!("http://{}", server.address), live: "https://127.0.0.1:1".to_owned() };
    let options = Options { midtrans: place(&hanging), xendit: place(&well) };
    // Each call hangs for longer than a turn is waited for.
    let caller = Arc::new(Caller::within(&options, WAIT_MAX * 2).unwrap());
    let merchant = MerchantId::new();
    let under_way: Vec<_> = (0..AT_ONCE_MAX + OF_ONE_MAX)
        .map(|at| {
            let (caller, merchant) = (caller.clone(), if at < OF_ONE_MAX + 1 { merchant } else { MerchantId::new() });
            tokio::spawn(async move {
                let request = charge();
                caller.carry(call(Provider::Midtrans, merchant, &request)).await
            })
        })
        .collect();
    while hanging.heard() < AT_ONCE_MAX {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    assert!(matches!(carries(&caller, Provider::Xendit, &charge()).await, Outcome::Answered(_)));
    assert!(begun.elapsed() < Duration::from_secs(1), "it waited for the other: {:?}", begun.elapsed());
    let outcomes = join_all(under_way).await;
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|it| it.as_ref().is_ok_and(wanted)).count();
    assert_eq!(count(|it| matches!(it, Outcome::Unknown(Unknown::TimedOut))), AT_ONCE_MAX);
    assert_eq!(count(|it| matches!(it, Outcome::NotSent(NotSent::Busy))), OF_ONE_MAX);
    assert_eq!(hanging.heard(), AT_ONCE_MAX, "no more than so many at once");
}

#[tokio::test]
async fn a_call_that_is_given_up_gives_its_turn_back() {
    let server = Server::start(|at| if at < AT_ONCE_MAX { Does::Hangs } else { Does::answers(200) }).await;
    let base = format!("http://{}", server.address);
    let here = Place { test: base, live: "https://127.0.0.1:1".to_owned() };
    let caller = Caller::within(&Options { midtrans: here.clone(), xendit: here }, ANSWER_MAX).unwrap();
    let all_hang = async {
        while server.heard() < AT_ONCE_MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        outcomes = join_all((0..AT_ONCE_MAX).map(|_| charges(&caller))) => panic!("{outcomes:?}"),
        () = all_hang => {}
    }
    assert!(matches!(charges(&caller).await, Outcome::Answered(_)));
}

/// A log that is kept.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn p16_no_outcome_and_no_log_shows_a_key_or_a_payment() {
    let log = Log::default();
    let kept = log.clone();
    let logging = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || kept.clone());
    let logging = logging.finish();
    let guard = tracing::subscriber::set_default(logging);
    for does in [Does::Answers(401, "", SECRET.to_owned()), Does::Leaves, Does::Hangs] {
        let server = Server::start(move |_| does.clone()).await;
        let caller = server.caller();
        for request in [charge(), status("A-1")] {
            let outcome = carries(&caller, Provider::Midtrans, &request).await;
            assert!(!format!("{outcome:?} {request:?}").contains("hush"));
        }
    }
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("Called a provider") && log.contains("A provider did not answer"), "{log}");
    for secret in ["hush", "U0ItTWlk", "A-1"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn keys_of_money_go_by_tls_alone_and_a_place_is_one() {
    let opens = |test: &str, live: &str| {
        let place = Place { test: test.to_owned(), live: live.to_owned() };
        Caller::open(&Options { xendit: place, ..Options::default() }).is_ok()
    };
    assert!(Caller::open(&Options::default()).is_ok());
    assert!(opens("http://127.0.0.1:9000/xendit/", "https://api.example"));
    for (test, live) in [
        ("https://api.example", "http://api.example"),
        ("ftp://api.example", "https://api.example"),
        ("api.example", "https://api.example"),
        ("https://user@api.example", "https://api.example"),
        ("https://api.example?a=b", "https://api.example"),
        ("", "https://api.example"),
    ] {
        assert!(!opens(test, live), "{test} {live}");
    }
}

#[tokio::test]
async fn a_payment_of_which_nobody_can_say_how_it_stands_closes_its_provider_to_nobody() {
    const MANY: usize = 3 * breaker::FAILURES_MAX as usize;
    let server = Server::start(|at| Does::answers(if at < MANY { 500 } else { 200 })).await;
    let caller = server.caller();
    for _ in 0..MANY {
        let outcome = carries(&caller, Provider::Midtrans, &status("A-1")).await;
        assert!(matches!(&outcome, Outcome::Answered(answer) if answer.status == 500), "{outcome:?}");
    }
    assert!(matches!(charges(&caller).await, Outcome::Answered(answer) if answer.status == 200));

    // Of two it is the provider's fault.
    let server = Server::start(|_| Does::answers(500)).await;
    let caller = server.caller();
    for reference in ["A-1", "A-2"].into_iter().cycle().take(breaker::FAILURES_MAX as usize) {
        assert!(matches!(carries(&caller, Provider::Midtrans, &status(reference)).await, Outcome::Answered(_)));
    }
    assert!(matches!(charges(&caller).await, Outcome::NotSent(NotSent::Down(_))));

    // And so it is if there is no answer at all.
    let server = Server::start(|_| Does::Leaves).await;
    let caller = server.caller();
    for _ in 0..breaker::FAILURES_MAX {
        assert!(matches!(carries(&caller, Provider::Midtrans, &status("A-1")).await, Outcome::Unknown(Unknown::Cut)));
    }
    assert!(matches!(charges(&caller).await, Outcome::NotSent(NotSent::Down(_))));
}

#[tokio::test]
async fn a_provider_that_is_heard_of_by_itself_is_not_left_alone_for_long() {
    let server = Server::start(|at| Does::answers(if at < 6 { 503 } else { 200 })).await;
    let caller = server.caller();
    for _ in 0..breaker::FAILURES_MAX {
        charges(&caller).await;
    }
    tokio::time::sleep(breaker::OPEN_MIN).await;
    charges(&caller).await;
    let left = || match caller.breaker(Provider::Midtrans, Mode::Test) {
        ("open", Some(left)) => left,
        other => panic!("{other:?}"),
    };
    for (provider, mode) in [(Provider::Xendit, Mode::Test), (Provider::Midtrans, Mode::Live)] {
        caller.heard(provider, mode);
        assert!(left() > breaker::OPEN_MIN, "another one's word");
    }
    caller.heard(Provider::Midtrans, Mode::Test);
    assert!(left() <= breaker::OPEN_MIN);
    assert!(matches!(charges(&caller).await, Outcome::NotSent(NotSent::Down(_))));
    tokio::time::sleep(breaker::OPEN_MIN).await;
    assert!(matches!(charges(&caller).await, Outcome::Answered(answer) if answer.status == 200));
    assert_eq!(caller.breaker(Provider::Midtrans, Mode::Test), ("closed", None));
}

/// Looks that nobody waits for take no more than half, and wait for nothing.
#[tokio::test]
async fn a_provider_that_hangs_leaves_half_of_its_turns_to_those_who_wait() {
    let server = Server::start(|_| Does::Hangs).await;
    let base = format!("http://{}", server.address);
    let here = Place { test: base, live: "https://127.0.0.1:1".to_owned() };
    let caller = Arc::new(Caller::within(&Options { midtrans: here.clone(), xendit: here }, ANSWER_MAX).unwrap());
    // Somebody may wait for one because it was told of, or as they began it.
    let looks = |merchant: MerchantId, at: usize, is_waited_for: bool| {
        let (caller, prompted) = (caller.clone(), is_waited_for && at.is_multiple_of(2));
        tokio::spawn(async move {
            let request = status(&format!("A-{at}"));
            let call = call(Provider::Midtrans, merchant, &request);
            caller.carry(Call { prompted, patient: is_waited_for && !prompted, ..call }).await
        })
    };
    let reaches = async |many: usize| {
        while server.heard() < many {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(server.heard(), many);
    };
    let (begun, one) = (Instant::now(), MerchantId::new());
    let mut under_way: Vec<_> = (0..OF_ONE_MAX).map(|at| looks(one, at, false)).collect();
    reaches(LOOKS_OF_ONE_MAX).await;
    under_way.extend((0..AT_ONCE_MAX).map(|at| looks(MerchantId::new(), at, false)));
    reaches(LOOKS_AT_ONCE_MAX).await;
    let (ended, hanging): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|it| it.is_finished());
    assert_eq!(hanging.len(), LOOKS_AT_ONCE_MAX);
    for outcome in join_all(ended).await {
        assert!(matches!(outcome, Ok(Outcome::NotSent(NotSent::Busy))), "{outcome:?}");
    }
    assert!(begun.elapsed() < WAIT_MAX, "nobody waited for a turn: {:?}", begun.elapsed());

    // Those for whom somebody waits have the rest of them: that merchant's, and others'.
    let told: Vec<_> = (0..OF_ONE_MAX - LOOKS_OF_ONE_MAX).map(|at| looks(one, at + OF_ONE_MAX, true)).collect();
    reaches(LOOKS_AT_ONCE_MAX + told.len()).await;
    let rest = AT_ONCE_MAX - LOOKS_AT_ONCE_MAX - told.len();
    let charged: Vec<_> = (0..rest)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { charges(&caller).await })
        })
        .collect();
    reaches(AT_ONCE_MAX).await;
    hanging.iter().chain(&told).chain(&charged).for_each(JoinHandle::abort);
}
