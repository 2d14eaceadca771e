//! The WebSocket beneath a session, byte by byte: what no well-behaved client library writes.

use std::{net::SocketAddr, time::Duration};

use tillwire_socketio::{CloseReason, Config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    peer::{ENGINE, SOCKET},
    server::{Server, quiet},
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A WebSocket without a library, greeted already.
struct Bare(TcpStream);

impl Bare {
    async fn open(addr: SocketAddr, path: &str) -> Bare {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let request = format!(
            "GET {path}?EIO=4&transport=websocket HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // The example of RFC 6455 §1.3.
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let mut bare = Bare(stream);
        assert_eq!(bare.hears().await.0, TEXT);
        bare
    }

    /// The next frame: its first byte and its payload, of at most 125 bytes.
    async fn hears(&mut self) -> (u8, Vec<u8>) {
        let reading = async {
            let (first, len) = (self.0.read_u8().await.unwrap(), self.0.read_u8().await.unwrap());
            let mut payload = vec![0; len.into()];
            self.0.read_exact(&mut payload).await.unwrap();
            (first, payload)
        };
        tokio::time::timeout(Duration::from_secs(10), reading).await.expect("a frame")
    }

    /// Whether the server has hung up, and said nothing more.
    async fn is_over(&mut self) -> bool {
        let end = tokio::time::timeout(Duration::from_secs(10), self.0.read(&mut [0; 1])).await;
        matches!(end.expect("an end"), Ok(0))
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xa5, 0, 0x17, 0xff];
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
    [first, 0x80 | payload.len() as u8].into_iter().chain(mask).chain(masked).collect()
}

#[tokio::test]
async fn what_is_said_does_not_depend_on_how_tcp_cuts_it() {
    let server = Server::echo(quiet()).await;
    let said = [
        frame(TEXT, b"4one"),
        frame(0x01, "4caf".as_bytes()),
        frame(PING, b"between"),
        frame(0x00, &"é".as_bytes()[..1]),
        frame(0x80, &"é".as_bytes()[1..]),
        frame(BINARY, &[1, 2, 3]),
        frame(TEXT, b"4last"),
    ]
    .concat();
    for piece in [1, 2, 7, said.len()] {
        let mut bare = Bare::open(server.addr, ENGINE).await;
        for bytes in said.chunks(piece) {
            bare.0.write_all(bytes).await.unwrap();
        }
        let mut heard = Vec::new();
        while heard.len() < 5 {
            heard.push(bare.hears().await);
        }
        // A pong may overtake what is queued, never what was read after its ping.
        let pong = heard.iter().position(|(first, _)| *first == PONG).expect("a pong");
        assert_eq!(heard.remove(pong), (PONG, b"between".to_vec()));
        let messages = [(TEXT, &b"4one"[..]), (TEXT, "4café".as_bytes()), (BINARY, &[1, 2, 3]), (TEXT, b"4last")];
        assert_eq!(heard, messages.map(|(first, payload)| (first, payload.to_vec())), "pieces of {piece} bytes");
        assert!(pong <= 1, "at {pong}");
    }
}

#[tokio::test]
async fn many_messages_in_one_write_are_all_heard() {
    let server = Server::echo(quiet()).await;
    let mut bare = Bare::open(server.addr, ENGINE).await;
    let said: Vec<u8> = (0..200).flat_map(|number| frame(TEXT, format!("4{number}").as_bytes())).collect();
    bare.0.write_all(&said).await.unwrap();
    for number in 0..200 {
        assert_eq!(bare.hears().await, (TEXT, format!("4{number}").into_bytes()));
    }
}

#[tokio::test]
async fn what_cannot_be_read_closes_with_the_code_for_it() {
    let server = Server::echo(Config { max_payload: 100, ..quiet() }).await;
    for (wrong, code) in [
        (frame(TEXT, b"4\xff"), 1007_u16),
        // Nothing more is waited for.
        (frame(TEXT, b"4\xff and so on")[..8].to_vec(), 1007),
        (vec![TEXT, 2, b'4', b'a'], 1002),
        (frame(TEXT, &[b'4'; 101])[..6].to_vec(), 1009),
    ] {
        let mut bare = Bare::open(server.addr, ENGINE).await;
        bare.0.write_all(&wrong).await.unwrap();
        let (first, payload) = bare.hears().await;
        assert_eq!((first, &payload[..2]), (CLOSE, &code.to_be_bytes()[..]));
        assert!(bare.is_over().await);
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_own_code() {
    let server = Server::echo(quiet()).await;
    for payload in [&[][..], &3001_u16.to_be_bytes()] {
        let mut bare = Bare::open(server.addr, ENGINE).await;
        bare.0.write_all(&frame(CLOSE, payload)).await.unwrap();
        assert_eq!(bare.hears().await, (CLOSE, payload.to_vec()));
        assert!(bare.is_over().await);
    }
}

#[tokio::test]
async fn a_peer_that_pings_and_never_reads_is_cut_at_the_deadline() {
    let config = Config { write_deadline: Duration::from_millis(300), ..quiet() };
    let server = Server::start(config, |_| {}).await;
    let mut bare = Bare::open(server.addr, SOCKET).await;
    // More pongs than both kernels hold, a hundred times more than the server keeps.
    let pings = frame(PING, &[b'?'; 125]).repeat(8_000);
    // It may be cut before it has said everything.
    let _ = bare.0.write_all(&pings).await;
    server.until("cut", |counters| counters.closed(CloseReason::Stalled) == 1).await;
}
