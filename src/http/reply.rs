//! Replies: writes with their position, and pages.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::journal::Written;

/// Where in the journal a write stands.
pub const POSITION: HeaderName = HeaderName::from_static("tillwire-position");
/// Whether an answer is the stored one of an earlier request with the same key.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

impl IntoResponse for Written {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = (status, self.reply).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(position) = self.position.and_then(|position| HeaderValue::from_str(&position.to_string()).ok()) {
            headers.insert(POSITION, position);
        }
        if self.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// Where a page begins, and how long it is.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// How many items, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl PageParams {
    /// The limit, bounded; and the cursor, read.
    pub fn read(&self, default: u32, max: u32) -> Result<(u32, Option<Uuid>)> {
        Ok((bounded(self.limit, default, max)?, cursor(self.cursor.as_deref())?))
    }
}

/// A limit between one and `max`.
pub fn bounded(limit: Option<u32>, default: u32, max: u32) -> Result<u32> {
    match limit {
        None => Ok(default),
        Some(limit) if (1..=max).contains(&limit) => Ok(limit),
        Some(_) => Err(Error::invalid("invalid_parameter", "limit", format!("A limit is between 1 and {max}."))),
    }
}

/// A cursor is the last id of the page before; nobody but us needs to know.
pub fn cursor(text: Option<&str>) -> Result<Option<Uuid>> {
    text.map(|text| {
        text.parse().map_err(|_| Error::invalid("invalid_parameter", "cursor", "This is no cursor of ours."))
    })
    .transpose()
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// For the next page, if there is one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of `items`, of which one more than `limit` was read to see whether there is more.
    pub fn cut(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> Uuid) -> Self {
        let limit = limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = if more { items.last().map(|last| id(last).to_string()) } else { None };
        Self { items, next_cursor }
    }
}
