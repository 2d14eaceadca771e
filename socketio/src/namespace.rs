//! A namespace: who may join, and what its sockets hear. Its handlers are shared by all sockets, which hold none themselves
//! unless they add their own.

use std::{borrow::Cow, collections::HashMap, fmt, future::Future, pin::Pin};

use crate::{
    ConnectRequest, Encoded, Refusal, SocketRef,
    handler::{AnyHandler, Handler, any},
};

type Admission = Pin<Box<dyn Future<Output = Result<ConnectRequest, Refusal>> + Send>>;
pub(crate) type Middleware = Box<dyn Fn(ConnectRequest) -> Admission + Send + Sync>;
type PingHook = Box<dyn Fn(&SocketRef) -> Vec<Encoded> + Send + Sync>;

/// Handlers of a namespace, in the making.
#[derive(Default)]
pub struct Namespace {
    pub(crate) middleware: Vec<Middleware>,
    pub(crate) connected: Option<AnyHandler>,
    pub(crate) events: HashMap<Cow<'static, str>, AnyHandler>,
    pub(crate) fallback: Option<AnyHandler>,
    pub(crate) disconnected: Option<AnyHandler>,
    pub(crate) ping_hook: Option<PingHook>,
}

impl Namespace {
    /// A namespace anyone may join, whose sockets hear nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs when a client joins, after its CONNECT was answered and before its first event is handled.
    #[must_use]
    pub fn on_connect<Args: 'static>(self, handler: impl Handler<Args>) -> Self {
        Namespace { connected: Some(any(handler)), ..self }
    }

    /// Runs before CONNECT is answered, in the order added; each hands the request on or refuses it.
    /// The time all take together is bounded by `connect_timeout`.
    #[must_use]
    pub fn with<F, Fut>(mut self, middleware: F) -> Self
    where
        F: Fn(ConnectRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ConnectRequest, Refusal>> + Send + 'static,
    {
        self.middleware.push(Box::new(move |request| Box::pin(middleware(request))));
        self
    }

    /// Handles one kind of event, for every socket that has no handler of its own for it.
    #[must_use]
    pub fn on<Args: 'static>(mut self, event: impl Into<Cow<'static, str>>, handler: impl Handler<Args>) -> Self {
        self.events.insert(event.into(), any(handler));
        self
    }

    /// Handles events that nothing else handles.
    #[must_use]
    pub fn on_fallback<Args: 'static>(self, handler: impl Handler<Args>) -> Self {
        Namespace { fallback: Some(any(handler)), ..self }
    }

    /// Runs once for every socket that connected, when it has left and its earlier events are handled.
    #[must_use]
    pub fn on_disconnect<Args: 'static>(self, handler: impl Handler<Args>) -> Self {
        Namespace { disconnected: Some(any(handler)), ..self }
    }

    /// Called just before each heartbeat of a connection; the packets it returns ride in the ping's write. It must be quick,
    /// and its packets few: at most 30 at once may pass a queue that is full, more close the connection.
    #[must_use]
    pub fn on_ping(self, hook: impl Fn(&SocketRef) -> Vec<Encoded> + Send + Sync + 'static) -> Self {
        Namespace { ping_hook: Some(Box::new(hook)), ..self }
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("events", &self.events.keys()).finish_non_exhaustive()
    }
}

/// What [`SocketIo::ns`](crate::SocketIo::ns) takes: a [`Namespace`], or a connect handler alone.
pub trait IntoNamespace<Args> {
    /// The namespace.
    fn into_namespace(self) -> Namespace;
}

impl IntoNamespace<Namespace> for Namespace {
    fn into_namespace(self) -> Namespace {
        self
    }
}

impl<Args: 'static, H: Handler<Args>> IntoNamespace<(Args,)> for H {
    fn into_namespace(self) -> Namespace {
        Namespace::new().on_connect(self)
    }
}

/// Lets a connect handler grow into a namespace: `on_connect.with(authenticate)`.
pub trait ConnectHandler<Args>: Handler<Args> + Sized
where
    Args: 'static,
{
    /// See [`Namespace::with`].
    fn with<F, Fut>(self, middleware: F) -> Namespace
    where
        F: Fn(ConnectRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ConnectRequest, Refusal>> + Send + 'static,
    {
        Namespace::new().on_connect(self).with(middleware)
    }
}

impl<Args: 'static, H: Handler<Args>> ConnectHandler<Args> for H {}
