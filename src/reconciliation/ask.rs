//! Asking a provider what it knows: Xendit for its list of what it has moved, page by page; Midtrans, which has none, for each
//! payment of the span. A step asks for little, and what it has heard is kept with how far it has come.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tillwire_channels::{MerchantId, PaymentId};
use uuid::Uuid;

use super::compare::Source;
use super::runs::{Held, LEASE};
use super::told::Told;
use crate::accounts::Account;
use crate::accounts::pulse::Pulse;
use crate::commerce::payments::{Attempt, attempts};
use crate::connectors::caller::{ANSWER_MAX, Call, Caller, NotSent, Outcome, WAIT_MAX};
use crate::connectors::payment::{Id, Listing};
use crate::connectors::refusal::{Again, Code, Refusal};
use crate::connectors::request::{Answer, Request};
use crate::error::Result;
use crate::payments::desk::known;

/// How far around the span a list is asked for: what is paid at its edge may be listed a little later.
const MARGIN: time::Duration = time::Duration::hours(1);
/// How many payments are asked for in one step.
const ASKED: i64 = 10;
/// How long one step may ask, its last call aside.
const ASKING_MAX: Duration = Duration::from_secs(20);
/// How long a provider is left alone that does not say for how long.
const PAUSE: Duration = Duration::from_secs(10);
/// For how long a call waits for the provider's pace: as long as one payment is left alone. Longer ones come back.
const HELD_MAX: Duration = Duration::from_secs(10);

/// A step ends within the run's lease.
const _: () = assert!(
    ASKING_MAX.as_secs() + 2 * WAIT_MAX.as_secs() + HELD_MAX.as_secs() + ANSWER_MAX.as_secs() < LEASE.as_secs()
);

/// What came of asking.
#[derive(Debug, Default)]
pub struct Heard {
    pub told: Vec<Told>,
    pub unreadable: usize,
    /// How far it has come; none when the provider has told all.
    pub next: Option<String>,
    /// That it cannot go on before so long.
    pub wait: Option<Duration>,
}

impl Heard {
    /// How a payment stands; or that nobody can say, which is no proof that it is not there.
    fn hears(&mut self, attempt: &Attempt, told: Option<Told>) {
        self.unreadable += usize::from(told.is_none());
        let reference = Some(attempt.payment.to_string());
        self.told.push(told.map_or_else(|| Told::unread(attempt), |told| Told { reference, ..told }));
    }
}

/// Why nothing more will be heard.
#[derive(Debug)]
pub struct Refused(pub String);

/// What goes out, for one run.
pub struct Asking<'a> {
    pub caller: &'a Caller,
    pub pulse: &'a Pulse,
    pub merchant: MerchantId,
    pub account: &'a Account,
}

enum Answered {
    With(Answer),
    Not(Duration),
}

