//! Configuration: one struct, read once in `main`. `tillwire --help` is its reference, and nothing else reads the
//! environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use axum::http::HeaderValue;
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use secrecy::SecretString;
use tillwire_channels::{Channel, MerchantId, Moment, OutletId, Position, RegisterId, Role as StaffRole, StaffId};

/// A real-time commerce hub. Kasir → layar, live.
#[derive(Debug, Parser)]
#[command(name = "tillwire", version)]
pub struct Config {
    #[command(subcommand)]
    pub role: Role,

    /// What to log, e.g. `info` or `tillwire=debug,sqlx=warn`; by default `info`, and `warn,sqlx=error` for the
    /// demo, which says itself what it does.
    #[arg(long, global = true, env = "TILLWIRE_LOG")]
    pub log: Option<String>,

    /// Log one JSON object a line.
    #[arg(long, global = true, env = "TILLWIRE_LOG_JSON")]
    pub log_json: bool,
}

impl Config {
    /// What to log.
    pub fn log(&self) -> &str {
        let default = if matches!(self.role, Role::Demo(_)) { "warn,sqlx=error" } else { "info" };
        self.log.as_deref().unwrap_or(default)
    }
}

/// What this process is.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// A shop to look at: a private PostgreSQL, and five outlets that sell. Nothing has to be installed or configured.
    Demo(Demo),
    /// REST and screens, on the services named by the configuration.
    Serve(Node),
    /// REST alone; `gateway` nodes hear of it over a bus, or find it in the database.
    Api(Node),
    /// Screens alone.
    Gateway(Node),
    /// The durable path alone: serves webhooks, and moves journals into RabbitMQ. Several share the work, and take over from
    /// one another.
    Worker(Node),
    /// Brings the database's schema up to date.
    Migrate(Migrate),
    /// Checks everything that a node's configuration names, says what is wrong and what to do about it. Ends with 1 if
    /// anything is.
    Doctor(Doctor),
    /// Follows one merchant's journal in the terminal, until Ctrl-C.
    Tail(Tail),
    /// Mints a token, or makes a key to sign tokens with.
    Token(Token),
    /// Makes keys that secrets are sealed with, and changes one for another.
    Vault(Vault),
    /// Looks after journals.
    Journal(Journal),
    /// What waits for handlers, how old it is, and what is dead; and what becomes of that.
    Queues(Queues),
    /// Says how the jobs of a fleet stand, or has one done out of turn.
    Jobs(Jobs),
}

/// A shop to look at. No balancer stands before it, so it stops without waiting for one to notice.
#[derive(Debug, Args)]
#[command(mut_arg("drain_seconds", |arg| arg.default_value("0")))]
pub struct Demo {
    /// Where its database lives, in a folder `demo`: by default `/var/lib/tillwire` for root and
    /// `~/.local/share/tillwire` for everyone else.
    #[arg(long, env = "TILLWIRE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// How many sales a second, as long as the machine keeps up.
    #[arg(long, env = "TILLWIRE_DEMO_RATE", default_value = "1", value_parser = positive)]
    pub rate: f64,

    /// How many times as fast as they really were, instead: 1500 is about one a second on average. Nights are skipped.
    #[arg(long, env = "TILLWIRE_DEMO_SPEED", value_parser = positive, conflicts_with = "rate")]
    pub speed: Option<f64>,

    /// Only the year's first so many baskets and the products in them, again and again, as a merchant of their own.
    #[arg(long, env = "TILLWIRE_DEMO_BASKETS", value_parser = clap::value_parser!(u32).range(1..))]
    pub baskets: Option<u32>,

    #[command(flatten)]
    pub buses: Buses,
    #[command(flatten)]
    pub listen: Listen,
    #[command(flatten)]
    pub webhooks: Webhooks,
    #[command(flatten)]
    pub providers: Providers,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("a number greater than zero".to_owned()),
    }
}

/// A node that serves.
#[derive(Debug, Args)]
pub struct Node {
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub tokens: Tokens,
    #[command(flatten)]
    pub buses: Buses,
    #[command(flatten)]
    pub listen: Listen,
    #[command(flatten)]
    pub webhooks: Webhooks,
    #[command(flatten)]
    pub push: Push,
    #[command(flatten)]
    pub vault: VaultKeys,
    #[command(flatten)]
    pub providers: Providers,
}

