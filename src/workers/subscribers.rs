//! Subscribers: each is a cursor over a journal, through a filter, under a fenced lease. The loop around them is written here,
//! once; what it means to be told something is each kind's own.
//!
//! Looking is the truth: who has something to be told is asked every second, and sooner of journals that are said to have
//! moved. Each that is due is served by a task of its own, under its lease, for a while; then others have their turn. One that
//! takes its time delays itself; of each merchant only so many are served at once, so that none has all the places. What the
//! tasks ask of the database they ask in turns, over connections of their own.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tillwire_channels::{MerchantId, Position};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::bus::Moved;
use crate::error::{Error, Result};
use crate::journal::read::{self, Entries, Slice};
use crate::journal::{Entry, Pools};

/// How often it is looked who is due, of all.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a look the next may be, however many journals move.
const LOOK_PAUSE: Duration = Duration::from_millis(25);
/// How long the database may take to say it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long one is served before others have their turn.
const TURN_MAX: Duration = Duration::from_secs(30);
/// How much of a journal is read for one at a time.
const SLICE: Slice = Slice { entries_max: 64, bytes_max: 256 * 1024 };
/// How long that may take.
const READ_MAX: Duration = Duration::from_secs(5);
/// How many of the tasks may be at the database at once: each has a connection then.
pub const STEPS_MAX: u32 = 6;
/// How often what came of something outside is tried to be written down, and how long after a failure. It is known to nobody
/// else.
const WRITE_TRIES_MAX: u32 = 5;
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// One kind of subscriber: whom there is to serve, and what serving is.
///
/// INVARIANT: every word that moves a cursor names the lease that [`Subscriber::take`] gave, and moves nothing when somebody
/// else has it by now. A lease that nobody renews expires, so whoever is killed is replaced.
pub trait Subscriber: Send + Sync + 'static {
    /// As the log calls all of them: `webhooks`.
    const NAME: &'static str;
    /// How many are served at once, by one node.
    const SERVED_MAX: usize;
    /// How many of one merchant.
    const OF_ONE_MAX: usize;

    /// Who is due: a merchant's, told apart from the merchant's others.
    type Due: Copy + Eq + Hash + Debug + Send + Sync + 'static;
    /// One that is ours to serve.
    type Held: Send;

    fn merchant(due: Self::Due) -> MerchantId;

    /// What it has been told.
    fn position(held: &Self::Held) -> Position;

    /// Who has something to be told and is served by nobody, of these merchants or of all: so many at most, and those who have
    /// waited longest first. Merchants in `busy` are left out.
    fn due(
        &self,
        of: Option<&[MerchantId]>,
        busy: &[MerchantId],
        due_max: usize,
    ) -> impl Future<Output = Result<Vec<Self::Due>>> + Send;

    /// Takes the lease, unless somebody else has it, or there is nothing to do.
    fn take(&self, due: Self::Due) -> impl Future<Output = Result<Option<Self::Held>>> + Send;

    /// Tells it of the entries that follow its place: in order, or side by side where the order is nobody's business. It moves
    /// the place as far as it comes, and writes that down as often as it must not be told again.
    fn deliver(
        &self,
        held: &mut Self::Held,
        entries: &[Arc<Entry>],
        turn: &Turn,
    ) -> impl Future<Output = Result<Told>> + Send;

    /// Its journal does not go on from its place, but only after `to`.
    fn cut(&self, held: &mut Self::Held, to: Position) -> impl Future<Output = Result<Told>> + Send;

    /// Writes down how far it has come, and renews the lease. False if it is not ours any more.
    fn passed(&self, held: &Self::Held) -> impl Future<Output = Result<bool>> + Send;

    /// Writes down how far it has come, and gives the lease back.
    fn let_go(&self, held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// What came of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was told all of it, stands behind that, and is still ours.
    All,
    /// As much as the turn allowed: it is still ours, to be let go of.
    Part,
    /// It is not ours any more: it has given way, has come to its end or was taken from us. Nothing is left to be written.
    Over,
}

/// A turn: how long one may be served.
#[derive(Clone, Debug)]
pub struct Turn {
    began: Instant,
    stop: CancellationToken,
}

impl Turn {
    fn begin(stop: &CancellationToken) -> Self {
        Self { began: Instant::now(), stop: stop.clone() }
    }

    /// Whether nothing new should be begun: others wait, or the node stops.
    pub fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.began.elapsed() > TURN_MAX
    }
}

/// The database as those who serve ask it: in turns, over connections of their own. Tills and screens do not wait for what is
/// outside. Cheap to clone; the clones take turns with one another.
#[derive(Clone)]
pub struct Steps {
    /// With [`STEPS_MAX`] connections each.
    pub pools: Pools,
    turns: Arc<Semaphore>,
}

impl Steps {
    pub fn over(pools: Pools) -> Self {
        Self { pools, turns: Arc::new(Semaphore::new(STEPS_MAX as usize)) }
    }

