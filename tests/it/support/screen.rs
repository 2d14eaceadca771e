//! A screen that is told what to do: one connection to a gateway, every packet kept in the order it came.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};

pub use super::line::End;
use super::line::Line;

/// How long a fact may take to come about before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// A receive buffer that a reader who has stopped fills soon.
const NARROW_BYTES: u32 = 4 * 1024;

/// What a screen heard: an event, with its last argument apart if that is a position.
#[derive(Clone, Debug)]
pub struct Heard {
    pub name: String,
    pub body: Value,
    pub position: Option<String>,
}

impl Heard {
    pub fn data(&self) -> &Value {
        &self.body["data"]
    }

    /// The number of its entry.
    pub fn seq(&self) -> u64 {
        self.body["seq"].as_u64().expect("a number")
    }
}

pub struct Screen {
    line: Line,
    /// Events that came while an acknowledgement was waited for.
    kept: Vec<Heard>,
    asked: u64,
    /// What CONNECT was answered.
    pub connected: Value,
    /// Every packet, from the greeting on and heartbeats too, as it came.
    pub packets: Vec<String>,
    /// The last position that was heard, as a client would remember it.
    pub position: Option<String>,
}

impl Screen {
    /// Connects and is let in.
    pub async fn enters(address: SocketAddr, auth: Value) -> Self {
        Self::tries(address, auth).await.unwrap_or_else(|end| panic!("not let in: {end:?}"))
    }

    /// Connects as soon as it is let in: a node that has just started turns everyone away until it has seen its database.
    pub async fn enters_at_last(address: SocketAddr, auth: Value) -> Self {
        let entering = async {
            loop {
                match Self::tries(address, auth.clone()).await {
                    Err(End::TurnedAway(503)) => tokio::time::sleep(Duration::from_millis(50)).await,
                    let_in => return let_in.unwrap_or_else(|end| panic!("not let in: {end:?}")),
                }
            }
        };
        tokio::time::timeout(PATIENCE, entering).await.expect("let in at last")
    }

    /// Connects and is not let in.
    pub async fn is_refused(address: SocketAddr, auth: Value) -> End {
        match Self::tries(address, auth).await {
            Ok(_) => panic!("was let in"),
            Err(end) => end,
        }
    }

    /// Connects, if anyone is there and lets it in.
    pub async fn tries(address: SocketAddr, auth: Value) -> Result<Self, End> {
        let stream = TcpStream::connect(address).await.map_err(|_| End::Broken)?;
        Self::asks_in(Line::websocket(stream, address).await?, auth).await
    }

    /// The same by long-polling alone.
    pub async fn tries_polling(address: SocketAddr, auth: Value) -> Result<Self, End> {
        Self::asks_in(Line::polling(address).await?, auth).await
    }

