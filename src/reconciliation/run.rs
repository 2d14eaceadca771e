//! Going on with a run, step by step. Each step commits with how far it has come, so that whoever is killed is gone on for, and
//! what is done twice is the same.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use sqlx::PgConnection;
use tillwire_channels::event::{AlertRaised, Severity};
use tillwire_channels::{Event, MerchantId, Moment, PaymentId};
use tracing::{info, warn};
use uuid::Uuid;

use super::ask::{self, Asking, Heard, Refused};
use super::compare::{Compared, Lesson, Source, View, compare};
use super::runs::{self, Held, Phase, Progress};
use super::told::{self, Told};
use super::{Class, differences, rows};
use crate::accounts::{self, Account, kept};
use crate::commerce::payments::{self, Seen, State, attempts};
use crate::connectors::credentials::Provider;
use crate::connectors::habits::habits;
use crate::error::Result;
use crate::journal::MerchantTx;
use crate::payments::Desk;

/// For how long one run is gone on with before others have their turn.
const TURN_MAX: Duration = Duration::from_secs(20);
/// How long after an error a run is gone on with.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a provider may be silent, or a step may fail, before its run is given up.
const SILENT_MAX: time::Duration = time::Duration::hours(24);
/// How much a provider may tell in one run.
const TOLD_MAX: i64 = 500_000;
/// How long payments have that are looked at before they are compared, and how often it is seen whether they were.
const LOOK_MAX: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many notifications are gone through in one step.
const NOTICES: i64 = 100;

/// Whoever goes on with runs. Cheap to clone.
#[derive(Clone)]
pub struct Reconciler {
    desk: Desk,
}

/// What comes after a step.
enum Then {
    Goes,
    Waits(Duration),
    Ended,
}

impl Reconciler {
    pub fn new(desk: Desk) -> Self {
        Self { desk }
    }

    /// Goes on with a run for a while, if nobody does and it is its time.
    ///
    /// # Errors
    /// If the database does not answer, or the account cannot be opened. Somebody goes on later.
    pub async fn advance(&self, merchant: MerchantId, run: Uuid) -> Result<()> {
        let app = &self.desk.journal.pools.app;
        let Some(mut held) = runs::take(app, merchant, run).await? else { return Ok(()) };
        let began = Instant::now();
        while began.elapsed() < TURN_MAX {
            match self.step(&mut held).await {
                Ok(Then::Goes) => {}
                Ok(Then::Waits(pause)) => return held.leave(app, pause).await,
                Ok(Then::Ended) => return Ok(()),
                Err(error) => {
                    if held.phase != Phase::Clearing && Moment::now_utc() - held.begun_at > SILENT_MAX {
                        let why = "It could not be gone on with for a day.".to_owned();
                        if self.fail(&mut held, why).await.is_ok() {
                            warn!(%run, "A comparison of payments is given up: {:#}", error.into_anyhow());
                            continue;
                        }
                    }
                    held.leave(app, AGAIN_AFTER).await?;
                    return Err(error);
                }
            }
        }
        held.leave(app, Duration::ZERO).await
    }

    async fn step(&self, held: &mut Held) -> Result<Then> {
        match held.phase {
            Phase::Asking => self.ask(held).await,
            Phase::Noticing => self.notice(held).await,
            Phase::Looking | Phase::Comparing => self.compare(held).await,
            Phase::Strangers => self.strangers(held).await,
            Phase::Clearing => self.clear(held).await,
        }
    }

    async fn account(&self, held: &Held) -> Result<Account> {
        let mut sql = held.begin(&self.desk.journal.pools.app).await?;
        accounts::open(&mut sql, &self.desk.vault, held.merchant, held.account).await
    }

    async fn ask(&self, held: &mut Held) -> Result<Then> {
        let app = &self.desk.journal.pools.app;
        let account = self.account(held).await?;
        let Desk { pulse, .. } = &self.desk;
        let asking = Asking { caller: self.desk.caller(), pulse, merchant: held.merchant, account: &account };
        let heard = if habits(account.provider).lists_settlements {
            asking.page(held).await
        } else {
            let mut sql = held.begin(app).await?;
            let payments = ask::to_ask(&mut sql, held, behind(held)).await?;
            drop(sql);
            asking.statuses(&payments).await
        };
        let heard = match heard {
            Ok(heard) => heard,
            Err(Refused(why)) => return self.fail(held, why).await,
        };
        if held.told > TOLD_MAX {
            return self.fail(held, format!("More than {TOLD_MAX} things were told: choose a shorter span.")).await;
        }
        if heard.wait.is_some() && Moment::now_utc() - held.begun_at > SILENT_MAX {
            return self.fail(held, "The provider has not told all within a day.".to_owned()).await;
        }
        let Heard { told, unreadable, next, wait } = heard;
        let is_all = next.is_none() && wait.is_none();
        let mut sql = held.begin(app).await?;
        told::keep(&mut sql, held, &told).await?;
        let progress = Progress {
            phase: is_all.then_some(Phase::Noticing),
            // One that waits before it has heard anything stays where it is.
            cursor: next.or_else(|| held.cursor.clone()).filter(|_| !is_all),
            told: told.len(),
            unreadable,
            ..Progress::default()
        };
        held.commit(sql, progress).await?;
        Ok(wait.map_or(Then::Goes, Then::Waits))
    }

