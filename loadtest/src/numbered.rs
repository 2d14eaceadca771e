//! Ids that say which message they are: of payments, whose ids a till may choose.

use uuid::Uuid;

/// Where the number is in an id: the last six bytes, which say nothing about its version.
const NUMBER_AT: usize = 10;

/// The id of this number. Those of one `run` differ in nothing else.
///
/// INVARIANT: the number has 48 bits at most.
pub fn id(run: Uuid, number: u64) -> Uuid {
    debug_assert!(number < 1 << 48);
    let mut bytes = run.into_bytes();
    bytes[NUMBER_AT..].copy_from_slice(&number.to_be_bytes()[2..]);
    Uuid::from_bytes(bytes)
}

/// Which number it is.
pub fn number(id: Uuid) -> u64 {
    id.as_bytes()[NUMBER_AT..].iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_its_number_and_is_of_its_run() {
        let (run, other) = (Uuid::new_v4(), Uuid::new_v4());
        for of in [0, 1, 255, 256, 9_000, (1 << 48) - 1] {
            assert_eq!(number(id(run, of)), of);
            assert_eq!(id(run, of).get_version_num(), 4);
            assert_ne!(id(run, of), id(other, of));
        }
    }
}
