//! The caller: carries requests to providers, and their answers back. It alone goes out.
//!
//! It says for sure what was not sent, and what nobody knows. A provider that is slow or dead takes turns of its own, and
//! after a few failures none: nothing else waits for it. How often a provider may be asked is kept here as well, by each
//! node for itself, at half of what the provider allows.

mod breaker;
mod budget;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use metrics::{counter, gauge, histogram};
use tillwire_channels::{MerchantId, Moment};
use tokio::time::{Instant, timeout};
use tracing::debug;
use url::Url;

use self::breaker::{Breaker, Found};
use self::budget::{Budget, Rules};
use super::credentials::{Mode, Provider};
use super::request::{Answer, Request, TOO_MANY};
use super::xendit;
use crate::egress::client::{Client, plain};
use crate::turns::Turns;

/// How long connecting may take, from the name to TLS.
pub const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long a call may take, to the last byte of its answer. Midtrans takes longer where a bank does; then nobody knows,
/// and asks.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long a call waits for its turn: somebody stands at a till.
pub const WAIT_MAX: Duration = Duration::from_secs(2);
/// The longest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How many calls are on their way at once, to each provider in each mode, by a node.
pub const AT_ONCE_MAX: usize = 32;
/// How many of them are one merchant's.
const OF_ONE_MAX: usize = 8;
/// How many of either are looks at payments that nobody waits for.
const LOOKS_AT_ONCE_MAX: usize = AT_ONCE_MAX / 2;
const LOOKS_OF_ONE_MAX: usize = OF_ONE_MAX / 2;
/// How long a connection that nobody uses is kept: less than servers do.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Who we say that we are.
const AGENT: &str = concat!("Tillwire/", env!("CARGO_PKG_VERSION"), " (payments)");

/// Where a provider is.
#[derive(Clone, Debug)]
pub struct Place {
    pub test: String,
    pub live: String,
}

/// Where the providers are: at home, unless a test or a demo says otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    pub midtrans: Place,
    pub xendit: Place,
}

impl Default for Options {
    fn default() -> Self {
        let place = |test: &str, live: &str| Place { test: test.to_owned(), live: live.to_owned() };
        Self {
            midtrans: place("https://api.sandbox.midtrans.com", "https://api.midtrans.com"),
            // The key says which mode it is.
            xendit: place("https://api.xendit.co", "https://api.xendit.co"),
        }
    }
}

/// One call.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub merchant: MerchantId,
    pub provider: Provider,
    pub mode: Mode,
    pub request: &'a Request,
    /// The provider itself has just told of this payment: it need not wait for the pace of polling.
    pub prompted: bool,
    /// Whoever asks waits for the answer, and for a turn. What is no look always does.
    pub patient: bool,
}

/// What came of a call.
#[derive(Debug)]
pub enum Outcome {
    Answered(Answer),
    /// The provider was not told anything: it can be tried again.
    NotSent(NotSent),
    /// The provider was asked, and may have done it or not: it is asked how things stand before anything else.
    Unknown(Unknown),
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// Enough is on its way already.
    Busy,
    /// The provider's limits, or its own wish: not before so long.
    Held(Duration),
    /// It has failed again and again: not before so long.
    Down(Duration),
    /// No connection could be made.
    Unreachable,
    /// This machine cannot send it at all.
    Unable,
}

impl NotSent {
    /// When trying again makes sense, if that is known.
    pub const fn after(self) -> Option<Duration> {
        match self {
            Self::Held(after) | Self::Down(after) => Some(after),
            Self::Busy | Self::Unreachable | Self::Unable => None,
        }
    }
}

/// Why nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    TimedOut,
    /// The connection ended before the answer did.
    Cut,
    /// The answer is longer than [`ANSWER_BYTES_MAX`].
    TooLong,
}

