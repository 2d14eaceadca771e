//! The desk, for refunds: each by one call to its provider. Whoever is killed here loses nothing, and gives nothing back twice:
//! that a provider may have been asked is written down before it is, and what nobody knows is looked for before it is asked for
//! again, under the same key.

use std::time::Duration;

use futures_util::FutureExt as _;
use tillwire_channels::{MerchantId, Moment, RefundId};
use tracing::{debug, info};

use super::desk::{ANOTHER_MAX, Desk, LONG_PAUSE, NOT_SENT_PAUSE, PAUSE, known, method, rest_without_account};
use crate::accounts::Account;
use crate::commerce::payments::State as Payment;
use crate::commerce::payments::attempts::Attempt;
use crate::commerce::payments::held::Held as HeldPayment;
use crate::commerce::payments::refunds::held::{self, Held, Todo};
use crate::commerce::payments::refunds::{self, Refund, State, Terms, Told};
use crate::connectors::ability;
use crate::connectors::caller::Outcome;
use crate::connectors::credentials::Provider;
use crate::connectors::habits::habits;
use crate::connectors::payment::{self, Id, KnownRefund};
use crate::connectors::refusal::{Again, Code, Refusal};
use crate::connectors::report::{RefundReport, RefundState, Report};
use crate::error::Result;

/// How often a refund is asked for, if the provider says each time that it has never heard of it.
const ASKED_MAX: i32 = 2;
/// How long after it was asked for a refund may still arrive. Midtrans takes a key once; at Xendit another one that comes after
/// this is another one.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10 * 60);
/// How long after a customer has paid somebody may have given the money back at the provider, before we have heard of it.
const MAY_BE_GONE_AFTER: Duration = Duration::from_secs(30);
/// How often it is tried to give back what Midtrans has not settled yet.
const SETTLES_AFTER: Duration = Duration::from_secs(60 * 60);

impl Desk {
    /// Does what is to be done for a refund, if somebody is to attend to it by now, or at once, and nobody does. Says whether it
    /// was anything.
    ///
    /// # Errors
    /// If the database does not answer, or the account cannot be opened. The refund is attended to later.
    pub async fn attend_refund(&self, merchant: MerchantId, refund: RefundId, at_once: bool) -> Result<bool> {
        let app = &self.journal.pools.app;
        if self.vault.keys().is_empty() {
            return Ok(false);
        }
        let Some(held) = held::take(app, merchant, refund, at_once).await? else { return Ok(false) };
        let account = match self.ready(&held).await {
            Ok(account) => account,
            Err(error) => {
                held.not_called(app, Some(rest_without_account(&error))).await?;
                return Err(error);
            }
        };
        let served = match held.todo {
            Todo::Ask => self.give_back(&held, &account).await,
            Todo::Look => self.look_after(&held, &account).await,
        };
        if let Err(error) = served {
            // Nobody waits until the lease is over.
            let pause = if error.is_passing() { NOT_SENT_PAUSE } else { PAUSE };
            if let Err(error) = held.put_off(app, Some(pause)).await {
                debug!(%refund, "A refund was held until its lease was over: {error:?}");
            }
            return Err(error);
        }
        Ok(true)
    }

    /// What comes before its provider is asked: a person is told that it takes long, if it does; and its account.
    async fn ready(&self, held: &Held) -> Result<Account> {
        if held.is_stuck {
            let (payment, refund) = (held.refund.payment, held.refund.id);
            self.journal
                .act(held.merchant, move |tx| async move { refunds::heard::stuck(tx, payment, refund).await }.boxed())
                .await?;
        }
        self.account(held.merchant, held.attempt.account).await
    }

    /// The same at once, and if somebody else is at it waits until they are done.
    pub async fn attend_refund_to_end(&self, merchant: MerchantId, refund: RefundId, mut at_once: bool) -> Result<()> {
        // Whoever was at it may have done it.
        let attend = || self.attend_refund(merchant, refund, std::mem::take(&mut at_once));
        self.watch(attend, || held::is_under_way(&self.journal.pools.app, merchant, refund)).await
    }

