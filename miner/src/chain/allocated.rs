//! The sector numbers a chain has ever seen, as runs: an operator may have marked billions of them as used.

use std::collections::BTreeMap;

use sealfarm_common::sector::SectorNumber;

/// A set of sector numbers. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllocatedNumbers {
    /// The first number of each run, and its last.
    runs: BTreeMap<u64, u64>,
}

/// Run lengths that are no set of sector numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the runs of a bit field reach beyond 2^64-1")]
pub struct TooLong;

impl AllocatedNumbers {
    /// Reads the run lengths of a bit field: in turn of numbers that are not in it and that are,
    /// beginning with those that are not (`go-bitfield`, JSON form; `[5,1]` is {5}).
    ///
    /// # Errors
    /// When the runs reach beyond what a number can be.
    pub fn from_run_lengths(lengths: &[u64]) -> Result<Self, TooLong> {
        let mut runs = BTreeMap::new();
        let mut next = 0u64;
        for (index, length) in lengths.iter().enumerate() {
            let end = next.checked_add(*length).ok_or(TooLong)?;
            if index % 2 == 1 && *length > 0 {
                runs.insert(next, end - 1);
            }
            next = end;
        }
        Ok(Self { runs })
    }

    /// The same form of it.
    pub fn run_lengths(&self) -> Vec<u64> {
        let mut lengths = Vec::with_capacity(self.runs.len() * 2);
        let mut next = 0;
        for (first, last) in &self.runs {
            lengths.extend([first - next, last - first + 1]);
            next = last.saturating_add(1);
        }
        lengths
    }

    /// The last number of the run that `number` lies in; `None` where it is free.
    pub fn run_end(&self, number: SectorNumber) -> Option<SectorNumber> {
        let (_, last) = self.runs.range(..=number.0).next_back()?;
        (number.0 <= *last).then_some(SectorNumber(*last))
    }

    /// Whether `number` is in it.
    pub fn contains(&self, number: SectorNumber) -> bool {
        self.run_end(number).is_some()
    }
}

impl FromIterator<SectorNumber> for AllocatedNumbers {
    /// From numbers in ascending order.
    fn from_iter<I: IntoIterator<Item = SectorNumber>>(numbers: I) -> Self {
        let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
        for SectorNumber(number) in numbers {
            match runs.last_entry() {
                Some(mut run) if run.get().checked_add(1) == Some(number) => *run.get_mut() = number,
                _ => drop(runs.insert(number, number)),
            }
        }
        Self { runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(set: &AllocatedNumbers, below: u64) -> Vec<u64> {
        (0..below).filter(|number| set.contains(SectorNumber(*number))).collect()
    }

    #[test]
    fn run_lengths_begin_with_the_numbers_that_are_not_in_the_set() {
        let check = |lengths: &[u64], known: &[u64]| {
            let set = AllocatedNumbers::from_run_lengths(lengths).unwrap();
            assert_eq!(numbers(&set, 20), known, "{lengths:?}");
            let again: AllocatedNumbers = known.iter().map(|number| SectorNumber(*number)).collect();
            assert_eq!(again, set);
        };
        check(&[5, 1], &[5]);
        check(&[0, 3, 2, 1], &[0, 1, 2, 5]);
        check(&[], &[]);
        check(&[0], &[]);
        check(&[7], &[]);
        let five: AllocatedNumbers = [SectorNumber(5)].into_iter().collect();
        assert_eq!(five.run_lengths(), [5, 1]);
    }

    #[test]
    fn a_run_of_billions_costs_nothing_and_one_beyond_all_numbers_is_refused() {
        let set = AllocatedNumbers::from_run_lengths(&[1, 1 << 40]).unwrap();
        assert_eq!(set.run_end(SectorNumber(7)), Some(SectorNumber(1 << 40)));
        assert_eq!(set.run_end(SectorNumber((1 << 40) + 1)), None);
        assert_eq!(AllocatedNumbers::from_run_lengths(&[u64::MAX, 1]), Err(TooLong));
    }
}