impl Outcome {
    /// As metrics name it.
    fn word(&self) -> &'static str {
        match self {
            Self::Answered(answer) if answer.status == TOO_MANY => "throttled",
            Self::Answered(answer) if answer.status >= 500 => "failed",
            Self::Answered(_) => "answered",
            Self::NotSent(NotSent::Busy) => "busy",
            Self::NotSent(NotSent::Held(_)) => "held",
            Self::NotSent(NotSent::Down(_)) => "down",
            Self::NotSent(NotSent::Unreachable) => "unreachable",
            Self::NotSent(NotSent::Unable) => "unable",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Carries requests out.
pub struct Caller {
    /// One for each provider in each mode.
    lines: Vec<Line>,
}

/// One provider in one mode: what it does to us it does to nobody else.
struct Line {
    provider: Provider,
    mode: Mode,
    base: String,
    client: Client,
    turns: Turns,
    /// What looks of the hub's own have of those turns.
    looks: Turns,
    breaker: Breaker,
    budget: Budget,
}

impl Caller {
    /// # Errors
    /// If a provider is said to be where nothing can be asked. Keys of the mode in which money moves go by TLS alone.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        Self::within(options, ANSWER_MAX)
    }

    fn within(options: &Options, answer_max: Duration) -> anyhow::Result<Self> {
        let each = Provider::ALL.into_iter().flat_map(|provider| Mode::ALL.map(|mode| (provider, mode)));
        let lines = each.map(|(provider, mode)| Line::open(options, provider, mode, answer_max));
        Ok(Self { lines: lines.collect::<anyhow::Result<_>>()? })
    }

    fn line(&self, provider: Provider, mode: Mode) -> Option<&Line> {
        self.lines.iter().find(|line| line.provider == provider && line.mode == mode)
    }

    /// A provider has proved by itself that it lives: if it is left alone for long, it is no longer than it would be at first.
    pub fn heard(&self, provider: Provider, mode: Mode) {
        if let Some(line) = self.line(provider, mode) {
            line.breaker.heard();
        }
    }

    /// How a provider's breaker stands at this node: `closed`, calls are made; `open`, it is left alone, for so long; `trying`, the
    /// next call finds out.
    pub fn breaker(&self, provider: Provider, mode: Mode) -> (&'static str, Option<Duration>) {
        let (now, line) = (Instant::now(), self.line(provider, mode));
        let word = line.map_or("closed", |line| line.breaker.word(now));
        (word, line.and_then(|line| line.breaker.is_open(now)).filter(|_| word == "open"))
    }

    /// Makes one call, once. It takes at most [`WAIT_MAX`] and [`ANSWER_MAX`] together.
    pub async fn carry(&self, call: Call<'_>) -> Outcome {
        let Some(line) = self.line(call.provider, call.mode) else { return Outcome::NotSent(NotSent::Unable) };
        let outcome = line.carry(call).await;
        let (provider, mode) = (line.provider.as_str(), line.mode.as_str());
        counter!("tillwire_provider_calls_total", "provider" => provider, "mode" => mode, "call" => call.request.asked.as_str(), "outcome" => outcome.word())
            .increment(1);
        gauge!("tillwire_provider_up", "provider" => provider, "mode" => mode).set(f64::from(line.breaker.is_closed()));
        outcome
    }
}

impl Line {
    fn open(options: &Options, provider: Provider, mode: Mode, answer_max: Duration) -> anyhow::Result<Self> {
        let place = match provider {
            Provider::Midtrans => &options.midtrans,
            Provider::Xendit => &options.xendit,
        };
        let base = match mode {
            Mode::Test => &place.test,
            Mode::Live => &place.live,
        };
        let url = Url::parse(base).with_context(|| format!("where {provider} is: {base}"))?;
        ensure!(url.has_host() && url.query().is_none() && url.fragment().is_none(), "{base} is no place to call");
        ensure!(url.username().is_empty() && url.password().is_none(), "a place to call has no user");
        let may_be_plain = mode == Mode::Test && url.scheme() == "http";
        ensure!(url.scheme() == "https" || may_be_plain, "{base}: where money moves it goes by https");
        let rules = match (provider, mode) {
            (Provider::Midtrans, _) => Rules::MIDTRANS,
            (Provider::Xendit, Mode::Test) => Rules::XENDIT_TEST,
            (Provider::Xendit, Mode::Live) => Rules::XENDIT_LIVE,
        };
        let client = Client::made_by(move || {
            plain(answer_max, AGENT)
                .connect_timeout(CONNECT_MAX)
                // One call, one connection: a stream that hangs holds up no other.
                .http1_only()
                .pool_max_idle_per_host(OF_ONE_MAX)
                .pool_idle_timeout(IDLE_MAX)
        });
        Ok(Self {
            provider,
            mode,
            base: base.trim_end_matches('/').to_owned(),
            client,
            turns: Turns::new(AT_ONCE_MAX, OF_ONE_MAX),
            looks: Turns::new(LOOKS_AT_ONCE_MAX, LOOKS_OF_ONE_MAX),
            breaker: Breaker::default(),
            budget: Budget::new(rules),
        })
    }

