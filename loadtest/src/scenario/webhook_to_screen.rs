//! From the customer's app to the cashier's screen, at a steady pace: the provider's webhook comes to one hub with all its
//! faces, which keeps it, asks the provider, completes the sale and tells the register's screen.
//!
//! Everything is ready before the clock starts: sales are open, and their QRIS payments pending, at both providers in turn. The
//! clock of each starts just before the tool tells the simulators that the customer pays, for nobody sees when they send the
//! webhook, and stops when the screen has parsed `payment.captured`. So the provider's own time is in it: an upper bound. What
//! that time is at least is measured beside it, with a receiver that does nothing but read webhooks in place of the hub; there
//! the clock stops when it has parsed one. `webhook_answered_us`, to the millisecond, is by the simulators' own log, from a
//! webhook's making until its 2xx: when the hub has committed it, and does not know yet whether it is true.
//!
//! A hub also asks by itself, every ten seconds as long as a payment is new. It is webhooks that are measured here, so looks are
//! put off until every customer has paid. Whatever a webhook has not brought by then they bring, late.
//!
//! With `--told` each webhook is told several times at once, which makes a storm of it: every payment comes to its screen once all
//! the same. How the simulators were answered is told of the newest 20,000 of them.
//!
//! Payments of one shop may overtake one another, and are counted as reordered then: nobody has promised that they do not.
//!
//! At the end every payment has come to its screen exactly once, or the run fails; and so it does if PostgreSQL has not each
//! of them paid, its sale completed by it and told once in its journal, and nothing left for a person.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tillwire::embedded::{Durability, Postgres};
use tillwire::vault::keys::write_new_key;
use tillwire_channels::Moment;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, sleep, timeout};
use uuid::Uuid;

use super::shop::{self, Client, Opened, PRICE_MINOR};
use super::{LAST_MAX, LIVE_MAX, Stage};
use crate::client::crew::{Crew, Kit, Outcome};
use crate::client::order::{Format, Group};
use crate::numbered;
use crate::report::{Bill, Found, Measured, Quantiles};
use crate::stamps::{SentAt, Stamps};
use crate::subject::providers::{Delivery, Provider, Providers};
use crate::subject::receiver::Receiver;
use crate::subject::tillwire::{Base, DATABASE, Node};
use crate::subject::{Subject, Watched, build};

/// For how long is paid at most: payments that are pending end after a quarter of an hour.
const SECONDS_MAX: u64 = 300;
/// How many payments there are at most: the simulators remember 20,000 webhooks.
const PAYMENTS_MAX: u64 = 9_000;
/// How many payments a shop has, unless it is said, and at most. Half of them are at Xendit, of which a hub makes 30 calls of
/// each kind a minute for a merchant in test mode.
const EACH: u64 = 10;
const EACH_MAX: u64 = 20;
/// The simulators know a thousand accounts.
const MERCHANTS_MAX: u64 = 900;
/// How many payments are made ready at a time.
const PREPARED_TOGETHER: usize = 16;
/// How long a payment may take until its QR code is there.
const PENDING_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longer than Midtrans has to be left in peace between two looks at a payment.
const PEACE: Duration = Duration::from_millis(1_500);
/// How long after the last customer the hub looks at what was not paid.
const LOOKS_AFTER: Duration = Duration::from_secs(3);
/// How long it may take until there is peace.
const PEACE_MAX: Duration = Duration::from_secs(60);
/// How many customers' orders may be unanswered. Those that come beyond wait.
const UNANSWERED_MAX: usize = 256;

pub(super) async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let plan = Plan::of(stage.options.payments_per_second, stage.options.seconds, stage.options.merchants)?;
    let simulators = build::simulators(stage.run).await?;
    let stamps = Stamps::create(&stage.stamps())?;
    let (client, run) = (shop::client(), Uuid::new_v4());
    match stage.subject {
        Subject::BareWebhook => {
            let receiver = Receiver::start().await?;
            let url = format!("http://{}/", receiver.address);
            let providers = Providers::start(stage.run, &simulators, Some(&url)).await?;
            let street = Street { stage, plan, client, run, stamps: Arc::new(stamps), providers: Arc::new(providers) };
            street.without_a_hub(receiver).await
        }
        _ => {
            let providers = Providers::start(stage.run, &simulators, None).await?;
            let street = Street { stage, plan, client, run, stamps: Arc::new(stamps), providers: Arc::new(providers) };
            street.with_a_hub().await
        }
    }
}

