//! The config of one simulated log, drawn from the seed.

use std::{path::PathBuf, time::Duration};

use tidemark_wal::LogParameters;

use crate::{fault_schedule::FaultSchedule, mutants::Mutant, rng::SimRng};

/// The config of one simulation.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The log's first parameters.
    pub parameters: LogParameters,
    /// The parameters that the operator sets, and when.
    pub parameter_changes: Vec<(Duration, LogParameters)>,
    /// The faults of the fault burst.
    pub fault_schedule: FaultSchedule,
    /// How long the fault burst lasts.
    pub fault_burst: Duration,
    /// Writers that use the library.
    pub writers: u64,
    /// Writers that follow Datamon's rules only.
    pub stray_writers: u64,
    /// Indexers, which compete for the writer lease.
    pub indexers: u64,
    /// Pause between two appends of a writer, milliseconds.
    pub append_interval: std::ops::RangeInclusive<u64>,
    /// How many names of bundles the writers share. With few names they collide often.
    pub shared_names: u64,
    /// The kinds of drafts that the writers append: the arms of the match in `scenario/writers.rs`.
    pub draft_kinds: std::ops::RangeInclusive<u64>,
    /// Whether a restarted indexer keeps its identity, as the owner of a folder does.
    pub stable_identity: bool,
    /// Whether a process deletes descriptors of old bundles.
    pub deleter: bool,
    /// The folder of the real engine; `None`: the model engine is used.
    pub tantivy: Option<PathBuf>,
    /// The age at which records of the index's chain are trimmed; `None`: they are not.
    pub trim_age: Option<Duration>,
}

/// All kinds of drafts.
const ALL_DRAFTS: std::ops::RangeInclusive<u64> = 0..=9;
/// Labels only.
const LABELS: std::ops::RangeInclusive<u64> = 5..=6;
/// Operations without a descriptor.
const ENTRIES: std::ops::RangeInclusive<u64> = 8..=8;

impl SimConfig {
    /// A shorter fault burst over the real engine, whose files are below `folder`.
    #[cfg(feature = "tantivy")]
    pub fn real(seed: u64, folder: PathBuf) -> Self {
        Self {
            tantivy: Some(folder),
            parameter_changes: Vec::new(),
            fault_burst: Duration::from_secs(150),
            ..Self::mixed(seed)
        }
    }

    /// A config that shows `mutant` within a few seeds. The right code must hold with it too.
    pub fn for_mutant(seed: u64, mutant: Mutant) -> Self {
        let mut config = Self::mixed(seed);
        let fault_schedule = &mut config.fault_schedule;
        match mutant {
            Mutant::CleanupOnUnknown => {
                (fault_schedule.lost_writes, fault_schedule.late_writes, fault_schedule.late_write_delay) =
                    (200, 650, 10_000..=50_000);
                (fault_schedule.process_pauses, fault_schedule.process_crashes, fault_schedule.call_timeout) =
                    (0, 0, 1_000);
                (config.writers, config.append_interval) = (3, 200..=2_000);
            }
            Mutant::ClockReadAfterListing => {
                (fault_schedule.process_pauses, fault_schedule.pause_duration, fault_schedule.process_crashes) =
                    (6, 15_000..=50_000, 0);
                (config.append_interval, config.writers, config.stray_writers) = (200..=2_000, 3, 2);
                config.parameters.expiry = Duration::from_secs(2);
                config.parameter_changes.clear();
            }
            Mutant::FencedIngestPublishes => {
                (fault_schedule.process_pauses, fault_schedule.pause_duration) = (4, 62_000..=100_000);
                (config.indexers, config.stable_identity) = (2, false);
                config.fault_burst = Duration::from_mins(9);
            }
            Mutant::CandidatesFenceEachOther => config.indexers = 2,
            Mutant::CompactionLosesCorrection | Mutant::SidecarAfterCause => {
                (fault_schedule.write_delay, fault_schedule.process_pauses, fault_schedule.process_crashes) =
                    (500..=2_500, 0, 0);
                (config.draft_kinds, config.append_interval, config.writers) = (LABELS, 200..=1_500, 3);
                (config.indexers, config.trim_age) = (1, None);
            }
            Mutant::OutcomeDecidedAgain => {
                (fault_schedule.process_pauses, fault_schedule.process_crashes) = (0, 0);
                (config.deleter, config.stray_writers, config.indexers) = (true, 2, 1);
            }
            Mutant::LoweredExpiryAtOnce => {
                (fault_schedule.process_pauses, fault_schedule.process_crashes) = (0, 0);
                let lowered = LogParameters { expiry: Duration::from_secs(2), ..config.parameters };
                config.parameters.expiry = Duration::from_secs(40);
                config.parameter_changes = vec![(Duration::from_mins(1), lowered)];
                (config.append_interval, config.writers, config.stray_writers) = (200..=2_000, 3, 2);
            }
            Mutant::AcknowledgedUnseen => {
                (fault_schedule.slow_visibility, fault_schedule.slow_visibility_delay) = (200, 10_000..=60_000);
                (config.writers, config.stray_writers, config.parameters.expiry) = (3, 0, Duration::from_secs(6));
                config.parameter_changes.clear();
            }
            Mutant::LateMakesDuplicate => {
                (
                    fault_schedule.process_pauses,
                    fault_schedule.pause_duration,
                    fault_schedule.late_writes,
                    fault_schedule.late_write_delay,
                ) = (15, 3_000..=9_000, 60, 0..=9_000);
                (config.draft_kinds, config.writers) = (ENTRIES, 3);
                config.parameters.expiry = Duration::from_secs(2);
                config.parameter_changes.clear();
            }
            Mutant::ForeignDescriptorAccepted => config.stray_writers = 2,
            _ => {}
        }
        let fault_schedule = &config.fault_schedule;
        for parameters in
            std::iter::once(&mut config.parameters).chain(config.parameter_changes.iter_mut().map(|(_, set)| set))
        {
            parameters.request_timeout = whole(fault_schedule.write_delay.end() + fault_schedule.clock_spread);
            parameters.visibility_delay = whole(fault_schedule.visibility_lag.end() + fault_schedule.clock_spread);
        }
        config
    }