    /// A step, when it is its turn.
    pub async fn step<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let _turn = self.turns.acquire().await?;
        step.await
    }

    /// Writes down what came of something outside: again, if the database does not take it at once.
    pub async fn write<T, F: Future<Output = Result<T>>>(&self, write: impl Fn() -> F) -> Result<T> {
        for _ in 1..WRITE_TRIES_MAX {
            match self.step(write()).await {
                Ok(written) => return Ok(written),
                Err(error) => debug!("What came of it is not written down yet: {:#}", error.into_anyhow()),
            }
            tokio::time::sleep(WRITE_AGAIN_AFTER).await;
        }
        self.step(write()).await
    }

    async fn read(&self, merchant: MerchantId, after: Position) -> Result<Entries> {
        let reading = async {
            let mut sql = self.pools.feed.acquire().await?;
            read::after(&mut sql, merchant, after, SLICE).await
        };
        self.step(async { tokio::time::timeout(READ_MAX, reading).await? }).await
    }

    async fn beyond(&self, merchant: MerchantId, after: Position) -> Result<Position> {
        let asking = async {
            let mut sql = self.pools.feed.acquire().await?;
            read::beyond(&mut sql, merchant, after).await
        };
        self.step(async { tokio::time::timeout(READ_MAX, asking).await? }).await
    }
}

/// The loop: serves all subscribers of one kind.
pub struct Subscribers<S> {
    kind: Arc<S>,
    steps: Steps,
    /// Journals that have moved, as far as somebody said so.
    moved: Arc<Moved>,
}

impl<S> Clone for Subscribers<S> {
    fn clone(&self) -> Self {
        Self { kind: self.kind.clone(), steps: self.steps.clone(), moved: self.moved.clone() }
    }
}

impl<S: Subscriber> Subscribers<S> {
    pub fn new(kind: S, steps: Steps, moved: Arc<Moved>) -> Self {
        Self { kind: Arc::new(kind), steps, moved }
    }

    /// Serves until `stop`. What is under way then is waited for: whoever tells bounds how long that takes.
    pub async fn run(&self, stop: &CancellationToken) {
        let (mut serving, mut is_away) = (Serving::<S>::default(), false);
        let (mut named, mut look_at): (Vec<MerchantId>, _) = (Vec::new(), Instant::now());
        while !stop.is_cancelled() {
            let of_all = Instant::now() >= look_at;
            if of_all {
                look_at = Instant::now() + LOOK_EVERY;
            }
            let looked = self.look(&serving, (!of_all).then_some(&named[..]));
            match tokio::time::timeout(LOOK_MAX, looked).await.map_err(Error::from).and_then(|due| due) {
                Ok(due) => {
                    is_away = false;
                    due.into_iter().for_each(|due| serving.begin(self, due, stop));
                }
                Err(error) if std::mem::replace(&mut is_away, true) => {
                    debug!("Serving {} still waits for the database: {:#}", S::NAME, error.into_anyhow());
                }
                Err(error) => warn!("Serving {} waits for the database: {:#}", S::NAME, error.into_anyhow()),
            }
            let waiting = async {
                tokio::time::sleep(LOOK_PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep_until(look_at.into()) => Vec::new(),
                    some = self.moved.take(usize::MAX) => some,
                    // Others of its merchant may have waited for its place.
                    merchant = serving.ends_one() => vec![merchant],
                }
            };
            named = stop.run_until_cancelled(waiting).await.unwrap_or_default();
            serving.tidy();
        }
        while serving.tasks.join_next().await.is_some() {}
    }

    async fn look(&self, serving: &Serving<S>, of: Option<&[MerchantId]>) -> Result<Vec<S::Due>> {
        let room = S::SERVED_MAX - serving.now.len();
        if room == 0 || of.is_some_and(<[_]>::is_empty) {
            return Ok(Vec::new());
        }
        self.kind.due(of, &serving.busy(), room).await
    }

    /// Serves one for a turn. A database that is away leaves the lease to expire.
    async fn serve(&self, due: S::Due, stop: &CancellationToken) {
        if let Err(error) = self.serve_turn(due, stop).await {
            debug!(?due, "One of the {} could not be served: {:#}", S::NAME, error.into_anyhow());
        }
    }

