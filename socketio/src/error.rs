//! What sending can answer.

use std::fmt;

use socketioxide_core::parser::ParserError;

/// A value could not be written as a packet.
#[derive(Debug)]
#[non_exhaustive]
pub enum EncodeError {
    /// `serde_json` refused it.
    Json(ParserError),
    /// The value came out as bare bytes, which no event can be.
    NotText,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Json(_) => f.write_str("value cannot be written as JSON"),
            EncodeError::NotText => f.write_str("value is bare bytes"),
        }
    }
}

impl std::error::Error for EncodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EncodeError::Json(error) => Some(error),
            EncodeError::NotText => None,
        }
    }
}

/// Packets were not queued: none of the batch.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The queue has no room for the whole batch now.
    Full,
    /// The batch is larger than the queue ever is.
    TooLarge,
    /// The socket has left, or its session is closing.
    Closed,
    /// A value could not be encoded.
    Encode(EncodeError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full => "queue is full",
            SendError::TooLarge => "batch is larger than the queue",
            SendError::Closed => "socket is closed",
            SendError::Encode(_) => "packet cannot be encoded",
        })
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SendError::Encode(error) => Some(error),
            _ => None,
        }
    }
}

impl From<EncodeError> for SendError {
    fn from(error: EncodeError) -> Self {
        SendError::Encode(error)
    }
}

/// An acknowledgement did not come.
#[derive(Debug)]
#[non_exhaustive]
pub enum AckError {
    /// The client did not answer within `ack_timeout`.
    Timeout,
    /// The socket left before it answered.
    Closed,
    /// The answer is not what was expected.
    Decode(ParserError),
}

impl fmt::Display for AckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AckError::Timeout => "no acknowledgement in time",
            AckError::Closed => "socket closed before it acknowledged",
            AckError::Decode(_) => "acknowledgement has another shape",
        })
    }
}

impl std::error::Error for AckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AckError::Decode(error) => Some(error),
            _ => None,
        }
    }
}