    /// Notifications that were of no payment: of money that nobody here knows of.
    async fn notice(&self, held: &mut Held) -> Result<Then> {
        let app = &self.desk.journal.pools.app;
        let account = self.account(held).await?;
        let mut sql = held.begin(app).await?;
        let bodies = sqlx::query!(
            "select inbox_id, body from provider_inbox
             where merchant_id = $1 and account_id = $2 and outcome = 'unmatched' and inbox_id > $3
               and received_at >= $4 and received_at < $5
             order by inbox_id limit $6",
            held.merchant.0,
            held.account,
            behind(held),
            held.from,
            held.until,
            NOTICES,
        )
        .fetch_all(&mut *sql)
        .await?;
        let told: Vec<Told> = bodies
            .iter()
            .filter_map(|row| {
                let notice = account.credentials.connector().notice(&row.body).ok()?;
                Told::of_report(Source::Notice, row.inbox_id.to_string(), notice.claims)
            })
            .collect();
        told::keep(&mut sql, held, &told).await?;
        let cursor = bodies.last().map(|row| row.inbox_id.to_string());
        let phase = cursor.is_none().then_some(Phase::Looking);
        held.commit(sql, Progress { phase, cursor, ..Progress::default() }).await?;
        Ok(Then::Goes)
    }

    /// Some payments: first what follows is done, and later what still differs is kept.
    async fn compare(&self, held: &mut Held) -> Result<Then> {
        let app = &self.desk.journal.pools.app;
        let mut sql = held.begin(app).await?;
        let (mut ids, mut compared) = chunk(&mut sql, held).await?;
        let mut progress = Progress::default();
        if held.phase == Phase::Looking {
            drop(sql);
            self.learn(held, &compared.lessons).await?;
            sql = held.begin(app).await?;
            for payment in to_look_at(&compared) {
                attempts::prompt(&mut sql, held.merchant, payment).await?;
            }
            progress.phase = ids.is_empty().then_some(Phase::Comparing);
        } else {
            if to_look_at(&compared).next().is_some() {
                drop(sql);
                self.are_looked_at(held, &to_look_at(&compared).map(|it| it.0).collect::<Vec<_>>()).await?;
                sql = held.begin(app).await?;
                (ids, compared) = chunk(&mut sql, held).await?;
            }
            differences::keep(&mut sql, held, &compared).await?;
            rows::compared(&mut sql, held, &ids).await?;
            progress.compared = ids.len();
            progress.phase = ids.is_empty().then_some(Phase::Strangers);
        }
        progress.cursor = ids.last().map(Uuid::to_string);
        held.commit(sql, progress).await?;
        Ok(Then::Goes)
    }