/// What secrets are sealed with: of webhooks, devices, and accounts at payment providers, which are not kept without. For `api`
/// nodes and workers alike.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Vault")]
pub struct VaultKeys {
    /// Files with vault keys, as `tillwire vault new-key` writes them, that nobody else may read; comma-separated. The first
    /// key seals, and all of them open.
    #[arg(long, env = "TILLWIRE_VAULT_KEY_FILE", value_delimiter = ',')]
    pub vault_key_file: Vec<PathBuf>,

    /// The keys themselves instead, each 32 bytes in base64; comma-separated. Better given by the environment.
    #[arg(
        long,
        env = "TILLWIRE_VAULT_KEYS",
        hide_env_values = true,
        value_delimiter = ',',
        conflicts_with = "vault_key_file"
    )]
    pub vault_keys: Vec<SecretString>,
}

impl From<VaultKeys> for crate::vault::keys::Source {
    fn from(vault: VaultKeys) -> Self {
        Self { files: vault.vault_key_file, keys: vault.vault_keys }
    }
}

/// Where webhooks may lead besides public addresses.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Webhooks")]
pub struct Webhooks {
    /// Networks of your own that webhooks may lead to, on any port and by plain HTTP as well, such as `10.1.0.0/16`;
    /// comma-separated. Whoever may add a webhook can then reach whatever is there.
    #[arg(long, env = "TILLWIRE_WEBHOOK_NETWORKS", value_delimiter = ',', value_parser = network)]
    pub webhook_networks: Vec<IpNet>,

    /// Ports of public addresses that webhooks may lead to besides 443; comma-separated.
    #[arg(long, env = "TILLWIRE_WEBHOOK_PORTS", value_delimiter = ',')]
    pub webhook_ports: Vec<u16>,
}

impl From<Webhooks> for crate::egress::Egress {
    fn from(webhooks: Webhooks) -> Self {
        Self { networks: webhooks.webhook_networks, ports: webhooks.webhook_ports }
    }
}

/// Phones and browsers: a service is sent to if it has a key here. For `api` nodes and workers alike.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Push")]
pub struct Push {
    /// The private key that browsers' push services know this hub by (VAPID): P-256, PKCS#8 in PEM. Subscriptions are bound to
    /// it: with another, every browser has to subscribe anew.
    #[arg(long, env = "TILLWIRE_PUSH_VAPID_KEY", requires = "push_contact")]
    pub push_vapid_key: Option<PathBuf>,

    /// Whom browsers' push services may ask what this hub is doing: `mailto:ops@shop.example`, or an https:// page.
    #[arg(long, env = "TILLWIRE_PUSH_CONTACT")]
    pub push_contact: Option<String>,

    /// Networks that browsers' endpoints may lead to besides public addresses, by plain HTTP as well: for tests.
    #[arg(long, env = "TILLWIRE_PUSH_NETWORKS", hide = true, value_delimiter = ',', value_parser = network)]
    pub push_networks: Vec<IpNet>,

    /// The file of the service account that sends to Android by FCM, as Google gives it.
    #[arg(long, env = "TILLWIRE_FCM_CREDENTIALS")]
    pub fcm_credentials: Option<PathBuf>,

    /// Where FCM is, if not at Google's: for tests.
    #[arg(long, env = "TILLWIRE_FCM_URL", hide = true)]
    pub fcm_url: Option<String>,

    /// The private key that APNs knows this hub by, as Apple gives it: a `.p8` file.
    #[arg(long, env = "TILLWIRE_APNS_KEY", requires_all = ["apns_key_id", "apns_team", "apns_topic"])]
    pub apns_key: Option<PathBuf>,

    /// That key's id: ten letters and digits.
    #[arg(long, env = "TILLWIRE_APNS_KEY_ID")]
    pub apns_key_id: Option<String>,

    /// The team whose key it is: ten letters and digits.
    #[arg(long, env = "TILLWIRE_APNS_TEAM")]
    pub apns_team: Option<String>,

    /// The app that is told something: its bundle id.
    #[arg(long, env = "TILLWIRE_APNS_TOPIC")]
    pub apns_topic: Option<String>,

    /// Devices' tokens are those of an app that is being developed.
    #[arg(long, env = "TILLWIRE_APNS_SANDBOX")]
    pub apns_sandbox: bool,

