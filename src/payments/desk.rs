//! The desk: attends to payments, each by one call to its provider, and says what came of it.
//!
//! Whoever is killed here loses nothing: what was to be done is in the database, and that a provider may have been asked is
//! written there before it is. What nobody knows is never asked for again before the provider has said that it has not heard
//! of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tillwire_channels::event::PaymentShown;
use tillwire_channels::{MerchantId, PaymentId};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::accounts::known::KnownAccounts;
use crate::accounts::pulse::Pulse;
use crate::accounts::{self, Account, found};
use crate::commerce::outlets;
use crate::commerce::payments::attempts::{Attempt, There};
use crate::commerce::payments::held::{self, Held, Todo};
use crate::commerce::payments::{self, Applied, Seen, State};
use crate::connectors::ability::ability;
use crate::connectors::caller::{ANSWER_MAX, Call, Caller, NotSent, Outcome, WAIT_MAX};
use crate::connectors::credentials::{Mode, Provider};
use crate::connectors::habits::habits;
use crate::connectors::payment::{Bank, Card, Charge, Id, Ids, Known, Method};
use crate::connectors::qris;
use crate::connectors::refusal::{Again, Code, Refusal};
use crate::connectors::report::{Report, Shown};
use crate::connectors::request::Request;
use crate::error::{Error, Result};
use crate::journal::{Journal, MerchantTx, pool};
use crate::turns::Turns;
use crate::vault::Vault;

/// How long a payment rests after a call that could not be made, if nobody says for how long.
pub(super) const NOT_SENT_PAUSE: Duration = Duration::from_secs(2);
/// How long after a call that came to nothing.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
/// How long when only a person can mend what is in the way: the merchant's keys, say.
pub(super) const LONG_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How long a look that somebody waits for waits for the provider's pace.
const SOON_MAX: Duration = Duration::from_secs(1);
/// How often what a provider said is tried to be written down, and how long after a failure. It may not say it again.
const SAY_TRIES_MAX: u32 = 3;
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a provider is asked in one look.
const LOOKS_MAX: u32 = 4;
/// How long a payment may be held already when its provider is asked once more.
pub(super) const ANOTHER_MAX: Duration = Duration::from_secs(8);
/// How long one question takes at most: it waits for its turn, perhaps for the provider's pace and its turn again, and for the
/// answer.
const QUESTION_MAX: u64 = 2 * WAIT_MAX.as_secs() + SOON_MAX.as_secs() + ANSWER_MAX.as_secs();
/// All of a look ends within the lease, and some time is left to write down what came of it.
const _: () = assert!(ANOTHER_MAX.as_secs() + QUESTION_MAX < held::LEASE.as_secs());
/// How many payments are looked at at once because of notifications, and how many of one merchant.
const PROMPTED_MAX: usize = 64;
const PROMPTED_OF_ONE_MAX: usize = 16;
/// How long whoever waits for a payment to be attended to waits between two looks whether it was: at first, and at most.
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(50);
const WATCH_PAUSE_MAX: Duration = Duration::from_millis(400);
const WATCH_MAX: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub journal: Journal,
    pub vault: Arc<Vault>,
    caller: Arc<Caller>,
    /// How well accounts are heard, as this node has noticed since it last wrote that down.
    pub pulse: Arc<Pulse>,
    /// Accounts that were opened for notifications.
    pub(super) known: Arc<KnownAccounts>,
    /// Payments that are looked at because of a notification.
    pub(super) turns: Arc<Turns>,
}

/// Why somebody attends to a payment.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    /// Its provider has just told of it.
    pub prompted: bool,
    /// Whoever has just begun it need not wait for its turn.
    pub at_once: bool,
    /// That is worth waiting a moment for the provider's pace. Whoever comes back anyway does not hold up others by that.
    pub is_patient: bool,
    /// As the provider has named it then. It is a claim.
    pub hint: Ids,
    /// What the provider's script made of a card. It is kept nowhere.
    pub card: Option<Card>,
}

