//! The server: its namespaces, its sockets, and the service that HTTP mounts.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use crate::{
    CloseReason, Config, CountersView, Handshake, IntoNamespace, Namespace, SocketId, SocketRef,
    client::Client,
    counters::Counters,
    engine::{Application, EngineService, EngineSocket, Shared},
    socket::Socket,
};

/// What to mount at `/socket.io/`: a tower service, for axum `Router::route_service("/socket.io/", service)`.
pub type SocketIoService = EngineService<Namespaces>;

/// A handle to the server: cheap to clone.
#[derive(Clone)]
pub struct SocketIo {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
}

impl SocketIo {
    /// A server without namespaces, and the service to mount. Clients that come before [`SocketIo::ns`] are told
    /// `Invalid namespace`.
    pub fn new(config: Config) -> (SocketIo, SocketIoService) {
        let shared = Shared::new(config);
        let hub = Arc::new(Hub { rooms: RwLock::default(), shared: shared.clone() });
        let service = EngineService::sharing(shared.clone(), Namespaces(hub.clone()));
        (SocketIo { hub, shared }, service)
    }

    /// Opens a namespace, named with a leading slash. Takes a connect handler or a [`Namespace`].
    /// A namespace of the same name is replaced for those who come later.
    pub fn ns<Args>(&self, name: &str, namespace: impl IntoNamespace<Args>) {
        self.hub.open(name, namespace.into_namespace());
    }

    /// The sockets in a namespace now, in no order.
    pub fn sockets(&self, ns: &str) -> Vec<SocketRef> {
        self.hub.room(ns).map(|room| room.sockets().values().cloned().map(SocketRef).collect()).unwrap_or_default()
    }

    /// A socket by its public id.
    pub fn socket(&self, ns: &str, id: SocketId) -> Option<SocketRef> {
        self.hub.room(ns)?.sockets().get(&id).cloned().map(SocketRef)
    }

    /// Closes every session that is open now, `slice` at a time with `pause` between: clients return at that pace.
    /// Resolves when the last was asked to close.
    pub async fn close_all_in_slices(&self, slice: usize, pause: Duration, reason: CloseReason) {
        self.shared.close_all(reason, slice, pause).await;
    }

    /// Refuses new sessions with 503 from now on. Those there are stay.
    pub fn refuse_new(&self) {
        self.shared.refuse_new();
    }

    /// Refuses new sessions with 503, closes those there are (1012) and waits until every task has ended, handlers included.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }

    /// Counters for metrics.
    pub fn counters(&self) -> CountersView {
        self.shared.counters.read()
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(crate) fn room(&self, ns: &str) -> Option<Arc<Room>> {
        self.hub.room(ns)
    }
}

impl fmt::Debug for SocketIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketIo").finish_non_exhaustive()
    }
}
/// The namespaces of a server, as the Engine.IO service knows them.
#[derive(Clone)]
pub struct Namespaces(Arc<Hub>);

pub(crate) struct Hub {
    rooms: RwLock<HashMap<Box<str>, Arc<Room>>>,
    shared: Arc<Shared>,
}

/// A namespace with the sockets in it.
pub(crate) struct Room {
    pub name: Box<str>,
    pub namespace: Namespace,
    sockets: Mutex<HashMap<SocketId, Arc<Socket>>>,
    shared: Arc<Shared>,
}

impl Application for Namespaces {
    type Conversation = Client;

    fn open(&self, socket: EngineSocket, handshake: Arc<Handshake>) -> Client {
        Client::new(self.0.clone(), socket, handshake)
    }
}

impl Hub {
    pub fn room(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn open(&self, name: &str, namespace: Namespace) {
        let room = Room { name: name.into(), namespace, sockets: Mutex::default(), shared: self.shared.clone() };
        self.rooms.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), Arc::new(room));
    }
}

impl Room {
    /// The socket that held the same id, if one still does.
    pub fn insert(&self, socket: &Arc<Socket>) -> Option<Arc<Socket>> {
        self.sockets().insert(socket.id(), socket.clone())
    }

    /// Removes this very socket; a newer one with its id stays.
    pub fn remove(&self, socket: &Arc<Socket>) {
        let mut sockets = self.sockets();
        if sockets.get(&socket.id()).is_some_and(|held| Arc::ptr_eq(held, socket)) {
            sockets.remove(&socket.id());
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<SocketId, Arc<Socket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