    /// Where APNs is, if not at Apple's: for tests.
    #[arg(long, env = "TILLWIRE_APNS_URL", hide = true)]
    pub apns_url: Option<String>,
}

/// Payment providers, where they are not at home. Only in their test mode: keys that move money are never sent elsewhere.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Payment providers")]
pub struct Providers {
    /// Where Midtrans' sandbox is, if not at Midtrans: for tests and demos.
    #[arg(long, env = "TILLWIRE_MIDTRANS_TEST_URL", hide = true)]
    pub midtrans_test_url: Option<String>,

    /// Where Xendit's test mode is, if not at Xendit: for tests and demos.
    #[arg(long, env = "TILLWIRE_XENDIT_TEST_URL", hide = true)]
    pub xendit_test_url: Option<String>,
}

impl From<Providers> for crate::connectors::caller::Options {
    fn from(providers: Providers) -> Self {
        let mut options = Self::default();
        if let Some(url) = providers.midtrans_test_url {
            options.midtrans.test = url;
        }
        if let Some(url) = providers.xendit_test_url {
            options.xendit.test = url;
        }
        options
    }
}

impl From<Push> for crate::push::services::Options {
    fn from(push: Push) -> Self {
        Self {
            vapid_key: push.push_vapid_key,
            contact: push.push_contact,
            networks: push.push_networks,
            fcm_credentials: push.fcm_credentials,
            fcm_url: push.fcm_url,
            apns_key: push.apns_key,
            apns_key_id: push.apns_key_id,
            apns_team: push.apns_team,
            apns_topic: push.apns_topic,
            apns_sandbox: push.apns_sandbox,
            apns_url: push.apns_url,
        }
    }
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Database")]
pub struct Database {
    /// PostgreSQL 15 or newer as `tillwire_app`: `postgres://tillwire_app:…@host/tillwire`. May go through PgBouncer.
    #[arg(long, env = "TILLWIRE_DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,

    /// The same database as `tillwire_feed`. The primary, never a replica.
    #[arg(long, env = "TILLWIRE_FEED_DATABASE_URL", hide_env_values = true)]
    pub feed_database_url: SecretString,

    /// The same database as `tillwire_relay`, for workers: webhooks, and the relay to RabbitMQ. The primary, directly and not
    /// through a pooler.
    #[arg(long, env = "TILLWIRE_RELAY_DATABASE_URL", hide_env_values = true)]
    pub relay_database_url: Option<SecretString>,

    /// The most connections for requests and screens, as `tillwire_app`; a quarter as many, five at least, as `tillwire_feed`.
    /// What `api` nodes and workers do by themselves takes some of its own: docs/operating.md has the table.
    #[arg(long, env = "TILLWIRE_DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_connections: u32,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub struct Tokens {
    /// The public keys that tokens are verified with: a JWK set in a file.
    #[arg(long, env = "TILLWIRE_TOKEN_KEYS")]
    pub token_keys: PathBuf,

    #[command(flatten)]
    pub realm: Realm,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub struct Realm {
    /// Who issues tokens: their `iss`.
    #[arg(long, env = "TILLWIRE_TOKEN_ISSUER", default_value = "tillwire")]
    pub token_issuer: String,

    /// Whom tokens are for: their `aud`.
    #[arg(long, env = "TILLWIRE_TOKEN_AUDIENCE", default_value = "tillwire")]
    pub token_audience: String,
}

impl From<Realm> for crate::identity::tokens::Realm {
    fn from(realm: Realm) -> Self {
        Self { issuer: realm.token_issuer, audience: realm.token_audience }
    }
}

/// The brokers that carry entries between nodes: one of them, both, or none for a node that is alone.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Buses")]
pub struct Buses {
    /// Redis, 6 or later: `redis://user:password@host:6379`, or `rediss://…` with TLS. Of a cluster, some of its nodes,
    /// separated by commas; user, password and TLS of the first are used for all.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<SecretString>,

    /// Redis is a Redis Cluster, 7 or later: entries go by sharded pub/sub. All nodes of a hub must agree on it.
    #[arg(long, env = "TILLWIRE_REDIS_CLUSTER")]
    pub redis_cluster: bool,

    /// RabbitMQ: `amqp://user:password@host:5672/vhost`. Of a cluster, several of its nodes, separated by commas: they are
    /// tried in turn. Not `amqps://`: let a proxy beside the hub speak TLS.
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    pub amqp_url: Option<SecretString>,

