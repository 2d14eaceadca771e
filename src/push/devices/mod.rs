//! Devices: where people want to be told something, of what, and when not. Where there is a vault, under what name a service
//! knows one is [kept](kept) sealed, and found by a keyed hash. Here is what people do with their own; who sends to them sees
//! [receivers].

mod kept;
mod receivers;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::{DeviceId, MerchantId, Moment, OutletId, StaffId};
use time::Time;
use utoipa::ToSchema;
use uuid::Uuid;

use self::kept::Columns;
pub use self::kept::{seal_some, sealed};
pub use self::receivers::{Device, Forgotten, fails, forget, reached, wanting};
use super::note::Locale;
use super::quiet::{Quiet, TimeOfDay};
use super::registration::Registration;
use crate::error::{Error, OnConstraint, Result};
use crate::identity::{Staff, staff};
use crate::journal::MerchantTx;
use crate::vault::{KNOWN_FOR, Keyring};

/// The most devices of one person.
pub const OF_PERSON_MAX: i64 = 10;
/// The most devices of one merchant: as many are asked for when something happens.
pub const OF_MERCHANT_MAX: i64 = 1_000;
/// The most outlets that a device may be narrowed to.
pub const OUTLETS_MAX: usize = 100;

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

/// A statement that writes all of a device: each gives the same numbers to the same.
macro_rules! writes {
    ($statement:literal, $merchant:expr, $id:expr, $own:expr, $draft:expr, $columns:expr $(,)?) => {
        sqlx::query!(
            $statement,
            $merchant.0,
            $id.0,
            $own.id.0,
            staff::word($own.role),
            &ids(&$own.outlets),
            $own.register.map(|id| id.0),
            $own.issued_at,
            $draft.registration.kind().word(),
            $columns.registration,
            $columns.p256dh,
            $columns.auth,
            $draft.name,
            $draft.locale.word(),
            $draft.quiet.as_ref().map(|quiet| quiet.from),
            $draft.quiet.as_ref().map(|quiet| quiet.to),
            $draft.quiet.as_ref().map(|quiet| quiet.zone.as_str()),
            $draft.topics.payments,
            $draft.topics.alerts,
            &ids(&$draft.outlets),
            $columns.sealed,
            $columns.data_key,
            $columns.mark,
        )
    };
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
    writes!(
        "insert into push_devices (merchant_id, device_id, staff_id, role, outlets, register_id, issued_at, kind, registration,
                                   p256dh, auth, name, locale, quiet_from, quiet_to, quiet_zone, payments, alerts, only_outlets,
                                   sealed, data_key, mark)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
        merchant,
        id,
        own,
        draft,
        columns,
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
    writes!(
        "update push_devices
         set role = $4, outlets = $5, register_id = $6, issued_at = $7, kind = $8, registration = $9, p256dh = $10, auth = $11,
             name = $12, locale = $13, quiet_from = $14, quiet_to = $15, quiet_zone = $16, payments = $17, alerts = $18,
             only_outlets = $19, sealed = $20, data_key = $21, mark = $22, failing_since = null,
             renewed_at = greatest(clock_timestamp(), renewed_at + interval '1 microsecond')
         where merchant_id = $1 and device_id = $2 and staff_id = $3",
        merchant,
        id,
        own,
        draft,
        columns,
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

fn quiet(from: Option<Time>, to: Option<Time>, zone: Option<String>) -> Option<Quiet> {
    Some(Quiet { from: from?, to: to?, zone: zone? })
}

fn ids(outlets: &[OutletId]) -> Vec<Uuid> {
    outlets.iter().map(|outlet| outlet.0).collect()
}
