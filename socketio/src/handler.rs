//! Handlers: async functions of up to five arguments that can be [extracted](Extract) from a call.

use std::{future::Future, pin::Pin, sync::Arc};

use tracing::debug;

use crate::extract::{Call, Extract};

/// A future on the heap, as every handler's is while it runs.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An async function that handles a connect, an event or a leave. `Args` only tells functions of different arguments apart.
pub trait Handler<Args>: Send + Sync + 'static {
    /// Starts the handler; `None` if the call lacks one of its arguments.
    fn call(&self, call: Call) -> Option<Running>;
}

/// A handler whose arguments have been forgotten.
pub(crate) type AnyHandler = Arc<dyn Fn(Call) -> Option<Running> + Send + Sync>;

pub(crate) fn any<Args: 'static>(handler: impl Handler<Args>) -> AnyHandler {
    Arc::new(move |call| handler.call(call))
}

macro_rules! handler {
    ($($arg:ident),*) => {
        impl<F, Fut, $($arg),*> Handler<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = ()> + Send + 'static,
            $($arg: Extract),*
        {
            #[allow(unused_mut, unused_variables, non_snake_case)]
            fn call(&self, mut call: Call) -> Option<Running> {
                $(let $arg = match $arg::extract(&mut call) {
                    Ok(argument) => argument,
                    Err(error) => {
                        // At debug level: what a client sends must not fill the log.
                        debug!("Skipped a handler: {error}");
                        return None;
                    }
                };)*
                Some(Box::pin(self($($arg),*)))
            }
        }
    };
}

handler!();
handler!(A);
handler!(A, B);
handler!(A, B, C);
handler!(A, B, C, D);
handler!(A, B, C, D, E);
