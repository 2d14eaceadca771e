//! Hashes as text, and constant time where a stranger's word is compared with ours.

use std::fmt::Write as _;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Algorithm, SHA256, SHA512, digest};
use serde::Serialize;

/// Lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&SHA256, bytes)
}

/// Lower-case hexadecimal.
pub fn sha512(bytes: &[u8]) -> String {
    hex(&SHA512, bytes)
}

/// The hash of a tuple. JSON keeps its parts apart: `["a","bc"]` is not `["ab","c"]`.
pub fn of_parts(parts: &impl Serialize) -> String {
    sha256(&serde_json::to_vec(parts).unwrap_or_default()) // Tuples of texts always are JSON.
}

/// Whether two texts are the same. How long it takes says no more than whether they are of one length.
pub fn equal(one: &[u8], other: &[u8]) -> bool {
    verify_slices_are_equal(one, other).is_ok()
}

fn hex(algorithm: &'static Algorithm, bytes: &[u8]) -> String {
    digest(algorithm, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // A `String` takes everything.
        text
    })
}