    /// The mixed scenario.
    pub fn mixed(seed: u64) -> Self {
        // Any constant does; this one must stay, or every seed gets another config.
        let mut rng = SimRng::seeded(seed ^ 0x6b6e_6f62);
        let fault_schedule = draw_fault_schedule(&mut rng);
        let parameters = parameters(&mut rng, &fault_schedule);
        let changes = if rng.chance(350) { change(&mut rng, &parameters) } else { Vec::new() };
        let minutes = if changes.is_empty() { rng.in_range(&(3..=6)) } else { 9 };
        Self {
            parameters,
            parameter_changes: changes,
            fault_schedule,
            fault_burst: Duration::from_mins(minutes),
            writers: rng.in_range(&(1..=3)),
            stray_writers: rng.in_range(&(0..=2)),
            indexers: rng.in_range(&(1..=2)),
            append_interval: 200..=rng.in_range(&(3_000..=20_000)),
            shared_names: rng.in_range(&(3..=40)),
            draft_kinds: ALL_DRAFTS,
            stable_identity: rng.chance(300),
            deleter: rng.chance(500),
            tantivy: None,
            trim_age: rng.chance(500).then(|| Duration::from_secs(rng.in_range(&(30..=120)))),
        }
    }
}

fn draw_fault_schedule(rng: &mut SimRng) -> FaultSchedule {
    let rate = |rng: &mut SimRng, most: u64| u32::try_from(rng.in_range(&(0..=most))).unwrap_or(0);
    // A quarter of the seeds have no faults but delays.
    let severity = rng.in_range(&(0..=3));
    FaultSchedule {
        network_delay: 1..=rng.in_range(&(5..=150)),
        write_delay: 0..=rng.in_range(&(10..=3_000)),
        visibility_lag: 0..=rng.in_range(&(0..=2_000)),
        clock_spread: rng.in_range(&(0..=900)),
        lost_writes: rate(rng, 12 * severity),
        lost_answers: rate(rng, 12 * severity),
        late_writes: rate(rng, 8 * severity),
        late_write_delay: 0..=rng.in_range(&(100..=60_000)),
        duplicated_writes: rate(rng, 12 * severity),
        false_conflicts: rate(rng, 6 * severity),
        failed_reads: rate(rng, 12 * severity),
        process_pauses: rate(rng, severity),
        pause_duration: 500..=rng.in_range(&(2_000..=150_000)),
        process_crashes: rate(rng, severity),
        page_size: 1..=rng.in_range(&(2..=40)),
        call_timeout: rng.in_range(&(2_000..=8_000)),
        slow_visibility: 0,
        slow_visibility_delay: 0..=0,
    }
}

/// Parameters that fit the fault schedule: `R` and `V` are its true longest delays.
fn parameters(rng: &mut SimRng, fault_schedule: &FaultSchedule) -> LogParameters {
    LogParameters {
        // A spread above a quarter of `W` refuses appends.
        expiry: Duration::from_secs(rng.in_range(&(6..=25))),
        signer_clock_lead: Duration::ZERO,
        request_timeout: whole(fault_schedule.write_delay.end() + fault_schedule.clock_spread),
        visibility_delay: whole(fault_schedule.visibility_lag.end() + fault_schedule.clock_spread),
        audit_window: Duration::from_secs(rng.in_range(&(60..=200))),
    }
}

fn whole(milliseconds: u64) -> Duration {
    Duration::from_secs(milliseconds.div_ceil(1000))
}

fn change(rng: &mut SimRng, before: &LogParameters) -> Vec<(Duration, LogParameters)> {
    let expiry = if rng.chance(600) { rng.in_range(&(2..=5)) } else { rng.in_range(&(30..=60)) };
    let parameters = LogParameters { expiry: Duration::from_secs(expiry), ..*before };
    vec![(Duration::from_secs(rng.in_range(&(20..=90))), parameters)]
}
