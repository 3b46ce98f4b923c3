//! The only source of randomness of a simulation, seeded.

use std::ops::RangeInclusive;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// A seeded random number generator.
#[derive(Debug)]
pub struct SimRng(StdRng);

impl SimRng {
    /// A generator that gives the same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `true` with a probability of `per_mille` in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.0.random_range(0..1000) < per_mille
    }

    /// A random number of the range.
    pub fn in_range(&mut self, range: &RangeInclusive<u64>) -> u64 {
        self.0.random_range(range.clone())
    }

    /// An index below `len`, which must not be zero.
    pub fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    /// A seed for another generator.
    pub fn fork(&mut self) -> u64 {
        self.0.random()
    }
}
