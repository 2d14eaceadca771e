//! Devices: where people want to be told something, of what, and when not. Where there is a vault, under what name a service
//! knows one is kept sealed, and found by a keyed hash.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::topic::Listener;
use tillwire_channels::{DeviceId, MerchantId, Moment, OutletId, RegisterId, Role, StaffId};
use time::Time;
use utoipa::ToSchema;
use uuid::Uuid;

use super::note::{About, Locale};
use super::quiet::{Quiet, TimeOfDay};
use super::webpush::{AUTH_BYTES, Keys, POINT_BYTES};
use crate::egress::Egress;
use crate::error::{Error, OnConstraint, Result};
use crate::identity::{Staff, staff};
use crate::journal::MerchantTx;
use crate::vault::{Found, KNOWN_FOR, Keyring, Place, Sealed, Vault};

/// The most devices of one person.
pub const OF_PERSON_MAX: i64 = 10;
/// The most devices of one merchant: as many are asked for when something happens.
pub const OF_MERCHANT_MAX: i64 = 1_000;
/// The most outlets that a device may be narrowed to.
pub const OUTLETS_MAX: usize = 100;
/// For how many days a device is sent something after its app was last heard of.
const KEPT_DAYS: i32 = 90;
/// For how long each note to a device may fail before it is removed.
const FAILING_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest token of FCM that is kept, in bytes. None has been seen that is longer than a fifth of it.
const FCM_TOKEN_BYTES_MAX: usize = 1_024;
/// How long APNs' tokens are, in bytes. There may be longer ones one day, says Apple.
const APNS_TOKEN_BYTES: std::ops::RangeInclusive<usize> = 32..=100;

/// Whose service leads to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A browser, by Web Push.
    Web,
    /// Android, by Google's FCM.
    Fcm,
    /// Apple's devices, by APNs.
    Apns,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Web, Self::Fcm, Self::Apns];

    pub fn word(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Fcm => "fcm",
            Self::Apns => "apns",
        }
    }
}

/// Under what name its service knows a device. Whoever knows it may tell the device something: it is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub enum Registration {
    Web { endpoint: String, keys: Keys },
    Fcm { token: String },
    Apns { token: String },
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({}, …)", self.kind().word())
    }
}

