//! How badly the store and the machines behave.

use std::ops::RangeInclusive;

/// Rates of faults (per mille of calls) and spans of time (milliseconds) of one simulation.
#[derive(Clone, Debug)]
pub struct Weather {
    /// From sending a request to its arrival at the store, and from the answer's leaving to its being read.
    pub network: RangeInclusive<u64>,
    /// From a write's arrival to its landing. Its end is the true `R`.
    pub landing: RangeInclusive<u64>,
    /// How long an object's store time lies before the instant at which it becomes visible. Its end is the true `V`.
    pub hidden: RangeInclusive<u64>,
    /// How far front-ends of one store and clocks of different stores disagree.
    pub spread: u64,
    /// Writes of which nothing arrives.
    pub lost: u32,
    /// Writes that land and are answered with an error.
    pub unheard: u32,
    /// Writes that the caller gives up on, and that land afterwards.
    pub late: u32,
    /// How long after the caller's time-out a late write arrives.
    pub lateness: RangeInclusive<u64>,
    /// Writes that land twice.
    pub doubled: u32,
    /// Creates that are answered as a conflict although nothing has the key.
    pub conflict: u32,
    /// Reads and lists that fail.
    pub unread: u32,
    /// Calls at which the process pauses.
    pub pause: u32,
    /// How long a pause is.
    pub pauses: RangeInclusive<u64>,
    /// Calls at which the process dies, before or after the call landed.
    pub crash: u32,
    /// Descriptors that become visible later than `V` after their store time: the store breaks its word.
    pub straggle: u32,
    /// How much later.
    pub straggling: RangeInclusive<u64>,
    /// Objects in a page of a listing.
    pub page: RangeInclusive<u64>,
    /// After how long a caller gives up on a call.
    pub patience: u64,
}

impl Weather {
    /// Nothing goes wrong, everything takes a little time.
    pub fn calm() -> Self {
        Self {
            network: 1..=10,
            landing: 0..=10,
            hidden: 0..=0,
            spread: 0,
            lost: 0,
            unheard: 0,
            late: 0,
            lateness: 0..=0,
            doubled: 0,
            conflict: 0,
            unread: 0,
            pause: 0,
            pauses: 0..=0,
            crash: 0,
            straggle: 0,
            straggling: 0..=0,
            page: 1000..=1000,
            patience: 10_000,
        }
    }
}
