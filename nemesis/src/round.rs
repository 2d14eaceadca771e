//! A round: tills sell, screens listen, the nemesis does what its seed has in store, and at the end all is compared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;
use tillwire_channels::MerchantId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::checker::{self, Counts, Finding, Kind, Outcome};
use crate::journal::Journal;
use crate::record::Record;
use crate::schedule::{Cast, Step, Tempo, rolling, schedule};
use crate::screen::Screen;
use crate::shop::{Mint, Shop};
use crate::till::Till;
use crate::victim::{Suffered, Victim, suffer};

/// How long screens may take to come, when nothing is broken.
const COME_MAX: Duration = Duration::from_secs(60);
/// How long they may take to reach the end of the journal, when nothing is broken any more.
const REACH_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The rest of the last entry may still be on its way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Reads a merchant's whole journal, and checks its chain.
pub type ReadJournal<'a> = &'a dyn Fn(MerchantId) -> BoxFuture<'static, Result<Journal>>;

/// A hub with its shops, and everything that can break under it.
pub struct Stage<'a> {
    pub cast: Cast,
    pub victims: Vec<Victim>,
    /// A balancer before the nodes that sell.
    pub api: SocketAddr,
    /// Balancers before the gateways.
    pub doors: Vec<SocketAddr>,
    pub shops: Vec<Arc<Shop>>,
    pub mint: Mint<'a>,
    pub read: ReadJournal<'a>,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub tempo: Tempo,
    /// Nothing but restarts in order, whatever the seed.
    pub rolling: bool,
    /// Of each shop.
    pub screens: usize,
    /// Between one thing and the next at each till.
    pub pause: Duration,
}

/// What happened.
#[derive(Debug, Serialize)]
pub struct Told {
    pub seed: u64,
    pub seconds: u64,
    pub schedule: Vec<Step>,
    pub history: Vec<Suffered>,
    /// What tills did, by what it was and how it ended.
    pub deeds: BTreeMap<String, u64>,
    /// How often they had to ask again.
    pub repeated: u64,
    pub entries: u64,
    pub screens: u64,
    pub counts: Counts,
    pub findings: Vec<Finding>,
    /// The records that findings are about.
    #[serde(skip)]
    pub records: Vec<Record>,
}

/// Where a round is, for whoever watches.
pub struct Progress<'a> {
    pub stage: &'a dyn Fn(&str),
    pub step: &'a dyn Fn(&Step),
}

/// Someone else's clients, who are there as well.
pub trait Guests: Send {
    /// How far each has come: the number of the last entry that it knows of, by shop.
    fn seen(&self) -> Vec<(usize, u64)>;

    /// They leave; what they wrote down.
    fn go(self: Box<Self>) -> BoxFuture<'static, Result<Vec<Record>>>;
}