impl Registration {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Web { .. } => Kind::Web,
            Self::Fcm { .. } => Kind::Fcm,
            Self::Apns { .. } => Kind::Apns,
        }
    }

    /// A browser's subscription.
    ///
    /// # Errors
    /// With the field, if the endpoint may not be connected to, or a key is none.
    pub fn web(endpoint: String, keys: Keys, egress: &Egress) -> Result<Self> {
        let refused =
            |field: &str, detail: &str| Error::invalid("invalid_field", format!("/registration/{field}"), detail);
        egress
            .parse(&endpoint)
            .map_err(|why| Error::invalid("url_refused", "/registration/endpoint", format!("{}.", why.detail())))?;
        if !Keys::is_point(&keys.p256dh) {
            return Err(refused("keys/p256dh", "A point on P-256 that is not compressed is needed: 65 bytes."));
        }
        if keys.auth.len() != AUTH_BYTES {
            return Err(refused("keys/auth", "16 bytes are needed."));
        }
        Ok(Self::Web { endpoint, keys })
    }

    /// # Errors
    /// If it looks like no token of FCM.
    pub fn fcm(token: String) -> Result<Self> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:.".contains(&byte);
        match (1..=FCM_TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(is_token) {
            true => Ok(Self::Fcm { token }),
            false => Err(Error::invalid("invalid_field", "/registration/token", "This is no token of FCM.")),
        }
    }

    /// # Errors
    /// If it looks like no token of APNs.
    pub fn apns(token: &str) -> Result<Self> {
        let is_token = token.len().is_multiple_of(2)
            && APNS_TOKEN_BYTES.contains(&(token.len() / 2))
            && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        match is_token {
            // In one form, so that the same device is known again.
            true => Ok(Self::Apns { token: token.to_ascii_lowercase() }),
            false => {
                let detail =
                    "A token of APNs is needed, in hexadecimal digits: 64, or more, of a device with a newer one.";
                Err(Error::invalid("invalid_field", "/registration/token", detail))
            }
        }
    }

    /// What no other device of its kind has: a URL, or a token.
    fn name(&self) -> &str {
        match self {
            Self::Web { endpoint, .. } => endpoint,
            Self::Fcm { token } | Self::Apns { token } => token,
        }
    }

    fn keys(&self) -> Option<&Keys> {
        match self {
            Self::Web { keys, .. } => Some(keys),
            Self::Fcm { .. } | Self::Apns { .. } => None,
        }
    }

    fn of(kind: &str, text: String, p256dh: Option<Vec<u8>>, auth: Option<Vec<u8>>) -> anyhow::Result<Self> {
        match (kind, p256dh, auth) {
            ("web", Some(p256dh), Some(auth)) => Ok(Self::Web { endpoint: text, keys: Keys { p256dh, auth } }),
            ("fcm", None, None) => Ok(Self::Fcm { token: text }),
            ("apns", None, None) => Ok(Self::Apns { token: text }),
            _ => Err(anyhow::anyhow!("an unknown kind of device in the database: {kind}")),
        }
    }

    /// As it is sealed: a browser's two keys, which have one length each, and the name.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.keys().map(|keys| [keys.p256dh.as_slice(), &keys.auth]);
        let parts = keys.into_iter().flatten().chain([self.name().as_bytes()]).collect::<Vec<_>>();
        Zeroizing::new(parts.concat())
    }

    /// What [`to_bytes`](Self::to_bytes) made.
    fn of_bytes(kind: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let (p256dh, auth, name) = match kind {
            "web" => {
                let (keys, name) =
                    bytes.split_at_checked(POINT_BYTES + AUTH_BYTES).context("a browser without keys")?;
                let (p256dh, auth) = keys.split_at(POINT_BYTES);
                (Some(p256dh.to_vec()), Some(auth.to_vec()), name)
            }
            _ => (None, None, bytes),
        };
        Self::of(kind, str::from_utf8(name).ok().context("a registration that is no text")?.to_owned(), p256dh, auth)
    }

    /// All that it may be found by while it is sealed.
    fn marks(&self, ring: Option<&Keyring>) -> Vec<Vec<u8>> {
        ring.map(|ring| ring.marks(&self.marked())).unwrap_or_default()
    }

    fn marked(&self) -> [&[u8]; 2] {
        [self.kind().word().as_bytes(), self.name().as_bytes()]
    }
}

/// A registration as it is written to its row: in clear or sealed.
#[derive(Default)]
struct Columns<'a> {
    registration: Option<&'a str>,
    p256dh: Option<&'a [u8]>,
    auth: Option<&'a [u8]>,
    sealed: Option<Vec<u8>>,
    data_key: Option<Uuid>,
    mark: Option<Vec<u8>>,
}

impl<'a> Columns<'a> {
    /// Sealed, if there is something to seal with.
    fn of(registration: &'a Registration, id: DeviceId, ring: Option<&Keyring>) -> anyhow::Result<Self> {
        let Some(ring) = ring else {
            let keys = registration.keys();
            let (p256dh, auth) = (keys.map(|keys| keys.p256dh.as_slice()), keys.map(|keys| keys.auth.as_slice()));
            return Ok(Self { registration: Some(registration.name()), p256dh, auth, ..Self::default() });
        };
        let Sealed { key, bytes } = ring.seal(place(&[id.0]), &registration.to_bytes())?;
        let mark = ring.mark(&registration.marked())?;
        Ok(Self { sealed: Some(bytes), data_key: Some(key), mark: Some(mark), ..Self::default() })
    }
}

/// A registration as it was read from its row.
struct Kept {
    kind: String,
    registration: Option<String>,
    p256dh: Option<Vec<u8>>,
    auth: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    data_key: Option<Uuid>,
}

