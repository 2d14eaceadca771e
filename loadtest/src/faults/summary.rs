//! What a run came to: for people, and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;
use tillwire_nemesis::checker::Counts;
use tillwire_nemesis::round::Told;

use super::Options;
use crate::report::machine::Machine;

#[derive(Debug, Serialize)]
pub struct Summary {
    machine: Machine,
    /// The hub, and the other one.
    versions: Vec<String>,
    cluster: bool,
    seconds: u64,
    /// How often what happened to whom.
    faults: BTreeMap<String, BTreeMap<&'static str, u64>>,
    deeds: BTreeMap<String, u64>,
    repeated: u64,
    entries: u64,
    screens: u64,
    counts: Counts,
    rounds: Vec<Told>,
}

impl Summary {
    pub fn new(options: &Options, versions: &[String]) -> Self {
        Self {
            machine: Machine::look(),
            versions: versions.to_vec(),
            cluster: options.cluster,
            seconds: 0,
            faults: BTreeMap::new(),
            deeds: BTreeMap::new(),
            repeated: 0,
            entries: 0,
            screens: 0,
            counts: Counts::default(),
            rounds: Vec::new(),
        }
    }

    /// Adds a round. What it found is kept at once, with the records that it is about.
    pub fn take(&mut self, told: Told, options: &Options) -> Result<()> {
        if !told.findings.is_empty() {
            let folder = options.evidence()?;
            std::fs::write(folder.join(format!("round-{}.json", told.seed)), serde_json::to_vec_pretty(&told)?)?;
            let records = serde_json::to_vec(&told.records)?;
            std::fs::write(folder.join(format!("records-{}.json", told.seed)), records)?;
        }
        for suffered in &told.history {
            let of_target = self.faults.entry(suffered.step.target.kind().to_owned()).or_default();
            *of_target.entry(suffered.step.fault.kind()).or_default() += 1;
        }
        for (deed, count) in &told.deeds {
            *self.deeds.entry(deed.clone()).or_default() += count;
        }
        self.seconds += told.seconds;
        self.repeated += told.repeated;
        self.entries += told.entries;
        self.screens += told.screens;
        self.counts.add(told.counts);
        self.rounds.push(told);
        Ok(())
    }

    pub fn findings(&self) -> usize {
        self.rounds.iter().map(|told| told.findings.len()).sum()
    }

    /// The seeds of rounds in which something was found.
    pub fn failed(&self) -> impl Iterator<Item = u64> {
        self.rounds.iter().filter(|told| !told.findings.is_empty()).map(|told| told.seed)
    }
}

/// A round, in a line; with what was found.
pub fn line(told: &Told) -> String {
    let Counts { connections, recovered, events, merged } = told.counts;
    let mut line = format!(
        "seed {}: {} s, {} faults, {} entries, {} screens, {events} events, {connections} connections, {recovered} recovered, \
         {merged} merged, {} findings",
        told.seed,
        told.seconds,
        told.history.len(),
        told.entries,
        told.screens,
        told.findings.len()
    );
    for finding in &told.findings {
        line += &format!("\n    {finding}");
    }
    line
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { connections, recovered, events, merged } = self.counts;
        writeln!(f, "{} rounds, {} minutes, {} findings", self.rounds.len(), self.seconds / 60, self.findings())?;
        for (target, faults) in &self.faults {
            let faults: Vec<String> = faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
            writeln!(f, "  {target}: {}", faults.join(", "))?;
        }
        let deeds: Vec<String> = self.deeds.iter().map(|(deed, count)| format!("{deed} {count}")).collect();
        writeln!(f, "  tills: {}; asked again {} times; {} entries", deeds.join("; "), self.repeated, self.entries)?;
        write!(
            f,
            "  screens: {} with {connections} connections, {recovered} recovered; {events} events, standing for {merged} more",
            self.screens
        )
    }
}
