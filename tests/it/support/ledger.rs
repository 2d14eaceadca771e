//! A handler of the tests' own, with an effect inside the database and one outside, that does as it is told: here, or as a
//! process of its own that can be killed.

use std::process::Stdio;
use std::time::Duration;

use anyhow::anyhow;
use secrecy::SecretString;
use sqlx::PgPool;
use tillwire::bus::{Brokers, Buses};
use tillwire::handled::marks;
use tillwire::journal::pool;
use tillwire::queues::topology::HandlerQueue;
use tillwire::workers::handlers::{Effect, Failure, Handler, Heard};
use tillwire::workers::{Urls, Workers};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hub::{Shop, TestHub};

/// The variables of a process of its own, and the test that it runs.
const VARIABLES: [&str; 4] = ["LEDGER_APP_URL", "LEDGER_FEED_URL", "LEDGER_RELAY_URL", "LEDGER_AMQP_URL"];
const OWN_PROCESS: &str = "handlers::a_ledger_of_its_own";

pub const LEDGERS: &[HandlerQueue] = &[Ledger::QUEUE];

/// Sales have an effect inside the database, payments one outside, which is counted each time.
pub struct Ledger {
    app: PgPool,
}

impl Handler for Ledger {
    const NAME: &'static str = "ledger";
    const HEARS: &'static [&'static str] = &["sale.completed", "payment.captured"];

    async fn handle(&self, heard: &Heard) -> Result<Effect, Failure> {
        let order = sqlx::query_scalar::<_, String>(
            "update ledger_orders set times = times - 1 where merchant_id = $1 and seq = $2 and times > 0 returning what",
        )
        .bind(heard.merchant.0)
        .bind(heard.position.seq.cast_signed())
        .fetch_optional(&self.app)
        .await
        .map_err(anyhow::Error::from)?;
        match order.as_deref() {
            Some("later") => return Err(anyhow!("come back later").into()),
            Some("never") => return Err(Failure::Never(anyhow!("not in a thousand years"))),
            Some("panic") => panic!("told to"),
            Some("die") => std::process::abort(),
            Some("slow") => tokio::time::sleep(Duration::from_secs(3)).await,
            Some("slow, then later") => {
                tokio::time::sleep(Duration::from_secs(12)).await;
                return Err(anyhow!("come back later").into());
            }
            Some("hang") => std::future::pending().await,
            _ => {}
        }
        let is_inside = &*heard.event.kind == "sale.completed";
        self.write(heard, is_inside).await?;
        Ok(if is_inside { Effect::None } else { Effect::Made })
    }
}

impl Ledger {
    async fn write(&self, heard: &Heard, is_inside: bool) -> anyhow::Result<()> {
        let mut sql = pool::begin_of(&self.app, heard.merchant).await?;
        if is_inside {
            let marked = marks::mark(&mut sql, heard.merchant, Self::NAME, heard.position).await;
            if !marked.map_err(|error| error.into_anyhow())? {
                return Ok(());
            }
        }
        sqlx::query("insert into ledger_lines values ($1, $2, $3, $4, $5)")
            .bind(heard.merchant.0)
            .bind(heard.position.seq.cast_signed())
            .bind(heard.position.event.map(u32::cast_signed))
            .bind(&*heard.event.kind)
            .bind(heard.trace)
            .execute(&mut *sql)
            .await?;
        Ok(sql.commit().await?)
    }
}

/// Makes the tables that it writes to.
pub async fn prepare(hub: &TestHub) {
    let tables = "create table ledger_lines (merchant_id uuid, seq bigint, event integer, kind text, trace uuid);
         create table ledger_orders (merchant_id uuid, seq bigint, what text, times integer);
         grant all on ledger_lines, ledger_orders to tillwire_app";
    hub.database.psql(tables).await;
}

/// Has it do something else, so many times, with the entry that the merchant commits next but so many.
pub async fn order(shop: &Shop<'_>, next: u64, what: &str, times: u32) -> i64 {
    let order = format!(
        "insert into ledger_orders select merchant_id, seq + {next}, '{what}', {times} from journal_heads
         where merchant_id = '{}' returning seq",
        shop.merchant
    );
    shop.hub.database.psql(&order).await.lines().next().expect("a number").trim().parse().expect("a number")
}

/// How many lines of a kind there are, and how many different events they are of.
pub async fn lines(shop: &Shop<'_>, kind: &str) -> (usize, usize) {
    let sql = format!(
        "select count(*) || ' ' || count(distinct (seq, event)) from ledger_lines where merchant_id = '{}' and kind = '{kind}'",
        shop.merchant
    );
    let answer = shop.hub.database.psql(&sql).await;
    let (all, different) = answer.trim().split_once(' ').expect("two numbers");
    (all.parse().expect("a number"), different.parse().expect("a number"))
}

/// A worker with this handler, and a relay where there is a broker.
pub struct Working {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Working {
    pub fn begin(urls: &[String; 3], amqp_url: Option<&str>) -> Self {
        let [app, feed, relay] = urls.each_ref().map(|url| SecretString::from(url.as_str()));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut buses, _doors) = Buses::new(tasks.clone(), stop.clone());
        let brokers = Brokers { amqp_url: amqp_url.map(SecretString::from), ..Brokers::default() };
        let ways = Urls { app: &app, feed: &feed, relay: &relay };
        let workers = Workers::new(&ways, brokers, LEDGERS, tasks.clone(), stop.clone()).expect("workers");
        workers.relay(&mut buses).expect("a relay");
        let app = pool::open(&urls[0], 8).expect("a pool");
        workers.handle(Ledger { app }, &mut buses).expect("a handler");
        Self { tasks, stop }
    }

    pub fn of(hub: &TestHub, amqp_url: Option<&str>) -> Self {
        Self::begin(&urls(hub), amqp_url)
    }

    /// Tells it to stop, and waits until it has.
    pub async fn stops(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn urls(hub: &TestHub) -> [String; 3] {
    ["tillwire_app", "tillwire_feed", "tillwire_relay"].map(|role| hub.database.url(role))
}

/// The same as a process of its own, which is this very program. Killed when dropped.
pub fn process(hub: &TestHub, amqp_url: Option<&str>) -> Child {
    let values = urls(hub).into_iter().chain([amqp_url.unwrap_or_default().to_owned()]);
    Command::new(std::env::current_exe().expect("this program"))
        .args([OWN_PROCESS, "--exact", "--ignored", "--nocapture"])
        .envs(VARIABLES.into_iter().zip(values))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("a process")
}

/// What such a process does, until it is killed. Nothing, where it is run by whoever runs all tests.
pub async fn run_as_told() {
    let [Ok(app), Ok(feed), Ok(relay), Ok(amqp)] = VARIABLES.map(std::env::var) else { return };
    let amqp_url = (!amqp.is_empty()).then_some(amqp.as_str());
    let _working = Working::begin(&[app, feed, relay], amqp_url);
    std::future::pending::<()>().await;
}