    /// A part of every name that is used at a broker, for hubs that share it: letters, digits, `.`, `:`, `_`, `-`.
    #[arg(long, env = "TILLWIRE_BUS_PREFIX", default_value = "", hide_default_value = true, value_parser = bus_prefix)]
    pub bus_prefix: String,
}

impl From<Buses> for crate::bus::Brokers {
    fn from(buses: Buses) -> Self {
        let Buses { redis_url, redis_cluster, amqp_url, bus_prefix: prefix } = buses;
        Self { redis_url, redis_cluster, amqp_url, prefix }
    }
}

/// How long a prefix may be. Names at RabbitMQ may have 255 bytes.
const BUS_PREFIX_BYTES_MAX: usize = 64;

fn bus_prefix(text: &str) -> Result<String, String> {
    if text.len() > BUS_PREFIX_BYTES_MAX {
        return Err(format!("at most {BUS_PREFIX_BYTES_MAX} characters"));
    }
    match text.chars().find(|it| !it.is_ascii_alphanumeric() && !".:_-".contains(*it)) {
        Some(other) => Err(format!("{other:?} is not a letter, a digit, or one of .:_-")),
        None => Ok(text.to_owned()),
    }
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listening")]
pub struct Listen {
    /// Where REST and screens are served.
    #[arg(long, env = "TILLWIRE_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Where other gateways of this hub reach this node, as IP and port. By default the address that it listens on; if
    /// that is `0.0.0.0` or `[::]`, this machine's on the way to the database. Not for clients, nor behind a balancer.
    #[arg(long, env = "TILLWIRE_NODE_ADDRESS", value_parser = node_address)]
    pub node_address: Option<SocketAddr>,

    /// Where Prometheus finds `/metrics`: another listener, not to be opened to the public.
    #[arg(long, env = "TILLWIRE_METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    pub metrics_listen: SocketAddr,

    /// Web pages that may connect as screens besides those of this hub's own host, e.g. `https://shop.example`;
    /// comma-separated.
    #[arg(long, env = "TILLWIRE_ORIGINS", value_delimiter = ',')]
    pub origins: Vec<HeaderValue>,

    /// Every how many seconds a screen is pinged: less than what proxies on the way allow a connection to be silent.
    #[arg(long, env = "TILLWIRE_PING_SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub ping_seconds: u64,

    /// How many seconds screens stay signed in while the database does not answer.
    #[arg(long, env = "TILLWIRE_VOUCH_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub vouch_seconds: u64,

    /// How many seconds a node that was told to stop keeps answering, while balancers learn that it is not ready.
    #[arg(long, env = "TILLWIRE_DRAIN_SECONDS", default_value_t = 5)]
    pub drain_seconds: u64,

    #[command(flatten)]
    pub limits: Limits,
}

/// What one node serves of screens. Newcomers are refused; those who are there stay.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits of screens, on each node")]
pub struct Limits {
    /// The most connections of screens at once. A node with fewer file descriptors takes fewer.
    #[arg(long, env = "TILLWIRE_SOCKETS_MAX", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    pub sockets_max: u32,

    /// The most of them from one address; from 64 bits of an IPv6 address. 0 for no bound.
    #[arg(long, env = "TILLWIRE_SOCKETS_PER_ADDRESS", default_value_t = 2_000)]
    pub sockets_per_address: u32,

    /// The most of them with one token. 0 for no bound.
    #[arg(long, env = "TILLWIRE_SOCKETS_PER_TOKEN", default_value_t = 256)]
    pub sockets_per_token: u32,

    /// The most of them of one merchant. 0 for no bound.
    #[arg(long, env = "TILLWIRE_SOCKETS_PER_MERCHANT", default_value_t = 10_000)]
    pub sockets_per_merchant: u32,

    /// How many messages a second one screen may send in the long run, besides heartbeats and acknowledgements. 0 for no
    /// bound.
    #[arg(long, env = "TILLWIRE_MESSAGES_PER_SECOND", default_value_t = 20)]
    pub messages_per_second: u32,

    /// How many messages one screen may send at once, after a pause.
    #[arg(long, env = "TILLWIRE_MESSAGES_BURST", default_value_t = 100)]
    pub messages_burst: u32,

    /// How many new connections of screens a second are let in, all together; a quarter as many at once. 0 for no bound.
    #[arg(long, env = "TILLWIRE_HANDSHAKES_PER_SECOND", default_value_t = 2_000)]
    pub handshakes_per_second: u32,

    /// Proxies whose `X-Forwarded-For` is believed, as addresses or networks such as `10.0.0.0/8`; comma-separated.
    /// Behind a balancer that is not named, all screens have its address.
    #[arg(long, env = "TILLWIRE_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "an address, or a network such as 10.0.0.0/8".to_owned())
}

fn node_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "an IP address and a port, e.g. 10.0.0.7:8080".to_owned())?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err("an address that others can connect to".to_owned());
    }
    Ok(address)
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// The database as its owner, `tillwire_migrate`, directly and not through a pooler.
    #[arg(long, env = "TILLWIRE_MIGRATE_DATABASE_URL", hide_env_values = true)]
    pub migrate_database_url: SecretString,
}

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub node: Node,

    /// The database as its owner: only the owner can read which migrations were applied.
    #[arg(long, env = "TILLWIRE_MIGRATE_DATABASE_URL", hide_env_values = true)]
    pub migrate_database_url: Option<SecretString>,

    /// Answer with one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Tail {
    /// The database as `tillwire_feed`.
    #[arg(long, env = "TILLWIRE_FEED_DATABASE_URL", hide_env_values = true)]
    pub feed_database_url: SecretString,

    /// Whose journal.
    #[arg(long)]
    pub merchant: MerchantId,

    /// Begin after this position instead of now, e.g. `1041.2-9f3ac2d1`; `0-00000000` is the very beginning.
    #[arg(long)]
    pub after: Option<Position>,

    /// Only these channels, comma-separated, as a screen would join them: `sales,stock/{outlet}`.
    #[arg(long, value_delimiter = ',')]
    pub channels: Vec<Channel>,

    /// One JSON object a line, as `GET /v1/journal` has them.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Token {
    #[command(subcommand)]
    pub what: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Prints a token.
    Mint(Mint),
    /// Writes a new private key to sign tokens with, and prints the set of public keys to verify them with.
    NewKey {
        /// Where to write it; an existing file is not overwritten.
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Mint {
    /// The private key: PKCS#8 in PEM, Ed25519 or P-256.
    #[arg(long, env = "TILLWIRE_SIGNING_KEY")]
    pub signing_key: PathBuf,

    #[command(flatten)]
    pub realm: Realm,

    /// For which merchant; `new` for one that is to be opened.
    #[arg(long)]
    pub merchant: String,

    /// For whom; a new id if left out.
    #[arg(long)]
    pub staff: Option<StaffId>,

    /// What the bearer is to the merchant.
    #[arg(long, value_parser = staff_role)]
    pub role: StaffRole,

    /// Only these outlets, comma-separated.
    #[arg(long, value_delimiter = ',')]
    pub outlets: Vec<OutletId>,

    /// Only this register.
    #[arg(long)]
    pub register: Option<RegisterId>,

    /// How long it is good for, in seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub ttl_seconds: u64,
}

fn staff_role(word: &str) -> Result<StaffRole, String> {
    serde_json::from_value(word.into())
        .map_err(|_| "owner, manager, cashier, clerk, accountant, auditor or display".to_owned())
}

#[derive(Debug, Args)]
pub struct Vault {
    #[command(subcommand)]
    pub what: VaultCommand,
}

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Writes a new key to a file that only its owner may read.
    NewKey {
        /// Where to write it; an existing file is not overwritten.
        path: PathBuf,
    },
    /// Seals every merchant's data keys anew with the first vault key, while nodes serve. Done again, it goes on where it was
    /// broken off. Ends with 1 where there are data keys that no given key opens.
    Rotate(VaultKeeper),
    /// Opens every merchant's data keys and all that is sealed with them, and changes nothing. Ends with 1 where something does
    /// not open.
    Verify(VaultKeeper),
}

