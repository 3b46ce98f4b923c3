//! All chance of a simulation, from one seed.

use std::ops::RangeInclusive;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// A seeded source of chance.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Whether a thing happens that happens `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.0.random_range(0..1000) < per_mille
    }

    /// A number of the range.
    pub fn among(&mut self, range: &RangeInclusive<u64>) -> u64 {
        self.0.random_range(range.clone())
    }

    /// An index below `len`, which must not be zero.
    pub fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    /// A seed for somebody else's dice.
    pub fn fork(&mut self) -> u64 {
        self.0.random()
    }
}
