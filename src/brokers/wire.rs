//! A connection that can be let go of at any moment.
//!
//! lapin gives each connection a thread, which ends when the socket does: a broker that accepts and then says nothing
//! would cost one thread an attempt. So the socket is made here, and shut down when the [`Wire`] is dropped.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_compat::CompatExt;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties};
use tokio::net::TcpStream;

use super::link::{self, CONNECT_MAX};

/// How long saying goodbye may take. A broker that is not told only notes that we left without a word.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

pub struct Wire {
    connection: Connection,
    /// Dropped after the connection, and ends its thread.
    _socket: Socket,
}

impl Wire {
    /// Connects and logs in.
    pub async fn dial(uri: &AMQPUri, name: &str) -> anyhow::Result<Self> {
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let stream = link::within(CONNECT_MAX, TcpStream::connect(address)).await?;
        // Small messages must not wait for company: Nagle's algorithm costs 40 ms.
        stream.set_nodelay(true)?;
        let socket = Socket::of(&stream)?;
        // Taken once: lapin is not to connect again by itself.
        let stream = Mutex::new(Some(stream.compat()));
        let connect = async move |_, _| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.map(AsyncTcpStream::Plain).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
        };
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime()?;
        let connecting = Connection::connector(uri.clone(), runtime, connect, properties);
        let connection = link::within(CONNECT_MAX, connecting).await?;
        Ok(Self { connection, _socket: socket })
    }

    pub async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(self.connection.create_channel().await?)
    }

    /// Says goodbye, as far as there is somebody to hear it.
    pub async fn close(self) {
        let goodbye = self.connection.close(lapin::protocol::constants::REPLY_SUCCESS, "OK".into());
        let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
    }
}

/// Shuts a connection's socket down when dropped, whoever else holds it.
struct Socket(std::net::TcpStream);

impl Socket {
    fn of(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self(stream.as_fd().try_clone_to_owned()?.into()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both); // Fails if it is closed already.
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// How many threads lapin has in this process.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        tasks
            .filter(|task| {
                std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("lapin"))
            })
            .count()
    }

    #[tokio::test]
    async fn a_broker_that_accepts_and_says_nothing_costs_no_threads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: AMQPUri = format!("amqp://127.0.0.1:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let mut silent = Vec::new();
        for _ in 0..20 {
            tokio::select! {
                _ = Wire::dial(&uri, "test") => panic!("nobody answered"),
                // The protocol header: from here on it would wait for the answer.
                accepted = async { let (stream, _) = listener.accept().await.unwrap(); stream.readable().await.unwrap(); stream } => silent.push(accepted),
            }
        }
        let waited = std::time::Instant::now();
        while threads() > 0 {
            assert!(waited.elapsed() < Duration::from_secs(60), "{} threads are left", threads());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