    /// Asks the provider for it.
    async fn give_back(&self, held: &Held, account: &Account) -> Result<()> {
        let (app, connector, refund) = (&self.journal.pools.app, account.credentials.connector(), &held.refund);
        // While it waited the customer's bank has taken the money back, or it was voided there: nobody gives it back twice.
        if matches!(held.attempt.state, Payment::Reversed | Payment::ChargedBack | Payment::Canceled) {
            return self.refund_failed(held, "money_gone").await;
        }
        let asked = payment::Refund {
            payment: known(&held.attempt)?,
            key: key(refund)?,
            amount_minor: refund.amount_minor,
            currency: refund.currency.clone(),
            reason: refund.reason,
            note: refund.note.clone(),
        };
        let Ok(request) = connector.refund(&asked) else { return self.refund_failed(held, "not_offered").await };
        match self.carry_soon(held.merchant, account, &request, false).await {
            Outcome::Answered(answer) => match connector.read(&request.asked, &answer) {
                Ok(report) if is_about(held, &report) && report.refunds.iter().any(|it| is_it(held, it)) => {
                    self.heard(held, report.refunds.into_iter().map(told).collect()).await
                }
                Ok(_) => self.nobody_knows(held).await,
                Err(refusal) => match (refusal.code, refusal.again) {
                    // It has it: of an attempt whose end we did not live to hear.
                    (Code::Duplicate | Code::InFlight, _) | (_, Again::Unknown) => self.nobody_knows(held).await,
                    // Which may be this very one, if it was asked for before.
                    (Code::RefundInProgress, _) | (_, Again::Never) if held.refund.calls > 0 => {
                        self.nobody_knows(held).await
                    }
                    (_, Again::Later(pause)) => held.not_called(app, pause).await,
                    // Midtrans gives a card's money back once it has settled it, which is on the next day.
                    (Code::IllegalState, _) if is_unsettled_card(held, account) => {
                        held.not_called(app, Some(SETTLES_AFTER)).await
                    }
                    (_, Again::Never) => self.refund_refused(held, &refusal).await,
                },
            },
            Outcome::NotSent(why) => held.not_called(app, Some(why.after().unwrap_or(NOT_SENT_PAUSE))).await,
            Outcome::Unknown(_) => self.nobody_knows(held).await,
        }
    }

    /// Asks the provider how it stands.
    async fn look_after(&self, held: &Held, account: &Account) -> Result<()> {
        let (app, connector, refund) = (&self.journal.pools.app, account.credentials.connector(), &held.refund);
        let asked = KnownRefund {
            payment: known(&held.attempt)?,
            key: key(refund)?,
            id: refund.there.as_deref().and_then(Id::parse),
        };
        let Ok(request) = connector.refund_status(&asked) else { return held.put_off(app, None).await };
        match self.carry_soon(held.merchant, account, &request, false).await {
            Outcome::Answered(answer) => match connector.read(&request.asked, &answer) {
                Ok(report) if !is_about(held, &report) => held.put_off(app, Some(LONG_PAUSE)).await,
                Ok(report) => {
                    let is_there = report.refunds.iter().any(|it| is_it(held, it));
                    let told = report.refunds.into_iter().map(told).collect();
                    if is_there { self.heard(held, told).await } else { self.is_missing(held, account, told).await }
                }
                Err(refusal) => {
                    debug!(refund = %refund.id, "A provider does not say how a refund stands: {}", refusal.theirs);
                    match refusal.again {
                        Again::Later(pause) => held.put_off(app, pause).await,
                        Again::Unknown => held.put_off(app, None).await,
                        Again::Never => held.put_off(app, Some(LONG_PAUSE)).await,
                    }
                }
            },
            Outcome::NotSent(why) => held.put_off(app, Some(why.after().unwrap_or(NOT_SENT_PAUSE))).await,
            Outcome::Unknown(_) => held.put_off(app, None).await,
        }
    }

