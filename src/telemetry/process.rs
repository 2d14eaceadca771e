//! What the process itself takes of the machine, under the names that Prometheus' own clients use.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike as _;

/// Says when the process began and which version it is.
pub fn introduce() {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!("process_start_time_seconds").set(began);
    metrics::gauge!("tillwire_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Looks at it now. What this system does not tell is left out.
pub fn measure() {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        // A counter of ours would count whole seconds.
        metrics::gauge!("process_cpu_seconds_total").set(micros as f64 / 1e6);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        metrics::gauge!("process_max_fds").set(soft as f64);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(open.count() as f64);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
        metrics::gauge!("process_resident_memory_bytes").set(bytes);
    }
}

/// The line says kilobytes, and means 1,024 bytes each.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(resident_bytes("VmPeak:\t  90 kB\nVmRSS:\t   12 kB\nThreads:\t1\n"), Some(12_288.0));
        assert_eq!(resident_bytes("VmPeak:\t  90 kB\n"), None);
    }
}