impl Kept {
    fn open(self, ring: &Keyring, id: DeviceId) -> anyhow::Result<Registration> {
        match (self.registration, Sealed::of(self.data_key, self.sealed)) {
            (Some(clear), _) => Registration::of(&self.kind, clear, self.p256dh, self.auth),
            (None, Some(sealed)) => {
                Registration::of_bytes(&self.kind, ring.open(place(&[id.0]), &sealed)?.expose_secret())
            }
            (None, None) => Err(anyhow::anyhow!("a device without a registration")),
        }
    }
}

fn place(row: &[Uuid]) -> Place<'_> {
    Place { table: "push_devices", column: "registration", row }
}

/// What a device is to be.
#[derive(Clone, Debug)]
pub struct Draft {
    pub registration: Registration,
    pub name: String,
    pub locale: Locale,
    pub quiet: Option<Quiet>,
    pub topics: Topics,
    /// None for all.
    pub outlets: Vec<OutletId>,
}

/// What of a person wants to be told on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    /// Money that arrives.
    #[serde(default)]
    pub payments: bool,
    /// What somebody should look at.
    #[serde(default)]
    pub alerts: bool,
}

/// Quiet hours, as asked for and answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// From this time of day, as `22:00`.
    #[schema(value_type = String)]
    pub from: TimeOfDay,
    /// Up to this one, which may be on the next day.
    #[schema(value_type = String)]
    pub to: TimeOfDay,
    /// By whose clocks: an IANA name such as `Asia/Jakarta`.
    pub time_zone: String,
}

/// A device, as answered. Under what name its service knows it is not shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceView {
    pub id: DeviceId,
    pub kind: String,
    pub name: String,
    pub locale: String,
    pub quiet: Option<QuietHours>,
    pub topics: Topics,
    /// Of these outlets alone; none for all.
    pub outlets: Vec<OutletId>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
    /// When the app was last heard of. Nothing is sent any more after 90 days.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub renewed_at: Moment,
}

/// Registers a device of a person's own. One that was registered before is the same device, or is taken over from whoever had
/// it: a phone tells its own person's things and nobody else's. Its registration is sealed if there is something to seal with.
pub async fn register(
    tx: &mut MerchantTx,
    own: &Staff,
    id: Option<DeviceId>,
    draft: &Draft,
    ring: Option<&Keyring>,
) -> Result<DeviceView> {
    let merchant = tx.merchant();
    check(tx, draft).await?;
    // Apps say again and again that they are there: those wait for nobody else's.
    if let Some(known) = known(tx.sql(), merchant, own.id, None, &draft.registration, ring).await? {
        return put(tx, own, known, draft, ring).await;
    }
    tx.take_turn("push devices").await?;
    // It may have come meanwhile.
    if let Some(known) = known(tx.sql(), merchant, own.id, None, &draft.registration, ring).await? {
        return put(tx, own, known, draft, ring).await;
    }
    take_over(tx.sql(), merchant, None, &draft.registration, ring).await?;
    let count = sqlx::query!(
        r#"select count(*) as "all!", count(*) filter (where staff_id = $2) as "own!" from push_devices where merchant_id = $1"#,
        merchant.0,
        own.id.0,
    )
    .fetch_one(tx.sql())
    .await?;
    let too_many = |whose: &str, max: i64| {
        Err(Error::conflict_at("too_many_devices", "/registration", format!("{whose} has {max} devices at most.")))
    };
    if count.own >= OF_PERSON_MAX {
        return too_many("A person", OF_PERSON_MAX);
    }
    if count.all >= OF_MERCHANT_MAX {
        return too_many("A merchant", OF_MERCHANT_MAX);
    }
    let id = id.unwrap_or_else(DeviceId::new);
    let columns = Columns::of(&draft.registration, id, ring)?;
    sqlx::query!(
        "insert into push_devices (merchant_id, device_id, staff_id, role, outlets, register_id, issued_at, kind, registration,
                                   p256dh, auth, name, locale, quiet_from, quiet_to, quiet_zone, payments, alerts, only_outlets,
                                   sealed, data_key, mark)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
        merchant.0,
        id.0,
        own.id.0,
        staff::word(own.role),
        &ids(&own.outlets),
        own.register.map(|id| id.0),
        own.issued_at,
        draft.registration.kind().word(),
        columns.registration,
        columns.p256dh,
        columns.auth,
        draft.name,
        draft.locale.word(),
        draft.quiet.as_ref().map(|quiet| quiet.from),
        draft.quiet.as_ref().map(|quiet| quiet.to),
        draft.quiet.as_ref().map(|quiet| quiet.zone.as_str()),
        draft.topics.payments,
        draft.topics.alerts,
        &ids(&draft.outlets),
        columns.sealed,
        columns.data_key,
        columns.mark,
    )
    .execute(tx.sql())
    .await
    .on_constraint("push_devices_pkey", || Error::conflict_at("id_taken", "/id", "This id is in use."))
    .on_constraint("push_devices_data_key_fkey", || Error::Busy { retry_after: KNOWN_FOR })
    .on_constraint("push_devices_merchant_id_fkey", || Error::NotFound("merchant"))?;
    get(tx.sql(), merchant, own.id, id).await
}

