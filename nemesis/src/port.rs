//! Ports that nobody takes away.

use std::net::TcpListener;
use std::ops::Range;
use std::process;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that the kernel gives to outgoing connections, which could take a killed service's port before it
/// starts again.
const PORTS: Range<u16> = 20_000..32_000;

/// A port on the loopback address that nobody listens on now, and that no other caller in this process is given.
pub fn free_port() -> Option<u16> {
    // Runs side by side begin at different places.
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(process::id().wrapping_mul(101)));
    PORTS.clone().find_map(|_| {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).ok()?;
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    })
}
