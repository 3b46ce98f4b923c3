//! How one simulated log is set up, drawn from the seed.

use std::{path::PathBuf, time::Duration};

use tidemark_wal::LogParameters;

use crate::{dice::Dice, mutants::Mutant, weather::Weather};

/// The set-up of one simulation.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// The log's first parameters.
    pub parameters: LogParameters,
    /// The parameters that the operator sets, and when.
    pub changes: Vec<(Duration, LogParameters)>,
    /// The weather of the storm.
    pub weather: Weather,
    /// How long the storm lasts.
    pub storm: Duration,
    /// Writers that use the library.
    pub writers: u64,
    /// Writers that know Datamon's rules only.
    pub strangers: u64,
    /// Candidates for the indexer.
    pub indexers: u64,
    /// Pause between two appends of a writer, milliseconds.
    pub rest: std::ops::RangeInclusive<u64>,
    /// How many bundles of a repo the writers share names of; few make them collide.
    pub names: u64,
    /// What the writers write, from the table of drafts.
    pub drafts: std::ops::RangeInclusive<u64>,
    /// Whether a candidate that starts again is the same to the catalog, as the owner of a folder is.
    pub steady_identity: bool,
    /// Whether somebody deletes descriptors of old bundles.
    pub deleter: bool,
    /// The folder of the real engine; the model stands for it where there is none.
    pub tantivy: Option<PathBuf>,
    /// Whether the index's chain is trimmed, and how soon after a record was written.
    pub trim: Option<Duration>,
}

/// Every draft of the table.
const ALL_DRAFTS: std::ops::RangeInclusive<u64> = 0..=9;
/// Labels alone.
const LABELS: std::ops::RangeInclusive<u64> = 5..=6;
/// Entries that complete themselves.
const ENTRIES: std::ops::RangeInclusive<u64> = 8..=8;

impl Knobs {
    /// A shorter storm over the real engine, whose files are below `folder`.
    #[cfg(feature = "tantivy")]
    pub fn real(seed: u64, folder: PathBuf) -> Self {
        Self { tantivy: Some(folder), changes: Vec::new(), storm: Duration::from_secs(150), ..Self::mixed(seed) }
    }

    /// A set-up under which `mutant` bites soon. The right code must hold in it too.
    pub fn hunting(seed: u64, mutant: Mutant) -> Self {
        let mut knobs = Self::mixed(seed);
        let weather = &mut knobs.weather;
        match mutant {
            Mutant::CleanupOnUnknown => {
                (weather.lost, weather.late, weather.lateness) = (200, 650, 10_000..=50_000);
                (weather.pause, weather.crash, weather.patience) = (0, 0, 1_000);
                (knobs.writers, knobs.rest) = (3, 200..=2_000);
            }
            Mutant::ClockReadAfterListing => {
                (weather.pause, weather.pauses, weather.crash) = (6, 15_000..=50_000, 0);
                (knobs.rest, knobs.writers, knobs.strangers) = (200..=2_000, 3, 2);
                knobs.parameters.expiry = Duration::from_secs(2);
                knobs.changes.clear();
            }
            Mutant::FencedIngestPublishes => {
                (weather.pause, weather.pauses) = (4, 62_000..=100_000);
                (knobs.indexers, knobs.steady_identity) = (2, false);
                knobs.storm = Duration::from_mins(9);
            }
            Mutant::CandidatesFenceEachOther => knobs.indexers = 2,
            Mutant::CompactionLosesCorrection | Mutant::SidecarAfterCause => {
                (weather.landing, weather.pause, weather.crash) = (500..=2_500, 0, 0);
                (knobs.drafts, knobs.rest, knobs.writers) = (LABELS, 200..=1_500, 3);
                (knobs.indexers, knobs.trim) = (1, None);
            }
            Mutant::OutcomeDecidedAgain => {
                (weather.pause, weather.crash) = (0, 0);
                (knobs.deleter, knobs.strangers, knobs.indexers) = (true, 2, 1);
            }
            Mutant::LoweredExpiryAtOnce => {
                (weather.pause, weather.crash) = (0, 0);
                let lowered = LogParameters { expiry: Duration::from_secs(2), ..knobs.parameters };
                knobs.parameters.expiry = Duration::from_secs(40);
                knobs.changes = vec![(Duration::from_mins(1), lowered)];
                (knobs.rest, knobs.writers, knobs.strangers) = (200..=2_000, 3, 2);
            }
            Mutant::AcknowledgedUnseen => {
                (weather.straggle, weather.straggling) = (200, 10_000..=60_000);
                (knobs.writers, knobs.strangers, knobs.parameters.expiry) = (3, 0, Duration::from_secs(6));
                knobs.changes.clear();
            }
            Mutant::LateMakesDuplicate => {
                (weather.pause, weather.pauses, weather.late, weather.lateness) = (15, 3_000..=9_000, 60, 0..=9_000);
                (knobs.drafts, knobs.writers) = (ENTRIES, 3);
                knobs.parameters.expiry = Duration::from_secs(2);
                knobs.changes.clear();
            }
            Mutant::ForeignDescriptorAccepted => knobs.strangers = 2,
            _ => {}
        }
        let weather = &knobs.weather;
        for parameters in std::iter::once(&mut knobs.parameters).chain(knobs.changes.iter_mut().map(|(_, set)| set)) {
            parameters.request_timeout = whole(weather.landing.end() + weather.spread);
            parameters.visibility_delay = whole(weather.hidden.end() + weather.spread);
        }
        knobs
    }