/// Makes a person's own device what it is to be, and says that its app is there.
pub async fn replace(
    tx: &mut MerchantTx,
    own: &Staff,
    id: DeviceId,
    draft: &Draft,
    ring: Option<&Keyring>,
) -> Result<DeviceView> {
    let merchant = tx.merchant();
    check(tx, draft).await?;
    if known(tx.sql(), merchant, own.id, Some(id), &draft.registration, ring).await?.is_none() {
        tx.take_turn("push devices").await?;
    }
    put(tx, own, id, draft, ring).await
}

/// The device of a person's own, or this one if it is, that has a registration: held, so that nobody takes it over meanwhile.
async fn known(
    sql: &mut PgConnection,
    merchant: MerchantId,
    own: StaffId,
    only: Option<DeviceId>,
    registration: &Registration,
    ring: Option<&Keyring>,
) -> Result<Option<DeviceId>> {
    let known = sqlx::query_scalar!(
        "select device_id from push_devices
         where merchant_id = $1 and kind = $2 and (registration = $3 or mark = any($6)) and staff_id = $4
           and ($5::uuid is null or device_id = $5)
         for update",
        merchant.0,
        registration.kind().word(),
        registration.name(),
        own.0,
        only.map(|id| id.0),
        &registration.marks(ring),
    )
    .fetch_optional(sql)
    .await?;
    Ok(known.map(DeviceId))
}

async fn put(
    tx: &mut MerchantTx,
    own: &Staff,
    id: DeviceId,
    draft: &Draft,
    ring: Option<&Keyring>,
) -> Result<DeviceView> {
    let merchant = tx.merchant();
    get(tx.sql(), merchant, own.id, id).await?;
    take_over(tx.sql(), merchant, Some(id), &draft.registration, ring).await?;
    let columns = Columns::of(&draft.registration, id, ring)?;
    sqlx::query!(
        "update push_devices
         set role = $4, outlets = $5, register_id = $6, issued_at = $7, kind = $8, registration = $9, p256dh = $10, auth = $11,
             name = $12, locale = $13, quiet_from = $14, quiet_to = $15, quiet_zone = $16, payments = $17, alerts = $18,
             only_outlets = $19, sealed = $20, data_key = $21, mark = $22, failing_since = null,
             renewed_at = greatest(clock_timestamp(), renewed_at + interval '1 microsecond')
         where merchant_id = $1 and device_id = $2 and staff_id = $3",
        merchant.0,
        id.0,
        own.id.0,
        staff::word(own.role),
        &ids(&own.outlets),
        own.register.map(|id| id.0),
        own.issued_at,
        draft.registration.kind().word(),
        columns.registration,
        columns.p256dh,
        columns.auth,
        draft.name,
        draft.locale.word(),
        draft.quiet.as_ref().map(|quiet| quiet.from),
        draft.quiet.as_ref().map(|quiet| quiet.to),
        draft.quiet.as_ref().map(|quiet| quiet.zone.as_str()),
        draft.topics.payments,
        draft.topics.alerts,
        &ids(&draft.outlets),
        columns.sealed,
        columns.data_key,
        columns.mark,
    )
    .execute(tx.sql())
    .await
    .on_constraint("push_devices_data_key_fkey", || Error::Busy { retry_after: KNOWN_FOR })?;
    get(tx.sql(), merchant, own.id, id).await
}

