//! Taking money that a card holds. It was written down how much, and that the provider may have been asked; whoever does not know
//! what came of that asks how it stands before it asks once more.

use super::desk::{Cause, Desk, NOT_SENT_PAUSE, known};
use crate::accounts::Account;
use crate::commerce::payments::held::Held;
use crate::commerce::payments::{Applied, Seen};
use crate::connectors::caller::Outcome;
use crate::connectors::refusal::{Again, Refusal};
use crate::error::Result;

impl Desk {
    pub(super) async fn capture(
        &self,
        held: &Held,
        account: &Account,
        cause: &Cause,
        amount_minor: i64,
    ) -> Result<Option<Applied>> {
        let (app, connector) = (&self.journal.pools.app, account.credentials.connector());
        // One that its provider has not named yet is named by what it says of it.
        let Ok(request) = connector.capture(&known(&held.attempt)?, amount_minor) else {
            return self.look(held, account, cause).await;
        };
        if !held.asks_to_take(app, amount_minor).await? {
            held.put_off(app, NOT_SENT_PAUSE).await?;
            return Ok(None);
        }
        match self.carry(held.merchant, account, &request, true).await {
            Outcome::Answered(answer) => match connector.read(&request.asked, &answer) {
                Ok(report) if report.state.is_some() => self.told(held, account, report).await,
                Err(Refusal { again: Again::Later(pause), .. }) => {
                    held.not_called(app, pause.unwrap_or(NOT_SENT_PAUSE)).await?;
                    Ok(None)
                }
                Err(refusal) if refusal.again == Again::Never => {
                    let capture_refused = Some(self.why(held, &refusal)?);
                    self.say(held, Seen { asked: true, capture_refused, ..Seen::default() }).await
                }
                // It has gone on, or nobody knows.
                _ => self.look(held, account, &Cause { prompted: true, ..cause.clone() }).await,
            },
            Outcome::NotSent(why) => {
                held.not_called(app, why.after().unwrap_or(NOT_SENT_PAUSE)).await?;
                Ok(None)
            }
            Outcome::Unknown(_) => {
                held.put_off(app, NOT_SENT_PAUSE).await?;
                Ok(None)
            }
        }
    }
}
