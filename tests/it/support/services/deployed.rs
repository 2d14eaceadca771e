//! The services of `docker-compose.yml` as processes, from its variables and from the very files of `deploy/`.
//!
//! What differs from containers, and nothing else does: a service is not found by its name but by a port of the loopback
//! address, which each program is told in its own way on top of its file; files are found in a folder of the run rather
//! than where they are mounted; and PostgreSQL does not wait for the disk. A service counts as ready when its own health
//! check in the compose file says so.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use super::commands::{self, Ports, program};
use super::{Service, free_port, rabbitmq, service_dir, unprivileged};
use crate::support::compose::{Compose, fill_in};

/// The oldest PostgreSQL, a major version, whose SQL we speak.
const POSTGRES_MIN: u32 = 15;
/// The oldest PgBouncer that keeps prepared statements in transaction mode.
const PGBOUNCER_MIN: (u32, u32) = (1, 21);

pub struct Deployed {
    compose: Compose,
    values: BTreeMap<&'static str, String>,
    /// Where a service and port of the compose file really is.
    places: BTreeMap<(&'static str, u16), SocketAddr>,
    /// Where a service's files and data are.
    dirs: HashMap<&'static str, PathBuf>,
    running: Mutex<HashMap<&'static str, Service>>,
}

/// What each service listens on; `papers.rs` holds the compose file to its own.
const LISTENERS: [(&str, &[u16]); 9] = [
    ("postgres", &[5432]),
    ("pgbouncer", &[6432]),
    ("redis", &[6379]),
    ("rabbitmq", &[5672]),
    ("api", &[8080, 9464]),
    ("gateway-1", &[8080, 9464]),
    ("gateway-2", &[8080, 9464]),
    ("worker", &[8080, 9464]),
    ("haproxy", &[8080, 8405]),
];

impl Deployed {
    /// Puts every service's files where it finds them, with these values for the compose file's variables. Nothing runs.
    pub fn new(values: BTreeMap<&'static str, String>) -> Self {
        let listeners = LISTENERS.iter().flat_map(|(service, ports)| ports.iter().map(|port| (*service, *port)));
        let places = listeners.map(|it| (it, SocketAddr::from(([127, 0, 0, 1], free_port())))).collect();
        let compose = Compose::read();
        let services = ["postgres", "pgbouncer", "redis", "rabbitmq", "haproxy"];
        let dirs = services.map(|name| (name, mounted(&compose, name, &values))).into();
        Self { compose, values, places, dirs, running: Mutex::default() }
    }

    /// What a service is started with.
    pub fn command(&self, name: &str) -> Vec<&str> {
        self.compose.services[name].command.iter().map(String::as_str).collect()
    }

    pub fn address(&self, service: &'static str, port: u16) -> SocketAddr {
        self.places[&(service, port)]
    }

    /// A service's environment, filled in, with addresses and the operator's own files as they are here.
    pub fn environment(&self, name: &str) -> BTreeMap<String, String> {
        let service = &self.compose.services[name];
        let filled = |text: &str| fill_in(text, &self.values).expect("values");
        let files = service.configs.iter().filter_map(|mount| {
            Some((mount.target.as_str(), filled(self.compose.configs[&mount.source].file.as_ref()?)))
        });
        let files: Vec<_> = files.collect();
        let here = |value: &String| {
            let value = self.at_places(name, &filled(value));
            files.iter().fold(value, |value, (target, file)| value.replace(target, file))
        };
        service.environment.iter().map(|(variable, value)| (variable.clone(), here(value))).collect()
    }

    /// Kills it at once, as a crash does.
    pub fn kill(&self, name: &str) {
        self.running().remove(name).expect("a service that runs").kill();
    }

    /// Starts a service that is not running, on the data that it has, and waits for its health.
    pub async fn start(&self, name: &'static str) {
        let command = match name {
            "postgres" => self.postgres(),
            "pgbouncer" => self.pgbouncer(),
            "redis" => self.redis(),
            "rabbitmq" => self.rabbitmq().await,
            "haproxy" => self.haproxy(),
            _ => panic!("{name} is not started here"),
        };
        let mut service = Service::spawn(name, &self.dirs[name], command);
        service.ready(async || self.is_healthy(name).await).await;
        self.running().insert(name, service);
        if name == "postgres" {
            self.initialise();
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<&'static str, Service>> {
        self.running.lock().expect("no test panics with it locked")
    }

    /// What the service's own health check says.
    pub async fn is_healthy(&self, name: &str) -> bool {
        let check = self.compose.services[name].healthcheck.as_ref().expect("a health check");
        let [kind, program, arguments @ ..] = &check.test[..] else { panic!("{name} has no command to check it") };
        assert_eq!(kind, "CMD");
        let arguments = arguments.iter().map(|argument| {
            let own = self.places.iter().filter(|((service, _), _)| *service == name);
            own.fold(argument.clone(), |text, ((_, port), place)| {
                text.replace(&port.to_string(), &place.port().to_string())
            })
        });
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.expect("a program that checks health").success()
    }

    /// Everything that a service has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dirs[name].join(format!("{name}.out"))).expect("a log")
    }

