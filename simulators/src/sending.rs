//! The world's hands: what moves it on by the clock, and what carries its webhooks out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Response, Url};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::Provider;
use crate::clock::Moment;
use crate::deliveries::{Outcome, answer_max};
use crate::world::{Dispatch, World};

/// How many webhooks are under way at once.
const AT_ONCE_MAX: usize = 256;
/// How long a receiver may take at least, however fast the clock runs.
const ANSWER_MIN: Duration = Duration::from_secs(2);
/// How often Midtrans lets itself be sent elsewhere by 307 or 308.
const REDIRECTS_MAX: usize = 5;
/// How much of an answer is read, so that the connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub struct Shared {
    world: Mutex<World>,
    woken: Notify,
    quiet: Notify,
    advancing: tokio::sync::Mutex<()>,
    client: reqwest::Client,
    turns: Semaphore,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Shared {
    /// # Errors
    /// If this machine trusts no certificates.
    pub fn new(world: World) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().redirect(Policy::none()).no_proxy().referer(false).http1_only();
        Ok(Self {
            world: Mutex::new(world),
            woken: Notify::new(),
            quiet: Notify::new(),
            advancing: tokio::sync::Mutex::default(),
            client: client.build().context("making a client: are there certificates to trust (ca-certificates)?")?,
            turns: Semaphore::new(AT_ONCE_MAX),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something in the world as it is now, and what follows from it at once.
    pub fn act<T>(self: &Arc<Self>, what: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        let mut due = world.run();
        let done = what(&mut world);
        due.extend(world.run());
        drop(world);
        self.send(due);
        self.woken.notify_one();
        done
    }

    /// Has everything happen at its time, until it is stopped.
    pub async fn keep_time(self: Arc<Self>) {
        loop {
            let (due, next) = {
                let mut world = self.world();
                let due = world.run();
                (due, world.next().and_then(|next| world.clock.until(next)))
            };
            self.send(due);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.woken.notified() => {}
                () = sleep(next.unwrap_or(Duration::MAX)), if next.is_some() => {}
            }
        }
    }

    /// Advances the clock, step by step: whatever is due meanwhile happens at its own time, and webhooks are answered before
    /// it goes on. Answers where it stands.
    pub async fn advance(self: &Arc<Self>, by: Duration) -> Moment {
        let _turn = self.advancing.lock().await;
        let target = self.world().now().plus(by);
        loop {
            let quiet = self.quiet.notified();
            let step = {
                let mut world = self.world();
                let next = world.next().filter(|next| *next <= target);
                match next {
                    // Answers may bring more that is due before the target.
                    _ if world.is_sending() => None,
                    Some(next) => {
                        world.clock.advance_to(next);
                        Some(world.run())
                    }
                    None => {
                        world.clock.advance_to(target);
                        self.woken.notify_one();
                        return world.now();
                    }
                }
            };
            match step {
                Some(due) => self.send(due),
                None => quiet.await,
            }
        }
    }

    fn send(self: &Arc<Self>, due: Vec<Dispatch>) {
        for dispatch in due {
            let shared = self.clone();
            self.tasks.spawn(async move {
                let id = dispatch.id;
                let outcome = tokio::select! {
                    () = shared.stop.cancelled() => return,
                    outcome = shared.attempt(dispatch) => outcome,
                };
                let is_sending = shared.act(|world| {
                    world.sent(id, outcome);
                    world.is_sending()
                });
                if !is_sending {
                    shared.quiet.notify_waiters();
                }
            });
        }
    }

    async fn attempt(&self, dispatch: Dispatch) -> Outcome {
        let Ok(_turn) = self.turns.acquire().await else { return Outcome::Unreachable };
        let limit = self.world().clock.limit(answer_max(dispatch.provider), ANSWER_MIN);
        match timeout(limit, self.answer(dispatch)).await {
            Ok(Ok(status)) => Outcome::Answered(status),
            Ok(Err(_)) => Outcome::Unreachable,
            Err(_) => Outcome::TimedOut,
        }
    }

    async fn answer(&self, dispatch: Dispatch) -> anyhow::Result<u16> {
        let mut url: Url = dispatch.url.parse()?;
        let headers = headers(&dispatch)?;
        let mut redirects = 0;
        loop {
            let request = self.client.post(url.clone()).headers(headers.clone()).body(dispatch.body.clone());
            let response = request.send().await?;
            let status = response.status().as_u16();
            let to = response.headers().get(LOCATION).and_then(|it| it.to_str().ok()).and_then(|it| url.join(it).ok());
            drain(response).await;
            match to {
                Some(to)
                    if dispatch.provider == Provider::Midtrans
                        && matches!(status, 307 | 308)
                        && redirects < REDIRECTS_MAX =>
                {
                    redirects += 1;
                    url = to;
                }
                _ => return Ok(status),
            }
        }
    }
}

/// What each provider's webhooks come with.
fn headers(dispatch: &Dispatch) -> anyhow::Result<HeaderMap> {
    let json = HeaderValue::from_static("application/json");
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, json.clone())]);
    match dispatch.provider {
        Provider::Midtrans => {
            headers.insert(ACCEPT, json);
            headers.insert(USER_AGENT, HeaderValue::from_static("Veritrans"));
        }
        Provider::Xendit => {
            let token = dispatch.token.as_deref().unwrap_or_default();
            headers.insert(HeaderName::from_static("x-callback-token"), HeaderValue::from_str(token)?);
        }
    }
    Ok(headers)
}

async fn drain(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}
