//! What processes cost, by `/proc`: each with its children, alive and past.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu: Duration,
    /// What is in memory, in bytes. Pages that processes share are counted for each.
    pub rss_bytes: u64,
}

struct Stat {
    pid: u32,
    parent: u32,
    ticks: u64,
    pages: u64,
}

/// What each of these processes has used until now, together with whoever descends from it.
pub fn usage(roots: &[u32]) -> Result<Vec<Usage>> {
    let unit = |variable| -> Result<u64> {
        let value = sysconf(variable)?.context("a system that says how it counts")?;
        Ok(u64::try_from(value)?)
    };
    let (ticks_per_second, page_bytes) = (unit(SysconfVar::CLK_TCK)?, unit(SysconfVar::PAGE_SIZE)?);
    let all: Vec<Stat> = processes()?;
    let mut children: HashMap<u32, Vec<&Stat>> = HashMap::new();
    all.iter().for_each(|stat| children.entry(stat.parent).or_default().push(stat));
    let total = |root: &u32| {
        let mut todo: Vec<&Stat> = all.iter().filter(|stat| stat.pid == *root).collect();
        let (mut ticks, mut pages) = (0, 0);
        while let Some(stat) = todo.pop() {
            ticks += stat.ticks;
            pages += stat.pages;
            todo.extend(children.get(&stat.pid).into_iter().flatten());
        }
        let cpu = Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64);
        Usage { cpu, rss_bytes: pages * page_bytes }
    };
    Ok(roots.iter().map(total).collect())
}

fn processes() -> Result<Vec<Stat>> {
    let pids = fs::read_dir("/proc").context("reading /proc: is this Linux?")?;
    let pids = pids.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that has just ended has nothing to read.
    Ok(pids.filter_map(|pid| parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect())
}

/// Reads `/proc/…/stat`. The name, in parentheses, may hold anything.
fn parse(pid: u32, text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // utime, stime, and the same of children that were waited for.
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    Some(Stat { pid, parent: u32::try_from(number(1)?).ok()?, ticks, pages: number(21)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_whatever_the_process_is_called() {
        let text = "7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 10 20 3 4 20 0 1 0 100 5000 42 18446744073709551615";
        let stat = parse(7, text).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.pages), (3, 37, 42));
    }

    #[test]
    fn this_process_is_there_and_uses_memory() {
        let usage = usage(&[std::process::id(), 0x7fff_ffff]).unwrap();
        assert!(usage[0].rss_bytes > 100_000);
        assert_eq!(usage[1], Usage::default());
    }
}
