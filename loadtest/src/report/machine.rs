//! On what it was measured: figures of two machines are not to be compared.

use std::fs;

use serde::Serialize;

use crate::subject;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// When the run began, in UTC.
    pub date: String,
}

impl Machine {
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
        };
        let kilobytes: u64 = after(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
        let now = time::OffsetDateTime::now_utc();
        Self {
            cpu: after(&cpus, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kilobytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            date: now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default(),
        }
    }
}

/// Of whatever took part; null where it is not there.
#[derive(Debug, Serialize)]
pub struct Versions {
    pub tillwire: String,
    /// How this tool and the hub were compiled.
    pub profile: String,
    pub node: Option<String>,
    pub redis: Option<String>,
    /// As pinned for the peers.
    pub socket_io: Option<String>,
    pub bun: Option<String>,
    pub socketioxide: Option<String>,
}

impl Versions {
    pub async fn ask() -> Self {
        let pinned: serde_json::Value =
            serde_json::from_str(include_str!("../../peers/node/package.json")).unwrap_or_default();
        let package = |name: &str| Some(pinned["dependencies"][name].as_str()?.to_owned());
        Self {
            tillwire: env!("CARGO_PKG_VERSION").to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            node: subject::version("node").await,
            redis: subject::version("redis-server").await,
            socket_io: package("socket.io"),
            bun: package("bun"),
            socketioxide: locked(include_str!("../../peers/socketioxide/Cargo.lock"), "socketioxide"),
        }
    }
}

/// A package's version in a lock file.
fn locked(lock: &str, name: &str) -> Option<String> {
    let at = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?.1;
    Some(at.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_version_is_found() {
        let lock =
            "[[package]]\nname = \"a-b\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"2.1.0\"\n";
        assert_eq!(locked(lock, "a").as_deref(), Some("2.1.0"));
        assert_eq!(locked(lock, "c"), None);
    }
}
