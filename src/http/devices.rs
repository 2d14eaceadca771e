//! `/v1/devices`: where people want to be told what no screen has shown them. Everybody sees their own.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use futures_util::FutureExt;
use garde::Validate;
use serde::{Deserialize, Serialize};
use tillwire_channels::{DeviceId, Moment, OutletId};
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Valid, printable};
use super::problem::Problem;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::ReadTx;
use crate::journal::{Written, pool};
use crate::push::devices::{self, DeviceView, Draft, QuietHours, RemovedDevice, Topics};
use crate::push::note::{Locale, Message};
use crate::push::quiet::Quiet;
use crate::push::registration::{Kind, Registration};
use crate::push::webpush::{Keys, PublicKeys};
use crate::push::{ATTEMPT_MAX, Outcome};

/// How long a test is worth anything.
const TEST_LIVES: std::time::Duration = std::time::Duration::from_secs(300);

/// base64 as browsers write it, and with the padding that some libraries add.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A device to be registered.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDevice {
    /// A UUID of your own; one is made if it is left out. A registration that is known keeps the id that it has.
    #[garde(skip)]
    pub id: Option<DeviceId>,
    #[garde(dive)]
    pub registration: GivenRegistration,
    /// What its owner calls it.
    #[garde(length(chars, max = 100), custom(printable))]
    #[serde(default)]
    pub name: String,
    /// The language in which it is told: `id` or `en`.
    #[garde(skip)]
    #[serde(default)]
    pub locale: Locale,
    /// When it is not to be told anything.
    #[garde(custom(quiet_hours))]
    pub quiet: Option<QuietHours>,
    #[garde(skip)]
    pub topics: Topics,
    /// Of these outlets alone; none for all that the bearer may hear of.
    #[garde(length(max = 100))]
    #[serde(default)]
    pub outlets: Vec<OutletId>,
}

/// A device as it is to be from now on.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutDevice {
    #[garde(dive)]
    pub registration: GivenRegistration,
    /// What its owner calls it.
    #[garde(length(chars, max = 100), custom(printable))]
    #[serde(default)]
    pub name: String,
    /// The language in which it is told: `id` or `en`.
    #[garde(skip)]
    #[serde(default)]
    pub locale: Locale,
    /// When it is not to be told anything.
    #[garde(custom(quiet_hours))]
    pub quiet: Option<QuietHours>,
    #[garde(skip)]
    pub topics: Topics,
    /// Of these outlets alone; none for all that the bearer may hear of.
    #[garde(length(max = 100))]
    #[serde(default)]
    pub outlets: Vec<OutletId>,
}

/// What the device's own service gave the app. Of a browser it is the kind, and what `PushSubscription.toJSON()` says.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenRegistration {
    #[garde(skip)]
    pub kind: Kind,
    /// A browser's.
    #[garde(length(bytes, min = 1, max = 2048))]
    pub endpoint: Option<String>,
    /// A browser's.
    #[garde(dive)]
    pub keys: Option<GivenKeys>,
    /// A browser's; nothing depends on it.
    #[garde(skip)]
    #[expect(dead_code)] // Taken, so that a subscription may be sent as it is.
    #[serde(rename = "expirationTime")]
    pub expiration_time: Option<f64>,
    /// FCM's registration token; APNs' device token, in hexadecimal digits.
    #[garde(length(bytes, min = 1, max = 1024))]
    pub token: Option<String>,
}

impl std::fmt::Debug for GivenRegistration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GivenRegistration({}, …)", self.kind.word())
    }
}

/// A browser's keys, in URL-safe base64.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenKeys {
    #[garde(length(bytes, min = 1, max = 200))]
    pub p256dh: String,
    #[garde(length(bytes, min = 1, max = 200))]
    pub auth: String,
}

fn quiet_hours(quiet: &Option<QuietHours>, _: &()) -> garde::Result {
    match quiet {
        Some(quiet) if quiet.from == quiet.to => Err(garde::Error::new("must end at another time than it begins")),
        Some(quiet) if quiet.time_zone.len() > 100 => Err(garde::Error::new("names no time zone")),
        _ => Ok(()),
    }
}