impl Asking<'_> {
    async fn carry(&self, request: &Request) -> Answered {
        let Account { provider, mode, .. } = *self.account;
        let call = || Call { merchant: self.merchant, provider, mode, request, prompted: false, patient: true };
        let outcome = match self.caller.carry(call()).await {
            // Whoever comes back later may find that a look at the same payment, which fails again and again, was sooner each time.
            Outcome::NotSent(NotSent::Held(after)) if after <= HELD_MAX => {
                tokio::time::sleep(after).await;
                self.caller.carry(call()).await
            }
            outcome => outcome,
        };
        self.pulse.called(self.merchant, self.account.id, &outcome);
        match outcome {
            Outcome::Answered(answer) => Answered::With(answer),
            Outcome::NotSent(why) => Answered::Not(why.after().unwrap_or(PAUSE)),
            Outcome::Unknown(_) => Answered::Not(PAUSE),
        }
    }

    /// A page of the provider's list, behind where the last one ended.
    pub async fn page(&self, held: &Held) -> std::result::Result<Heard, Refused> {
        let connector = self.account.credentials.connector();
        let after = held.cursor.as_deref().and_then(Id::parse);
        let listing = Listing { from: held.from - MARGIN, until: held.until + MARGIN, after };
        let not_offered = || Refused("The provider has no list of what it has moved.".to_owned());
        let request = connector.settlements(&listing).map_err(|_| not_offered())?;
        let waits = |pause| Heard { wait: Some(pause), next: held.cursor.clone(), ..Heard::default() };
        let answer = match self.carry(&request).await {
            Answered::With(answer) => answer,
            Answered::Not(pause) => return Ok(waits(pause)),
        };
        match connector.read_page(&answer) {
            Ok(page) if page.next.is_some() && page.next == held.cursor => {
                Err(Refused("The provider's list does not go on.".to_owned()))
            }
            Ok(page) => Ok(Heard {
                unreadable: page.unreadable.len(),
                told: page.rows.into_iter().map(Told::of_row).collect(),
                next: page.next,
                wait: None,
            }),
            Err(refusal) => pause_after(&refusal).map(waits),
        }
    }

    /// How some payments stand. Of what the provider has never heard of it tells nothing.
    pub async fn statuses(&self, payments: &[Attempt]) -> std::result::Result<Heard, Refused> {
        let connector = self.account.credentials.connector();
        let (mut heard, began) = (Heard::default(), Instant::now());
        for attempt in payments {
            if began.elapsed() >= ASKING_MAX {
                break;
            }
            let request = known(attempt).ok().and_then(|known| connector.status(&known).ok());
            if let Some(request) = request {
                match self.carry(&request).await {
                    Answered::Not(pause) => {
                        heard.wait = Some(pause);
                        break;
                    }
                    Answered::With(answer) => match connector.read(&request.asked, &answer) {
                        Ok(report) => {
                            let told = Told::of_report(Source::Provider, attempt.payment.to_string(), report);
                            let is_ours = |told: &Told| {
                                told.reference.as_deref().is_none_or(|it| it == attempt.payment.to_string())
                            };
                            heard.hears(attempt, told.filter(is_ours));
                        }
                        Err(refusal) if refusal.code == Code::NotFound => {}
                        Err(refusal) => match (pause_after(&refusal)?, refusal.again) {
                            (pause, Again::Later(_)) => {
                                heard.wait = Some(pause);
                                break;
                            }
                            _ => heard.hears(attempt, None),
                        },
                    },
                }
            }
            heard.next = Some(attempt.payment.to_string());
        }
        Ok(heard)
    }
}

/// For how long a refusal holds; or that only a person can mend it.
fn pause_after(refusal: &Refusal) -> std::result::Result<Duration, Refused> {
    match (refusal.code, refusal.again) {
        (Code::WrongKeys | Code::NotEnabled, _) => {
            let said = refusal.said.as_deref().map(|said| format!(": {said}")).unwrap_or_default();
            let said = format!("The provider refuses to tell, with {}{said}", refusal.theirs);
            Err(Refused(format!("{}.", said.trim_end_matches('.'))))
        }
        (_, Again::Later(pause)) => Ok(pause.unwrap_or(PAUSE)),
        _ => Ok(PAUSE),
    }
}

/// Payments that the provider may know of, behind one of them: those of the span, and those of which something differs, which would
/// else never be known to be right.
pub async fn to_ask(sql: &mut PgConnection, held: &Held, behind: Uuid) -> Result<Vec<Attempt>> {
    let ids = sqlx::query_scalar!(
        r#"select payment_id as "payment!"
           from ((select payment_id from payment_attempts
                  where merchant_id = $1 and account_id = $2 and called_at is not null and payment_id > $3
                    and (created_at >= $4 and created_at < $5 or paid_at >= $4 and paid_at < $5)
                  order by payment_id limit $6)
                 union
                 (select differs.payment_id from payment_differences differs
                  join payment_attempts attempt
                    on attempt.merchant_id = differs.merchant_id and attempt.payment_id = differs.payment_id
                  where differs.merchant_id = $1 and differs.account_id = $2 and differs.closed_at is null
                    and differs.payment_id > $3 and attempt.called_at is not null
                  order by differs.payment_id limit $6)) known
           order by 1 limit $6"#,
        held.merchant.0,
        held.account,
        behind,
        held.from,
        held.until,
        ASKED,
    )
    .fetch_all(&mut *sql)
    .await?;
    let mut all = Vec::with_capacity(ids.len());
    for id in ids {
        all.push(attempts::get(sql, held.merchant, PaymentId(id)).await?);
    }
    Ok(all)
}