    async fn serve_turn(&self, due: S::Due, stop: &CancellationToken) -> Result<()> {
        let (kind, merchant) = (&*self.kind, S::merchant(due));
        let Some(mut held) = self.steps.step(kind.take(due)).await? else { return Ok(()) };
        let turn = Turn::begin(stop);
        loop {
            let (told, more) = match self.steps.read(merchant, S::position(&held)).await {
                Ok(Entries { entries, more }) => (kind.deliver(&mut held, &entries, &turn).await?, more),
                Err(Error::SnapshotRequired(why)) => {
                    let at = S::position(&held);
                    let to = self.steps.beyond(merchant, at).await?;
                    error!(
                        ?due,
                        "The journal does not go on from {at}, up to which one of the {} was told ({:?}), but after {to}",
                        S::NAME,
                        why.reason
                    );
                    (kind.cut(&mut held, to).await?, true)
                }
                Err(error) => return Err(error),
            };
            if told == Told::Over {
                return Ok(());
            }
            if told == Told::Part || !more || turn.is_over() {
                return self.steps.step(kind.let_go(held)).await;
            }
            if !self.steps.step(kind.passed(&held)).await? {
                return Ok(());
            }
        }
    }
}

/// Who is being served.
struct Serving<S: Subscriber> {
    now: HashSet<S::Due>,
    of: HashMap<MerchantId, usize>,
    /// Each ends with whom it served, also after a panic.
    tasks: JoinSet<S::Due>,
    ended: Vec<S::Due>,
}

impl<S: Subscriber> Default for Serving<S> {
    fn default() -> Self {
        Self { now: HashSet::new(), of: HashMap::new(), tasks: JoinSet::new(), ended: Vec::new() }
    }
}

impl<S: Subscriber> Serving<S> {
    fn begin(&mut self, all: &Subscribers<S>, due: S::Due, stop: &CancellationToken) {
        if !self.takes(due) {
            return;
        }
        let (all, stop) = (all.clone(), stop.clone());
        self.tasks.spawn(async move {
            if AssertUnwindSafe(all.serve(due, &stop)).catch_unwind().await.is_err() {
                error!(?due, "Serving one of the {} has panicked", S::NAME);
            }
            due
        });
    }

    /// Notes that one is served; false if it is already, or its merchant has enough.
    fn takes(&mut self, due: S::Due) -> bool {
        let of_merchant = self.of.entry(S::merchant(due)).or_default();
        if *of_merchant >= S::OF_ONE_MAX || !self.now.insert(due) {
            return false;
        }
        *of_merchant += 1;
        true
    }

    /// Waits until one is not served any more, and answers whose it is; for ever if none is.
    async fn ends_one(&mut self) -> MerchantId {
        match self.tasks.join_next().await {
            Some(Ok(due)) => {
                self.ended.push(due);
                S::merchant(due)
            }
            _ => std::future::pending().await,
        }
    }

    fn tidy(&mut self) {
        while let Some(Ok(ended)) = self.tasks.try_join_next() {
            self.ended.push(ended);
        }
        for due in self.ended.drain(..) {
            self.now.remove(&due);
            let merchant = S::merchant(due);
            if let Some(of_merchant) = self.of.get_mut(&merchant) {
                *of_merchant -= 1;
                if *of_merchant == 0 {
                    self.of.remove(&merchant);
                }
            }
        }
    }

    /// The merchants of whom enough are served.
    fn busy(&self) -> Vec<MerchantId> {
        self.of.iter().filter(|(_, served)| **served >= S::OF_ONE_MAX).map(|(merchant, _)| *merchant).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has nothing to do.
    struct Idle;

    impl Subscriber for Idle {
        const NAME: &'static str = "idle";
        const SERVED_MAX: usize = 8;
        const OF_ONE_MAX: usize = 3;
        type Due = (MerchantId, u32);
        type Held = ();

        fn merchant((merchant, _): Self::Due) -> MerchantId {
            merchant
        }

        fn position((): &()) -> Position {
            Position::START
        }

        async fn due(&self, _: Option<&[MerchantId]>, _: &[MerchantId], _: usize) -> Result<Vec<Self::Due>> {
            Ok(Vec::new())
        }

        async fn take(&self, _: Self::Due) -> Result<Option<()>> {
            Ok(None)
        }

        async fn deliver(&self, (): &mut (), _: &[Arc<Entry>], _: &Turn) -> Result<Told> {
            Ok(Told::All)
        }

        async fn cut(&self, (): &mut (), _: Position) -> Result<Told> {
            Ok(Told::Over)
        }

        async fn passed(&self, (): &()) -> Result<bool> {
            Ok(false)
        }

        async fn let_go(&self, (): ()) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn no_merchant_has_more_served_than_its_part_and_none_twice() {
        let mut serving = Serving::<Idle>::default();
        let (merchant, other) = (MerchantId::new(), MerchantId::new());
        assert!(serving.takes((merchant, 0)) && !serving.takes((merchant, 0)));
        serving.tasks.spawn(async move { (merchant, 0) });
        assert!(serving.takes((merchant, 1)) && serving.takes((merchant, 2)));
        assert!(!serving.takes((merchant, 3)) && serving.takes((other, 0)));
        assert_eq!(serving.busy(), [merchant]);
        assert_eq!(serving.ends_one().await, merchant);
        serving.tidy();
        assert!(serving.busy().is_empty() && serving.takes((merchant, 3)));
    }
}