impl GivenRegistration {
    /// What it is, if there is a way to it.
    fn read(self, hub: &Hub) -> Result<Registration> {
        let Self { kind, endpoint, keys, token, .. } = self;
        if !hub.push.reach(kind) {
            let detail = format!("This hub has no key for {}: whoever runs it can give it one.", kind.word());
            return Err(Error::invalid("push_unavailable", "/registration/kind", detail));
        }
        let given = [("endpoint", endpoint.is_some()), ("keys", keys.is_some()), ("token", token.is_some())];
        let is_web = kind == Kind::Web;
        let wrong = given.into_iter().find(|(field, is_given)| *is_given != ((*field == "token") != is_web));
        if let Some((field, is_given)) = wrong {
            let detail = format!("`{}` {} this field.", kind.word(), if is_given { "has not" } else { "needs" });
            return Err(Error::invalid("invalid_field", format!("/registration/{field}"), detail));
        }
        let token = token.unwrap_or_default();
        match kind {
            Kind::Fcm => Registration::fcm(token),
            Kind::Apns => Registration::apns(&token),
            Kind::Web => {
                let (endpoint, keys) = endpoint.zip(keys).ok_or(Error::NotFound("registration"))?;
                let keys = Keys { p256dh: read("p256dh", &keys.p256dh)?, auth: read("auth", &keys.auth)? };
                Registration::web(endpoint, keys, hub.push.egress())
            }
        }
    }
}

fn read(field: &str, text: &str) -> Result<Vec<u8>> {
    let detail = "This is no URL-safe base64.";
    BASE64.decode(text).map_err(|_| Error::invalid("invalid_field", format!("/registration/keys/{field}"), detail))
}

fn quiet(hours: Option<QuietHours>) -> Option<Quiet> {
    hours.map(|hours| Quiet { from: hours.from.0, to: hours.to.0, zone: hours.time_zone })
}

/// A person's devices.
#[derive(Debug, Serialize, ToSchema)]
pub struct Devices {
    pub items: Vec<DeviceView>,
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tested {
    /// `sent`: the service has it; `gone`: the device is removed, for its service does not know it any more; `given_up`: the
    /// service will not take it; `later`: it does not answer, or has too much to do; `refused`: it does not know this hub.
    pub outcome: &'static str,
    /// What the service said, if it did not take it.
    pub detail: Option<String>,
}

/// What an app has to know before it registers: the key that a browser subscribes with, and what kinds of devices there are.
#[utoipa::path(get, path = "/v1/push/keys", tag = "devices",
    responses((status = 200, body = PublicKeys), (status = "default", body = Problem)))]
pub async fn keys(State(hub): State<Hub>, staff: Staff) -> Result<Json<PublicKeys>> {
    staff.may(Permission::BeNotified)?;
    Ok(Json(hub.push.public_keys()))
}

/// The bearer's own devices: ten at most.
#[utoipa::path(get, path = "/v1/devices", tag = "devices",
    responses((status = 200, body = Devices), (status = "default", body = Problem)))]
pub async fn list(State(hub): State<Hub>, staff: Staff) -> Result<Json<Devices>> {
    staff.may(Permission::BeNotified)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(Devices { items: devices::list(tx.sql(), staff.merchant, staff.id).await? }))
}

/// Registers a device of the bearer's own, or says again that it is there. It is told what the bearer's token lets it hear,
/// until that token is revoked, or 90 days after it was last said. A registration that somebody else of the merchant had is
/// theirs no more.
#[utoipa::path(post, path = "/v1/devices", tag = "devices", request_body = AddDevice,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = DeviceView), (status = "default", body = Problem)))]
pub async fn add(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<AddDevice>,
) -> Result<Written> {
    staff.may(Permission::BeNotified)?;
    let once = key.once("POST /v1/devices", &bytes);
    let AddDevice { id, registration, name, locale, quiet: hours, topics, outlets } = body;
    let registration = registration.read(&hub)?;
    let draft = Draft { registration, name, locale, quiet: quiet(hours), topics, outlets };
    let ring = hub.vault.sealer(&hub.journal.pools.app, staff.merchant).await?;
    let (own, caller) = (staff.clone(), staff.caller());
    hub.journal
        .write(caller, Some(once), 201, move |tx| {
            let (own, draft, ring) = (own.clone(), draft.clone(), ring.clone());
            async move { devices::register(tx, &own, id, &draft, ring.as_deref()).await }.boxed()
        })
        .await
}

