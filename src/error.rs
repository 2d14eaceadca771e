//! What can go wrong, in the shop's words. Edges make it a status or an acknowledgement; no status code lives here.

use std::time::Duration;

use crate::identity::Permission;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// No token, or one that is not good. The word says why.
    Unauthenticated(&'static str),
    /// The token is good, but does not allow this.
    Denied(Permission),
    /// There is no such thing, or it is another merchant's: the two look alike on purpose.
    NotFound(&'static str),
    /// The request can never work as it is. `pointer` is a JSON pointer into the body, or a parameter's name.
    Invalid { code: &'static str, pointer: String, detail: String },
    /// Several things are wrong at once.
    InvalidMany(Vec<Fault>),
    /// The body is larger than allowed.
    TooLarge { limit_bytes: usize },
    /// The request is sound, but what is there does not allow it.
    Conflict { code: &'static str, pointer: Option<String>, detail: String },
    /// An idempotency key was used before, for another request.
    KeyReused,
    /// The same request with the same key is still running.
    InFlight,
    /// A position cannot be served: the reader needs a snapshot.
    SnapshotRequired(tillwire_channels::wire::SnapshotRequired),
    /// Too much at once, and nothing was done; try again later.
    Busy { retry_after: Duration },
    /// Our own fault, or a dependency's. Logged once, at the edge; the caller sees only the trace id.
    Internal(anyhow::Error),
}

/// One of several things that are wrong with a request.
#[derive(Clone, Debug)]
pub struct Fault {
    pub code: &'static str,
    pub pointer: String,
    pub detail: String,
}

impl Error {
    pub fn invalid(code: &'static str, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { code, pointer: pointer.into(), detail: detail.into() }
    }

    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Conflict { code, pointer: None, detail: detail.into() }
    }

    pub fn conflict_at(code: &'static str, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Conflict { code, pointer: Some(pointer.into()), detail: detail.into() }
    }
}

impl Error {
    /// Whether the database was busy or away: the same may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::Internal(cause) => cause.downcast_ref::<sqlx::Error>().is_some_and(is_passing),
            _ => false,
        }
    }

    /// For those who only report it: the cause if there is one, else the error's own name.
    pub fn into_anyhow(self) -> anyhow::Error {
        match self {
            Self::Internal(cause) => cause,
            other => anyhow::anyhow!("{other:?}"),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        let error = error.into();
        match error.downcast_ref::<sqlx::Error>() {
            Some(cause) if is_overload(cause) => Self::Busy { retry_after: Duration::from_secs(1) },
            _ => Self::Internal(error),
        }
    }
}

/// Whether no connection was free in time, or a lock (SQLSTATE 55P03): no fault, and nothing was done. Whoever asks is told
/// to come back.
fn is_overload(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(refusal) => refusal.code().as_deref() == Some("55P03"),
        _ => false,
    }
}

/// Whether it is about the connection, the server's resources, or who else was at it: SQLSTATE's classes 08, 53 and 57, 40, and a
/// transaction that rested for too long. What [`is_overload`] knows is [`Error::Busy`] before it comes here.
fn is_passing(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Database, Io, PoolClosed, Protocol, Tls, WorkerCrashed};
    match error {
        Database(refusal) => refusal
            .code()
            .is_some_and(|code| ["08", "40", "53", "57", "25P03"].iter().any(|class| code.starts_with(class))),
        Io(_) | Tls(_) | Protocol(_) | PoolClosed | WorkerCrashed => true,
        _ => false,
    }
}

/// Names the constraint that a statement may violate, and what that means.
pub trait OnConstraint<T> {
    /// If the database refused because of the constraint `name`, the error is `meaning`.
    fn on_constraint(self, name: &str, meaning: impl FnOnce() -> Error) -> Result<T>;
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_constraint(self, name: &str, meaning: impl FnOnce() -> Error) -> Result<T> {
        self.map_err(|error| match error.as_database_error() {
            Some(database) if database.constraint() == Some(name) => meaning(),
            _ => error.into(),
        })
    }
}

impl<T> OnConstraint<T> for Result<T, Error> {
    fn on_constraint(self, name: &str, meaning: impl FnOnce() -> Error) -> Result<T> {
        self.map_err(|error| match &error {
            Error::Internal(cause) => match cause.downcast_ref::<sqlx::Error>().and_then(|it| it.as_database_error()) {
                Some(database) if database.constraint() == Some(name) => meaning(),
                _ => error,
            },
            _ => error,
        })
    }
}
