//! When each message was handed to the subject, by its number: told to the client processes by a file, so that a
//! subject carries nothing that it would not carry otherwise and all subjects are timed alike.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

const STAMP_BYTES: u64 = 8;

/// Nanoseconds of the machine's monotonic clock, which all processes share.
pub fn now() -> u64 {
    // It cannot fail: every Linux has this clock.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// The driver's end.
pub struct Stamps(File);

impl Stamps {
    /// Begins anew.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(File::create(path).with_context(|| format!("creating {}", path.display()))?))
    }

    /// Says that these messages leave now. Before they do.
    pub fn stamp(&self, numbers: std::ops::Range<u64>) -> Result<()> {
        let now = now().to_ne_bytes();
        let bytes: Vec<u8> = numbers.clone().flat_map(|_| now).collect();
        Ok(self.0.write_all_at(&bytes, numbers.start * STAMP_BYTES)?)
    }
}

/// A client's end.
pub struct SentAt {
    file: File,
    /// What was read already; 0 for what was not.
    known: Vec<u64>,
}

impl SentAt {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { file, known: Vec::new() })
    }

    /// When message `number` was sent.
    ///
    /// # Errors
    /// If it was never sent.
    pub fn of(&mut self, number: u64) -> Result<u64> {
        let at = usize::try_from(number)?;
        if let Some(&stamp) = self.known.get(at)
            && stamp != 0
        {
            return Ok(stamp);
        }
        let mut bytes = [0; STAMP_BYTES as usize];
        let read = self.file.read_exact_at(&mut bytes, number * STAMP_BYTES);
        read.with_context(|| format!("message {number} came and was never sent"))?;
        let stamp = u64::from_ne_bytes(bytes);
        if self.known.len() <= at {
            self.known.resize(at + 1, 0);
        }
        self.known[at] = stamp;
        Ok(stamp)
    }
}