    /// Waits until payments were looked at, for a while: what their provider says is heard by whoever attends to them.
    async fn are_looked_at(&self, held: &Held, payments: &[Uuid]) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < LOOK_MAX {
            let mut sql = held.begin(&self.desk.journal.pools.app).await?;
            let are_under_way = sqlx::query_scalar!(
                r#"select exists (select from payment_attempts
                                  where merchant_id = $1 and payment_id = any($2)
                                    and (prompted or leased_until > clock_timestamp())) as "are_under_way!""#,
                held.merchant.0,
                payments,
            )
            .fetch_one(&mut *sql)
            .await?;
            drop(sql);
            if !are_under_way {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What the provider is sure of goes the way of all that is heard of a payment.
    async fn learn(&self, held: &Held, lessons: &[(PaymentId, Lesson)]) -> Result<()> {
        for (payment, lesson) in lessons {
            let state = lesson.taken_back.or(lesson.settled.then_some(State::Settled));
            if state.is_none() && lesson.fee_minor.is_none() {
                continue;
            }
            let seen = Seen { state, fee_minor: lesson.fee_minor, asked: true, ..Seen::default() };
            let payment = *payment;
            self.desk
                .journal
                .act(held.merchant, move |tx| {
                    let seen = seen.clone();
                    async move { payments::apply(tx, payment, &seen, None).await }.boxed()
                })
                .await?;
        }
        Ok(())
    }

    async fn strangers(&self, held: &mut Held) -> Result<Then> {
        let mut sql = held.begin(&self.desk.journal.pools.app).await?;
        let provider = kept::get(&mut sql, held.merchant, held.account).await?.provider;
        let mut told = rows::strangers(&mut sql, held).await?;
        let is_all = told.len() < usize::try_from(rows::STRANGERS_MAX)?;
        let lines: Vec<String> = told.iter().filter(|it| it.source == Source::File).map(|it| it.id.clone()).collect();
        // A list has them all, and its report may name them otherwise: each would be there twice.
        told.retain(|it| it.source != Source::File || !habits(provider).lists_settlements);
        let view = View { at: Moment::now_utc(), files_until: None, whole: false };
        differences::keep(&mut sql, held, &compare(&[], &told, view)).await?;
        rows::lines_compared(&mut sql, held, &lines).await?;
        if !is_all {
            warn!(run = %held.run, "More was told of no payment of ours than is looked at in one run");
        }
        held.commit(sql, Progress { phase: Some(Phase::Clearing), ..Progress::default() }).await?;
        Ok(Then::Goes)
    }

    async fn fail(&self, held: &mut Held, why: String) -> Result<Then> {
        let sql = held.begin(&self.desk.journal.pools.app).await?;
        let progress = Progress { phase: Some(Phase::Clearing), error: Some(why), ..Progress::default() };
        held.commit(sql, progress).await?;
        Ok(Then::Goes)
    }

    async fn clear(&self, held: &mut Held) -> Result<Then> {
        let mut sql = held.begin(&self.desk.journal.pools.app).await?;
        if told::clear(&mut sql, held).await? {
            held.commit(sql, Progress::default()).await?;
            return Ok(Then::Goes);
        }
        drop(sql);
        let run = held.clone();
        let (provider, found, failed): (Provider, Vec<(Class, i64)>, bool) = self
            .desk
            .journal
            .act(held.merchant, move |tx| {
                let held = run.clone();
                async move { end(tx, &held).await }.boxed()
            })
            .await?;
        let outcome = if failed { "failed" } else { "done" };
        metrics::counter!("tillwire_reconciliations_total", "provider" => provider.as_str(), "outcome" => outcome)
            .increment(1);
        for (class, count) in found {
            metrics::counter!("tillwire_payment_differences_total", "provider" => provider.as_str(), "class" => class.as_str())
                .increment(count.unsigned_abs());
        }
        info!(run = %held.run, account = %held.account, outcome, "Compared payments with {provider}");
        Ok(Then::Ended)
    }
}

/// The next payments, and what comes of comparing them.
async fn chunk(sql: &mut PgConnection, held: &Held) -> Result<(Vec<Uuid>, Compared)> {
    let provider = kept::get(sql, held.merchant, held.account).await?.provider;
    let lists = habits(provider).lists_settlements;
    let chunk = rows::chunk(sql, held, behind(held), lists).await?;
    let files_until = rows::files_until(sql, held).await?;
    let view = View { at: Moment::now_utc(), files_until, whole: !lists };
    Ok((chunk.ids, compare(&chunk.ours, &chunk.theirs, view)))
}

fn to_look_at(compared: &Compared) -> impl Iterator<Item = PaymentId> {
    compared.lessons.iter().filter(|(_, lesson)| lesson.look).map(|(payment, _)| *payment)
}

/// Ends a run, and tells whom it concerns.
async fn end(tx: &mut MerchantTx, held: &Held) -> Result<(Provider, Vec<(Class, i64)>, bool)> {
    let (now, account) = (tx.now(), kept::get(tx.sql(), held.merchant, held.account).await?);
    let (_, error) = held.end(tx.sql()).await?;
    let found = differences::found_by(tx.sql(), held).await?;
    let called = format!("{} ({})", account.provider, account.mode.as_str());
    let told = match &error {
        Some(error) => Some((
            "reconciliation_failed",
            "Payments could not be compared with their provider",
            format!("{called}: {error} Payments go on; what differs is not found until this is mended."),
        )),
        None if found.is_empty() => None,
        None => {
            let all: Vec<String> = found.iter().map(|(class, count)| format!("{count} {}", class.as_str())).collect();
            let detail = format!("New at {called}: {}. Look at each, and close it with a reason.", all.join(", "));
            Some(("payments_differ", "Payments differ from what their provider tells", detail))
        }
    };
    if let Some((alert, title, detail)) = told {
        let alert = AlertRaised {
            alert: alert.to_owned(),
            severity: Severity::Warning,
            title: title.to_owned(),
            detail,
            subject: Some(held.run.to_string()),
            outlet: account.outlet,
            register: None,
        };
        tx.append(&Event::AlertRaised(alert), now)?;
    }
    Ok((account.provider, found, error.is_some()))
}

/// Behind which id a step goes on.
fn behind(held: &Held) -> Uuid {
    held.cursor.as_deref().and_then(|cursor| cursor.parse().ok()).unwrap_or_else(Uuid::nil)
}
