//! The config of one simulated log, drawn from the seed.

use std::{path::PathBuf, time::Duration};

use tidemark_wal::LogParameters;

use crate::{
    fault_schedule::FaultSchedule,
    mutants::{ENTRY_MEMORY, Mutant},
    refusals::DisabledKey,
    rng::SimRng,
};

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
    /// Of Datamon's own clients, those that move labels.
    pub label_movers: u64,
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
    /// When the key of all indexers is disabled, for how long, and what it then refuses.
    pub key_outage: Option<(Duration, Duration, DisabledKey)>,
    /// The records of a chain that are lost for a while.
    pub record_loss: Option<RecordLoss>,
    /// When the cache folder of every indexer has little room.
    pub disk_shortage: Option<DiskShortage>,
    /// How little memory the indexers have for entries, and how large the drafts are.
    pub entry_sizes: Option<EntrySizes>,
    /// How many of a thousand drafts bear a key that looks like one derived from that of the writer's last group.
    pub lookalike_keys: u32,
    /// By how much longer than an update may take idempotency keys count, and clients repeat keys; `None`: they count as long as the index
    /// lives.
    pub key_retention: Option<Duration>,
    /// How many of a thousand drafts expect something of an entity.
    pub expecting_drafts: u32,
    /// Whether the log was cleaned before the index began: its floor is above the index's cursor.
    pub cleaned_log: bool,
    /// Whether the log's bucket is copied, and an indexer of the copy competes for the index.
    pub copied_log: bool,
    /// Whether the index is verified during the fault burst, too.
    pub verified_meanwhile: bool,
}

/// Which chain loses records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamagedChain {
    /// The log's root chain.
    Root,
    /// The index's chain.
    Index,
}

/// Records of a chain that are lost for a while.
#[derive(Clone, Debug)]
pub struct RecordLoss {
    /// The chain.
    pub chain: DamagedChain,
    /// Whether its first records are lost, as by a lifecycle rule, or one in the middle.
    pub first: bool,
    /// When they are lost, at the earliest.
    pub from: Duration,
    /// How long they are lost.
    pub span: Duration,
    /// Whether all indexers are killed then, so that they begin with what is left.
    pub kills: bool,
}

/// A time in which the cache folder of every indexer has little room.
#[derive(Clone, Copy, Debug)]
pub struct DiskShortage {
    /// When it begins.
    pub from: Duration,
    /// How long it lasts.
    pub span: Duration,
    /// The room in bytes that a segment has, while it is built or compacted; 0: nothing can be opened either.
    pub room: u64,
}

/// Drafts of many sizes, and indexers with little memory for them.
#[derive(Clone, Copy, Debug)]
pub struct EntrySizes {
    /// The budget of an indexer in bytes: an ordinary entry takes 12 KiB of it.
    pub entry_memory: u64,
    /// A draft is padded by so many bytes at most.
    pub max_padding: u64,
}

/// All kinds of drafts.
const ALL_DRAFTS: std::ops::RangeInclusive<u64> = 0..=9;
/// Labels only.
const LABELS: std::ops::RangeInclusive<u64> = 5..=6;
/// Operations without a descriptor.
const ENTRIES: std::ops::RangeInclusive<u64> = 8..=8;
/// Groups, and operations without a descriptor.
const GROUPS_AND_ENTRIES: std::ops::RangeInclusive<u64> = 7..=9;
/// What an audit window is lowered to.
const LOWERED_WINDOW: Duration = Duration::from_mins(1);
/// How old a record of a chain is when it is lost, at least; longer than any process sleeps meanwhile.
pub(crate) const MIN_LOST_AGE: Duration = Duration::from_secs(90);
/// The longest pause of a holder of a lock, milliseconds: several of them take turns meanwhile.
const MAX_PAUSE_OF_HOLDER: u64 = 60_000;
/// The longest pause in a run that loses records, milliseconds.
const MAX_PAUSE_AT_LOSS: u64 = 40_000;

impl SimConfig {
    /// A shorter fault burst over the real engine, whose files are below `folder`.
    #[cfg(feature = "tantivy")]
    pub fn real(seed: u64, folder: PathBuf) -> Self {
        Self {
            tantivy: Some(folder),
            parameter_changes: Vec::new(),
            fault_burst: Duration::from_secs(150),
            ..Self::passing_faults(seed)
        }
    }