    /// The same with a small receive buffer, so that what it does not read soon stays with the gateway.
    pub async fn enters_narrow(address: SocketAddr, auth: Value) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(NARROW_BYTES).expect("a narrow socket");
        let stream = socket.connect(address).await.expect("a gateway");
        let line = Line::websocket(stream, address).await.expect("a WebSocket");
        Self::asks_in(line, auth).await.unwrap_or_else(|end| panic!("not let in: {end:?}"))
    }

    /// Says who it is on a new session.
    pub async fn asks_in(line: Line, auth: Value) -> Result<Self, End> {
        let mut screen =
            Self { line, kept: Vec::new(), asked: 0, connected: Value::Null, packets: Vec::new(), position: None };
        assert!(screen.text().await?.starts_with('0'), "Engine.IO's greeting comes first");
        screen.line.say(format!("40{auth}")).await;
        loop {
            let text = screen.text().await?;
            if let Some(refusal) = text.strip_prefix("44") {
                let refusal: Value = serde_json::from_str(refusal).expect("a refusal");
                return Err(End::Refused(refusal["data"].clone()));
            }
            if let Some(connected) = text.strip_prefix("40") {
                screen.connected = serde_json::from_str(connected).expect("an answer to CONNECT");
                return Ok(screen);
            }
        }
    }

    /// The next event, whatever it is.
    pub async fn next(&mut self) -> Heard {
        self.next_or_end().await.unwrap_or_else(|end| panic!("ended while listening: {end:?}"))
    }

    /// The next event, or how the connection ended.
    pub async fn next_or_end(&mut self) -> Result<Heard, End> {
        if self.kept.is_empty() { self.event().await } else { Ok(self.kept.remove(0)) }
    }

    /// The next event, which has this name.
    pub async fn hears(&mut self, name: &str) -> Heard {
        let heard = self.next().await;
        assert_eq!(heard.name, name, "{heard:?}");
        heard
    }

    /// The next event of this name; others are passed over.
    pub async fn hears_next(&mut self, name: &str) -> Heard {
        loop {
            let heard = self.next().await;
            if heard.name == name {
                return heard;
            }
        }
    }

    /// Everything up to and with the event of this name.
    pub async fn hears_until(&mut self, name: &str) -> Vec<Heard> {
        let mut all = Vec::new();
        loop {
            all.push(self.next().await);
            if all.last().is_some_and(|heard| heard.name == name) {
                return all;
            }
        }
    }

    /// `ready` and what follows, up to `caught_up`: what was replayed in between.
    pub async fn catches_up(&mut self) -> Vec<Heard> {
        let mut heard = self.hears_until("caught_up").await;
        let caught_up = heard.pop().expect("the last");
        if heard.first().is_some_and(|first| first.name == "ready") {
            heard.remove(0);
        }
        let events = heard.iter().filter(|heard| heard.body.get("seq").is_some()).count();
        assert_eq!(caught_up.body["replayed"], events, "it says how much it replayed");
        heard
    }

    /// Asks, and waits for the acknowledgement.
    pub async fn asks(&mut self, name: &str, body: Value) -> Value {
        self.says(name, body).await;
        self.is_answered().await
    }

    /// Asks, and does not read what comes.
    pub async fn says(&mut self, name: &str, body: Value) {
        self.asked += 1;
        self.line.say(format!("42{}{}", self.asked, json!([name, body]))).await;
    }

    /// Waits for the acknowledgement of what it asked last.
    pub async fn is_answered(&mut self) -> Value {
        let wanted = format!("43{}", self.asked);
        loop {
            let text = self.text().await.unwrap_or_else(|end| panic!("ended while asking: {end:?}"));
            if let Some(answer) = text.strip_prefix(&wanted) {
                let answer: Value = serde_json::from_str(answer).expect("an acknowledgement");
                return answer[0].clone();
            }
            if let Some(heard) = self.understands(&text) {
                self.kept.push(heard);
            }
        }
    }

    /// What the connection and its session are called by the gateway.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let before_events = self.packets.iter().take_while(|packet| !packet.starts_with("42"));
        before_events.filter_map(|packet| packet.split_once(r#""sid":""#)?.1.split('"').next())
    }

    /// The private id that it may come back with.
    pub fn pid(&self) -> &str {
        self.connected["pid"].as_str().expect("a private id")
    }

    /// How the connection ends; events before that are passed over.
    pub async fn ends(mut self) -> End {
        loop {
            if let Err(end) = self.event().await {
                return end;
            }
        }
    }

    /// The connection is cut; answers the last position.
    pub fn leaves(self) -> String {
        self.position.expect("it heard a position")
    }

    async fn event(&mut self) -> Result<Heard, End> {
        loop {
            let text = self.text().await?;
            if text.starts_with("41") {
                return Err(End::SignedOff);
            }
            if let Some(heard) = self.understands(&text) {
                return Ok(heard);
            }
        }
    }

    fn understands(&mut self, text: &str) -> Option<Heard> {
        let packet: Vec<Value> = serde_json::from_str(text.strip_prefix("42")?).expect("an event");
        let name = packet[0].as_str().expect("a name").to_owned();
        let position = packet.last().and_then(Value::as_str).filter(|_| packet.len() > 1).map(str::to_owned);
        if position.is_some() {
            self.position.clone_from(&position);
        }
        Some(Heard { name, body: packet.get(1).cloned().unwrap_or_default(), position })
    }

    /// The next packet that is not a heartbeat; those are answered, and do not count as something that comes.
    async fn text(&mut self) -> Result<String, End> {
        let next = async {
            loop {
                let packet = self.line.next().await?;
                self.packets.push(packet.clone());
                if packet != "2" {
                    return Ok(packet);
                }
                self.line.say("3".to_owned()).await;
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a packet in time")
    }
}
