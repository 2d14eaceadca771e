//! Duties: what comes due by itself and is attended to under a lease, by whichever node looks first. The loop around it is written
//! here, once; what is due, and what attending to it means, is each duty's own.
//!
//! Looking is the truth, and nodes do it out of step. What is due is attended to by a task each, beside the others and within a
//! bound: what takes its time holds up nothing but itself. Nobody is waited for in turn, nor served fairly: whoever says what is
//! due sees to that.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tillwire_channels::MerchantId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::until;
use crate::error::{Error, Result};

/// How long what is under way may take to end when the node stops. What does not is taken up when its lease is over.
const FINISH_MAX: Duration = Duration::from_secs(20);

/// One kind of duty. Cheap to clone.
pub trait Duty: Clone + Send + Sync + 'static {
    /// As the log calls it: `Attending to payments`.
    const NAME: &'static str;
    /// How often it is looked what is due.
    const LOOK_EVERY: Duration;
    /// How soon it is looked again after as much was begun as there was room for, or as a merchant may have: there may be more.
    const LOOK_AGAIN: Duration = Self::LOOK_EVERY;
    /// How long the database may take to say it, and [`Self::round`] before it.
    const LOOK_MAX: Duration;
    /// How long attending may take: longer than its lease. Whoever is at it still waits for what never answers, as a connection
    /// that is half open.
    const ATTEND_MAX: Duration;
    /// How much is attended to at once, and how much of it is one merchant's.
    const AT_ONCE_MAX: usize;
    const OF_ONE_MAX: usize;

    /// Something to attend to.
    type Due: Copy + Eq + Hash + Debug + Send + 'static;

    /// Whose it is.
    fn merchant(due: Self::Due) -> MerchantId;

    /// What else is done before each look, also while there is no room.
    fn round(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// What is due, [`Self::AT_ONCE_MAX`] at most. What is under way already may be among it, and is left to whoever is at it.
    fn look(&self) -> impl Future<Output = Result<Vec<Self::Due>>> + Send;

    /// Attends to it, under a lease: somebody else may have been sooner.
    fn attend(&self, due: Self::Due) -> impl Future<Output = Result<()>> + Send;
}

/// Begins to do a duty, until `stop`.
pub fn begin<D: Duty>(duty: D, tasks: &TaskTracker, stop: &CancellationToken) {
    let stop = stop.clone();
    tasks.spawn(async move { until(D::NAME, &stop, || run(&duty, &stop)).await });
}

async fn run<D: Duty>(duty: &D, stop: &CancellationToken) {
    // Each task ends with what it attended to, also after a panic.
    let (mut under_way, mut tasks) = (HashSet::new(), JoinSet::new());
    let mut is_failing = false;
    while !stop.is_cancelled() {
        let (mut pause, room) = (D::LOOK_EVERY, D::AT_ONCE_MAX - under_way.len());
        let looking = async {
            duty.round().await?;
            // As much as there is room for in all: what is under way may be due again, and does not hide the rest.
            if room > 0 { duty.look().await } else { Ok(Vec::new()) }
        };
        let looked = tokio::time::timeout(D::LOOK_MAX, looking).await;
        match looked.map_err(Error::from).and_then(|due| due) {
            Ok(due) => {
                is_failing = false;
                let mut begun = 0;
                for due in due {
                    let of_one = under_way.iter().filter(|it| D::merchant(**it) == D::merchant(due)).count();
                    if begun < room && of_one < D::OF_ONE_MAX && under_way.insert(due) {
                        tasks.spawn(attend(duty.clone(), due));
                        begun += 1;
                    }
                }
                if begun >= room.min(D::OF_ONE_MAX) {
                    pause = D::LOOK_AGAIN;
                }
            }
            Err(error) if std::mem::replace(&mut is_failing, true) => {
                debug!("{} still fails: {:#}", D::NAME, error.into_anyhow());
            }
            Err(error) => warn!("{} fails, which is tried again: {:#}", D::NAME, error.into_anyhow()),
        }
        let pausing = tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0));
        stop.run_until_cancelled(pausing).await;
        while let Some(ended) = tasks.try_join_next() {
            match ended {
                Ok(ended) => _ = under_way.remove(&ended),
                // Which one it was nobody knows: all of them may be taken again, as far as their leases allow.
                Err(_) => under_way.clear(),
            }
        }
    }
    let finishing = async { while tasks.join_next().await.is_some() {} };
    _ = tokio::time::timeout(FINISH_MAX, finishing).await;
}