/// Whether there are such a time zone and such outlets. Before any lock is taken.
async fn check(tx: &mut MerchantTx, draft: &Draft) -> Result<()> {
    let merchant = tx.merchant();
    if draft.quiet.as_ref().is_some_and(|quiet| !quiet.has_zone()) {
        let detail = "An IANA name is needed, such as Asia/Jakarta.";
        return Err(Error::invalid("unknown_time_zone", "/quiet/time_zone", detail));
    }
    let known = sqlx::query_scalar!(
        "select outlet_id from outlets where merchant_id = $1 and outlet_id = any($2)",
        merchant.0,
        &ids(&draft.outlets),
    )
    .fetch_all(tx.sql())
    .await?;
    match draft.outlets.iter().position(|outlet| !known.contains(&outlet.0)) {
        Some(at) => Err(Error::invalid("unknown_outlet", format!("/outlets/{at}"), "There is no such outlet.")),
        None => Ok(()),
    }
}

/// Takes a registration from whichever other device has it.
async fn take_over(
    sql: &mut PgConnection,
    merchant: MerchantId,
    by: Option<DeviceId>,
    registration: &Registration,
    ring: Option<&Keyring>,
) -> Result<()> {
    sqlx::query!(
        "delete from push_devices
         where merchant_id = $1 and kind = $2 and (registration = $3 or mark = any($5)) and device_id is distinct from $4",
        merchant.0,
        registration.kind().word(),
        registration.name(),
        by.map(|id| id.0),
        &registration.marks(ring),
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// What is answered when a device is gone.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RemovedDevice {
    pub id: DeviceId,
}

/// Removes a person's own device.
pub async fn remove(tx: &mut MerchantTx, own: StaffId, id: DeviceId) -> Result<RemovedDevice> {
    let merchant = tx.merchant();
    let gone = sqlx::query!(
        "delete from push_devices where merchant_id = $1 and device_id = $2 and staff_id = $3",
        merchant.0,
        id.0,
        own.0,
    )
    .execute(tx.sql())
    .await?;
    if gone.rows_affected() == 0 { Err(Error::NotFound("device")) } else { Ok(RemovedDevice { id }) }
}

/// One of a person's own devices.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, own: StaffId, id: DeviceId) -> Result<DeviceView> {
    select(sql, merchant, own, Some(id)).await?.into_iter().next().ok_or(Error::NotFound("device"))
}

/// A person's own devices: all of them, for they are few.
pub async fn list(sql: &mut PgConnection, merchant: MerchantId, own: StaffId) -> Result<Vec<DeviceView>> {
    select(sql, merchant, own, None).await
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    own: StaffId,
    only: Option<DeviceId>,
) -> Result<Vec<DeviceView>> {
    let rows = sqlx::query!(
        "select device_id, kind, name, locale, quiet_from, quiet_to, quiet_zone, payments, alerts, only_outlets, created_at,
                renewed_at
         from push_devices
         where merchant_id = $1 and staff_id = $2 and ($3::uuid is null or device_id = $3)
         order by device_id limit $4",
        merchant.0,
        own.0,
        only.map(|id| id.0),
        OF_PERSON_MAX,
    )
    .fetch_all(sql)
    .await?;
    let views = rows.into_iter().map(|row| DeviceView {
        id: DeviceId(row.device_id),
        kind: row.kind,
        name: row.name,
        locale: row.locale,
        quiet: quiet(row.quiet_from, row.quiet_to, row.quiet_zone).map(|quiet| QuietHours {
            from: TimeOfDay(quiet.from),
            to: TimeOfDay(quiet.to),
            time_zone: quiet.zone,
        }),
        topics: Topics { payments: row.payments, alerts: row.alerts },
        outlets: row.only_outlets.into_iter().map(OutletId).collect(),
        created_at: row.created_at,
        renewed_at: row.renewed_at,
    });
    Ok(views.collect())
}

