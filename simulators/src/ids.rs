//! Ids by a seed: the same calls in the same order are answered with the same ids.

use fastrand::Rng;

const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

pub struct Ids {
    rng: Rng,
}

impl Ids {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }

    pub fn uuid(&mut self) -> String {
        let mut bytes = [0; 16];
        self.rng.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    pub fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + self.rng.u8(0..10))).collect()
    }

    /// Hexadecimal digits, in lower case.
    pub fn hex(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from_digit(self.rng.u32(0..16), 16).expect("a digit")).collect()
    }

    pub fn letters(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(LETTERS[self.rng.usize(0..LETTERS.len())])).collect()
    }

    /// A number of milliseconds between minus and plus so many.
    pub fn shift_ms(&mut self, most: i64) -> i64 {
        self.rng.i64(-most..=most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let all = |seed| {
            let mut ids = Ids::new(seed);
            (ids.uuid(), ids.digits(10), ids.hex(24), ids.letters(14), ids.shift_ms(87_000))
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
        let (uuid, digits, hex, ..) = all(7);
        assert_eq!((uuid.len(), &uuid[14..15], digits.len(), hex.len()), (36, "4", 10, 24));
    }
}
