//! What breaks, when, and for how long: decided by a seed before anything happens.
//!
//! INVARIANT: each fault ends, no target suffers two at once, and after the last one there is quiet. So whoever survives
//! all of it has to be whole at the end.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// What can break: a process with the connections that lead to it, or connections alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Postgres,
    Redis(usize),
    RabbitMq(usize),
    Api(usize),
    Gateway(usize),
    /// The balancer that some of the screens come in by.
    Door(usize),
}

/// How it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL; started again afterwards.
    Kill,
    /// SIGTERM; started again afterwards, as in a rolling restart.
    Terminate,
    /// SIGSTOP, and SIGCONT afterwards.
    Pause,
    /// Every connection is reset.
    Cut,
    /// Every connection is reset in the middle of what it carries.
    Tear,
    /// Half-open: connections stay and nothing arrives.
    Silence,
    /// What is carried comes late, and unevenly so.
    Delay { ms: u64, jitter_ms: u64 },
    /// So much arrives, in each direction of each connection.
    Throttle { bytes_per_second: u32 },
}

/// A fault on a target, from its beginning on and for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub target: Target,
    pub fault: Fault,
    #[serde(serialize_with = "milliseconds", rename = "at_ms")]
    pub at: Duration,
    #[serde(serialize_with = "milliseconds", rename = "for_ms")]
    pub lasts: Duration,
}

impl Step {
    pub fn ends(&self) -> Duration {
        self.at + self.lasts
    }
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cast {
    pub redis: usize,
    pub rabbitmq: usize,
    pub apis: usize,
    pub gateways: usize,
    pub doors: usize,
}

/// How long it goes on, and how long faults may last.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    pub length: Duration,
    /// Pauses and silences last up to this: beyond the time-outs of everyone concerned, or not.
    pub longest: Duration,
    /// Between the end of one fault and the beginning of the next.
    pub quiet: Duration,
}

/// Nothing happens before: screens have to be there.
const LEAD: Duration = Duration::from_secs(1);
/// A process that is told to stop is left alone for as long as it may take to start again.
const RESTART_SECONDS: f64 = 3.0;
/// One in so many faults has company.
const COMPANY_EVERY: u64 = 3;
/// One in so many pauses and silences is long.
const LONG_EVERY: u64 = 4;

/// Works out what a seed has in store. The same arguments give the same steps.
pub fn schedule(seed: u64, cast: Cast, tempo: Tempo) -> Vec<Step> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut deck, mut steps, mut at) = (Vec::new(), Vec::new(), LEAD);
    loop {
        if deck.is_empty() {
            deck = cast.faults(&mut rng);
            rng.shuffle(&mut deck);
        }
        let Some(&(target, fault)) = deck.last() else { return steps };
        let first = Step { target, fault, at, lasts: lasts(fault, tempo, &mut rng) };
        if first.ends() + tempo.quiet > tempo.length {
            return steps;
        }
        deck.pop();
        steps.push(first);
        let mut end = first.ends();
        // Somebody else, in the middle of it.
        if rng.u64(0..COMPANY_EVERY) == 0
            && let Some(other) = deck.iter().rposition(|(other, _)| *other != target)
        {
            let (target, fault) = deck[other];
            let at = first.at + first.lasts.mul_f64(rng.f64());
            let second = Step { target, fault, at, lasts: lasts(fault, tempo, &mut rng) };
            if second.ends() + tempo.quiet <= tempo.length {
                deck.remove(other);
                end = end.max(second.ends());
                steps.push(second);
            }
        }
        at = end + tempo.quiet.mul_f64(0.5 + rng.f64());
    }
}

/// Nothing but restarts: each of the hub's nodes is told to go and started again, one after the other, over and over.
pub fn rolling(cast: Cast, tempo: Tempo) -> Vec<Step> {
    let nodes: Vec<Target> = cast.targets().into_iter().filter(|target| target.is_of_the_hub()).collect();
    let lasts = Duration::from_secs_f64(RESTART_SECONDS);
    let (mut steps, mut at) = (Vec::new(), LEAD);
    for target in nodes.into_iter().cycle() {
        let step = Step { target, fault: Fault::Terminate, at, lasts };
        if step.ends() + tempo.quiet > tempo.length {
            break;
        }
        at = step.ends() + tempo.quiet;
        steps.push(step);
    }
    steps
}

impl Cast {
    pub fn targets(&self) -> Vec<Target> {
        let mut all = vec![Target::Postgres];
        all.extend((0..self.redis).map(Target::Redis));
        all.extend((0..self.rabbitmq).map(Target::RabbitMq));
        all.extend((0..self.apis).map(Target::Api));
        all.extend((0..self.gateways).map(Target::Gateway));
        all.extend((0..self.doors).map(Target::Door));
        all
    }

    /// Every fault of every target, once.
    fn faults(&self, rng: &mut fastrand::Rng) -> Vec<(Target, Fault)> {
        let mut all = Vec::new();
        for target in self.targets() {
            let delay = Fault::Delay { ms: rng.u64(5..80), jitter_ms: rng.u64(0..120) };
            let throttle = Fault::Throttle { bytes_per_second: rng.u32(4..48) * 1_024 };
            let links = [Fault::Cut, Fault::Tear, Fault::Silence, delay, throttle];
            all.extend(links.map(|fault| (target, fault)));
            if !matches!(target, Target::Door(_)) {
                all.extend([Fault::Kill, Fault::Pause].map(|fault| (target, fault)));
            }
            if target.is_of_the_hub() {
                all.push((target, Fault::Terminate));
            }
        }
        all
    }
}

impl Target {
    /// Whether it is one of the hub's own processes, which can be told to go in order.
    pub fn is_of_the_hub(self) -> bool {
        matches!(self, Self::Api(_) | Self::Gateway(_))
    }