/// A device, as whoever sends to it needs to know it.
#[derive(Clone, Debug)]
pub struct Device {
    pub id: DeviceId,
    pub staff: StaffId,
    pub locale: Locale,
    pub registration: Registration,
    /// What it was when it was read: a device that was renewed meanwhile has another.
    pub renewed_at: Moment,
    role: Role,
    outlets: Vec<OutletId>,
    register: Option<RegisterId>,
    quiet: Option<Quiet>,
    /// Since when every note to it has failed, if the last one has.
    failing_since: Option<Moment>,
}

impl Device {
    /// Its person as one who asks to listen.
    pub fn listener(&self) -> Listener<'_> {
        Listener { role: self.role, outlets: &self.outlets, register: self.register }
    }

    /// Whether its person does not want to be told anything at this moment.
    pub fn is_quiet(&self, now: Moment) -> bool {
        self.quiet.as_ref().is_some_and(|quiet| quiet.covers_moment(now))
    }

    /// Whether the last note to it has failed.
    pub fn is_failing(&self) -> bool {
        self.failing_since.is_some()
    }

    /// Whether it has failed for so long that nobody will come back there.
    pub fn is_given_up(&self, now: Moment) -> bool {
        self.failing_since.is_some_and(|since| now - since > FAILING_MAX)
    }
}

/// The devices whose people want to be told about this, at this outlet, and whose tokens were not revoked. One whose
/// registration was changed by somebody keeps no other from being told.
///
/// # Errors
/// `vault_unavailable` if some are sealed, and this node has no key to them.
pub async fn wanting(
    sql: &mut PgConnection,
    vault: &Vault,
    merchant: MerchantId,
    about: About,
    outlet: Option<OutletId>,
) -> Result<Vec<Device>> {
    let rows = sqlx::query!(
        "select device_id, staff_id, role, outlets, register_id, kind, registration, p256dh, auth, locale, quiet_from, quiet_to,
                  quiet_zone, renewed_at, failing_since, sealed, data_key
           from push_devices device
           where merchant_id = $1
             and case $2 when 'payments' then payments when 'alerts' then alerts else false end
             and (cardinality(only_outlets) = 0 or $3::uuid is null or $3 = any(only_outlets))
             and renewed_at > now() - make_interval(days => $4)
             and not exists (select from revocations
                             where merchant_id = $1 and staff_id = device.staff_id and issued_until >= device.issued_at)
           order by device_id limit $5",
        merchant.0,
        about.word(),
        outlet.map(|id| id.0),
        KEPT_DAYS,
        OF_MERCHANT_MAX,
    )
    .fetch_all(&mut *sql)
    .await?;
    let keys: Vec<Uuid> = rows.iter().filter_map(|row| row.data_key).collect();
    let ring = vault.keyring(sql, merchant, &keys).await?;
    let mut devices = Vec::with_capacity(rows.len());
    for row in rows {
        let (id, is_sealed) = (DeviceId(row.device_id), row.sealed.is_some());
        let (kind, registration, sealed, data_key) = (row.kind, row.registration, row.sealed, row.data_key);
        let kept = Kept { kind, registration, p256dh: row.p256dh, auth: row.auth, sealed, data_key };
        let registration = match kept.open(&ring, id) {
            Ok(registration) => registration,
            // The vault has said it aloud.
            Err(_) if is_sealed => continue,
            Err(error) => return Err(error.into()),
        };
        devices.push(Device {
            id,
            staff: StaffId(row.staff_id),
            locale: Locale::of(&row.locale).unwrap_or_default(),
            registration,
            renewed_at: row.renewed_at,
            role: staff::of_word(&row.role)?,
            outlets: row.outlets.into_iter().map(OutletId).collect(),
            register: row.register_id.map(RegisterId),
            quiet: quiet(row.quiet_from, row.quiet_to, row.quiet_zone),
            failing_since: row.failing_since,
        });
    }
    Ok(devices)
}

