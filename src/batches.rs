//! Questions to the database that many screens have at once, asked together: whoever comes while one is under way goes
//! with the next.

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};

/// How many batches run at once.
const TURNS_MAX: usize = 2;
/// How long an answer may take. A database that says nothing would else hold whoever asks with this key, for ever.
const ANSWER_MAX: Duration = Duration::from_secs(30);

type Waiting<Q, A> = Vec<(Q, oneshot::Sender<Result<A, Failure>>)>;

/// Why a whole company got no answer.
#[derive(Clone)]
enum Failure {
    Busy(Duration),
    Other(String),
}

/// Questions of one kind: those with the same key are asked together.
pub struct Batches<K, Q, A> {
    waiting: Mutex<HashMap<K, Waiting<Q, A>>>,
    /// How many questions are asked together.
    batch_max: usize,
    answer_max: Duration,
    turns: Semaphore,
    tasks: TaskTracker,
}

impl<K: Clone + Eq + Hash + Send + 'static, Q: Send + 'static, A: Send + 'static> Batches<K, Q, A> {
    /// `tasks` owns the asking: a screen that goes away takes nobody's answer along.
    pub fn new(batch_max: usize, tasks: TaskTracker) -> Arc<Self> {
        Self::within(ANSWER_MAX, batch_max, tasks)
    }

    fn within(answer_max: Duration, batch_max: usize, tasks: TaskTracker) -> Arc<Self> {
        let turns = Semaphore::new(TURNS_MAX);
        Arc::new(Self { waiting: Mutex::default(), batch_max, answer_max, turns, tasks })
    }

    /// Asks, in company. `answer` is given questions with this key, asked before it is called, and answers each, in
    /// their order.
    ///
    /// # Errors
    /// If the company's question could not be answered.
    pub async fn ask<F>(
        self: &Arc<Self>,
        key: K,
        question: Q,
        answer: impl Fn(Vec<Q>) -> F + Send + 'static,
    ) -> Result<A>
    where
        F: Future<Output = Result<Vec<A>>> + Send + 'static,
    {
        let (answered, answers) = oneshot::channel();
        let is_first = {
            let mut waiting = self.lock();
            let is_first = !waiting.contains_key(&key);
            waiting.entry(key.clone()).or_default().push((question, answered));
            is_first
        };
        if is_first {
            let batches = self.clone();
            self.tasks.spawn(async move { batches.answer_all(key, answer).await });
        }
        answers.await?.map_err(|failure| match failure {
            Failure::Busy(retry_after) => Error::Busy { retry_after },
            Failure::Other(why) => anyhow!(why).into(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Waiting<Q, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until nobody waits any more.
    async fn answer_all<F>(&self, key: K, answer: impl Fn(Vec<Q>) -> F)
    where
        F: Future<Output = Result<Vec<A>>>,
    {
        loop {
            let Ok(turn) = self.turns.acquire().await else { return };
            let batch: Waiting<Q, A> = {
                let mut waiting = self.lock();
                let Some(asked) = waiting.get_mut(&key).filter(|asked| !asked.is_empty()) else {
                    waiting.remove(&key);
                    return;
                };
                asked.drain(..asked.len().min(self.batch_max)).collect()
            };
            let (questions, answered): (Vec<Q>, Vec<_>) = batch.into_iter().unzip();
            // A panic must not leave the key taken: nobody would ever be the first again.
            let answering = AssertUnwindSafe(answer(questions)).catch_unwind();
            let answers = match tokio::time::timeout(self.answer_max, answering).await {
                Ok(Ok(answers)) => answers.map_err(|error| match error {
                    Error::Busy { retry_after } => Failure::Busy(retry_after),
                    error => Failure::Other(format!("{:#}", error.into_anyhow())),
                }),
                Ok(Err(_)) => Err(Failure::Other("answering panicked".to_owned())),
                Err(_) => Err(Failure::Other(format!("no answer within {:?}", self.answer_max))),
            };
            drop(turn);
            match answers {
                // Whoever has gone away needs no answer.
                Ok(answers) => answered.into_iter().zip(answers).for_each(|(to, answer)| drop(to.send(Ok(answer)))),
                Err(why) => answered.into_iter().for_each(|to| drop(to.send(Err(why.clone())))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn many_questions_are_few_batches_and_each_gets_its_own_answer() {
        let (batches, asked) = (Batches::new(256, TaskTracker::new()), Arc::new(AtomicUsize::new(0)));
        let questions = (0..2_000_usize).map(|question| {
            let asked = asked.clone();
            batches.ask(question % 2, question, move |questions| {
                asked.fetch_add(1, Relaxed);
                async move {
                    tokio::task::yield_now().await;
                    Ok(questions.into_iter().map(|question| question * 3).collect())
                }
            })
        });
        let answers: Vec<usize> = join_all(questions).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, (0..2_000).map(|question| question * 3).collect::<Vec<_>>());
        assert_eq!(asked.load(Relaxed), 2 * 1_000_usize.div_ceil(256));
        assert!(batches.lock().is_empty());
    }

    #[tokio::test]
    async fn one_that_goes_away_takes_nobody_along_and_a_failure_is_told_to_all() {
        let batches = Batches::<(), u8, u8>::new(256, TaskTracker::new());
        let slow = |questions: Vec<u8>| async move {
            tokio::task::yield_now().await;
            Ok(questions)
        };
        let mut first = Box::pin(batches.ask((), 1, slow));
        assert!(futures_util::poll!(&mut first).is_pending());
        let second = batches.ask((), 2, slow);
        drop(first);
        assert_eq!(second.await.unwrap(), 2);

        let fails = |_: Vec<u8>| async { Err(Error::NotFound("merchant")) };
        let (one, two) = tokio::join!(batches.ask((), 1, fails), batches.ask((), 2, fails));
        assert!(one.is_err() && two.is_err());
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_or_panics_holds_nobody_who_asks_later() {
        let batches = Batches::<(), u8, u8>::within(Duration::from_millis(50), 256, TaskTracker::new());
        assert!(batches.ask((), 1, |_| std::future::pending()).await.is_err());
        let panics = |questions: Vec<u8>| async move {
            assert!(questions.is_empty(), "it is asked about something");
            Ok(questions)
        };
        assert!(batches.ask((), 1, panics).await.is_err());
        let busy = |_: Vec<u8>| async { Err(Error::Busy { retry_after: Duration::from_secs(3) }) };
        assert!(
            matches!(batches.ask((), 1, busy).await, Err(Error::Busy { retry_after }) if retry_after.as_secs() == 3)
        );
        assert_eq!(batches.ask((), 2, |questions| async move { Ok(questions) }).await.unwrap(), 2);
    }
}
