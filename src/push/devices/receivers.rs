//! Devices, as whoever sends to them needs to know them; and what came of sending.

use std::time::Duration;

use sqlx::PgConnection;
use tillwire_channels::topic::Listener;
use tillwire_channels::{DeviceId, MerchantId, Moment, OutletId, RegisterId, Role, StaffId};
use uuid::Uuid;

use super::kept::Kept;
use super::{OF_MERCHANT_MAX, quiet};
use crate::error::{Error, Result};
use crate::identity::staff;
use crate::push::note::{About, Locale};
use crate::push::quiet::Quiet;
use crate::push::registration::Registration;
use crate::vault::Vault;

/// For how many days a device is sent something after its app was last heard of.
const KEPT_DAYS: i32 = 90;
/// For how long each note to a device may fail before it is removed.
const FAILING_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

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