    /// A config that shows `mutant` within a few seeds. The right code must hold with it too.
    pub fn for_mutant(seed: u64, mutant: Mutant) -> Self {
        let mut config = Self::passing_faults(seed);
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
            Mutant::RetentionFromDuplicate => {
                config.key_retention = Some(Duration::from_secs(5));
                (config.parameters.expiry, config.writers) = (Duration::from_secs(6), 1);
            }
            Mutant::ForeignDescriptorAccepted => config.stray_writers = 2,
            Mutant::PanicEndsListing => {
                (fault_schedule.process_pauses, fault_schedule.process_crashes) = (0, 0);
                (fault_schedule.panicking_entries, fault_schedule.refusal_delay) = (50, 0..=0);
                (config.writers, config.append_interval) = (3, 200..=3_000);
            }
            Mutant::EmptiedChainBegunAnew | Mutant::HoleTakenForEnd => {
                (fault_schedule.process_pauses, config.trim_age) = (0, None);
                let (from, span) = (Duration::from_mins(2), Duration::from_secs(80));
                let first = mutant == Mutant::EmptiedChainBegunAnew;
                let loss = RecordLoss { chain: DamagedChain::Index, first, from, span, kills: true };
                config.record_loss = Some(loss);
                config.fault_burst = Duration::from_mins(5);
            }
            Mutant::LargeEntrySkipped => {
                (config.writers, config.append_interval) = (3, 200..=3_000);
                config.entry_sizes = Some(EntrySizes { entry_memory: ENTRY_MEMORY, max_padding: 3 * ENTRY_MEMORY });
            }
            Mutant::FullDiskCutsSegment => {
                (config.writers, config.append_interval) = (3, 200..=3_000);
                let (from, span) = (Duration::from_secs(40), Duration::from_mins(2));
                config.disk_shortage = Some(DiskShortage { from, span, room: 2_000 });
            }
            Mutant::GroupKeyCollides => {
                (config.draft_kinds, config.append_interval) = (GROUPS_AND_ENTRIES, 200..=3_000);
                (config.writers, config.lookalike_keys) = (3, 500);
            }
            Mutant::ExpectationOfIndexAlone => {
                (config.writers, config.append_interval) = (3, 200..=3_000);
                config.expecting_drafts = 700;
            }
            Mutant::UnreadableWithoutProof => {
                (config.writers, config.append_interval) = (3, 200..=3_000);
                let (from, span) = (Duration::from_secs(40), Duration::from_mins(2));
                config.key_outage = Some((from, span, DisabledKey::Bodies));
            }
            Mutant::UnboundedUnreadable => {
                // Some 140 are refused: the checks cost the square of the entries.
                (config.parameter_changes, config.fault_burst) = (Vec::new(), Duration::from_mins(6));
                (config.writers, config.stray_writers, config.append_interval) = (3, 0, 1_000..=4_000);
                (config.draft_kinds, config.deleter, config.indexers) = (ENTRIES, false, 1);
                config.parameters.expiry = Duration::from_secs(6);
                *fault_schedule =
                    FaultSchedule { refused_entries: 400, refusal_delay: 2_000..=4_000, ..FaultSchedule::fault_free() };
            }
            Mutant::FloorIgnored => config.set_cleaned(),
            Mutant::CopiedLogAdmitted => (config.copied_log, config.writers) = (true, 2),
            Mutant::LoweredWindowDropsLook => {
                (fault_schedule.process_pauses, fault_schedule.process_crashes) = (0, 0);
                config.parameters.audit_window = Duration::from_secs(250);
                config.parameters.expiry = Duration::from_secs(6);
                let lowered = LogParameters { audit_window: LOWERED_WINDOW, ..config.parameters };
                config.parameter_changes = vec![(Duration::from_secs(30), lowered)];
                (config.append_interval, config.stray_writers) = (200..=4_000, 4);
                config.fault_burst = Duration::from_mins(8);
            }
            Mutant::UnverifiedCompactionInput => {
                (fault_schedule.process_pauses, fault_schedule.process_crashes) = (0, 0);
                fault_schedule.damaged_segments = 60;
                (config.writers, config.append_interval, config.indexers) = (3, 200..=1_500, 1);
            }
            Mutant::LabelOfLaterEntry => {
                (config.label_movers, config.writers, config.deleter) = (3, 1, false);
                (config.append_interval, fault_schedule.clock_spread) = (500..=6_000, 0);
            }
            Mutant::ClocksTakenForEqual => {
                (fault_schedule.clock_spread, fault_schedule.split_clocks) = (1_000, true);
                (fault_schedule.network_delay, fault_schedule.write_delay) = (1..=20, 0..=100);
                (config.writers, config.fault_burst) = (3, Duration::from_mins(2));
                config.parameter_changes.clear();
            }
            _ => {}
        }
        config.fit_parameters();
        config
    }

    /// Indexers beside holders of a write lock, and no other writers.
    pub fn locks(seed: u64) -> Self {
        let mut config = Self::passing_faults(seed);
        (config.writers, config.stray_writers, config.deleter) = (0, 0, false);
        (config.parameter_changes, config.trim_age) = (Vec::new(), None);
        config.fault_burst = Duration::from_mins(4);
        config.parameters.audit_window = Duration::from_mins(1);
        let pause = &mut config.fault_schedule.pause_duration;
        *pause = *pause.start()..=(*pause.end()).min(MAX_PAUSE_OF_HOLDER);
        config.fit_parameters();
        config
    }

    /// Makes `R` and `V` the true longest delays.
    fn fit_parameters(&mut self) {
        let sets = self.parameter_changes.iter_mut().map(|(_, set)| set);
        for parameters in sets.chain([&mut self.parameters]) {
            let longest = |delay: &std::ops::RangeInclusive<u64>| whole(delay.end() + self.fault_schedule.clock_spread);
            parameters.request_timeout = longest(&self.fault_schedule.write_delay);
            parameters.visibility_delay = longest(&self.fault_schedule.visibility_lag);
            let longer = self.key_retention.map(|more| parameters.min_idempotency_retention() + more);
            parameters.idempotency_retention = longer;
        }
    }

    /// A short run over a log whose floor is above the index's cursor.
    fn set_cleaned(&mut self) {
        (self.cleaned_log, self.record_loss, self.key_outage) = (true, None, None);
        (self.parameter_changes, self.fault_burst) = (Vec::new(), Duration::from_mins(2));
    }

    /// The mixed scenario: faults that pass, and in most seeds some that do not.
    pub fn mixed(seed: u64) -> Self {
        let mut config = Self::passing_faults(seed);
        // Of its own, so that a further draw changes nothing of the faults that pass.
        let mut rng = SimRng::seeded(seed ^ 0x7765_6174);
        let fault_schedule = &mut config.fault_schedule;
        if rng.chance(250) {
            let rate = |rng: &mut SimRng, most: u64| u32::try_from(rng.in_range(&(0..=most))).unwrap_or(0);
            fault_schedule.refused_entries = rate(&mut rng, 100);
            fault_schedule.refused_descriptors = rate(&mut rng, 150);
            fault_schedule.panicking_entries = rate(&mut rng, 50);
            fault_schedule.refusal_delay = 0..=rng.in_range(&(0..=20_000));
        }
        if rng.chance(200) {
            (fault_schedule.clock_spread, fault_schedule.split_clocks) = (1_000, true);
        }
        if rng.chance(300) {
            config.lookalike_keys = 300;
        }
        if rng.chance(150) {
            let from = Duration::from_secs(rng.in_range(&(30..=90)));
            let span = Duration::from_secs(rng.in_range(&(20..=120)));
            let disabled = if rng.chance(600) { DisabledKey::Bodies } else { DisabledKey::Everything };
            config.key_outage = Some((from, span, disabled));
        }
        if rng.chance(120) {
            config.lose_records(&mut rng);
        }
        if rng.chance(20) {
            config.set_cleaned();
        }
        config.copied_log = rng.chance(100) && config.record_loss.is_none();
        if rng.chance(500) {
            config.lower_audit_window();
        }
        config.draw_machine_faults(&mut rng);
        config.verified_meanwhile = rng.chance(250);
        if rng.chance(200) {
            config.key_retention = Some(Duration::from_secs(rng.in_range(&(0..=30))));
        }
        config.expecting_drafts = if rng.chance(350) { 300 } else { 0 };
        config.fit_parameters();
        config
    }

    /// Faults of the indexers' machines, and a tolerance for clocks.
    fn draw_machine_faults(&mut self, rng: &mut SimRng) {
        if rng.chance(250) {
            self.disk_shortage = Some(DiskShortage {
                from: Duration::from_secs(rng.in_range(&(30..=120))),
                span: Duration::from_secs(rng.in_range(&(20..=120))),
                room: if rng.chance(300) { 0 } else { rng.in_range(&(500..=8_000)) },
            });
        }
        if rng.chance(200) {
            self.fault_schedule.damaged_segments = u32::try_from(rng.in_range(&(1..=60))).unwrap_or(0);
        }
        // An entry is judged unreadable only while others are read beside it, which takes memory for more than one.
        if rng.chance(250) && !self.fault_schedule.refuses() {
            let (entry_memory, max_padding) = (rng.in_range(&(4_000..=60_000)), rng.in_range(&(1_000..=40_000)));
            self.entry_sizes = Some(EntrySizes { entry_memory, max_padding });
        }
        if rng.chance(400) {
            let tolerance = Duration::from_millis(rng.in_range(&(1_000..=4_000)));
            self.parameters.clock_tolerance = tolerance;
            self.parameter_changes.iter_mut().for_each(|(_, set)| set.clock_tolerance = tolerance);
        }
    }

    /// The last change of the parameters lowers the audit window too.
    fn lower_audit_window(&mut self) {
        if let Some((_, set)) = self.parameter_changes.last_mut() {
            set.audit_window = LOWERED_WINDOW;
        }
    }

    fn lose_records(&mut self, rng: &mut SimRng) {
        let chain = if rng.chance(300) { DamagedChain::Root } else { DamagedChain::Index };
        let loss = RecordLoss {
            chain,
            first: rng.chance(600),
            from: Duration::from_secs(rng.in_range(&(100..=150))),
            span: Duration::from_secs(rng.in_range(&(20..=90))),
            kills: rng.chance(800),
        };
        self.record_loss = Some(loss);
        // A process that sleeps for longer than the records are old does not know that there were any.
        self.fault_schedule.pause_duration = 500..=(*self.fault_schedule.pause_duration.end()).min(MAX_PAUSE_AT_LOSS);
        if chain == DamagedChain::Root {
            // Records that can be lost, and ones that are left.
            let expiry = |seconds| LogParameters { expiry: Duration::from_secs(seconds), ..self.parameters };
            self.parameter_changes = vec![(Duration::from_secs(5), expiry(7)), (Duration::from_secs(10), expiry(9))];
        }
        self.fault_burst = self.fault_burst.max(Duration::from_mins(5));
    }

    /// Faults that pass.
    fn passing_faults(seed: u64) -> Self {
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
            label_movers: 0,
            indexers: rng.in_range(&(1..=2)),
            append_interval: 200..=rng.in_range(&(3_000..=20_000)),
            shared_names: rng.in_range(&(3..=40)),
            draft_kinds: ALL_DRAFTS,
            stable_identity: rng.chance(300),
            deleter: rng.chance(500),
            tantivy: None,
            trim_age: rng.chance(500).then(|| Duration::from_secs(rng.in_range(&(30..=120)))),
            key_outage: None,
            record_loss: None,
            disk_shortage: None,
            entry_sizes: None,
            lookalike_keys: 0,
            key_retention: None,
            expecting_drafts: 0,
            cleaned_log: false,
            copied_log: false,
            verified_meanwhile: false,
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
        ..FaultSchedule::fault_free()
    }
}

/// Parameters that fit the fault schedule: `R` and `V` are its true longest delays.
fn parameters(rng: &mut SimRng, fault_schedule: &FaultSchedule) -> LogParameters {
    // A spread above a quarter of `W` refuses appends.
    let expiry = Duration::from_secs(rng.in_range(&(6..=25)));
    LogParameters {
        signer_clock_lead: Duration::ZERO,
        request_timeout: whole(fault_schedule.write_delay.end() + fault_schedule.clock_spread),
        visibility_delay: whole(fault_schedule.visibility_lag.end() + fault_schedule.clock_spread),
        audit_window: Duration::from_secs(rng.in_range(&(60..=200))),
        ..LogParameters::with_expiry(expiry)
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