    /// The provider tells of the payment's refunds, and not of this one.
    async fn is_missing(&self, held: &Held, account: &Account, told: Vec<Told>) -> Result<()> {
        let app = &self.journal.pools.app;
        if !matches!(held.refund.state, State::Created | State::Unknown) {
            // It was there before. Others are heard of meanwhile.
            return self.heard(held, with_own(held, told, held.refund.state)).await;
        }
        let may_arrive = held.called_for.is_none_or(|it| it < ARRIVES_WITHIN);
        let is_certain = habits(account.provider).takes_references_once || !may_arrive;
        if is_certain && held.refund.calls < ASKED_MAX {
            held.never_arrived(app).await
        } else if may_arrive {
            self.heard(held, with_own(held, told, State::Unknown)).await
        } else {
            self.refund_failed(held, "never_arrived").await
        }
    }

    /// What the provider says of a payment, with what it says of refunds of it, if that is another question and there was money, or
    /// is some that came a while ago. None: it could not be asked, and the payment was put off.
    pub(super) async fn with_refunds(
        &self,
        held: &HeldPayment,
        account: &Account,
        report: Report,
    ) -> Result<Option<Report>> {
        use Payment::{Paid, PaidLate, PartiallyRefunded, Refunded, Settled};
        let had_money = matches!(held.attempt.state, Paid | Settled | PartiallyRefunded | Refunded | PaidLate);
        let has_money = matches!(report.state, Some(Paid | Settled));
        let is_old = report.paid_at.is_some_and(|at| at + MAY_BE_GONE_AFTER < Moment::now_utc());
        // What its customer has paid once more is another matter, and told at once.
        let is_second = report.ids.payment.as_ref().zip(held.attempt.there.payment.as_deref());
        let is_second = had_money && is_second.is_some_and(|(told, known)| told.as_str() != known);
        let is_asked = had_money || has_money && is_old;
        if is_second || !is_asked || habits(account.provider).tells_refunds_with_payments {
            return Ok(Some(report));
        }
        // Whoever waits for the money is told of it, whatever becomes of a second question.
        let without = report.clone();
        let (connector, of) = (account.credentials.connector(), known(&held.attempt)?);
        let asked = KnownRefund { key: of.reference.clone(), payment: of, id: None };
        let Ok(request) = connector.refund_status(&asked) else { return Ok(Some(report)) };
        // One question more would outlast the lease.
        if held.since.elapsed() > ANOTHER_MAX {
            return self.left_without(held, had_money, without, PAUSE).await;
        }
        let pause = match self.carry(held.merchant, account, &request, true).await {
            Outcome::Answered(answer) => match connector.read(&request.asked, &answer) {
                Ok(list) if list.ids.request.is_none() || list.ids.request == asked.payment.ids.request => {
                    return Ok(Some(Report { refunds: list.refunds, ..report }));
                }
                // Of others, or nothing that can be read: what it says of the payment is heard all the same.
                Ok(_) => return Ok(Some(report)),
                Err(refusal) => {
                    debug!(payment = %held.attempt.payment, "A provider does not tell of refunds: {}", refusal.theirs);
                    let Again::Later(pause) = refusal.again else { return Ok(Some(report)) };
                    pause.unwrap_or(PAUSE)
                }
            },
            Outcome::NotSent(why) => why.after().unwrap_or(NOT_SENT_PAUSE),
            Outcome::Unknown(_) => PAUSE,
        };
        self.left_without(held, had_money, without, pause).await
    }

    /// What is made of a payment whose refunds could not be asked about.
    async fn left_without(
        &self,
        held: &HeldPayment,
        had_money: bool,
        report: Report,
        pause: Duration,
    ) -> Result<Option<Report>> {
        if !had_money {
            return Ok(Some(report));
        }
        held.put_off(&self.journal.pools.app, pause).await?;
        Ok(None)
    }