/// Where one of a person's own devices is reached, and when that was last renewed.
///
/// # Errors
/// `vault_unavailable` if it is sealed, and this node has no key to it.
pub async fn reached(
    sql: &mut PgConnection,
    vault: &Vault,
    merchant: MerchantId,
    own: StaffId,
    id: DeviceId,
) -> Result<(Registration, Locale, Moment)> {
    let row = sqlx::query!(
        "select kind, registration, p256dh, auth, sealed, data_key, locale, renewed_at from push_devices
         where merchant_id = $1 and staff_id = $2 and device_id = $3",
        merchant.0,
        own.0,
        id.0,
    )
    .fetch_optional(&mut *sql)
    .await?
    .ok_or(Error::NotFound("device"))?;
    let ring = vault.keyring(sql, merchant, row.data_key.as_slice()).await?;
    let (kind, registration, sealed, data_key) = (row.kind, row.registration, row.sealed, row.data_key);
    let kept = Kept { kind, registration, p256dh: row.p256dh, auth: row.auth, sealed, data_key };
    let registration = kept.open(&ring, id)?;
    Ok((registration, Locale::of(&row.locale).unwrap_or_default(), row.renewed_at))
}

/// Writes down whether notes to a device fail, unless it was renewed after it was read.
pub async fn fails(
    sql: &mut PgConnection,
    merchant: MerchantId,
    id: DeviceId,
    read_at: Moment,
    fails: bool,
) -> Result<()> {
    sqlx::query!(
        "update push_devices set failing_since = case when $4 then coalesce(failing_since, clock_timestamp()) end
         where merchant_id = $1 and device_id = $2 and renewed_at = $3",
        merchant.0,
        id.0,
        read_at,
        fails,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// What became of a device that its service does not know any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    Removed,
    /// It was renewed after it was read, perhaps under another name.
    Renewed,
    /// It was renewed before it was read, but after the moment that the service speaks of.
    Kept,
}

/// Forgets a device that its service does not know any more since a moment, if it says when; unless it was renewed since.
pub async fn forget(
    sql: &mut PgConnection,
    merchant: MerchantId,
    id: DeviceId,
    read_at: Moment,
    since: Option<Moment>,
) -> Result<Forgotten> {
    // Both halves see the row as it was before.
    let row = sqlx::query!(
        r#"with gone as (
               delete from push_devices
               where merchant_id = $1 and device_id = $2 and renewed_at = $3 and ($4::timestamptz is null or renewed_at <= $4)
               returning device_id
           )
           select exists (select from gone) as "is_gone!",
                  exists (select from push_devices
                          where merchant_id = $1 and device_id = $2 and renewed_at <> $3) as "is_renewed!""#,
        merchant.0,
        id.0,
        read_at,
        since,
    )
    .fetch_one(sql)
    .await?;
    Ok(match (row.is_gone, row.is_renewed) {
        (true, _) => Forgotten::Removed,
        (false, true) => Forgotten::Renewed,
        (false, false) => Forgotten::Kept,
    })
}

