//! Stock Socket.IO clients as screens: programs around other people's packages (`tests/clients`), each a process that
//! says what happens to it, one JSON object a line, and does what it is told. They end with the test.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OnceCell;

use super::account::{Noted, merged_in};
use super::hub::Shop;
use super::services::dir;

/// How long the packages may take to install.
const INSTALL_MAX: Duration = Duration::from_secs(300);
/// How long to wait for what must happen.
const HAPPENS_MAX: Duration = Duration::from_secs(60);
/// How often a crowd is asked.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// The packages of the JavaScript clients: a `node_modules`.
pub async fn javascript_packages() -> &'static Path {
    static INSTALLED: OnceCell<PathBuf> = OnceCell::const_new();
    let install = async || {
        let pinned = ["package.json", "package-lock.json"];
        let folder = installed("javascript-clients", &pinned, async |folder| {
            let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"];
            run(Command::new("npm").args(npm).current_dir(folder)).await;
        });
        folder.await.join("node_modules")
    };
    INSTALLED.get_or_init(install).await
}

/// A Python that has the packages of the Python clients.
pub async fn python() -> &'static Path {
    static INSTALLED: OnceCell<PathBuf> = OnceCell::const_new();
    let install = async || {
        let folder = installed("python-clients", &["requirements.txt"], async |folder| {
            run(Command::new("python3").args(["-m", "venv", "--clear", "venv"]).current_dir(folder)).await;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"];
            run(Command::new("venv/bin/python").args(pip).arg("requirements.txt").current_dir(folder)).await;
        });
        folder.await.join("venv/bin/python")
    };
    INSTALLED.get_or_init(install).await
}

/// A folder beside what cargo compiled, in which what `pinned` names is installed. The last of these says it exactly.
async fn installed(name: &str, pinned: &[&str], install: impl AsyncFnOnce(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder for packages");
    // Another run of the tests may be at it. The lock goes with the file.
    let lock = File::create(folder.join("lock")).expect("a lock");
    let taken = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
    let _lock = tokio::time::timeout(INSTALL_MAX, taken).await.expect("a lock in time").expect("no panic");
    let exactly = fs::read(programs().join(pinned[pinned.len() - 1])).expect("what is pinned");
    let marker = folder.join("installed");
    if fs::read(&marker).is_ok_and(|was| was == exactly) {
        return folder;
    }
    for file in pinned {
        fs::copy(programs().join(file), folder.join(file)).expect("a copy");
    }
    install(&folder).await;
    fs::write(&marker, exactly).expect("a marker");
    folder
}

async fn run(command: &mut Command) {
    let output = tokio::time::timeout(INSTALL_MAX, command.kill_on_drop(true).output());
    let output = output.await.expect("packages in time").unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Whose client it is.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// `socket.io-client` on Node.js.
    JavaScript,
    /// `python-socketio`.
    Python,
}

/// How a client reaches the hub.
#[derive(Clone, Copy, Debug)]
pub enum Transports {
    Websocket,
    Polling,
    /// Long-polling first, as stock clients begin.
    Upgrade,
}

impl Transports {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Websocket => &["websocket"],
            Self::Polling => &["polling"],
            Self::Upgrade => &["polling", "websocket"],
        }
    }
}

/// An event that a client heard.
#[derive(Clone, Debug)]
pub struct Heard {
    pub name: String,
    /// What the stock client passed to its handler.
    pub args: Vec<Value>,
}

impl Heard {
    fn of(happened: &Value) -> Option<Self> {
        let name = happened["name"].as_str()?.to_owned();
        (happened["on"] == "event")
            .then(|| Self { name, args: happened["args"].as_array().cloned().unwrap_or_default() })
    }

    /// What was said: the first argument.
    pub fn body(&self) -> &Value {
        self.args.first().unwrap_or(&Value::Null)
    }

    /// The last argument, if it is a string: where the journal stands.
    pub fn position(&self) -> Option<&str> {
        self.args.last()?.as_str()
    }

    /// Whether it is something that happened to the merchant, and not to the connection.
    pub fn is_business(&self) -> bool {
        self.name.contains('.')
    }
}

/// A stock client. Killed when dropped.
pub struct StockScreen {
    process: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    folder: PathBuf,
    /// Everything that has happened so far, as the client said it.
    pub happened: Vec<Value>,
}

impl StockScreen {
    pub async fn javascript(hub: SocketAddr, token: &str, channels: &[&str], transports: Transports) -> Self {
        Self::of(Client::JavaScript, None, hub, token, channels, transports).await
    }

    /// JavaScript's, remembering nothing itself: only what the package does by itself brings it back.
    pub async fn recovering(hub: SocketAddr, token: &str, channels: &[&str], transports: Transports) -> Self {
        let opening =
            json!({ "url": format!("http://{hub}"), "token": token, "channels": channels, "forgetful": true });
        let (mut program, folder) = javascript_program(&programs().join("screen.mjs")).await;
        let mut screen = Self::start(&mut program, folder);
        screen.tell(with_transports(opening, transports)).await;
        screen
    }