/// Which payments there are, whose, and in which order they are made. They are numbered from 1, those of a shop one after
/// the other, and the shops take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    payments: u64,
    merchants: u64,
}

impl Plan {
    fn of(per_second: u64, seconds: u64, merchants: Option<usize>) -> Result<Self> {
        let payments = (per_second * seconds.min(SECONDS_MAX)).min(PAYMENTS_MAX);
        let merchants = match merchants {
            Some(merchants) => u64::try_from(merchants)?.min(payments),
            None => payments.div_ceil(EACH),
        };
        let (few, each) = (payments.div_ceil(EACH_MAX), payments.div_ceil(merchants));
        ensure!(each <= EACH_MAX, "{payments} payments want {few} merchants at least (--merchants)");
        ensure!(merchants <= MERCHANTS_MAX, "there are {MERCHANTS_MAX} merchants at most (--merchants)");
        Ok(Self { payments, merchants })
    }

    /// Whose turn it is, as the shops are counted from 0.
    fn shop(self, turn: u64) -> u64 {
        turn % self.merchants
    }

    /// The number of the payment whose turn it is.
    fn number(self, turn: u64) -> u64 {
        self.base(self.shop(turn)) + turn / self.merchants + 1
    }

    fn provider(self, turn: u64) -> Provider {
        // Also where there is an even number of shops, each has payments at both.
        match (self.shop(turn) + turn / self.merchants) % 2 {
            0 => Provider::Midtrans,
            _ => Provider::Xendit,
        }
    }

    /// The number before a shop's first.
    fn base(self, shop: u64) -> u64 {
        shop * self.payments.div_ceil(self.merchants)
    }

    /// A shop's last number.
    fn last(self, shop: u64) -> u64 {
        self.base(shop) + self.payments / self.merchants + u64::from(shop < self.payments % self.merchants)
    }
}

/// Where customers pay.
struct Street<'a> {
    stage: &'a Stage<'a>,
    plan: Plan,
    client: Client,
    /// What the ids of all its payments have in common.
    run: Uuid,
    stamps: Arc<Stamps>,
    providers: Arc<Providers>,
}

/// What a shop's till sends.
struct Till {
    api: SocketAddr,
    outlet: Uuid,
    register: Uuid,
    variant: Uuid,
    token: String,
}

