//! The faults of the store and of the machines, with their rates and delays.

use std::ops::RangeInclusive;

/// Rates of faults (per mille of calls) and delays (milliseconds) of one simulation.
#[derive(Clone, Debug)]
pub struct FaultSchedule {
    /// How long a request travels to the store, and its answer back.
    pub network_delay: RangeInclusive<u64>,
    /// From a write's arrival until it takes effect. The end of the range is the true `R`.
    pub write_delay: RangeInclusive<u64>,
    /// From an object's store time until it becomes visible. The end of the range is the true `V`.
    pub visibility_lag: RangeInclusive<u64>,
    /// How far the clocks of front-ends of one store, and of different stores, differ.
    pub clock_spread: u64,
    /// Writes that do not arrive.
    pub lost_writes: u32,
    /// Writes that take effect and whose answer is lost.
    pub lost_answers: u32,
    /// Writes that arrive after the caller's timeout.
    pub late_writes: u32,
    /// How long after the caller's timeout a late write arrives.
    pub late_write_delay: RangeInclusive<u64>,
    /// Writes that arrive twice.
    pub duplicated_writes: u32,
    /// Creates that are answered with a conflict although the object does not exist.
    pub false_conflicts: u32,
    /// Reads and lists that fail.
    pub failed_reads: u32,
    /// Calls at which the process pauses.
    pub process_pauses: u32,
    /// How long a pause is.
    pub pause_duration: RangeInclusive<u64>,
    /// Calls at which the process crashes, before or after the request is sent.
    pub process_crashes: u32,
    /// Descriptors that become visible later than `V` after their store time: the store breaks its promise.
    pub slow_visibility: u32,
    /// How much later.
    pub slow_visibility_delay: RangeInclusive<u64>,
    /// Entries that the store refuses to give for good, from some time after they were written on.
    pub refused_entries: u32,
    /// The same for descriptors that bear no metadata: whose they are shows without reading them.
    pub refused_descriptors: u32,
    /// Entries that the store gives and never deletes, as if a retention held them.
    pub undeletable_entries: u32,
    /// Entries whose reading panics in every indexer.
    pub panicking_entries: u32,
    /// How long after it was written an object is refused.
    pub refusal_delay: RangeInclusive<u64>,
    /// Reads of segments that give a wrong byte, as a local copy on a bad disk does.
    pub damaged_segments: u32,
    /// Whether the clock of the log is ahead of those of the metadata buckets by the whole clock spread, at every
    /// front-end.
    pub split_clocks: bool,
    /// Objects per page of a listing.
    pub page_size: RangeInclusive<u64>,
    /// The caller's timeout.
    pub call_timeout: u64,
}

impl FaultSchedule {
    /// Whether it refuses objects for good.
    pub fn refuses(&self) -> bool {
        self.refused_entries + self.refused_descriptors + self.panicking_entries > 0
    }

    /// No faults, and short delays.
    pub fn fault_free() -> Self {
        Self {
            network_delay: 1..=10,
            write_delay: 0..=10,
            visibility_lag: 0..=0,
            clock_spread: 0,
            lost_writes: 0,
            lost_answers: 0,
            late_writes: 0,
            late_write_delay: 0..=0,
            duplicated_writes: 0,
            false_conflicts: 0,
            failed_reads: 0,
            process_pauses: 0,
            pause_duration: 0..=0,
            process_crashes: 0,
            slow_visibility: 0,
            slow_visibility_delay: 0..=0,
            refused_entries: 0,
            undeletable_entries: 0,
            refused_descriptors: 0,
            panicking_entries: 0,
            refusal_delay: 0..=0,
            damaged_segments: 0,
            split_clocks: false,
            page_size: 1000..=1000,
            call_timeout: 10_000,
        }
    }
}