    pub async fn python(hub: SocketAddr, token: &str, channels: &[&str], transports: Transports) -> Self {
        Self::of(Client::Python, None, hub, token, channels, transports).await
    }

    /// Goes on from a position, if one is given.
    pub async fn of(
        client: Client,
        after: Option<&str>,
        hub: SocketAddr,
        token: &str,
        channels: &[&str],
        transports: Transports,
    ) -> Self {
        let (mut program, folder) = match client {
            Client::JavaScript => javascript_program(&programs().join("screen.mjs")).await,
            Client::Python => python_program(&programs().join("screen.py")).await,
        };
        Self::start(&mut program, folder).opens(after, hub, token, channels, transports).await
    }

    /// The live page's own modules on Node.js, without its face.
    pub async fn live_page(hub: SocketAddr, token: &str) -> Self {
        let (mut node, folder) = javascript_program(&programs().join("page.mjs")).await;
        let (sources, live) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("web/live"), folder.join("live"));
        fs::create_dir(&live).expect("a folder for the page");
        for source in fs::read_dir(sources).expect("the page's sources") {
            let source = source.expect("a file").path();
            fs::copy(&source, live.join(source.file_name().expect("a name"))).expect("a copy");
        }
        fs::write(live.join("package.json"), r#"{ "type": "module" }"#).expect("a manifest");
        // The same client, as its package has it for Node.js.
        let client = r#"export { io } from "socket.io-client";"#;
        fs::write(live.join("socket.io.esm.min.js"), client).expect("the client");
        Self::start(&mut node, folder).opens(None, hub, token, &[], Transports::Upgrade).await
    }

    fn start(command: &mut Command, folder: PathBuf) -> Self {
        let stderr = File::create(folder.join("stderr")).expect("a log file");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut process = command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let orders = process.stdin.take().expect("its input");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { process, orders, lines, folder, happened: Vec::new() }
    }

    async fn opens(
        mut self,
        after: Option<&str>,
        hub: SocketAddr,
        token: &str,
        channels: &[&str],
        transports: Transports,
    ) -> Self {
        let url = format!("http://{hub}");
        let mut opening = with_transports(json!({ "url": url, "token": token, "channels": channels }), transports);
        if let Some(after) = after {
            opening["after"] = after.into();
        }
        self.tell(opening).await;
        self
    }

    /// Tells it what to do.
    pub async fn tell(&mut self, order: Value) {
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await.unwrap_or_else(|error| panic!("{error}: {}", self.story()));
    }

    /// The next thing that happens.
    pub async fn next(&mut self) -> Value {
        let line = match tokio::time::timeout(HAPPENS_MAX, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(ended) => panic!("the client ended ({ended:?}, {:?}): {}", self.process.try_wait(), self.story()),
            Err(_) => panic!("nothing happens any more: {}", self.story()),
        };
        let happened: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        self.happened.push(happened.clone());
        happened
    }

    /// The next thing of this kind that happens: `connect`, `disconnect`, `connect_error`, `upgrade` …
    pub async fn happens(&mut self, on: &str) -> Value {
        loop {
            let happened = self.next().await;
            if happened["on"] == on {
                return happened;
            }
        }
    }

    /// The next event of this name.
    pub async fn hears(&mut self, name: &str) -> Heard {
        loop {
            if let Some(heard) = Heard::of(&self.next().await).filter(|heard| heard.name == name) {
                return heard;
            }
        }
    }

    /// Goes on listening while something else comes about.
    pub async fn listens_while<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                _ = self.next() => {}
            }
        }
    }

    /// What its handlers were given, from its first connection on, must be what the journal holds for its channels: all
    /// of it, in order, once, but for values that are accounted for. Answers how many of these were merged.
    pub async fn heard_the_journal_of(&mut self, shop: &Shop<'_>, kinds: &[&str]) -> u64 {
        let journal = shop.journal_of(kinds).await;
        while self.positions().last() != journal.last().map(|(position, _)| position) {
            self.next().await;
        }
        merged_in(&self.noted(), &journal)
    }

    /// Where its connections began, and the business events that it heard.
    pub fn noted(&self) -> Vec<Noted> {
        let noted = |it: Heard| {
            let position = it.position()?.to_owned();
            match it.name.as_str() {
                "ready" => Some(Noted::Began(position)),
                _ => it.is_business().then(|| Noted::Heard(position, it.body().clone())),
            }
        };
        self.happened.iter().filter_map(Heard::of).filter_map(noted).collect()
    }

    /// Every business event heard so far, in the order in which it came.
    pub fn heard(&self) -> Vec<Heard> {
        self.happened.iter().filter_map(Heard::of).filter(Heard::is_business).collect()
    }

    /// The positions of these.
    pub fn positions(&self) -> Vec<String> {
        self.heard().iter().filter_map(Heard::position).map(str::to_owned).collect()
    }

    /// Joins, and waits for the answer.
    pub async fn join(&mut self, channels: &[&str]) -> Value {
        self.ask(json!({ "do": "join", "channels": channels })).await
    }

    /// Leaves, and waits for the answer.
    pub async fn leave(&mut self, channels: &[&str]) -> Value {
        self.ask(json!({ "do": "leave", "channels": channels })).await
    }

    /// Sends a fresh token in band, and waits for the answer.
    pub async fn renew(&mut self, token: &str) -> Value {
        self.ask(json!({ "do": "auth", "token": token })).await
    }

    async fn ask(&mut self, order: Value) -> Value {
        self.tell(order).await;
        self.happens("ack").await["answer"].clone()
    }

    /// The JavaScript client's connection breaks; it comes back by itself.
    pub async fn cut(&mut self) {
        self.tell(json!({ "do": "cut" })).await;
        self.happens("disconnect").await;
    }

    /// Its connection breaks, and it stays away until [`Self::online`].
    pub async fn offline(&mut self) {
        self.tell(json!({ "do": "offline" })).await;
        self.happens("disconnect").await;
    }

    pub async fn online(&mut self) {
        self.tell(json!({ "do": "online" })).await;
    }

    fn story(&self) -> String {
        let happened: Vec<String> = self.happened.iter().map(Value::to_string).collect();
        let stderr = fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
        format!("so far\n{}\n{stderr}", happened.join("\n"))
    }
}

