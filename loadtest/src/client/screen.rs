//! One screen: a connection, from its first byte on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::order::{Format, Group};
use super::tally::Tally;
use crate::websocket::{self, CLOSE, PING, PONG, TEXT};

/// What the kernel may hold for a screen that reads slowly, in bytes. It doubles what it is told.
const SLOW_BUFFER_BYTES: usize = 2_048;
/// The longest answer to a handshake that is read.
const HANDSHAKE_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Upgrading,
    Opening,
    Joining,
    CatchingUp,
    Live,
}

pub struct Screen {
    pub stream: TcpStream,
    pub group: usize,
    pub tally: Tally,
    pub began: Instant,
    /// Which of a group's screens are counted on when it is asked what all have seen.
    pub counts: bool,
    /// Whether the server closed it.
    pub cut: bool,
    /// It was told to come back after this time.
    pub turned_away: Option<Duration>,
    stage: Stage,
    format: Format,
    connect: Vec<u8>,
    /// What was read of a frame that is not all there.
    rest: Vec<u8>,
    /// The position of the last message, or that it came with, if it will be asked for.
    pub position: Option<String>,
    keeps_position: bool,
}

/// What happened while a screen read.
pub enum Heard<'a> {
    Live,
    Message(&'a [u8]),
}

impl Screen {
    /// Connects and asks for the upgrade.
    pub fn open(
        (at, group): (usize, &Group),
        source: Ipv4Addr,
        format: Format,
        tally: Tally,
        position: Option<&str>,
        keeps_position: bool,
    ) -> Result<Self> {
        let began = Instant::now();
        let stream = connect(source, group).with_context(|| format!("connecting to {}", group.address))?;
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            group.address
        );
        (&stream).write_all(request.as_bytes())?;
        let after = position.map(|after| format!(",\"after\":\"{after}\"")).unwrap_or_default();
        let connect = format!("40{}{after}}}", group.auth);
        Ok(Self {
            stream,
            group: at,
            tally,
            began,
            counts: group.bytes_per_second.is_none(),
            cut: false,
            turned_away: None,
            stage: Stage::Upgrading,
            format,
            connect: websocket::from_client(TEXT, connect.as_bytes()),
            rest: Vec::new(),
            position: position.map(str::to_owned),
            keeps_position,
        })
    }

    pub fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// Reads what is there, at most a buffer full. Whether the connection still is.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        mut heard: impl FnMut(&mut Self, Heard<'_>) -> Result<()>,
    ) -> Result<bool> {
        let length = match self.stream.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let Some(bytes) = buffer.get(..length) else { return Ok(true) };
        if self.rest.is_empty() {
            let used = self.take_all(bytes, &mut heard)?;
            // Whoever closed reads no more.
            let Some(used) = used else { return Ok(false) };
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            let mut all = std::mem::take(&mut self.rest);
            all.extend_from_slice(bytes);
            let Some(used) = self.take_all(&all, &mut heard)? else { return Ok(false) };
            all.drain(..used);
            self.rest = all;
        }
        if self.rest.is_empty() {
            self.rest = Vec::new(); // Gives its memory back.
        }
        Ok(true)
    }

    /// Takes every whole frame. Answers how much that was; none if one of them was the last.
    fn take_all(
        &mut self,
        bytes: &[u8],
        heard: &mut impl FnMut(&mut Self, Heard<'_>) -> Result<()>,
    ) -> Result<Option<usize>> {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                ensure!(bytes.len() < HANDSHAKE_BYTES_MAX, "an endless answer to the handshake");
                return Ok(Some(0));
            };
            if bytes.starts_with(b"HTTP/1.1 503") {
                self.turned_away = Some(retry_after(&bytes[..end])?);
                return Ok(None);
            }
            ensure!(bytes.starts_with(b"HTTP/1.1 101"), "refused: {}", String::from_utf8_lossy(&bytes[..end]));
            self.stage = Stage::Opening;
            used = end + 4;
        }
        while let Some(frame) = websocket::first(&bytes[used..])? {
            used += frame.size;
            match frame.opcode {
                TEXT => self.take(frame.payload, heard)?,
                PING => self.stream.write_all(&websocket::from_client(PONG, frame.payload))?,
                CLOSE => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(used))
    }

    fn take(&mut self, text: &[u8], heard: &mut impl FnMut(&mut Self, Heard<'_>) -> Result<()>) -> Result<()> {
        match (self.stage, text) {
            (_, [b'2']) => self.stream.write_all(&websocket::from_client(TEXT, b"3"))?,
            (Stage::Opening, [b'0', ..]) => {
                self.stream.write_all(&std::mem::take(&mut self.connect))?;
                self.stage = Stage::Joining;
            }
            (Stage::Joining, [b'4', b'0', ..]) => {
                if matches!(self.format, Format::Enveloped | Format::TillwireSale | Format::TillwirePayment) {
                    self.stage = Stage::CatchingUp;
                } else {
                    self.stage = Stage::Live;
                    heard(self, Heard::Live)?;
                }
            }
            (Stage::CatchingUp, _) if text.starts_with(b"42[\"caught_up\"") => {
                self.keep_position(text);
                self.stage = Stage::Live;
                heard(self, Heard::Live)?;
            }
            (Stage::CatchingUp | Stage::Live, [b'4', b'2', ..]) => {
                self.keep_position(text);
                heard(self, Heard::Message(text))?;
            }
            (_, [b'6']) => {}
            _ => bail!("{:?} while {:?}", String::from_utf8_lossy(text), self.stage),
        }
        Ok(())
    }

    /// The position is the last string of a packet.
    fn keep_position(&mut self, text: &[u8]) {
        if self.keeps_position
            && let Some(text) = text.strip_suffix(b"\"]")
            && let Some(at) = memchr::memrchr(b'"', text)
        {
            self.position = String::from_utf8(text[at + 1..].to_vec()).ok();
        }
    }
}

/// When one that is turned away may come back.
fn retry_after(head: &[u8]) -> Result<Duration> {
    let head = String::from_utf8_lossy(head).to_lowercase();
    let seconds = head.lines().find_map(|line| line.strip_prefix("retry-after:")).context("a time to come back")?;
    Ok(Duration::from_secs(seconds.trim().parse().context("seconds to come back after")?))
}

fn connect(source: Ipv4Addr, group: &Group) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if group.bytes_per_second.is_some() {
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
    }
    // The port is chosen when it is known where to: looking for one that nobody uses for anything takes milliseconds when
    // thousands of connections have just ended.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&group.address.into())?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
