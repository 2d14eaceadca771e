//! How a registration is kept in its row: sealed where there is a vault, else in clear.

use secrecy::ExposeSecret as _;
use sqlx::PgConnection;
use tillwire_channels::{DeviceId, MerchantId};
use uuid::Uuid;

use super::take_over;
use crate::error::Result;
use crate::push::registration::Registration;
use crate::vault::{Found, Keyring, Place, Sealed};

/// A registration as it is written to its row: in clear or sealed.
#[derive(Default)]
pub struct Columns<'a> {
    pub registration: Option<&'a str>,
    pub p256dh: Option<&'a [u8]>,
    pub auth: Option<&'a [u8]>,
    pub sealed: Option<Vec<u8>>,
    pub data_key: Option<Uuid>,
    pub mark: Option<Vec<u8>>,
}

impl<'a> Columns<'a> {
    /// Sealed, if there is something to seal with.
    pub fn of(registration: &'a Registration, id: DeviceId, ring: Option<&Keyring>) -> anyhow::Result<Self> {
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
pub struct Kept {
    pub kind: String,
    pub registration: Option<String>,
    pub p256dh: Option<Vec<u8>>,
    pub auth: Option<Vec<u8>>,
    pub sealed: Option<Vec<u8>>,
    pub data_key: Option<Uuid>,
}

impl Kept {
    pub fn open(self, ring: &Keyring, id: DeviceId) -> anyhow::Result<Registration> {
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