#[derive(Debug, Args)]
pub struct VaultKeeper {
    /// The database as `tillwire_app`.
    #[arg(long, env = "TILLWIRE_DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,

    #[command(flatten)]
    pub vault: VaultKeys,
}

#[derive(Debug, Args)]
pub struct Journal {
    #[command(subcommand)]
    pub what: JournalCommand,
}

#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Reads a whole journal and checks every link of its chain.
    Verify {
        /// The database as `tillwire_feed`.
        #[arg(long, env = "TILLWIRE_FEED_DATABASE_URL", hide_env_values = true)]
        feed_database_url: SecretString,
        /// Whose journal.
        #[arg(long)]
        merchant: MerchantId,
    },
    /// Drops the monthly partitions in which nothing is younger than a moment. Positions in them can then no longer be
    /// served. Waits for nobody: ends with 1 where the relay or a webhook has not come past one.
    Prune {
        /// The database as its owner.
        #[arg(long, env = "TILLWIRE_MIGRATE_DATABASE_URL", hide_env_values = true)]
        migrate_database_url: SecretString,
        /// RFC 3339, e.g. `2026-01-01T00:00:00Z`.
        #[arg(long, value_parser = moment)]
        before: Moment,
        /// Also what the relay or a webhook has not come past: it is told to them no more.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct Jobs {
    /// The database as `tillwire_app`.
    #[arg(long, env = "TILLWIRE_DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,

    #[command(subcommand)]
    pub what: JobsCommand,
}