/// What has happened to one of a [`Crowd`].
#[derive(Debug, Deserialize)]
pub struct Member {
    /// Its sessions, one after the other.
    pub sids: Vec<String>,
    /// What each of its connections said of being recovered.
    pub recovered: Vec<bool>,
    /// Why it was disconnected, each time.
    pub left: Vec<String>,
    /// Why it could not connect, each time.
    pub errors: Vec<String>,
    /// Where the journal stood when it was ready for the first time.
    pub start: Option<String>,
    /// The positions of the business events that it was given.
    pub heard: Vec<String>,
    pub connected: bool,
    pub transport: Option<String>,
}

/// Many stock JavaScript clients with default options, in one process. Killed when dropped.
pub struct Crowd(StockScreen);

impl Crowd {
    /// So many come at once, with these options besides the default ones.
    pub async fn comes(hub: SocketAddr, token: &str, channels: &[&str], many: usize, options: Value) -> Self {
        let (mut program, folder) = javascript_program(&programs().join("crowd.mjs")).await;
        let mut crowd = StockScreen::start(&mut program, folder);
        let url = format!("http://{hub}");
        crowd.tell(json!({ "url": url, "token": token, "channels": channels, "many": many, "options": options })).await;
        Self(crowd)
    }

    /// What has happened to each so far.
    async fn reports(&mut self) -> Vec<Member> {
        self.0.tell(json!({ "do": "report" })).await;
        let report = self.0.next().await;
        self.0.happened.clear(); // The next report has all of it.
        serde_json::from_value(report).expect("a report")
    }

    /// Waits until a fact holds for all of them, taken together.
    pub async fn until_all(&mut self, what: &str, fact: impl Fn(&[Member]) -> bool) -> Vec<Member> {
        let started = Instant::now();
        loop {
            let members = self.reports().await;
            if fact(&members) {
                return members;
            }
            if started.elapsed() > HAPPENS_MAX {
                let brief = |one: &Member| (one.sids.len(), one.left.clone(), one.errors.clone(), one.heard.len());
                let all: Vec<_> = members.iter().map(brief).collect();
                panic!("never: {what}. Connected, left, errors, heard: {all:?}");
            }
            tokio::time::sleep(REPORT_EVERY).await;
        }
    }

    /// Waits until a fact holds for each of them.
    pub async fn until(&mut self, what: &str, fact: impl Fn(&Member) -> bool) -> Vec<Member> {
        self.until_all(what, |all| all.iter().all(&fact)).await
    }
}

fn with_transports(mut opening: Value, transports: Transports) -> Value {
    opening["transports"] = transports.names().into();
    opening
}

/// Node.js with a copy of the program that finds its packages, in a folder that goes with the test.
pub async fn javascript_program(program: &Path) -> (Command, PathBuf) {
    let (folder, copy) = copied(program);
    symlink(javascript_packages().await, folder.join("node_modules")).expect("a link to the packages");
    let mut command = Command::new("node");
    command.arg(copy).current_dir(&folder);
    (command, folder)
}

/// Python with its packages and a copy of the program, in a folder that goes with the test.
pub async fn python_program(program: &Path) -> (Command, PathBuf) {
    let (folder, copy) = copied(program);
    let mut command = Command::new(python().await);
    command.arg("-u").arg(copy).current_dir(&folder);
    (command, folder)
}

fn copied(program: &Path) -> (PathBuf, PathBuf) {
    let folder = dir("client");
    let copy = folder.join(program.file_name().expect("a program"));
    fs::copy(program, &copy).unwrap_or_else(|error| panic!("copying {}: {error}", program.display()));
    (folder, copy)
}