async fn attend<D: Duty>(duty: D, due: D::Due) -> D::Due {
    match tokio::time::timeout(D::ATTEND_MAX, AssertUnwindSafe(duty.attend(due)).catch_unwind()).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => debug!(?due, "{} goes on later: {error:?}", D::NAME),
        Err(_) => warn!(?due, "{} has come to no end within {:?}, and is begun again", D::NAME, D::ATTEND_MAX),
        Ok(Err(_)) => error!(?due, "{} has panicked, and goes on when its lease is over", D::NAME),
    }
    due
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Of six things that are always due three can be attended to at once, and two of a merchant's: the last is another's. The first
    /// panics, the second fails, and the third comes to no end.
    #[derive(Clone, Default)]
    struct Busy(Arc<Mutex<Seen>>);

    #[derive(Default)]
    struct Seen {
        rounds_without_room: usize,
        looks: usize,
        looks_without_room: usize,
        now: Vec<usize>,
        most: usize,
        most_of_one: usize,
        twice: bool,
        times: [usize; 6],
    }

    impl Duty for Busy {
        const NAME: &'static str = "A test";
        const LOOK_EVERY: Duration = Duration::from_millis(2);
        const LOOK_MAX: Duration = Duration::from_millis(20);
        const ATTEND_MAX: Duration = Duration::from_millis(20);
        const AT_ONCE_MAX: usize = 3;
        const OF_ONE_MAX: usize = 2;
        type Due = usize;

        fn merchant(due: usize) -> MerchantId {
            MerchantId(uuid::Uuid::from_u128(due as u128 / 5))
        }

        async fn round(&self) -> Result<()> {
            let mut seen = self.0.lock().unwrap();
            seen.rounds_without_room += usize::from(seen.now.len() == Self::AT_ONCE_MAX);
            Ok(())
        }

        async fn look(&self) -> Result<Vec<usize>> {
            let looks = {
                let mut seen = self.0.lock().unwrap();
                seen.looks_without_room += usize::from(seen.now.len() == Self::AT_ONCE_MAX);
                seen.looks += 1;
                seen.looks
            };
            match looks {
                1 => Err(anyhow::anyhow!("away").into()),
                2 => std::future::pending().await,
                _ => Ok((0..6).cycle().skip(looks).take(Self::AT_ONCE_MAX).collect()),
            }
        }

        async fn attend(&self, due: usize) -> Result<()> {
            {
                let mut seen = self.0.lock().unwrap();
                seen.twice |= seen.now.contains(&due);
                seen.now.push(due);
                seen.most = seen.most.max(seen.now.len());
                let of_one = seen.now.iter().filter(|it| Self::merchant(**it) == Self::merchant(due)).count();
                seen.most_of_one = seen.most_of_one.max(of_one);
                seen.times[due] += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.0.lock().unwrap().now.retain(|it| *it != due);
            match due {
                0 => panic!("as it is to"),
                1 => Err(anyhow::anyhow!("in vain").into()),
                2 => std::future::pending().await,
                _ => Ok(()),
            }
        }
    }

    #[tokio::test]
    async fn all_is_attended_to_again_and_again_within_bounds_and_never_twice_at_once() {
        let (busy, tasks, stop) = (Busy::default(), TaskTracker::new(), CancellationToken::new());
        begin(busy.clone(), &tasks, &stop);
        let comes = async {
            let is_lacking = |seen: &Seen| seen.times.iter().any(|times| *times < 3) || seen.rounds_without_room == 0;
            while is_lacking(&busy.0.lock().unwrap()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), comes).await.expect("all is attended to");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        let seen = busy.0.lock().unwrap();
        assert_eq!((seen.most, seen.most_of_one, seen.twice, seen.now.len()), (3, 2, false, 0));
        assert_eq!(seen.looks_without_room, 0, "nothing is asked where there is no room");
    }
}