#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// A line for each: its schedule, when it is next due, what came of it last, and who is doing it.
    List,
    /// Has a job done now, by whichever node is free.
    Run {
        /// As `list` names it.
        job: String,
    },
}

#[derive(Debug, Args)]
pub struct Queues {
    /// The database as `tillwire_relay`.
    #[arg(long, global = true, env = "TILLWIRE_RELAY_DATABASE_URL", hide_env_values = true)]
    pub relay_database_url: Option<SecretString>,

    /// The database as `tillwire_app`, to have dead letters tried again or to drop them.
    #[arg(long, global = true, env = "TILLWIRE_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,

    /// RabbitMQ, if there is one, as nodes name it.
    #[arg(long, global = true, env = "AMQP_URL", hide_env_values = true)]
    pub amqp_url: Option<SecretString>,

    /// As nodes name it.
    #[arg(long, global = true, env = "TILLWIRE_BUS_PREFIX", default_value = "", hide_default_value = true, value_parser = bus_prefix)]
    pub bus_prefix: String,

    /// One JSON object a line.
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub what: Option<QueuesCommand>,
}

#[derive(Debug, Subcommand)]
pub enum QueuesCommand {
    /// Lists dead letters, the oldest first.
    Dead(Letters),
    /// Has dead letters tried again, as if they never were. The audit of their merchants has a line of each.
    Replay(Letters),
    /// Drops dead letters: what they asked for will not be done. The audit of their merchants has a line of each.
    Drop(Letters),
}

/// Which dead letters: those that are named, or those that match.
#[derive(Debug, Args)]
pub struct Letters {
    /// Their ids.
    pub letters: Vec<uuid::Uuid>,

    /// Of one merchant.
    #[arg(long)]
    pub merchant: Option<MerchantId>,

    /// Of one handler, such as `push`.
    #[arg(long)]
    pub handler: Option<String>,

    /// All of them, where nothing else is named.
    #[arg(long)]
    pub all: bool,
}

fn moment(text: &str) -> Result<Moment, String> {
    Moment::parse(text, &time::format_description::well_known::Rfc3339).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Config::command().debug_assert();
    }

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        assert_eq!(super::network("127.0.0.1").unwrap().to_string(), "127.0.0.1/32");
        assert_eq!(super::network(" 10.0.0.0/8 ").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(super::network("fd00::/8").unwrap().to_string(), "fd00::/8");
        for text in ["", "haproxy", "10.0.0.0/33", "10.0.0/8"] {
            assert!(super::network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bus_prefix_is_a_part_of_a_name() {
        assert_eq!(super::bus_prefix("shop-7:"), Ok("shop-7:".to_owned()));
        for text in ["a b", "a*", "{a}", "ä", &"a".repeat(65)] {
            assert!(super::bus_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_nodes_address_can_be_connected_to() {
        assert!(super::node_address("10.0.0.7:8080").is_ok() && super::node_address("[fd00::7]:8080").is_ok());
        for text in ["0.0.0.0:8080", "[::]:8080", "10.0.0.7:0", "10.0.0.7", "gateway-1:8080"] {
            assert!(super::node_address(text).is_err(), "{text}");
        }
    }
}