impl Desk {
    pub fn new(journal: Journal, vault: Arc<Vault>, caller: Arc<Caller>) -> Self {
        let turns = Arc::new(Turns::new(PROMPTED_MAX, PROMPTED_OF_ONE_MAX));
        Self { journal, vault, caller, pulse: Arc::default(), known: Arc::default(), turns }
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The same, over a journal with connections of its own.
    pub fn over(&self, journal: Journal) -> Self {
        Self { journal, ..self.clone() }
    }

    /// Does what is to be done for a payment, if somebody is to attend to it by now and nobody does. Gives what came of it, if
    /// anything was said.
    ///
    /// # Errors
    /// If the database does not answer, or the account cannot be opened. The payment is attended to later.
    pub async fn attend(&self, merchant: MerchantId, payment: PaymentId, cause: Cause) -> Result<Option<Applied>> {
        let app = &self.journal.pools.app;
        // Whoever cannot open an account would only keep others from it.
        if self.vault.keys().is_empty() {
            return Ok(None);
        }
        let Some(held) = held::take(app, merchant, payment, cause.at_once).await? else { return Ok(None) };
        if matches!(held.todo, Todo::Drop(_) | Todo::GiveUp) {
            return self.or_later(&held, self.end_unasked(&held)).await;
        }
        let account = match self.account(merchant, held.attempt.account).await {
            Ok(account) => account,
            Err(error) => {
                held.not_called(app, rest_without_account(&error)).await?;
                return Err(error);
            }
        };
        self.serve(&held, &account, cause).await
    }

    /// Does what is to be done for a payment that is held, at an account that is open.
    pub(super) async fn serve(&self, held: &Held, account: &Account, cause: Cause) -> Result<Option<Applied>> {
        self.or_later(held, self.serve_held(held, account, cause)).await
    }

    /// What came of it; or, if the database does not write that down, lets go of the payment: nobody waits until its lease is over.
    async fn or_later(
        &self,
        held: &Held,
        served: impl Future<Output = Result<Option<Applied>>>,
    ) -> Result<Option<Applied>> {
        let served = served.await;
        if let Err(error) = &served {
            self.let_go(held, if error.is_passing() { NOT_SENT_PAUSE } else { PAUSE }).await;
        }
        served
    }

    /// Lets go of a payment if it is held still: whoever comes next finds out how it stands.
    pub(super) async fn let_go(&self, held: &Held, pause: Duration) {
        if let Err(error) = held.put_off(&self.journal.pools.app, pause).await {
            debug!(payment = %held.attempt.payment, "A payment was held until its lease was over: {error:?}");
        }
    }

    async fn serve_held(&self, held: &Held, account: &Account, cause: Cause) -> Result<Option<Applied>> {
        let is_told = cause.prompted;
        let cause = Cause { prompted: is_told || held.prompted, is_patient: is_told || cause.is_patient, ..cause };
        let applied = match held.todo {
            Todo::Drop(_) | Todo::GiveUp => self.end_unasked(held).await?,
            Todo::Charge => self.charge(held, account, cause).await?,
            Todo::Capture(amount_minor) => self.capture(held, account, &cause, amount_minor).await?,
            Todo::Look => self.look(held, account, &cause).await?,
            Todo::Close(_) => self.close(held, account, &cause).await?,
        };
        if let Some(applied) = applied.as_ref().filter(|it| it.is_money_found()) {
            let (of, payment) = ((held.merchant, account.id, account.provider), held.attempt.payment);
            found::note(&self.journal.pools.app, of, payment, applied.attempt.paid_at, is_told).await;
        }
        Ok(applied)
    }

    /// Writes down that nobody is asked for it any more.
    async fn end_unasked(&self, held: &Held) -> Result<Option<Applied>> {
        let seen = match held.todo {
            Todo::Drop(why) => Seen { state: Some(why.state()), asked: true, ..Seen::default() },
            _ => Seen::default(),
        };
        self.say(held, seen).await
    }

    /// The same, and if somebody else is at it waits until they are done.
    pub async fn attend_to_end(&self, merchant: MerchantId, payment: PaymentId, mut cause: Cause) -> Result<()> {
        let attend = || {
            let now = Cause { is_patient: true, ..cause.clone() };
            // Whoever was at it may have done it, or have come too early for what is new.
            cause.at_once = false;
            async move { Ok(self.attend(merchant, payment, now).await?.is_some()) }
        };
        self.watch(attend, || held::is_under_way(&self.journal.pools.app, merchant, payment)).await
    }

    /// Attends to something until that was done, by whomever, or for as long as anybody waits for it.
    pub(super) async fn watch<A, U>(&self, mut attend: impl FnMut() -> A, is_under_way: impl Fn() -> U) -> Result<()>
    where
        A: Future<Output = Result<bool>>,
        U: Future<Output = Result<bool>>,
    {
        let (began, mut pause) = (Instant::now(), WATCH_PAUSE_MIN);
        while began.elapsed() < WATCH_MAX && !self.vault.keys().is_empty() {
            if attend().await? || !is_under_way().await? {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(WATCH_PAUSE_MAX);
        }
        Ok(())
    }

    pub(super) async fn account(&self, merchant: MerchantId, account: Uuid) -> Result<Account> {
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        accounts::open(&mut sql, &self.vault, merchant, account).await
    }

    async fn charge(&self, held: &Held, account: &Account, cause: Cause) -> Result<Option<Applied>> {
        let app = &self.journal.pools.app;
        let charge = match self.asked_for(held, cause.card).await {
            Ok(charge) => charge,
            Err(error) => {
                held.not_called(app, NOT_SENT_PAUSE).await?;
                return Err(error);
            }
        };
        let has_token = charge.card.as_ref().is_some_and(|card| card.token.is_some());
        if habits(account.provider).takes_card_tokens && charge.method == Method::Card && !has_token {
            return self.failed(held, "card_token_lost").await; // Whoever had it died before it was used.
        }
        let request = match account.credentials.connector().charge(&charge) {
            Ok(request) => request,
            Err(_) => return self.failed(held, "not_offered").await,
        };
        match self.carry(held.merchant, account, &request, false).await {
            Outcome::Answered(answer) => match account.credentials.connector().read(&request.asked, &answer) {
                Ok(report) => self.told(held, account, report).await,
                Err(refusal) => match (refusal.code, refusal.again) {
                    // It has it: of an attempt whose end we did not live to hear.
                    (Code::Duplicate | Code::InFlight, _) | (_, Again::Unknown) => self.unknown(held).await,
                    (_, Again::Later(pause)) => {
                        held.not_called(app, pause.unwrap_or(NOT_SENT_PAUSE)).await?;
                        Ok(None)
                    }
                    (_, Again::Never) => self.refused(held, &refusal).await,
                },
            },
            Outcome::NotSent(why) => {
                held.not_called(app, why.after().unwrap_or(NOT_SENT_PAUSE)).await?;
                Ok(None)
            }
            Outcome::Unknown(_) => self.unknown(held).await,
        }
    }

    /// Asks how it stands: by the most specific name that is known, and by the one that an answer tells of, for what was asked
    /// for may be over while its payment has come.
    pub(super) async fn look(&self, held: &Held, account: &Account, cause: &Cause) -> Result<Option<Applied>> {
        let (app, connector) = (&self.journal.pools.app, account.credentials.connector());
        let (own, mut prompted) = (known(&held.attempt)?, cause.prompted);
        // What a notification names is a claim: it is asked for by it, and else without.
        let mut asked_by = Known { ids: own.ids.clone().and(cause.hint.clone()), ..own.clone() };
        let mut report = None;
        // Where a card is entered on a page, only that says whether a card that was refused was the last.
        let (mut page, mut is_at_page) = (page_of(&held.attempt, &own.ids), false);
        for at in 0..LOOKS_MAX {
            if held.since.elapsed() > ANOTHER_MAX {
                if report.is_none() {
                    held.put_off(app, PAUSE).await?;
                    return Ok(None);
                }
                break;
            }
            let Ok(request) = connector.status(&asked_by) else { break };
            let is_patient = cause.is_patient || at > 0; // What was answered already is worth it.
            let outcome = if is_patient {
                self.carry_soon(held.merchant, account, &request, prompted).await
            } else {
                self.carry(held.merchant, account, &request, prompted).await
            };
            let answer = match outcome {
                Outcome::Answered(answer) => answer,
                Outcome::NotSent(why) => {
                    held.put_off(app, rest_unsent(why, is_patient || prompted)).await?;
                    return Ok(None);
                }
                Outcome::Unknown(_) => {
                    held.put_off(app, PAUSE).await?;
                    return Ok(None);
                }
            };
            match connector.read(&request.asked, &answer) {
                // Of another, or nobody knows of which.
                Ok(read)
                    if read.reference.as_deref().map_or(asked_by.ids != own.ids, |it| it != own.reference.as_str()) =>
                {
                    if asked_by.ids == own.ids {
                        break;
                    }
                    asked_by.ids = own.ids.clone();
                }
                Ok(read) => match goes_on(&asked_by.ids, read, &mut page) {
                    ControlFlow::Continue(next) => {
                        (asked_by.ids, report) = next;
                        is_at_page = report.is_none();
                    }
                    ControlFlow::Break(read) => {
                        report = Some(read);
                        break;
                    }
                },
                // Whether another card may still be tried there nobody has said: it is asked once more, later.
                Err(refusal) if is_at_page && refusal.code != Code::NotFound => {
                    held.put_off(app, rest(&refusal)).await?;
                    return Ok(None);
                }
                Err(_) if asked_by.ids != own.ids && report.is_none() => {
                    (asked_by.ids, is_at_page) = (own.ids.clone(), false);
                }
                Err(_) if report.is_some() => break,
                Err(refusal) if refusal.code == Code::NotFound => return self.not_found(held, account).await,
                Err(refusal) => {
                    debug!(payment = %held.attempt.payment, "A provider does not say how a payment stands: {}", refusal.theirs);
                    held.put_off(app, rest(&refusal)).await?;
                    return Ok(None);
                }
            }
            prompted = true; // It is one look.
        }
        match report {
            Some(report) => {
                // It may have been put off.
                let Some(report) = self.with_refunds(held, account, report).await? else { return Ok(None) };
                let seen = seen(&held.attempt, account, report, true)?;
                let still_held = seen.state == Some(State::Authorized);
                self.say(held, Seen { still_held, ..seen }).await
            }
            None => {
                held.put_off(app, LONG_PAUSE).await?; // The provider names it in a notification first.
                Ok(None)
            }
        }
    }

    /// The provider has never heard of it. Where what was sent may still arrive it is only looked for again.
    async fn not_found(&self, held: &Held, account: &Account) -> Result<Option<Applied>> {
        let attempt = &held.attempt;
        match (habits(account.provider).takes_references_once, attempt.state, attempt.closing) {
            // Nobody can have paid it, whatever somebody says.
            (true, State::Created | State::Unknown, None) if attempt.forced.is_some() => {
                self.failed(held, "never_arrived").await
            }
            (true, State::Created | State::Unknown, None) => {
                held.never_arrived(&self.journal.pools.app).await?;
                Ok(None)
            }
            (true, State::Created | State::Unknown, Some(why)) => {
                self.say(held, Seen { state: Some(why.state()), asked: true, ..Seen::default() }).await
            }
            _ => {
                let state = (attempt.state == State::Created).then_some(State::Unknown);
                self.say(held, Seen { state, asked: true, ..Seen::default() }).await
            }
        }
    }

    async fn close(&self, held: &Held, account: &Account, cause: &Cause) -> Result<Option<Applied>> {
        let (connector, known) = (account.credentials.connector(), known(&held.attempt)?);
        let request = match held.todo {
            Todo::Close(payments::attempts::Closing::Expired) => {
                connector.expire(&known).or_else(|_| connector.cancel(&known))
            }
            _ => connector.cancel(&known),
        };
        let Ok(request) = request else { return self.look(held, account, cause).await };
        match self.carry(held.merchant, account, &request, true).await {
            Outcome::Answered(answer) => match connector.read(&request.asked, &answer) {
                Ok(report) if report.state.is_some() => self.told(held, account, report).await,
                // It has gone on meanwhile, most likely because it was paid.
                _ => self.look(held, account, &Cause { prompted: true, ..cause.clone() }).await,
            },
            Outcome::NotSent(why) => {
                held.put_off(&self.journal.pools.app, why.after().unwrap_or(NOT_SENT_PAUSE)).await?;
                Ok(None)
            }
            Outcome::Unknown(_) => {
                held.put_off(&self.journal.pools.app, PAUSE).await?;
                Ok(None)
            }
        }
    }

    /// Asks a provider something for one of a merchant's accounts. There is no other way out, so that how well the account answers
    /// is known of every call.
    pub(super) async fn carry(
        &self,
        merchant: MerchantId,
        account: &Account,
        request: &Request,
        prompted: bool,
    ) -> Outcome {
        self.carry_once(false, merchant, account, request, prompted).await
    }

    /// The same, and somebody waits for it: for a turn, and if the provider's pace allows it a moment later for that.
    pub(super) async fn carry_soon(
        &self,
        merchant: MerchantId,
        account: &Account,
        request: &Request,
        prompted: bool,
    ) -> Outcome {
        match self.carry_once(true, merchant, account, request, prompted).await {
            Outcome::NotSent(NotSent::Held(after)) if after <= SOON_MAX => {
                tokio::time::sleep(after).await;
                self.carry_once(true, merchant, account, request, prompted).await
            }
            outcome => outcome,
        }
    }

    async fn carry_once(
        &self,
        patient: bool,
        merchant: MerchantId,
        account: &Account,
        request: &Request,
        prompted: bool,
    ) -> Outcome {
        let Account { provider, mode, .. } = *account;
        let outcome = self.caller.carry(Call { merchant, provider, mode, request, prompted, patient }).await;
        self.pulse.called(merchant, account.id, &outcome);
        outcome
    }

    /// The provider has said something of it.
    pub(super) async fn told(&self, held: &Held, account: &Account, report: Report) -> Result<Option<Applied>> {
        self.say(held, seen(&held.attempt, account, report, true)?).await
    }

    async fn unknown(&self, held: &Held) -> Result<Option<Applied>> {
        self.say(held, Seen { state: Some(State::Unknown), ..Seen::default() }).await
    }

    async fn refused(&self, held: &Held, refusal: &Refusal) -> Result<Option<Applied>> {
        let why = self.why(held, refusal)?;
        self.failed(held, &why).await
    }

    /// Why it was refused, in a word; the rest is for whoever looks after the merchant's account.
    pub(super) fn why(&self, held: &Held, refusal: &Refusal) -> Result<String> {
        let said = refusal.said.as_deref().unwrap_or("no words");
        info!(payment = %held.attempt.payment, "{} refuses a payment: {} ({said})", held.attempt.provider, refusal.theirs);
        let code = serde_json::to_value(refusal.code)?;
        Ok(code.as_str().unwrap_or("refused").to_owned())
    }

    async fn failed(&self, held: &Held, why: &str) -> Result<Option<Applied>> {
        let failure = Some(why.to_owned());
        self.say(held, Seen { state: Some(State::Failed), asked: true, failure, ..Seen::default() }).await
    }

    pub(super) async fn say(&self, held: &Held, seen: Seen) -> Result<Option<Applied>> {
        let (payment, held) = (held.attempt.payment, held.clone());
        let said = self.write_down(held.merchant, payment, move |tx| {
            let (seen, held) = (seen.clone(), held.clone());
            async move { payments::apply(tx, payment, &seen, Some(&held)).await }.boxed()
        });
        said.await.map(Some)
    }

    /// Writes down what is known of something. Its provider may not say it again.
    pub(super) async fn write_down<T, F>(&self, merchant: MerchantId, of: impl Display, command: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: for<'t> Fn(&'t mut MerchantTx) -> BoxFuture<'t, Result<T>> + Clone + Send + Sync + 'static,
    {
        let mut tried = 1;
        loop {
            match self.journal.act(merchant, command.clone()).await {
                Err(error) if tried < SAY_TRIES_MAX => {
                    debug!(%of, "What a provider has said is written down once more: {error:?}");
                }
                Err(error) => {
                    warn!(%of, "What a provider has said is not written down yet: {error:?}");
                    return Err(error);
                }
                said => return said,
            }
            tried += 1;
            tokio::time::sleep(SAY_AGAIN_AFTER).await;
        }
    }

    async fn asked_for(&self, held: &Held, card: Option<Card>) -> Result<Charge> {
        let attempt = &held.attempt;
        let mut sql = pool::begin_of(&self.journal.pools.app, held.merchant).await?;
        let outlet = outlets::get(&mut sql, held.merchant, attempt.outlet).await?;
        Ok(Charge {
            reference: reference(attempt.payment)?,
            method: method(attempt)?,
            amount_minor: attempt.amount_minor,
            currency: attempt.currency.clone(),
            expires_in: attempt.expires_in_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            at: tillwire_channels::Moment::now_utc(),
            shop: outlet.name,
            card: if attempt.hold { Some(Card { hold: true, ..card.unwrap_or_default() }) } else { card },
            notify_url: None,
            labels: BTreeMap::from([("outlet".to_owned(), outlet.code), ("sale".to_owned(), attempt.sale.to_string())]),
        })
    }
}

/// How long a payment rests whose account cannot be opened. A database that is busy is not for long.
pub(super) fn rest_without_account(error: &Error) -> Duration {
    if error.is_passing() { NOT_SENT_PAUSE } else { LONG_PAUSE }
}

/// How long a payment rests whose provider could not be asked how it stands. Where so many wait that there was no turn, nobody comes
/// back sooner than a look would, but for whom somebody waits.
fn rest_unsent(why: NotSent, is_awaited: bool) -> Duration {
    match why.after() {
        Some(after) => after,
        None if why == NotSent::Busy && !is_awaited => PAUSE,
        None => NOT_SENT_PAUSE,
    }
}

/// How long a payment rests whose provider does not say how it stands.
fn rest(refusal: &Refusal) -> Duration {
    match refusal.again {
        Again::Later(pause) => pause.unwrap_or(PAUSE),
        Again::Unknown => PAUSE,
        Again::Never => LONG_PAUSE,
    }
}

/// What a report says, for a payment of ours.
pub(super) fn seen(attempt: &Attempt, account: &Account, report: Report, asked: bool) -> Result<Seen> {
    let text = |id: &Option<Id>| id.as_ref().map(ToString::to_string);
    let ability = ability(account.provider, method(attempt)?);
    let unfit = match &report.shown {
        Some(Shown::Qr { text }) => unfit((account.provider, account.mode), text, attempt.amount_minor),
        _ => None,
    };
    Ok(Seen {
        state: report.state,
        may_reverse: report.may_reverse,
        asked,
        there: There {
            request: text(&report.ids.request),
            payment: text(&report.ids.payment),
            session: text(&report.ids.session),
        },
        stranger: report.merchant.filter(|it| !it.eq_ignore_ascii_case(account.credentials.merchant_there())),
        amount_minor: report.amount_minor,
        captured_minor: report.captured_minor,
        currency: report.currency,
        refunds: report.refunds.into_iter().map(super::refunding::told).collect(),
        shown: report.shown.map(shown),
        unfit,
        paid_at: report.paid_at,
        failure: report.failure.or(report.said),
        issuer: report.issuer,
        fee_minor: report.fee_minor,
        reversible: ability.is_some_and(|it| it.reversible_seconds.is_some()),
        ..Seen::default()
    })
}

/// Why a QR code is shown to nobody. What it says is checked before anybody sees it, but for what a sandbox sends in place of any
/// code: no app can pay it, and whoever tries out a till has no other.
fn unfit((provider, mode): (Provider, Mode), text: &str, amount_minor: i64) -> Option<String> {
    if mode == Mode::Test && habits(provider).sandbox_code == Some(text) {
        return None;
    }
    qris::check(text, amount_minor).err().map(|why| format!("The QR code is not shown: {why}."))
}

fn shown(shown: Shown) -> PaymentShown {
    match shown {
        Shown::Qr { text } => PaymentShown::Qr { text },
        Shown::VirtualAccount { bank, number } => {
            PaymentShown::VirtualAccount { bank: bank.as_str().to_owned(), number }
        }
        Shown::Bill { biller_code, bill_key } => PaymentShown::Bill { biller_code, bill_key },
        Shown::Redirect { url } => PaymentShown::Redirect { url },
    }
}

/// As the provider knows it: by its own id.
pub(crate) fn reference(payment: PaymentId) -> Result<Id> {
    Id::parse(&payment.to_string()).ok_or_else(|| anyhow::anyhow!("a payment's id that is none").into())
}

/// By which names is asked next, and what stands meanwhile, after an answer; or that this was all there is to hear.
fn goes_on(asked: &Ids, read: Report, page: &mut Option<Ids>) -> ControlFlow<Report, (Ids, Option<Report>)> {
    let newer = asked.clone().and(read.ids.clone());
    if newer != *asked && read.state != Some(State::Pending) {
        return ControlFlow::Continue((newer, Some(read)));
    }
    match page.take().filter(|_| read.state == Some(State::Failed)) {
        Some(page) => ControlFlow::Continue((page, None)),
        None => ControlFlow::Break(read),
    }
}

/// The page on which the customer pays, while they may.
fn page_of(attempt: &Attempt, ids: &Ids) -> Option<Ids> {
    let may_pay = matches!(attempt.state, State::Created | State::Unknown | State::Pending);
    let session = ids.session.clone().filter(|_| may_pay)?;
    Some(Ids { session: Some(session), ..Ids::default() })
}

pub(crate) fn known(attempt: &Attempt) -> Result<Known> {
    let id = |text: &Option<String>| text.as_deref().and_then(Id::parse);
    let There { request, payment, session } = &attempt.there;
    Ok(Known {
        reference: reference(attempt.payment)?,
        ids: Ids { request: id(request), payment: id(payment), session: id(session) },
        method: method(attempt)?,
        state: attempt.state,
    })
}

pub(crate) fn method(attempt: &Attempt) -> Result<Method> {
    let bank = attempt.bank.as_deref().and_then(Bank::of);
    match (attempt.method.as_str(), bank) {
        ("qris", _) => Ok(Method::Qris),
        ("card", _) => Ok(Method::Card),
        ("bank_transfer", Some(bank)) => Ok(Method::BankTransfer(bank)),
        (other, _) => Err(anyhow::anyhow!("an unknown way to pay: {other}").into()),
    }
}

impl Cause {
    /// That it was just begun, perhaps with a token of a card.
    pub fn begun(token: Option<SecretString>) -> Self {
        let card = token.map(|token| Card { token: Some(token), ..Card::default() });
        Self { at_once: true, card, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_turn_nobody_comes_back_soon_but_for_whom_somebody_waits() {
        let named = Duration::from_secs(7);
        for (why, awaited, alone) in [
            (NotSent::Busy, NOT_SENT_PAUSE, PAUSE),
            (NotSent::Unreachable, NOT_SENT_PAUSE, NOT_SENT_PAUSE),
            (NotSent::Unable, NOT_SENT_PAUSE, NOT_SENT_PAUSE),
            (NotSent::Held(named), named, named),
            (NotSent::Down(named), named, named),
        ] {
            assert_eq!((rest_unsent(why, true), rest_unsent(why, false)), (awaited, alone), "{why:?}");
        }
    }

    #[test]
    fn the_sandboxs_code_is_good_there_and_nowhere_else() {
        const CODE: &str = "some-random-qr-string";
        let unfit = |provider, mode, text| unfit((provider, mode), text, 48_500);
        assert_eq!(unfit(Provider::Xendit, Mode::Test, CODE), None);
        for (provider, mode, text) in [
            (Provider::Xendit, Mode::Live, CODE),
            (Provider::Midtrans, Mode::Test, CODE),
            (Provider::Xendit, Mode::Test, "some-other-qr-string"),
            (Provider::Xendit, Mode::Test, ""),
        ] {
            assert!(unfit(provider, mode, text).is_some(), "{provider} {mode:?} {text}");
        }
    }
}