/// Seals so many of a merchant's registrations that are in clear. Answers how many. Where a node without a key has registered
/// one again that was sealed, there are two devices: the one that was renewed last stays.
pub async fn seal_some(sql: &mut PgConnection, merchant: MerchantId, ring: &Keyring, max: i64) -> Result<usize> {
    let rows = sqlx::query!(
        r#"select device_id, kind, registration as "registration!", p256dh, auth, renewed_at from push_devices
           where merchant_id = $1 and registration is not null limit $2 for update skip locked"#,
        merchant.0,
        max,
    )
    .fetch_all(&mut *sql)
    .await?;
    let count = rows.len();
    for row in rows {
        let registration = Registration::of(&row.kind, row.registration, row.p256dh, row.auth)?;
        let is_old = sqlx::query_scalar!(
            r#"select exists (select from push_devices where merchant_id = $1 and kind = $2 and mark = any($3) and renewed_at > $4)
               as "is_old!""#,
            merchant.0,
            row.kind,
            &registration.marks(Some(ring)),
            row.renewed_at,
        )
        .fetch_one(&mut *sql)
        .await?;
        if is_old {
            sqlx::query!(
                "delete from push_devices where merchant_id = $1 and device_id = $2",
                merchant.0,
                row.device_id
            )
            .execute(&mut *sql)
            .await?;
            continue;
        }
        take_over(&mut *sql, merchant, Some(DeviceId(row.device_id)), &registration, Some(ring)).await?;
        let columns = Columns::of(&registration, DeviceId(row.device_id), Some(ring))?;
        // It is not renewed by that.
        sqlx::query!(
            "update push_devices
             set registration = null, p256dh = null, auth = null, sealed = $3, data_key = $4, mark = $5
             where merchant_id = $1 and device_id = $2",
            merchant.0,
            row.device_id,
            columns.sealed,
            columns.data_key,
            columns.mark,
        )
        .execute(&mut *sql)
        .await?;
    }
    Ok(count)
}

/// All of a merchant's that is sealed.
pub async fn sealed(sql: &mut PgConnection, merchant: MerchantId) -> Result<Vec<Found>> {
    let rows = sqlx::query!(
        r#"select device_id, sealed as "sealed!", data_key as "data_key!" from push_devices
           where merchant_id = $1 and sealed is not null"#,
        merchant.0,
    )
    .fetch_all(sql)
    .await?;
    let found = |row: &[Uuid], key, bytes| place(row).found(Sealed { key, bytes });
    Ok(rows.into_iter().map(|row| found(&[row.device_id], row.data_key, row.sealed)).collect())
}

fn quiet(from: Option<Time>, to: Option<Time>, zone: Option<String>) -> Option<Quiet> {
    Some(Quiet { from: from?, to: to?, zone: zone? })
}

fn ids(outlets: &[OutletId]) -> Vec<Uuid> {
    outlets.iter().map(|outlet| outlet.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_what_its_service_gives_and_shown_nowhere() {
        let token = "AB".repeat(32);
        let apns = Registration::apns(&token).unwrap();
        assert_eq!(apns, Registration::Apns { token: token.to_lowercase() });
        assert_eq!(format!("{apns:?}"), "Registration(apns, …)");
        for bad in ["", "ab", &"ab".repeat(31), &"ab".repeat(101), &"g".repeat(64), &"a".repeat(65)] {
            assert!(Registration::apns(bad).is_err(), "{bad}");
        }
        assert!(Registration::fcm("dGVz-dA_:APA91b.x".to_owned()).is_ok());
        assert_eq!(Registration::of_bytes("apns", &apns.to_bytes()).unwrap(), apns);
        let keys = Keys { p256dh: vec![4; POINT_BYTES], auth: vec![5; AUTH_BYTES] };
        let web = Registration::Web { endpoint: "https://push.example/é".to_owned(), keys };
        let bytes = web.to_bytes();
        assert_eq!(Registration::of_bytes("web", &bytes).unwrap(), web);
        assert!(Registration::of_bytes("web", &bytes[..80]).is_err() && Registration::of_bytes("tv", b"x").is_err());
        for bad in ["", "a b", "a/b", "é", &"a".repeat(1_025)] {
            assert!(Registration::fcm(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