    async fn carry(&self, call: Call<'_>) -> Outcome {
        // Nobody waits for a turn that leads nowhere.
        if let Some(after) = self.breaker.is_open(Instant::now()) {
            return Outcome::NotSent(NotSent::Down(after));
        }
        let is_look = call.request.asked.state_of().is_some() && !call.prompted && !call.patient;
        let (mut own, mut turn) = (None, None);
        if is_look {
            // It comes again by itself. Whoever attends to payments attends to another's meanwhile, and half of the turns are
            // left to those for whom somebody waits.
            own = self.looks.begin_now(call.merchant).zip(self.turns.begin_now(call.merchant));
        } else {
            turn = timeout(WAIT_MAX, self.turns.begin(call.merchant)).await.ok().flatten();
        }
        if own.is_none() && turn.is_none() {
            return Outcome::NotSent(NotSent::Busy);
        }
        let pass = match self.breaker.enter(Instant::now()) {
            Ok(pass) => pass,
            Err(after) => return Outcome::NotSent(NotSent::Down(after)),
        };
        if let Err(after) = self.budget.take(call.merchant, call.request, call.prompted, Instant::now()) {
            return Outcome::NotSent(NotSent::Held(after));
        }
        let begun = Instant::now();
        let outcome = self.send(call.request).await;
        let took = begun.elapsed();
        if let Outcome::Answered(answer) = &outcome {
            self.budget.answered(call.merchant, call.request, answer, Instant::now());
        }
        if let Some(found) = self.found(call.request, &outcome) {
            pass.ended(found, Instant::now());
        }
        histogram!("tillwire_provider_call_seconds", "provider" => self.provider.as_str()).record(took.as_secs_f64());
        debug!(
            provider = %self.provider, mode = self.mode.as_str(), call = call.request.asked.as_str(),
            outcome = outcome.word(), seconds = took.as_secs_f64(), "Called a provider"
        );
        outcome
    }

    /// How the provider was found. Nobody knows of what was not sent on purpose.
    fn found<'a>(&self, request: &'a Request, outcome: &Outcome) -> Option<Found<'a>> {
        match outcome {
            Outcome::Answered(answer) if answer.status < 500 => Some(Found::There),
            // Midtrans says so of banks in answers of 200.
            Outcome::Answered(answer) if self.provider == Provider::Xendit && xendit::is_a_banks(answer) => {
                Some(Found::There)
            }
            // Of one payment it may never be able to say how that stands, and be well for all others.
            Outcome::Answered(_) => {
                Some(request.asked.state_of().map_or(Found::Failing, |it| Found::FailingAt(it.as_str())))
            }
            Outcome::NotSent(NotSent::Unreachable) | Outcome::Unknown(Unknown::TimedOut | Unknown::Cut) => {
                Some(Found::Failing)
            }
            Outcome::Unknown(Unknown::TooLong) => Some(Found::There),
            Outcome::NotSent(_) => None,
        }
    }

    async fn send(&self, request: &Request) -> Outcome {
        let client = match self.client.get() {
            Ok(client) => client,
            Err(error) => {
                debug!("A provider cannot be called: {error:#}");
                return Outcome::NotSent(NotSent::Unable);
            }
        };
        let url = format!("{}{}", self.base, request.path);
        let sending = client
            .request(request.method.clone(), url)
            .headers(request.headers.clone())
            .body(request.body.clone().unwrap_or_default());
        let mut response = match sending.send().await {
            Ok(response) => response,
            Err(error) => return unanswered(error),
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(data)) if body.len() + data.len() > ANSWER_BYTES_MAX => {
                    return Outcome::Unknown(Unknown::TooLong);
                }
                Ok(Some(data)) => body.extend_from_slice(&data),
                Ok(None) => return Outcome::Answered(Answer { status, headers, body, at: Moment::now_utc() }),
                Err(error) => return unanswered(error),
            }
        }
    }
}

/// What is known when there is no answer: only that a connection was never made is sure. The URL names a payment.
fn unanswered(error: reqwest::Error) -> Outcome {
    let (is_unsent, is_late) = (error.is_connect(), error.is_timeout());
    let cannot = error.is_builder();
    debug!("A provider did not answer: {:#}", anyhow::Error::new(error.without_url()));
    if cannot {
        Outcome::NotSent(NotSent::Unable)
    } else if is_unsent {
        Outcome::NotSent(NotSent::Unreachable)
    } else {
        Outcome::Unknown(if is_late { Unknown::TimedOut } else { Unknown::Cut })
    }
}
