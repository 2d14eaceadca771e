//! The hub: the handles that a role is given.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::identity::tokens::Verifier;
use crate::journal::Journal;

/// What every edge needs. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    pub journal: Journal,
    pub verifier: Arc<Verifier>,
    /// Cancelled when the node begins to drain: readiness fails from then on.
    pub draining: CancellationToken,
}
