//! The services that this hub can send by: those for which it has been given a key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;
use tillwire_channels::Moment;
use tokio::time::{Instant, timeout, timeout_at};

use super::apns::{self, Apns, App};
use super::fcm::{self, Fcm};
use super::note::Message;
use super::registration::{Kind, Registration};
use super::webpush::{PublicKeys, WebPush};
use super::{ATTEMPT_MAX, Outcome};
use crate::egress::Egress;
use crate::turns::Turns;

/// What an operator says of each.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub vapid_key: Option<PathBuf>,
    pub contact: Option<String>,
    /// Networks that browsers' endpoints may lead to besides public addresses: for tests.
    pub networks: Vec<IpNet>,
    pub fcm_credentials: Option<PathBuf>,
    /// Another place than [`fcm::URL`].
    pub fcm_url: Option<String>,
    pub apns_key: Option<PathBuf>,
    pub apns_key_id: Option<String>,
    pub apns_team: Option<String>,
    pub apns_topic: Option<String>,
    pub apns_sandbox: bool,
    /// Another place than [`apns::URL`].
    pub apns_url: Option<String>,
}

/// How many notes are on their way at once, by a node: each browser's service takes a connection.
pub const AT_ONCE_MAX: usize = 64;
/// How many of them are one merchant's.
const OF_ONE_MAX: usize = 16;
/// How long a note waits for its turn. Most of its time is left then.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What there is to send by.
pub struct Services {
    turns: Turns,
    egress: Arc<Egress>,
    web: Option<WebPush>,
    fcm: Option<Fcm>,
    apns: Option<Apns>,
}

impl Default for Services {
    fn default() -> Self {
        let turns = Turns::new(AT_ONCE_MAX, OF_ONE_MAX);
        Self { turns, egress: Arc::default(), web: None, fcm: None, apns: None }
    }
}

impl Services {
    /// # Errors
    /// If something that is named cannot be read, or is incomplete.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        // Not what webhooks may reach: those are an owner's to add, and a device is any cashier's.
        let egress = Arc::new(Egress { networks: options.networks.clone(), ports: Vec::new() });
        let web = options.vapid_key.as_deref().map(|key| {
            let contact = options.contact.as_deref().context("--push-vapid-key needs --push-contact")?;
            WebPush::open(key, contact, egress.clone())
        });
        let fcm_url = options.fcm_url.as_deref().unwrap_or(fcm::URL);
        let fcm = options.fcm_credentials.as_deref().map(|credentials| Fcm::open(credentials, fcm_url));
        let default = if options.apns_sandbox { apns::SANDBOX_URL } else { apns::URL };
        let apns_url = options.apns_url.as_deref().unwrap_or(default);
        let apns = options.apns_key.as_deref().map(|key| {
            let app = App {
                key_id: options.apns_key_id.clone().context("--apns-key needs --apns-key-id")?,
                team: options.apns_team.clone().context("--apns-key needs --apns-team")?,
                topic: options.apns_topic.clone().context("--apns-key needs --apns-topic")?,
            };
            Apns::open(key, app, apns_url)
        });
        let (web, fcm, apns) = (web.transpose()?, fcm.transpose()?, apns.transpose()?);
        Ok(Self { egress, web, fcm, apns, ..Self::default() })
    }

    /// Whether there is a way to devices of this kind.
    pub fn reach(&self, kind: Kind) -> bool {
        match kind {
            Kind::Web => self.web.is_some(),
            Kind::Fcm => self.fcm.is_some(),
            Kind::Apns => self.apns.is_some(),
        }
    }

    /// Where browsers' endpoints may lead.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// What an app has to know before it registers.
    pub fn public_keys(&self) -> PublicKeys {
        let kinds = Kind::ALL.into_iter().filter(|kind| self.reach(*kind)).map(Kind::word).collect();
        PublicKeys { vapid: self.web.as_ref().map(WebPush::public_key), kinds }
    }

    /// Sends one message to one device, once, within [`ATTEMPT_MAX`].
    pub async fn send(&self, registration: &Registration, message: &Message) -> Outcome {
        let until = Instant::now() + ATTEMPT_MAX;
        let Ok(Some(_turn)) = timeout(WAIT_MAX, self.turns.begin(message.merchant)).await else {
            return Outcome::Busy;
        };
        let sending = timeout_at(until, self.send_now(registration, message));
        sending.await.unwrap_or_else(|_| Outcome::Later("nobody answered".to_owned(), None))
    }

    async fn send_now(&self, registration: &Registration, message: &Message) -> Outcome {
        let now = Moment::now_utc();
        let absent = || Outcome::Refused(format!("this hub has no key for {} any more", registration.kind().word()));
        match registration {
            Registration::Web { endpoint, keys } => match &self.web {
                Some(web) => web.send(endpoint, keys, message, now).await,
                None => absent(),
            },
            Registration::Fcm { token } => match &self.fcm {
                Some(fcm) => fcm.send(token, message, now).await,
                None => absent(),
            },
            Registration::Apns { token } => match &self.apns {
                Some(apns) => apns.send(token, message, now).await,
                None => absent(),
            },
        }
    }
}