/// Plays one round.
///
/// # Errors
/// If it could not be played. What was promised and not kept is no error: it is told.
pub async fn play(
    stage: &mut Stage<'_>,
    seed: u64,
    size: Size,
    guests: Option<Box<dyn Guests>>,
    progress: &Progress<'_>,
) -> Result<Told> {
    let began = Instant::now();
    let steps = match size.rolling {
        true => rolling(stage.cast, size.tempo),
        false => schedule(seed, stage.cast, size.tempo),
    };
    let mut before = Vec::new();
    for shop in &stage.shops {
        before.push((stage.read)(shop.merchant).await?.head());
    }
    let mut screens = Vec::new();
    for (at, shop) in stage.shops.iter().enumerate() {
        let start = before[at].to_string();
        for manner in shop.audience(at, size.screens, &stage.doors, &start, seed, stage.mint)? {
            screens.push((at, Screen::comes(manner)));
        }
    }
    (progress.stage)("screens come");
    until(COME_MAX, || screens.iter().all(|(_, screen)| screen.seen().is_ready))
        .await
        .with_context(|| not_there(&screens))?;

    let (close, closing) = watch::channel(false);
    let known = Arc::new(AtomicU64::new(0));
    let mut working = Vec::new();
    for (at, shop) in stage.shops.iter().enumerate() {
        for (number, (outlet, register)) in
            shop.outlets.iter().flat_map(|outlet| outlet.registers.iter().map(|it| (outlet.id, *it))).enumerate()
        {
            let seed = seed.wrapping_mul(1_000_003).wrapping_add((at * 100 + number) as u64);
            let till = Till { shop: shop.clone(), api: stage.api, outlet, register, seed, pause: size.pause };
            let (closing, known) = (closing.clone(), known.clone());
            working.push((at, tokio::spawn(till.works(closing, move || _ = known.fetch_add(1, Ordering::Relaxed)))));
        }
    }
    (progress.stage)("breaking");
    let history = suffer(&mut stage.victims, &steps, progress.step).await;
    sleep(size.tempo.quiet).await;

    (progress.stage)("tills close");
    close.send_replace(true);
    let mut deeds = vec![Vec::new(); stage.shops.len()];
    for (at, till) in working {
        deeds[at].extend(till.await.context("a till")?);
    }
    ensure!(known.load(Ordering::Relaxed) > 0, "nothing was sold");
    let mut journals = Vec::new();
    let mut findings = Vec::new();
    for (at, shop) in stage.shops.iter().enumerate() {
        let journal = (stage.read)(shop.merchant).await.with_context(|| format!("the journal of shop {}", at + 1))?;
        journals.push(journal.after(before[at]));
    }
    (progress.stage)("screens catch up");
    screens.iter().for_each(|(_, screen)| screen.hurries());
    let reached = |shop: usize, seq: u64| seq >= journals[shop].head().seq;
    let all_are_there = || {
        screens.iter().all(|(shop, screen)| screen.seen().stays_away || reached(*shop, screen.seen().seq))
            && guests.iter().flat_map(|guests| guests.seen()).all(|(shop, seq)| reached(shop, seq))
    };
    let _ = until(REACH_MAX, all_are_there).await; // Whoever is not there is found stuck.
    sleep(LAST_WORDS).await;

    (progress.stage)("comparing");
    let mut records: Vec<Record> = join_all(screens.into_iter().map(|(_, screen)| screen.goes())).await;
    if let Some(guests) = guests {
        records.extend(guests.go().await?);
    }
    let mut counts = Counts::default();
    let screens = records.len() as u64;
    for record in &records {
        let (counted, found) = checker::check(&journals[record.who.shop], record);
        counts.add(counted);
        findings.extend(found);
    }
    // Where nothing is found, something would have been.
    let mut drills = records.iter().filter_map(|it| checker::misses_a_sale(&journals[it.who.shop], it));
    ensure!(drills.next() == Some(true), "a sale was taken out of a record, and the checker did not miss it");
    for (at, journal) in journals.iter().enumerate() {
        findings.extend(checker::check_deeds(&format!("shop {}", at + 1), journal, &deeds[at]));
    }
    for victim in &mut stage.victims {
        let failed = history.iter().filter(|it| it.step.target == victim.target).filter_map(|it| it.failed.clone());
        let unwell = victim.process.as_mut().and_then(|process| process.is_well().err());
        for detail in failed.chain(unwell.map(|error| format!("{error:#}"))) {
            findings.push(Finding { about: victim.target.to_string(), kind: Kind::Died, at: None, detail });
        }
    }
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    for deed in deeds.iter().flatten() {
        let how = match deed.outcome {
            Outcome::Done { .. } => "done",
            Outcome::Refused { .. } => "refused",
            Outcome::Unknown { .. } => "unknown",
        };
        *done.entry(format!("{}, {how}", deed.what)).or_default() += 1;
    }
    records.retain(|record| findings.iter().any(|finding| finding.about == record.who.name));
    Ok(Told {
        seed,
        seconds: began.elapsed().as_secs(),
        schedule: steps,
        history,
        deeds: done,
        repeated: deeds.iter().flatten().map(|deed| u64::from(deed.tries) - 1).sum(),
        entries: journals.iter().map(|journal| journal.entries().len() as u64).sum(),
        screens,
        counts,
        findings,
        records,
    })
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.recovered += other.recovered;
        self.events += other.events;
        self.merged += other.merged;
    }
}

fn not_there(screens: &[(usize, Screen)]) -> String {
    let mut missing = screens.iter().filter(|(_, screen)| !screen.seen().is_ready).map(|(_, screen)| screen.last());
    let first = missing.next().flatten();
    format!("{} of {} screens did not come: {first:?}", missing.count() + 1, screens.len())
}

async fn until(patience: Duration, is_so: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        ensure!(began.elapsed() < patience, "not within {patience:?}");
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}