    /// Without the number.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis(_) => "redis",
            Self::RabbitMq(_) => "rabbitmq",
            Self::Api(_) => "api",
            Self::Gateway(_) => "gateway",
            Self::Door(_) => "clients",
        }
    }
}

impl Fault {
    /// Without its measures.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Terminate => "terminate",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::Tear => "tear",
            Self::Silence => "silence",
            Self::Delay { .. } => "delay",
            Self::Throttle { .. } => "throttle",
        }
    }
}

fn lasts(fault: Fault, tempo: Tempo, rng: &mut fastrand::Rng) -> Duration {
    let longest = tempo.longest.as_secs_f64();
    let (least, most) = match fault {
        Fault::Cut | Fault::Tear => (0.0, 0.2),
        Fault::Kill => (0.2, longest.min(5.0)),
        Fault::Terminate => (RESTART_SECONDS.min(longest / 2.0), RESTART_SECONDS.min(longest / 2.0)),
        Fault::Pause | Fault::Silence if rng.u64(0..LONG_EVERY) == 0 => (longest / 2.0, longest),
        Fault::Pause | Fault::Silence => (0.2, longest.min(4.0)),
        Fault::Delay { .. } | Fault::Throttle { .. } => ((longest / 4.0).min(2.0), (longest / 2.0).min(6.0)),
    };
    Duration::from_secs_f64(least + (most - least) * rng.f64())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Postgres => Ok(()),
            Self::Redis(at) | Self::RabbitMq(at) | Self::Api(at) | Self::Gateway(at) | Self::Door(at) => {
                write!(f, "-{}", at + 1)
            }
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn tempo(seconds: u64, longest: u64) -> Tempo {
        Tempo {
            length: Duration::from_secs(seconds),
            longest: Duration::from_secs(longest),
            quiet: Duration::from_secs(2),
        }
    }

    fn casts() -> impl Strategy<Value = Cast> {
        (0..=3_usize, 0..=3_usize, 1..=3_usize, 1..=3_usize, 1..=3_usize)
            .prop_map(|(redis, rabbitmq, apis, gateways, doors)| Cast { redis, rabbitmq, apis, gateways, doors })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_fault_ends_and_then_there_is_quiet(
            seed in any::<u64>(), cast in casts(), seconds in 0..900_u64, longest in 1..60_u64,
        ) {
            let tempo = tempo(seconds, longest);
            for step in schedule(seed, cast, tempo) {
                prop_assert!(step.at >= LEAD);
                prop_assert!(step.ends() + tempo.quiet <= tempo.length);
                prop_assert!(step.lasts <= tempo.longest);
            }
        }

        #[test]
        fn nobody_suffers_two_faults_at_once_and_no_three_suffer_together(seed in any::<u64>(), cast in casts()) {
            let steps = schedule(seed, cast, tempo(600, 40));
            for (at, step) in steps.iter().enumerate() {
                let together = |other: &&Step| other.at <= step.at && step.at < other.ends().max(other.at + Duration::from_nanos(1));
                let suffering: Vec<_> = steps.iter().filter(together).map(|other| other.target).collect();
                prop_assert!(suffering.len() <= 2, "{suffering:?}");
                prop_assert_eq!(suffering.iter().collect::<HashSet<_>>().len(), suffering.len());
                let before = &steps[..at];
                prop_assert!(before.iter().filter(|it| it.target == step.target).all(|it| it.ends() <= step.at));
            }
        }

        #[test]
        fn a_seed_has_the_same_in_store_every_time(seed in any::<u64>(), cast in casts()) {
            prop_assert_eq!(schedule(seed, cast, tempo(300, 40)), schedule(seed, cast, tempo(300, 40)));
        }
    }

    #[test]
    fn a_rolling_restart_goes_round_one_at_a_time() {
        let cast = Cast { redis: 1, rabbitmq: 1, apis: 1, gateways: 2, doors: 1 };
        let steps = rolling(cast, tempo(30, 10));
        let nodes: Vec<String> = steps.iter().map(|step| step.target.to_string()).collect();
        assert_eq!(nodes, ["api-1", "gateway-1", "gateway-2", "api-1", "gateway-1"]);
        assert!(steps.windows(2).all(|two| two[0].ends() < two[1].at));
    }

    #[test]
    fn in_time_everything_happens_to_everyone() {
        let cast = Cast { redis: 3, rabbitmq: 3, apis: 2, gateways: 3, doors: 3 };
        let had: HashSet<_> =
            schedule(7, cast, tempo(3_600, 40)).into_iter().map(|step| (step.target, step.fault.kind())).collect();
        let all: HashSet<_> = cast
            .faults(&mut fastrand::Rng::with_seed(0))
            .into_iter()
            .map(|(target, fault)| (target, fault.kind()))
            .collect();
        assert_eq!(had, all);
        let differ = |seed| schedule(seed, cast, tempo(300, 40));
        assert_ne!(differ(1), differ(2));
    }

    /// A replay is worth nothing if the next version of this code plans something else under an old seed, unseen.
    #[test]
    fn a_seed_says_today_what_it_said() {
        let cast = Cast { redis: 1, rabbitmq: 1, apis: 1, gateways: 2, doors: 1 };
        let steps = schedule(1, cast, tempo(20, 10));
        let told: Vec<String> = steps
            .iter()
            .map(|it| format!("{} {} {} {}", it.at.as_millis(), it.lasts.as_millis(), it.target, it.fault.kind()))
            .collect();
        assert_eq!(
            told,
            ["1000 3346 gateway-2 throttle", "5994 2988 clients-1 throttle", "8209 4228 postgres throttle"]
        );
    }
}
