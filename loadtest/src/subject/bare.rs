//! The floors: an epoll loop that does nothing but send. Nobody who writes each message to each socket is faster than
//! the one with a `send` a message; nobody who writes whatever is there in one go is faster than the one that coalesces.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use anyhow::{Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use crate::websocket::{self, TEXT};

const BACKLOG: i32 = 4_096;
const EVENTS_MAX: usize = 512;
const BUFFER_BYTES: usize = 64 * 1024;
const LISTENER: u64 = u64::MAX;
const LINES: u64 = u64::MAX - 1;

/// Serves until its standard input ends: each line of it is the argument of an event `m` that everyone is sent.
pub fn run(coalesce: bool) -> Result<()> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    listener.listen(BACKLOG)?;
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    let lines = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    epoll.add(&lines, EpollEvent::new(EpollFlags::EPOLLIN, LINES))?;
    println!("listening {}", listener.local_addr()?.port());
    let mut floor = Floor { coalesce, epoll, listener, lines, connections: Vec::new(), rest: Vec::new() };
    floor.run()
}

struct Floor {
    coalesce: bool,
    epoll: Epoll,
    listener: TcpListener,
    lines: File,
    connections: Vec<Option<Connection>>,
    /// What was read of a line that is not all there.
    rest: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    upgraded: bool,
    live: bool,
    /// What did not fit into the kernel's buffer.
    pending: Vec<u8>,
}

impl Floor {
    fn run(&mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept()?,
                    LINES => match self.lines.read(&mut buffer)? {
                        0 => return Ok(()),
                        length => self.broadcast(&buffer[..length])?,
                    },
                    slot => self.serve(usize::try_from(slot)?, event.events(), &mut buffer)?,
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let slot = self.connections.len() as u64;
                    self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, slot))?;
                    let (input, pending) = (Vec::new(), Vec::new());
                    self.connections.push(Some(Connection { stream, input, upgraded: false, live: false, pending }));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn broadcast(&mut self, bytes: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = memchr::memrchr(b'\n', &self.rest) else { return Ok(()) };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let frames = lines.map(|line| websocket::from_server(TEXT, &[b"42[\"m\",", line, b"]"].concat()));
        let writes: Vec<Vec<u8>> = match self.coalesce {
            true => vec![frames.flatten().collect()],
            false => frames.collect(),
        };
        for write in &writes {
            for slot in 0..self.connections.len() {
                if self.connections[slot].as_ref().is_some_and(|it| it.live) {
                    self.send(slot, write)?;
                }
            }
        }
        Ok(())
    }

    fn serve(&mut self, slot: usize, ready: EpollFlags, buffer: &mut [u8]) -> Result<()> {
        if ready.contains(EpollFlags::EPOLLOUT)
            && let Some(connection) = &mut self.connections[slot]
        {
            let pending = std::mem::take(&mut connection.pending);
            self.epoll.modify(&connection.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
            self.send(slot, &pending)?;
        }
        let Some(connection) = &mut self.connections[slot] else { return Ok(()) };
        match connection.stream.read(buffer) {
            Ok(length @ 1..) => connection.input.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            _ => return self.close(slot),
        }
        for answer in connection.answers()? {
            self.send(slot, &answer)?;
        }
        Ok(())
    }

    fn send(&mut self, slot: usize, bytes: &[u8]) -> Result<()> {
        let Some(connection) = &mut self.connections[slot] else { return Ok(()) };
        if !connection.pending.is_empty() {
            connection.pending.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = match connection.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => return self.close(slot),
        };
        if sent < bytes.len() {
            connection.pending.extend_from_slice(&bytes[sent..]);
            let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
            self.epoll.modify(&connection.stream, &mut EpollEvent::new(both, slot as u64))?;
        }
        Ok(())
    }

    fn close(&mut self, slot: usize) -> Result<()> {
        if let Some(connection) = self.connections[slot].take() {
            self.epoll.delete(&connection.stream)?;
        }
        Ok(())
    }
}

impl Connection {
    /// Takes what has come and answers it: the upgrade, and CONNECT.
    fn answers(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        if !self.upgraded {
            let Some(end) = memchr::memmem::find(&self.input, b"\r\n\r\n") else { return Ok(answers) };
            let request: Vec<u8> = self.input.drain(..end + 4).collect();
            let request = String::from_utf8(request)?;
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
            ensure!(key.is_some(), "no WebSocket: {request}");
            let accept = websocket::accept(key.unwrap_or_default());
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            answers.push(head.into_bytes());
            let open =
                br#"0{"sid":"floor","upgrades":[],"pingInterval":300000,"pingTimeout":200000,"maxPayload":100000}"#;
            answers.push(websocket::from_server(TEXT, open));
            self.upgraded = true;
        }
        while let Some(frame) = websocket::first(&self.input)? {
            let (size, text) = (frame.size, frame.unmasked());
            self.input.drain(..size);
            if text.starts_with(b"40") {
                answers.push(websocket::from_server(TEXT, br#"40{"sid":"floor"}"#));
                self.live = true;
            }
        }
        Ok(answers)
    }
}
