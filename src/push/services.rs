//! The services that this hub can send by: those for which it has been given a key.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tillwire_channels::Moment;
use tokio::sync::Semaphore;

use super::Outcome;
use super::apns::{self, Apns, App};
use super::devices::{Kind, Registration};
use super::fcm::{self, Fcm};
use super::note::Message;
use super::webpush::{PublicKeys, WebPush};
use crate::egress::Egress;

/// What an operator says of each.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub vapid_key: Option<PathBuf>,
    pub contact: Option<String>,
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

/// How many devices are sent something at once, by a node: each browser's service takes a connection.
pub const AT_ONCE_MAX: usize = 64;

/// What there is to send by.
pub struct Services {
    turns: Semaphore,
    web: Option<WebPush>,
    fcm: Option<Fcm>,
    apns: Option<Apns>,
}

impl Default for Services {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE_MAX), web: None, fcm: None, apns: None }
    }
}

impl Services {
    /// `egress` judges where browsers' endpoints lead.
    ///
    /// # Errors
    /// If something that is named cannot be read, or is incomplete.
    pub fn open(options: &Options, egress: Arc<Egress>) -> anyhow::Result<Self> {
        let web = options.vapid_key.as_deref().map(|key| {
            let contact = options.contact.as_deref().context("--push-vapid-key needs --push-contact")?;
            WebPush::open(key, contact, egress)
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
        Ok(Self { web: web.transpose()?, fcm: fcm.transpose()?, apns: apns.transpose()?, ..Self::default() })
    }

    /// Whether there is a way to devices of this kind.
    pub fn reach(&self, kind: Kind) -> bool {
        match kind {
            Kind::Web => self.web.is_some(),
            Kind::Fcm => self.fcm.is_some(),
            Kind::Apns => self.apns.is_some(),
        }
    }

    /// What an app has to know before it registers.
    pub fn public_keys(&self) -> PublicKeys {
        let kinds = Kind::ALL.into_iter().filter(|kind| self.reach(*kind)).map(Kind::word).collect();
        PublicKeys { vapid: self.web.as_ref().map(WebPush::public_key), kinds }
    }

    /// Sends one message to one device, once.
    pub async fn send(&self, registration: &Registration, message: &Message) -> Outcome {
        let Ok(_turn) = self.turns.acquire().await else { return Outcome::Later("the node stops".to_owned(), None) };
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