    async fn nobody_knows(&self, held: &Held) -> Result<()> {
        self.heard(held, vec![Told::of(&held.refund, State::Unknown)]).await
    }

    async fn refund_refused(&self, held: &Held, refusal: &Refusal) -> Result<()> {
        let said = refusal.said.as_deref().unwrap_or("no words");
        info!(refund = %held.refund.id, "{} refuses a refund: {} ({said})", held.attempt.provider, refusal.theirs);
        let code = serde_json::to_value(refusal.code)?;
        self.refund_failed(held, code.as_str().unwrap_or("refused")).await
    }

    async fn refund_failed(&self, held: &Held, why: &str) -> Result<()> {
        let failure = Some(why.to_owned());
        self.heard(held, vec![Told { failure, ..Told::of(&held.refund, State::Failed) }]).await
    }

    /// Writes down what is known of it. The provider may not say it again.
    async fn heard(&self, held: &Held, told: Vec<Told>) -> Result<()> {
        let (payment, held) = (held.refund.payment, held.clone());
        let said = self.write_down(held.merchant, held.refund.id, move |tx| {
            let (told, held) = (told.clone(), held.clone());
            async move { refunds::heard::apply(tx, payment, &told, &held).await }.boxed()
        });
        said.await
    }
}

/// What the provider of a payment lets go back; none if nothing.
///
/// # Errors
/// If the row says what nobody knows.
pub fn terms(attempt: &Attempt) -> Result<Option<Terms>> {
    let provider = Provider::of(&attempt.provider);
    let provider = provider.ok_or_else(|| anyhow::anyhow!("an unknown provider: {}", attempt.provider))?;
    Ok(ability::refund_terms(provider, method(attempt)?, attempt.issuer.as_deref()))
}

/// Whether an answer is about the payment of this refund, as far as it says so.
fn is_about(held: &Held, report: &Report) -> bool {
    let own = &held.attempt;
    let other = |said: Option<&str>, ours: Option<&str>| said.is_some_and(|said| ours.is_some_and(|ours| said != ours));
    !(other(report.reference.as_deref(), Some(&own.payment.to_string()))
        || other(report.ids.request.as_ref().map(Id::as_str), own.there.request.as_deref())
        || other(report.currency.as_deref(), Some(&own.currency)))
}

fn is_unsettled_card(held: &Held, account: &Account) -> bool {
    habits(account.provider).refunds_settled_cards_alone
        && held.attempt.method == "card"
        && held.attempt.state == Payment::Paid
}

fn is_it(held: &Held, report: &RefundReport) -> bool {
    told(report.clone()).is_of(&held.refund)
}

/// With a word on the one that was asked about, of which the provider says none.
fn with_own(held: &Held, mut told: Vec<Told>, state: State) -> Vec<Told> {
    told.push(Told::of(&held.refund, state));
    told
}

/// What a provider says of a refund, in commerce's words.
pub(super) fn told(report: RefundReport) -> Told {
    let state = match report.state {
        RefundState::Pending => State::Pending,
        RefundState::Succeeded => State::Succeeded,
        RefundState::Failed => State::Failed,
        RefundState::Canceled => State::Canceled,
    };
    Told {
        key: report.key,
        id: report.id,
        payment: report.payment,
        amount_minor: report.amount_minor,
        state,
        failure: report.failure,
        is_concluded: false,
    }
}

/// As the provider knows it: by its own id, or by the key of whoever made it there.
fn key(refund: &Refund) -> Result<Id> {
    let text = refund.key_there.clone().unwrap_or_else(|| refund.id.to_string());
    let key = Id::parse(&text).or_else(|| Id::parse(&refund.id.to_string()));
    key.ok_or_else(|| anyhow::anyhow!("a refund's id that is none").into())
}
