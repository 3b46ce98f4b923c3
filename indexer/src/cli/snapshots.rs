//! `tidemark snapshots`: what there is to restore from.

use clap::Args;
use serde::Serialize;
use tidemark_catalog::{IndexPin, PinChain, PinRegister, RootChain, SNAPSHOT_OWNER};
use tidemark_crds::RecoveryWindow;
use tidemark_ingest::snapshot::SnapshotError;
use tidemark_store::{Entropy, StoreSecond};

use super::{
    args::{ExistingIndexArgs, OriginArgs, OutputArgs},
    failure_verdict::ended,
    output::{print_json, print_line},
};
use crate::service::{AccessMode, IndexLookupError, IndexOfLog, PodStores, recovery_window};

/// List the snapshots of an index, after the times that the log can be restored to.
///
/// Any second of the recovery window can be restored to from snapshots and archive alone, whatever becomes of the log and the index.
/// What is newer than its end is in the index, and in the log. Only a verified snapshot can be restored from. With --from-url those of another
/// place are listed, which `tidemark restore --from-url` restores from.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark snapshots --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Example: tidemark snapshots --from-url s3://copies/orders --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    `before-g2` holds the last state of the generation that g2 replaced."
)]
pub(super) struct SnapshotsCommand {
    #[command(flatten)]
    places: ExistingIndexArgs,
    #[command(flatten)]
    origin: OriginArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// All that is listed.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotList {
    recovery_window: Option<RecoveryWindow>,
    snapshots: Vec<SnapshotLine>,
}

/// One snapshot, or another pin.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotLine {
    name: String,
    /// Who may remove it; snapshots have one owner.
    owner: String,
    time: Option<String>,
    generation: String,
    manifest: u64,
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive_end: Option<String>,
}

impl SnapshotsCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { places, origin, output } = self;
        let list = SnapshotList::of(&ended(register(places, origin).await)?);
        if output.json {
            return print_json(&list);
        }
        for line in list.lines() {
            print_line(&line)?;
        }
        Ok(())
    }
}

/// The pins of the index, or those of the other place that was named.
async fn register(
    places: ExistingIndexArgs,
    OriginArgs { from_url }: OriginArgs,
) -> Result<PinRegister, SnapshotError> {
    let ExistingIndexArgs { log, index, moved } = places;
    let (settings, opened, entropy) = (log.settings(), log.open()?, Entropy::from_os());
    let pins = if let Some(from) = from_url {
        let root = RootChain::open(&opened, entropy.clone());
        let never_indexed = || IndexLookupError::NeverIndexed { url: log.log.to_string() };
        let id = root.id().await?.ok_or_else(never_indexed)?;
        PinChain::open(&settings.restore_origin(&from)?, &id, entropy)
    } else {
        let index = PodStores::at(None, index, &settings, AccessMode::ReadOnly).open()?.index;
        IndexOfLog::find(&opened, &index, moved.url().as_deref(), entropy).await?.pins()
    };
    Ok(pins.register().await?)
}

impl SnapshotList {
    /// The newest first.
    fn of(register: &PinRegister) -> Self {
        let mut pins: Vec<_> = register.pins.iter().collect();
        pins.sort_by_key(|(name, pin)| (std::cmp::Reverse(pin.made), (*name).clone()));
        let snapshots = pins.into_iter().map(|(name, pin)| SnapshotLine::of(name, pin)).collect();
        Self { recovery_window: recovery_window(register), snapshots }
    }

    fn lines(&self) -> Vec<String> {
        let window = match &self.recovery_window {
            Some(RecoveryWindow { first, last }) => format!("recovery window  {first} to {last}"),
            None => "recovery window  none: no snapshot is verified; make one with `tidemark snapshot`".to_owned(),
        };
        let header =
            ["NAME", "TIME", "GENERATION", "MANIFEST", "OPERATIONS", "BYTES", "UP TO", "ARCHIVE UP TO", "STATE"];
        let rows = self.snapshots.iter().map(SnapshotLine::cells);
        let rows: Vec<_> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
        let widths: [usize; 9] = std::array::from_fn(width);
        let padded = |row: &[String; 9]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        std::iter::once(window).chain(rows.iter().map(padded)).collect()
    }
}

impl SnapshotLine {
    fn of(name: &str, pin: &IndexPin) -> Self {
        let proof = pin.verified.as_ref();
        Self {
            name: name.to_owned(),
            owner: pin.owner.clone(),
            time: pin.made.map(|made: StoreSecond| made.to_string()),
            generation: pin.generation.to_string(),
            manifest: pin.manifest,
            verified: proof.is_some(),
            cursor: proof.map(|proof| proof.cursor.to_string()),
            operations: proof.map(|proof| proof.counts.total()),
            bytes: proof.map(|proof| proof.bytes),
            archive_end: proof.and_then(|proof| Some(proof.archive.as_ref()?.end.to_string())),
        }
    }

    fn cells(&self) -> [String; 9] {
        let or_none = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".to_owned());
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let state = match (self.verified, self.owner.as_str()) {
            (true, _) => "verified".to_owned(),
            (false, SNAPSHOT_OWNER) => "being made".to_owned(),
            (false, owner) => format!("held by {owner}"),
        };
        [
            self.name.clone(),
            or_none(&self.time),
            self.generation.clone(),
            self.manifest.to_string(),
            number(self.operations),
            number(self.bytes),
            or_none(&self.cursor),
            or_none(&self.archive_end),
            state,
        ]
    }
}