    /// The mixed scenario.
    pub fn mixed(seed: u64) -> Self {
        let mut dice = Dice::seeded(seed ^ 0x6b6e_6f62);
        let weather = storm(&mut dice);
        let parameters = parameters(&mut dice, &weather);
        let changes = if dice.chance(350) { change(&mut dice, &parameters) } else { Vec::new() };
        let minutes = if changes.is_empty() { dice.among(&(3..=6)) } else { 9 };
        Self {
            parameters,
            changes,
            weather,
            storm: Duration::from_mins(minutes),
            writers: dice.among(&(1..=3)),
            strangers: dice.among(&(0..=2)),
            indexers: dice.among(&(1..=2)),
            rest: 200..=dice.among(&(3_000..=20_000)),
            names: dice.among(&(3..=40)),
            drafts: ALL_DRAFTS,
            steady_identity: dice.chance(300),
            deleter: dice.chance(500),
            tantivy: None,
            trim: dice.chance(500).then(|| Duration::from_secs(dice.among(&(30..=120)))),
        }
    }
}

fn storm(dice: &mut Dice) -> Weather {
    let rate = |dice: &mut Dice, most: u64| u32::try_from(dice.among(&(0..=most))).unwrap_or(0);
    // Some seeds have a quiet sea, most do not.
    let rough = dice.among(&(0..=3));
    Weather {
        network: 1..=dice.among(&(5..=150)),
        landing: 0..=dice.among(&(10..=3_000)),
        hidden: 0..=dice.among(&(0..=2_000)),
        spread: dice.among(&(0..=900)),
        lost: rate(dice, 12 * rough),
        unheard: rate(dice, 12 * rough),
        late: rate(dice, 8 * rough),
        lateness: 0..=dice.among(&(100..=60_000)),
        doubled: rate(dice, 12 * rough),
        conflict: rate(dice, 6 * rough),
        unread: rate(dice, 12 * rough),
        pause: rate(dice, rough),
        pauses: 500..=dice.among(&(2_000..=150_000)),
        crash: rate(dice, rough),
        page: 1..=dice.among(&(2..=40)),
        patience: dice.among(&(2_000..=8_000)),
        straggle: 0,
        straggling: 0..=0,
    }
}

/// Parameters that tell the truth about the weather: `R` and `V` as long as they really are.
fn parameters(dice: &mut Dice, weather: &Weather) -> LogParameters {
    LogParameters {
        // A spread above a quarter of `W` refuses appends.
        expiry: Duration::from_secs(dice.among(&(6..=25))),
        signer_clock_lead: Duration::ZERO,
        request_timeout: whole(weather.landing.end() + weather.spread),
        visibility_delay: whole(weather.hidden.end() + weather.spread),
        audit_window: Duration::from_secs(dice.among(&(60..=200))),
    }
}

fn whole(milliseconds: u64) -> Duration {
    Duration::from_secs(milliseconds.div_ceil(1000))
}

fn change(dice: &mut Dice, before: &LogParameters) -> Vec<(Duration, LogParameters)> {
    let expiry = if dice.chance(600) { dice.among(&(2..=5)) } else { dice.among(&(30..=60)) };
    let parameters = LogParameters { expiry: Duration::from_secs(expiry), ..*before };
    vec![(Duration::from_secs(dice.among(&(20..=90))), parameters)]
}