    /// Where a path of a service's container is here.
    fn path(&self, name: &str, target: &str) -> PathBuf {
        self.dirs[name].join(target.trim_start_matches('/'))
    }

    /// A text with the addresses of services as they are here.
    fn at_places(&self, name: &str, text: &str) -> String {
        self.places.iter().fold(text.to_owned(), |text, ((service, port), place)| {
            let text = text.replace(&format!("@{service}:{port}"), &format!("@{place}"));
            let (host, number) = (place.ip(), place.port());
            let text = text.replace(&format!("host={service} port={port}"), &format!("host={host} port={number}"));
            if *service == name { text.replace(&format!("0.0.0.0:{port}"), &place.to_string()) } else { text }
        })
    }

    fn postgres(&self) -> Command {
        let dir = &self.dirs["postgres"];
        if !dir.join("data").exists() {
            let mut initdb = as_service(postgres_program("initdb"), dir);
            initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D", "data"]);
            let output = initdb.output().expect("starting initdb");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let place = self.address("postgres", 5432);
        let setting = |name: &str, value: &str| format!("{name}={value}");
        let mut command = Command::new(postgres_program("postgres"));
        command.args(["-D", "data"]);
        for setting in [
            setting("config_file", &self.path("postgres", "/etc/postgresql/postgresql.conf").to_string_lossy()),
            setting("hba_file", &self.path("postgres", "/etc/postgresql/pg_hba.conf").to_string_lossy()),
            setting("listen_addresses", &place.ip().to_string()),
            setting("port", &place.port().to_string()),
            setting("unix_socket_directories", &dir.to_string_lossy()),
            setting("fsync", "off"),
        ] {
            command.args(["-c", &setting]);
        }
        command
    }

    /// Runs the scripts of a new cluster, once, as the image does: in order, as superuser, with the container's variables.
    fn initialise(&self) {
        let done = self.dirs["postgres"].join("initialised");
        if done.exists() {
            return;
        }
        let files = self.compose.services["postgres"].files();
        let scripts: Vec<&str> =
            files.keys().copied().filter(|it| it.starts_with("/docker-entrypoint-initdb.d/")).collect();
        assert!(scripts.is_sorted() && scripts.len() == 3, "{scripts:?}");
        for script in scripts {
            self.psql_as_superuser(&["-f", &self.path("postgres", script).to_string_lossy()]);
        }
        fs::write(done, "").expect("a mark");
    }

    /// Over the socket, which only whoever is inside the container has.
    pub fn psql_as_superuser(&self, arguments: &[&str]) -> String {
        let dir = &self.dirs["postgres"];
        let mut psql = as_service("psql".into(), dir);
        psql.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"]).args(arguments);
        psql.env("PGHOST", dir).env("PGPORT", self.address("postgres", 5432).port().to_string());
        psql.envs(self.environment("postgres"));
        let output = psql.output().expect("starting psql");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    fn pgbouncer(&self) -> Command {
        let dir = &self.dirs["pgbouncer"];
        let mounted = self.path("pgbouncer", "/etc/pgbouncer/pgbouncer.ini");
        let ini = fs::read_to_string(&mounted).expect("pgbouncer.ini");
        fs::write(&mounted, self.at_places("pgbouncer", &ini)).expect("pgbouncer.ini");
        let place = self.address("pgbouncer", 6432);
        // The section that the file ends with goes on: opened again, it would begin with defaults.
        let outer = format!(
            "%include {}\nlisten_addr = {}\nlisten_port = {}\nauth_file = {}\n",
            mounted.display(),
            place.ip(),
            place.port(),
            self.path("pgbouncer", "/etc/pgbouncer/users.txt").display()
        );
        fs::write(dir.join("here.ini"), outer).expect("a file");
        let mut command = Command::new(pgbouncer_program());
        command.arg(dir.join("here.ini"));
        command
    }

    fn redis(&self) -> Command {
        let place = self.address("redis", 6379);
        let mut command =
            Command::new(program("redis-server", &["/usr/bin/redis-server", "/usr/local/bin/redis-server"]));
        command.arg(self.path("redis", "/usr/local/etc/redis/redis.conf"));
        command.args(["--bind", &place.ip().to_string(), "--port", &place.port().to_string()]);
        command.arg("--aclfile").arg(self.path("redis", "/usr/local/etc/redis/users.acl"));
        command
    }

    async fn rabbitmq(&self) -> Command {
        let (dir, place) = (self.dirs["rabbitmq"].clone(), self.address("rabbitmq", 5672));
        let ports = Ports { amqp: place.port(), management: 0, distribution: free_port(), epmd: free_port() };
        let more = dir.join("etc/rabbitmq/conf.d");
        fs::create_dir_all(&more).expect("a folder");
        let here = format!(
            "listeners.tcp.default = {place}\nload_definitions = {}\n",
            self.path("rabbitmq", "/etc/rabbitmq/definitions.d").display()
        );
        fs::write(more.join("90-here.conf"), here).expect("a file");
        fs::write(dir.join("enabled_plugins"), "[].\n").expect("a list of plugins");
        let epmd = rabbitmq::epmd(&dir, ports.epmd).await;
        self.running().insert("epmd", epmd);
        let mut command = commands::rabbitmq_server(&dir, ports, rabbitmq::NAME);
        command.envs(self.environment("rabbitmq"));
        command.env("RABBITMQ_CONFIG_FILE", self.path("rabbitmq", "/etc/rabbitmq/rabbitmq.conf"));
        command.env("RABBITMQ_CONFIG_FILES", more.join("*.conf"));
        command
    }

    fn haproxy(&self) -> Command {
        let mut command = Command::new(program("haproxy", &["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"]));
        command.arg("-db").arg("-f").arg(self.path("haproxy", "/usr/local/etc/haproxy/haproxy.cfg"));
        for (variable, service, port) in [
            ("PUBLIC_BIND", "haproxy", 8080),
            ("METRICS_BIND", "haproxy", 8405),
            ("API_1", "api", 8080),
            ("GATEWAY_1", "gateway-1", 8080),
            ("GATEWAY_2", "gateway-2", 8080),
        ] {
            command.env(variable, self.address(service, port).to_string());
        }
        command
    }
}

/// A folder with a service's files where it finds them in its container, as they are.
fn mounted(compose: &Compose, name: &str, values: &BTreeMap<&'static str, String>) -> PathBuf {
    let dir = service_dir(name);
    let service = &compose.services[name];
    let files = service.files().into_iter().map(|(target, file)| (target, fs::read(file).expect("a file to mount")));
    let configs = service.configs.iter().map(|mount| {
        let content = compose.configs[&mount.source].content.as_ref().expect("a content");
        (mount.target.as_str(), fill_in(content, values).expect("values").into_bytes())
    });
    for (target, content) in files.chain(configs) {
        let path = dir.join(target.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
    }
    dir
}

/// A command that ends by itself, in a service's folder, as the user whom services run as.
fn as_service(program: PathBuf, dir: &Path) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    if let Some(user) = unprivileged() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Of the newest PostgreSQL that `bin/test` would take: Debian and Homebrew keep servers out of the PATH.
fn postgres_program(name: &str) -> PathBuf {
    let newest = |(folder, prefix): (&str, &str)| {
        let found = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| {
            let version = entry.ok()?.path();
            let major: u32 = version.file_name()?.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            let program = version.join("bin").join(name);
            (major >= POSTGRES_MIN && program.exists()).then_some((major, program))
        });
        found.max()
    };
    let places = [("/usr/lib/postgresql", ""), ("/opt/homebrew/opt", "postgresql@"), ("/usr/local/opt", "postgresql@")];
    places.into_iter().filter_map(newest).max().map_or_else(|| name.into(), |(_, program)| program)
}

/// An installed one that is new enough, or the one that `bin/test` fetched.
fn pgbouncer_program() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).unwrap_or_default();
    let fetched = [PathBuf::from("/var/cache"), cache].map(|cache| cache.join("tillwire/pgbouncer/run"));
    let installed = ["pgbouncer", "/usr/sbin/pgbouncer"].map(PathBuf::from);
    let mut found = installed.into_iter().chain(fetched);
    let is_new = |program: &PathBuf| {
        let output = as_service(program.clone(), Path::new("/")).arg("--version").output().ok();
        let text = String::from_utf8(output?.stdout).ok()?;
        let mut numbers = text.lines().next()?.strip_prefix("PgBouncer ")?.split('.').map(|it| it.parse().ok());
        Some((numbers.next()??, numbers.next()??) >= PGBOUNCER_MIN)
    };
    found
        .find(|program| is_new(program).unwrap_or(false))
        .expect("PgBouncer 1.21 or newer: `bin/test` fetches one where Debian's is older")
}