/// One of the bearer's own devices.
#[utoipa::path(get, path = "/v1/devices/{device}", tag = "devices", params(("device" = DeviceId, Path)),
    responses((status = 200, body = DeviceView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff, At(id): At<DeviceId>) -> Result<Json<DeviceView>> {
    staff.may(Permission::BeNotified)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(devices::get(tx.sql(), staff.merchant, staff.id, id).await?))
}

/// Changes one of the bearer's own devices: what it is told, when not, and the registration, which its service changes now
/// and then.
#[utoipa::path(put, path = "/v1/devices/{device}", tag = "devices", request_body = PutDevice,
    params(("device" = DeviceId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = DeviceView), (status = "default", body = Problem)))]
pub async fn replace(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<DeviceId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<PutDevice>,
) -> Result<Written> {
    staff.may(Permission::BeNotified)?;
    let once = key.once("PUT /v1/devices/{device}", &bytes);
    let PutDevice { registration, name, locale, quiet: hours, topics, outlets } = body;
    let registration = registration.read(&hub)?;
    let draft = Draft { registration, name, locale, quiet: quiet(hours), topics, outlets };
    let ring = hub.vault.sealer(&hub.journal.pools.app, staff.merchant).await?;
    let (own, caller) = (staff.clone(), staff.caller());
    hub.journal
        .write(caller, Some(once), 200, move |tx| {
            let (own, draft, ring) = (own.clone(), draft.clone(), ring.clone());
            async move { devices::replace(tx, &own, id, &draft, ring.as_deref()).await }.boxed()
        })
        .await
}

/// Removes one of the bearer's own devices.
#[utoipa::path(delete, path = "/v1/devices/{device}", tag = "devices",
    params(("device" = DeviceId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = RemovedDevice), (status = "default", body = Problem)))]
pub async fn remove(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<DeviceId>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may(Permission::BeNotified)?;
    let once = key.once("DELETE /v1/devices/{device}", &[]);
    let own = staff.id;
    hub.journal.write(staff.caller(), Some(once), 200, move |tx| devices::remove(tx, own, id).boxed()).await
}

/// Sends a note of the type `push.test` to one of the bearer's own devices, now and whatever hour it is. The same key again
/// takes the place of the note that there was.
#[utoipa::path(post, path = "/v1/devices/{device}/test", tag = "devices",
    params(("device" = DeviceId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = Tested), (status = "default", body = Problem)))]
pub async fn test(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<DeviceId>,
    key: IdempotencyKey,
) -> Result<Json<Tested>> {
    staff.may(Permission::BeNotified)?;
    let (merchant, app) = (staff.merchant, &hub.journal.pools.app);
    let mut tx = ReadTx::begin(app, staff.caller()).await?;
    let (registration, locale, read_at) = devices::reached(tx.sql(), &hub.vault, merchant, staff.id, id).await?;
    // Not held while a service takes its time.
    drop(tx);
    let message = Message::test(merchant, &key.into_text(), locale, Moment::now_utc() + TEST_LIVES);
    let turn = hub.device_trials.begin(merchant).ok_or(Error::Busy { retry_after: ATTEMPT_MAX })?;
    let (app, push) = (app.clone(), hub.push.clone());
    // Whoever hangs up does not make it undone.
    let testing = tokio::spawn(async move {
        let _turn = turn;
        let outcome = push.send(&registration, &message).await;
        if let Outcome::Gone(since) = outcome {
            let mut sql = pool::begin_of(&app, merchant).await?;
            devices::forget(&mut sql, merchant, id, read_at, since).await?;
            sql.commit().await?;
        }
        Ok(outcome)
    });
    let outcome: Result<Outcome> = testing.await?;
    let outcome = outcome?;
    let detail = match &outcome {
        Outcome::Busy => return Err(Error::Busy { retry_after: ATTEMPT_MAX }),
        Outcome::Sent | Outcome::Gone(_) => None,
        Outcome::GivenUp(why) | Outcome::Later(why, _) | Outcome::Refused(why) => Some(why.clone()),
    };
    Ok(Json(Tested { outcome: outcome.word(), detail }))
}
