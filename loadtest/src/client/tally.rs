//! One screen's record of the numbers it was sent: which never came, which came twice, which came late.

/// How many gaps are kept apart. Beyond these a screen has lost so much that it does not matter in which order.
const GAPS_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct Tally {
    /// The highest number that came.
    last: u64,
    /// Whether the first number that comes is where it begins: a screen that came in the middle.
    midway: bool,
    pub received: u64,
    pub repeated: u64,
    pub reordered: u64,
    /// Numbers below `last` that have not come: ranges, in order, without their end.
    gaps: Vec<(u64, u64)>,
    /// What was in gaps that are no longer kept.
    forgotten: u64,
}

impl Tally {
    /// For a screen that is to be sent everything, from number 1.
    pub fn from_the_start() -> Self {
        Self::default()
    }

    /// For a screen that comes while numbers are being sent.
    pub fn midway() -> Self {
        Self { midway: true, ..Self::default() }
    }

    /// The highest number that came.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes down a number.
    pub fn take(&mut self, number: u64) {
        if number == self.last + 1 || std::mem::take(&mut self.midway) {
            self.last = number;
        } else if number > self.last {
            if self.gaps.len() == GAPS_MAX {
                let (from, to) = self.gaps.remove(0);
                self.forgotten += to - from;
            }
            self.gaps.push((self.last + 1, number));
            self.last = number;
        } else if self.fill(number) {
            self.reordered += 1;
        } else {
            self.repeated += 1;
            return;
        }
        self.received += 1;
    }

    /// Takes a number out of the gaps. Whether it was in one.
    fn fill(&mut self, number: u64) -> bool {
        let Some(at) = self.gaps.iter().position(|(from, to)| (*from..*to).contains(&number)) else { return false };
        let (from, to) = self.gaps.remove(at);
        let parts = [(from, number), (number + 1, to)];
        self.gaps.splice(at..at, parts.into_iter().filter(|(from, to)| from < to));
        true
    }

    /// How many of the numbers up to `last` have not come.
    pub fn lost(&self, last: u64) -> u64 {
        if self.midway {
            return 0; // It came when all was said.
        }
        let inside: u64 = self.gaps.iter().map(|(from, to)| to - from).sum();
        inside + self.forgotten + last.saturating_sub(self.last)
    }

    /// The same for a screen that has left: nobody knows what it would have been sent.
    pub fn lost_so_far(&self) -> u64 {
        self.lost(self.last)
    }

    /// Whether everything up to `last` came.
    pub fn is_complete(&self, last: u64) -> bool {
        self.lost(last) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[u64]) -> (u64, u64, u64, u64) {
        let mut tally = Tally::from_the_start();
        numbers.iter().for_each(|number| tally.take(*number));
        (tally.received, tally.lost(5), tally.repeated, tally.reordered)
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        assert_eq!(of(&[1, 2, 3, 4, 5]), (5, 0, 0, 0));
        assert_eq!(of(&[1, 2, 4, 5]), (4, 1, 0, 0), "lost in the middle");
        assert_eq!(of(&[1, 2, 3]), (3, 2, 0, 0), "lost at the end");
        assert_eq!(of(&[2, 3, 4, 5]), (4, 1, 0, 0), "lost at the beginning");
        assert_eq!(of(&[1, 2, 2, 3, 4, 5, 1]), (5, 0, 2, 0), "repeated");
        assert_eq!(of(&[1, 5, 3, 2, 4]), (5, 0, 0, 3), "reordered");
        assert_eq!(of(&[1, 5, 3, 3]), (3, 2, 1, 1), "all of it");
    }

    #[test]
    fn whoever_comes_midway_is_owed_what_follows() {
        let mut tally = Tally::midway();
        assert_eq!(tally.lost(9), 0);
        for number in [7, 8, 10] {
            tally.take(number);
        }
        assert_eq!((tally.received, tally.lost(11)), (3, 2));
    }

    #[test]
    fn gaps_are_bounded_and_what_was_in_them_is_still_lost() {
        let mut tally = Tally::from_the_start();
        let last = 2 * (GAPS_MAX as u64 + 10);
        (1..=last / 2).for_each(|half| tally.take(2 * half));
        assert_eq!(tally.gaps.len(), GAPS_MAX);
        assert_eq!(tally.lost(last), last / 2);
    }
}
