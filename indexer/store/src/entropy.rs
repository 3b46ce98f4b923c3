//! Randomness, injected: the simulation seeds it, the product takes it from the operating system.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A shared source of random bytes. Clones draw from the same stream.
#[derive(Clone, Debug)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Entropy {
    /// A source seeded by the operating system.
    #[expect(clippy::disallowed_methods, reason = "the one place where randomness enters the product")]
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_seed(rand::random()))))
    }

    /// A source that gives the same bytes for the same seed, for tests and the simulation.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.lock().fill_bytes(&mut bytes);
        bytes
    }

    /// A nonce as 32 lower-case hexadecimal digits.
    pub fn nonce(&self) -> String {
        hex::encode(self.bytes::<16>())
    }

    /// A random pause between half of `pause` and all of it, so that processes that failed together do not retry together.
    pub fn jittered(&self, pause: Duration) -> Duration {
        let share = f64::from(u16::from_be_bytes(self.bytes())) / f64::from(u16::MAX);
        pause.mul_f64(0.5 + share / 2.0)
    }
}