/// What came of a run, whoever was told.
struct Paid<'a> {
    screens: usize,
    took: Duration,
    watched: &'a [Watched],
    bills: [&'a Bill; 4],
    outcome: &'a Outcome,
    /// The simulators' bill, from when customers began to pay, and what they remember.
    provider: [&'a Bill; 2],
    deliveries: Vec<Delivery>,
}

impl Street<'_> {
    /// What the provider and the loopback take, when nobody does anything with a webhook.
    async fn without_a_hub(&self, mut receiver: Receiver) -> Result<Measured> {
        let bar = self.stage.bar(self.plan.payments).with_message("charging");
        let charges = stream::iter(0..self.plan.payments)
            .map(|turn| self.providers.charge(&self.client, self.plan.provider(turn), self.id(turn), PRICE_MINOR));
        let mut charges = std::pin::pin!(charges.buffer_unordered(PREPARED_TOGETHER));
        while let Some(charged) = charges.next().await {
            charged?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        sleep(PEACE).await;

        let nobody = Bill::of(&[])?;
        let (provider, began) = ([self.providers.watched()], Instant::now());
        let before = Bill::of(&provider)?;
        self.pay().await?;
        let (mut outcome, mut heard) = (Outcome::new()?, HashSet::new());
        let mut sent_at = SentAt::open(&self.stage.stamps())?;
        while (heard.len() as u64) < self.plan.payments {
            let Ok(told) = timeout(LAST_MAX, receiver.told.recv()).await else { break };
            let (payment, at) = told.context("a receiver that listens")?;
            let number = numbered::number(payment);
            if !heard.insert(number) {
                outcome.sum.repeated += 1;
                continue;
            }
            let latency_ns = at.saturating_sub(sent_at.of(number)?);
            outcome.latency.record((latency_ns / 1_000).max(1))?;
        }
        let (took, after) = (began.elapsed(), Bill::of(&provider)?);
        outcome.sum.received = heard.len() as u64;
        outcome.sum.lost = self.plan.payments - outcome.sum.received;
        let mut measured = self.measured(Paid {
            screens: 1, // It counts as one.
            took,
            watched: &[],
            bills: [&nobody; 4],
            outcome: &outcome,
            provider: [&before, &after],
            deliveries: self.providers.deliveries(&self.client).await?,
        })?;
        // Its CPU is this tool's.
        measured.server_cpu_us_per_message = None;
        Ok(measured)
    }

    async fn with_a_hub(&self) -> Result<Measured> {
        let (run, plan) = (self.stage.run, self.plan);
        let program = build::tillwire(run).await?;
        let mut base = Base::start(run, Durability::Full, false).await?;
        let key = run.folder("vault")?.join("vault.key");
        write_new_key(&key, false)?;
        base.tell("TILLWIRE_VAULT_KEY_FILE", key.display().to_string());
        base.tell("TILLWIRE_MIDTRANS_TEST_URL", format!("http://{}", self.providers.midtrans));
        base.tell("TILLWIRE_XENDIT_TEST_URL", format!("http://{}", self.providers.xendit));
        let node = base.node(&program, "serve", "tillwire", &run.folder("tillwire")?).await?;
        let mut watched = vec![Watched { name: node.process.name.clone(), pid: node.process.pid, front: true }];
        watched.extend(base.watched()?);

        let (mut tills, mut groups) = (Vec::new(), Vec::new());
        let bar = self.stage.bar(plan.merchants).with_message("opening");
        for shop in 0..plan.merchants {
            let (till, group) = self.open(&base, &node, shop).await?;
            tills.push(till);
            groups.push(group);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let empty = Bill::of(&watched)?;
        let stamps = self.stage.stamps();
        let kit = Kit { stamps: &stamps, format: Format::TillwirePayment, resumes: false, credit: u64::MAX };
        let mut crew = Crew::start(groups, kit).await?;
        crew.live(LIVE_MAX).await?;
        let full = Bill::of(&watched)?;
        let preparing = Instant::now();
        self.prepare(&tills).await?;
        let prepared = plan.payments as f64 / preparing.elapsed().as_secs_f64();
        let length = Duration::from_secs_f64(plan.payments as f64 / self.stage.options.payments_per_second as f64);
        leave_in_peace(&base.cluster, length).await?;

        let (provider, start) = ([self.providers.watched()], Instant::now());
        let (began, before) = (Bill::of(&watched)?, Bill::of(&provider)?);
        self.pay().await?;
        let last = (0..plan.merchants).map(|shop| plan.last(shop)).collect();
        let outcome = crew.finish(last, LAST_MAX).await?;
        let (took, ended, after) = (start.elapsed(), Bill::of(&watched)?, Bill::of(&provider)?);
        let deliveries = self.providers.deliveries(&self.client).await?;
        let (books, log) = (Books::read(&base.cluster).await?, node.process.told("says"));
        drop(node);
        base.cluster.stop().await?;
        let (lost, repeated) = (outcome.sum.lost, outcome.sum.repeated);
        let is_right = books == Books::balanced(plan.payments) && lost + repeated == 0;
        ensure!(
            is_right,
            "of {} payments {lost} came to no screen, {repeated} came again, and the hub has {books:?}; {log}",
            plan.payments
        );
        let measured = self.measured(Paid {
            screens: usize::try_from(plan.merchants)?,
            took,
            watched: &watched,
            bills: [&empty, &full, &began, &ended],
            outcome: &outcome,
            provider: [&before, &after],
            deliveries,
        })?;
        measured.with("prepared_per_s", prepared.round())
    }

    fn id(&self, turn: u64) -> Uuid {
        numbered::id(self.run, self.plan.number(turn))
    }

    /// A shop with an account at each provider, whose webhooks come to this node, and the screen at its register.
    async fn open(&self, base: &Base, node: &Node, shop: u64) -> Result<(Till, Group)> {
        let Opened { merchant, token, outlet, register, variant, .. } =
            shop::open(base, node.address, &self.client).await?;
        for provider in Provider::ALL {
            let (credentials, mut account) = keys(provider, shop);
            let body = json!({ "credentials": credentials, "mode": "test" }).to_string();
            let uri = format!("http://{}/v1/provider-accounts", node.address);
            let (_, added) = shop::post(&self.client, &uri, Some(&token), body).await?;
            let path = added["webhook_path"].as_str().context("a path for webhooks")?;
            account["webhook_urls"] = json!([format!("http://{}{path}", node.address)]);
            self.providers.says(&self.client, "accounts", &account).await?;
        }
        let (auth, _) = base.owner(merchant, &[&format!("payments/{outlet}/{register}")])?;
        let (address, base, return_to, bytes_per_second) = (node.address, self.plan.base(shop), None, None);
        let group = Group { address, return_to, auth, screens: 1, base, bytes_per_second };
        Ok((Till { api: node.address, outlet, register, variant, token }, group))
    }

    /// Opens every sale and asks for its payment, some at a time.
    async fn prepare(&self, tills: &[Till]) -> Result<()> {
        let bar = self.stage.bar(self.plan.payments).with_message("preparing");
        let till = |turn| &tills[self.plan.shop(turn) as usize]; // There are as many.
        let ready = stream::iter(0..self.plan.payments)
            .map(|turn| till(turn).ask(&self.client, self.plan.provider(turn), self.id(turn)));
        let mut ready = std::pin::pin!(ready.buffer_unordered(PREPARED_TOGETHER));
        while let Some(ready) = ready.next().await {
            ready?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Every customer pays in turn. A provider that does not take it ends the run.
    async fn pay(&self) -> Result<()> {
        if self.stage.options.told > 1 {
            for provider in Provider::ALL {
                let copies = self.stage.options.told - 1;
                self.providers.says(&self.client, "faults", &provider.tells_again(copies)).await?;
            }
        }
        let places = Arc::new(Semaphore::new(UNANSWERED_MAX));
        let mut paying = JoinSet::new();
        let per_second = self.stage.options.payments_per_second;
        let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(per_second)?);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let bar = self.stage.bar(self.plan.payments).with_message("paying");
        for turn in 0..self.plan.payments {
            pace.tick().await;
            let place = places.clone().acquire_owned().await?;
            let (number, provider, id) = (self.plan.number(turn), self.plan.provider(turn), self.id(turn));
            let (client, stamps, providers) = (self.client.clone(), self.stamps.clone(), self.providers.clone());
            paying.spawn(async move {
                let _place = place;
                stamps.stamp(number..number + 1)?;
                providers.pays(&client, provider, id).await
            });
            while let Some(paid) = paying.try_join_next() {
                paid??;
            }
            bar.inc(1);
        }
        while let Some(paid) = paying.join_next().await {
            paid??;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn measured(&self, paid: Paid<'_>) -> Result<Measured> {
        let Paid { screens, took, watched, bills, outcome, provider: [before, after], deliveries } = paid;
        let told: Vec<&Delivery> = deliveries.iter().filter(|it| it.is_paid()).collect();
        let mut answered = Histogram::new(3)?;
        for ms in told.iter().filter_map(|it| it.answered_ms()) {
            answered.record((ms * 1_000).max(1))?;
        }
        let again = told.len() as u64 - answered.len();
        let provider = after.since(before, &[self.providers.watched()]);
        let provider_cpu_ms: u64 = provider.iter().map(|it| it.cpu_ms).sum();
        let found = Found {
            subject: self.stage.subject.name(),
            scenario: &self.stage.scenario,
            screens,
            messages: outcome.sum.received,
            took,
            watched,
            bills,
            outcome,
        };
        let measured = found.measured().with("payments", self.plan.payments)?;
        let measured = measured.with("rate", self.stage.options.payments_per_second)?;
        let measured = measured.with("merchants", self.plan.merchants)?;
        let measured = measured.with("told", self.stage.options.told)?;
        let measured = measured.with("webhook_answered_us", Quantiles::of(&answered))?;
        let measured = measured.with("webhooks_not_taken_at_once", again)?;
        measured.with("provider_cpu_us_per_message", provider_cpu_ms * 1_000 / self.plan.payments)
    }
}

impl Till {
    /// Opens a sale of one piece and asks for its payment, until there is something for the customer to scan.
    async fn ask(&self, client: &Client, provider: Provider, payment: Uuid) -> Result<()> {
        let Self { api, outlet, register, variant, token } = self;
        let lines = json!([{ "variant": variant, "quantity": "1" }]);
        let sale = json!({ "register": register, "open": true, "lines": lines }).to_string();
        let uri = format!("http://{api}/v1/outlets/{outlet}/sales");
        let (_, sale) = shop::post(client, &uri, Some(token), sale).await?;
        let sale = sale["id"].as_str().context("a sale's id")?;
        let wanted = json!({ "id": payment, "method": "qris", "provider": provider.name(), "mode": "test" });
        let uri = format!("http://{api}/v1/sales/{sale}/payments");
        let (_, mut asked) = shop::post(client, &uri, Some(token), wanted.to_string()).await?;
        let began = Instant::now();
        while asked["state"] != "pending" {
            let waits = ["created", "unknown"].iter().any(|state| asked["state"] == *state);
            ensure!(waits && began.elapsed() < PENDING_MAX, "a payment that nobody can make: {asked}");
            sleep(LOOK_EVERY).await;
            asked = shop::get(client, &format!("http://{api}/v1/payments/{payment}"), token).await?;
        }
        Ok(())
    }
}

/// A shop's keys at a provider, as the hub is told them, and its account there.
fn keys(provider: Provider, shop: u64) -> (Value, Value) {
    let name = provider.name();
    match provider {
        Provider::Midtrans => {
            let (id, server) = (format!("G{shop:09}"), format!("SB-Mid-server-loadtest-{shop}"));
            let client = format!("SB-Mid-client-loadtest-{shop}");
            let keys = json!({ "provider": name, "merchant_id": id, "server_key": server, "client_key": client });
            (keys.clone(), keys)
        }
        Provider::Xendit => {
            let (id, secret) = (format!("{shop:024x}"), format!("xnd_development_loadtest{shop}"));
            let token = format!("loadtest-callback-token-{shop}");
            let keys = |field: &str, tokens: Value| json!({ "provider": name, "business_id": id, "secret_key": secret, field: tokens });
            (keys("callback_tokens", json!([token])), keys("callback_token", json!(token)))
        }
    }
}

/// Puts every look at a payment off until customers have paid for so long, and waits until none was made for a while.
async fn leave_in_peace(cluster: &Postgres, length: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        let until = (Moment::now_utc() + PEACE + length + LOOKS_AFTER).unix_timestamp();
        let put_off = format!(
            "update payment_attempts set next_at = to_timestamp({until})
             where next_at is not null and not prompted and coalesce(leased_until, '-infinity') <= now()"
        );
        cluster.psql(DATABASE, &put_off).await?;
        sleep(PEACE).await;
        // Whoever has looked at one meanwhile has said when to look again.
        let others =
            format!("select count(*) from payment_attempts where prompted or next_at <> to_timestamp({until})");
        if cluster.psql(DATABASE, &others).await?.trim() == "0" {
            return Ok(());
        }
        ensure!(began.elapsed() < PEACE_MAX, "the hub does not come to rest before customers pay");
    }
}

/// What the hub has written down of payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Books {
    /// How many are paid.
    paid: u64,
    /// Of how many the sale is completed, and paid by them.
    completed: u64,
    /// How many tenders there are, and how often journals tell of one.
    tenders: u64,
    captured: u64,
    /// How many sales have not been completed.
    unpaid_sales: u64,
    /// What a person has to settle.
    tasks: u64,
}

impl Books {
    /// As they are to be.
    fn balanced(payments: u64) -> Self {
        let (paid, completed, tenders, captured) = (payments, payments, payments, payments);
        Self { paid, completed, tenders, captured, unpaid_sales: 0, tasks: 0 }
    }

    async fn read(cluster: &Postgres) -> Result<Self> {
        let sql = "
            select (select count(*) from payment_attempts where state = 'paid'),
                   (select count(*) from payment_attempts attempt
                    join sales sale using (merchant_id, sale_id) join payments tender using (merchant_id, payment_id)
                    where sale.state = 'completed' and tender.sale_id = sale.sale_id
                      and tender.amount_minor = attempt.amount_minor and tender.amount_minor = sale.total_minor),
                   (select count(*) from payments),
                   (select count(*) from journal_entries, jsonb_array_elements(events::jsonb) event
                    where event ->> 'type' = 'payment.captured'),
                   (select count(*) from sales where state <> 'completed'),
                   (select count(*) from payment_tasks)";
        Self::parse(&cluster.psql(DATABASE, sql).await?)
    }

    fn parse(row: &str) -> Result<Self> {
        let counts: Vec<u64> = row.trim().split('|').map(str::parse).collect::<Result<_, _>>().context("counts")?;
        let [paid, completed, tenders, captured, unpaid_sales, tasks] = counts[..] else {
            anyhow::bail!("not six counts: {row}")
        };
        Ok(Self { paid, completed, tenders, captured, unpaid_sales, tasks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payment_has_a_number_of_its_own_and_each_shop_those_that_follow_one_another() {
        for (per_second, seconds, merchants) in
            [(50, 10, None), (50, 1, Some(7)), (1, 1, None), (6, 1, Some(6)), (3, 1, Some(40)), (500, 60, None)]
        {
            let plan = Plan::of(per_second, seconds, merchants).unwrap();
            let mut of_shops: Vec<Vec<u64>> = vec![Vec::new(); plan.merchants as usize];
            for turn in 0..plan.payments {
                of_shops[plan.shop(turn) as usize].push(plan.number(turn));
            }
            for (shop, numbers) in (0..).zip(&of_shops) {
                let expected: Vec<u64> = (plan.base(shop) + 1..=plan.last(shop)).collect();
                assert_eq!((numbers, numbers.is_empty()), (&expected, false), "{plan:?}");
            }
            let all: HashSet<u64> = of_shops.iter().flatten().copied().collect();
            assert_eq!(all.len() as u64, plan.payments, "{plan:?}");
        }
    }

    #[test]
    fn providers_take_turns_in_the_street_and_in_every_shop() {
        for merchants in [4, 5] {
            let plan = Plan::of(40, 1, Some(merchants)).unwrap();
            let at = |provider, shop: Option<u64>| {
                let turns = (0..plan.payments).filter(|turn| shop.is_none_or(|it| plan.shop(*turn) == it));
                turns.filter(|turn| plan.provider(*turn) == provider).count()
            };
            assert_eq!(at(Provider::Midtrans, None), 20);
            assert!(
                (0..plan.merchants)
                    .all(|shop| { at(Provider::Midtrans, Some(shop)).abs_diff(at(Provider::Xendit, Some(shop))) <= 1 })
            );
        }
    }

    #[test]
    fn a_plan_keeps_to_what_providers_and_simulators_take() {
        assert_eq!(Plan::of(50, 10, None).unwrap(), Plan { payments: 500, merchants: 50 });
        assert_eq!(Plan::of(1, 86_400, None).unwrap(), Plan { payments: 300, merchants: 30 });
        assert_eq!(Plan::of(500, 300, None).unwrap(), Plan { payments: 9_000, merchants: 900 });
        let why = Plan::of(50, 10, Some(20)).unwrap_err().to_string();
        assert_eq!(why, "500 payments want 25 merchants at least (--merchants)");
        assert!(Plan::of(500, 10, Some(1_000)).is_err(), "more than there can be accounts");
    }

    #[test]
    fn a_payment_that_is_missing_anywhere_is_found() {
        assert_eq!(Books::parse("3|3|3|3|0|0\n").unwrap(), Books::balanced(3));
        for row in ["2|3|3|3|0|0", "3|2|3|3|0|0", "3|3|4|3|0|0", "3|3|3|4|0|0", "3|3|3|3|1|0", "3|3|3|3|0|1"] {
            assert_ne!(Books::parse(row).unwrap(), Books::balanced(3), "{row}");
        }
        assert!(Books::parse("").is_err() && Books::parse("1|2|3").is_err());
    }

    #[test]
    fn no_two_shops_have_the_same_keys() {
        for provider in Provider::ALL {
            let all: HashSet<String> = (0..MERCHANTS_MAX).map(|shop| keys(provider, shop).0.to_string()).collect();
            assert_eq!(all.len() as u64, MERCHANTS_MAX);
        }
    }
}
