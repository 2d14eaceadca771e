//! Idempotency: a request with a key is done once, and answered alike ever after.

use aws_lc_rs::digest::{SHA256, digest};
use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Position};

use super::entry::{seq_of, tag_of};
use super::write::Written;
use crate::error::{Error, Result};

/// A key, the route it is for and what was asked with it.
#[derive(Clone, Debug)]
pub struct Once {
    route: &'static str,
    key: String,
    fingerprint: Vec<u8>,
}

impl Once {
    /// `request` is whatever makes this request another than the next: its path and its body.
    pub fn new(route: &'static str, key: impl Into<String>, request: &[&[u8]]) -> Self {
        let mut all = Vec::new();
        for part in request {
            // Lengths between the parts, so that no two requests read alike.
            all.extend_from_slice(&part.len().to_be_bytes());
            all.extend_from_slice(part);
        }
        Self { route, key: key.into(), fingerprint: digest(&SHA256, &all).as_ref().to_vec() }
    }

    /// The same request's part `number`, for work that takes several transactions.
    pub fn part(&self, number: usize) -> Self {
        Self { key: format!("{}#{number}", self.key), ..self.clone() }
    }

    /// What two requests that must not run at the same time have in common.
    pub(super) fn lock_name(&self, merchant: MerchantId) -> String {
        format!("{merchant} {} {}", self.route, self.key)
    }

    /// The stored answer, if there is one.
    ///
    /// A statement of its own after the lock was taken: its snapshot then sees what a twin committed just before.
    pub(super) async fn answered(&self, sql: &mut PgConnection, merchant: MerchantId) -> Result<Option<Written>> {
        let Some(row) = sqlx::query!(
            "select fingerprint, status, reply, seq, tag from idempotency_keys
             where merchant_id = $1 and route = $2 and key = $3",
            merchant.0,
            self.route,
            self.key,
        )
        .fetch_optional(sql)
        .await?
        else {
            return Ok(None);
        };
        if row.fingerprint != self.fingerprint {
            return Err(Error::KeyReused);
        }
        let position = match (row.seq, row.tag) {
            (Some(seq), Some(tag)) => Some(Position::of_entry(seq_of(seq)?, tag_of(&tag)?)),
            _ => None,
        };
        Ok(Some(Written { status: row.status.unsigned_abs(), reply: row.reply, position, replayed: true }))
    }

    pub(super) fn route(&self) -> &'static str {
        self.route
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn fingerprint(&self) -> &[u8] {
        &self.fingerprint
    }
}
