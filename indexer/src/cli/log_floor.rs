//! `tidemark log floor`: up to where a log was cleaned up, and which archive has what is gone; moves that to another index's archive.

use clap::Args;
use serde::Serialize;
use tidemark_catalog::{LogCleaner, LogFloor, RootChain, RootState};
use tidemark_ingest::cleanup::{FloorMoveError, FloorMoveReport, FloorMoveRequest};
use tidemark_store::{Entropy, StoreError};
use tokio::sync::watch;
use url::Url;

use super::{
    args::{LogArgs, MovedArgs, OutputArgs},
    exit::CommandExit,
    failure_verdict::ended,
    output::{print_json, print_line, show_progress},
};
use crate::service::{AccessMode, IndexOfLog, PodStores, floor_mover};

/// Show up to where a log was cleaned up, and which archive has what is gone; move that to another index's archive.
///
/// The floor is the second below which `tidemark cleanup` may have deleted entries. It rests on one archive, that of the index which
/// cleaned the log up, and no other index cleans it up (`OwnedByAnother`). Without --archive-of the command shows the floor and changes nothing.
///
/// Where that index is lost, and another one was begun from its archive or from a copy of it (`tidemark index --bootstrap-from`), the floor
/// moves to the archive of that one, and its clean-ups go on. Before it moves everything is read, which may take long: the new archive is
/// this log's, reaches the floor, has each object that it names, whole, and holds each operation below the floor that the old archive
/// holds, with the same outcome and the same bytes. The floor stays at its second, and nothing is deleted.
///
/// First make a snapshot of the new index (`tidemark snapshot`), and take the old one off the log's register (`tidemark log unregister`).
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark log floor --log s3://wal/orders --metadata s3://meta\n\
    Example: tidemark log floor --archive-of s3://idx/orders-2 --yes --log s3://wal/orders --metadata s3://meta\n\
    Example: tidemark log floor --archive-of s3://idx/orders-2 --lost --yes --log s3://wal/orders --metadata s3://meta")]
pub(super) struct LogFloorCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Move the floor to the archive of this index: its URL, as the log's register has it. The archive on which the floor rests now is
    /// reached as this index is, unless --stores has a `from`.
    #[arg(long, env = "TIDEMARK_ARCHIVE_OF", value_name = "URL")]
    archive_of: Option<Url>,
    /// Move it. Without this flag the command reads and compares everything, says what it would do, and changes nothing.
    #[arg(long, requires = "archive_of")]
    yes: bool,
    /// The archive on which the floor rests is lost, or damaged for good: move the floor although not all of it can be read. Then nothing
    /// shows that the new one holds what is lost of that one. What can be read of it is compared all the same.
    #[arg(long, requires = "archive_of")]
    lost: bool,
    #[command(flatten)]
    moved: MovedArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The floor, as a line of JSON. Times are RFC 3339.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FloorOutput<'a> {
    /// Absent: nothing was ever deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<FloorLine<'a>>,
    /// The index on whose behalf the log is cleaned up.
    #[serde(skip_serializing_if = "Option::is_none")]
    cleaner: Option<&'a str>,
    #[serde(flatten)]
    moved: Option<MoveLine<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FloorLine<'a> {
    second: String,
    archive: &'a str,
    version: u64,
    end: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MoveLine<'a> {
    moved: bool,
    compared: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<&'a str>,
}

impl LogFloorCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log: arguments, archive_of, yes, lost, moved, output } = self;
        let log = arguments.open()?;
        let root = RootChain::open(&log, Entropy::from_os());
        let RootState { floor, cleaner, .. } = ended(root.state().await.map_err(FloorMoveError::from))?;
        let Some(index) = archive_of else { return show(floor.as_ref(), cleaner.as_ref(), output) };
        let Some(seen) = floor else {
            return Err(CommandExit::Usage.with(anyhow::anyhow!(
                "nothing was ever deleted from the log, so that it has no floor; nothing was changed; clean it up for the index \"{index}\" \
                 with `tidemark cleanup`"
            )));
        };
        let request = FloorMoveRequest { accepts_loss: lost, dry_run: !yes };
        let report = ended(move_floor(&arguments, moved, index, &seen, request).await)?;
        if yes || report.was_there {
            return print_move(&report, &seen, cleaner.as_ref(), output);
        }
        Err(CommandExit::Usage.with(anyhow::anyhow!(
            "the log's floor {} would rest on {}; nothing was changed; give --yes if the index of \"{}\" is to clean the log up no more",
            report.floor.second,
            findings(&report, &seen),
            seen.archive
        )))
    }
}

async fn move_floor(
    arguments: &LogArgs,
    moved: MovedArgs,
    index: Url,
    seen: &LogFloor,
    request: FloorMoveRequest,
) -> Result<FloorMoveReport, FloorMoveError> {
    let (settings, entropy) = (arguments.settings(), Entropy::from_os());
    let index = PodStores::at(None, index, &settings, AccessMode::ReadOnly).open().map_err(store_error)?.index;
    let log = arguments.open().map_err(store_error)?;
    let found = IndexOfLog::find(&log, &index, moved.url().as_deref(), entropy).await?;
    let progress = watch::Sender::default();
    let shown = show_progress(progress.subscribe(), |compared: &u64| Some(("operations compared", *compared, 0)));
    let report = floor_mover(&found, &settings, seen, progress).run(seen, request).await;
    drop(shown);
    report
}

fn store_error(error: StoreError) -> FloorMoveError {
    FloorMoveError::Chain(error.into())
}

fn show(floor: Option<&LogFloor>, cleaner: Option<&LogCleaner>, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        let cleaner = cleaner.map(|cleaner| cleaner.index.as_str());
        return print_json(&FloorOutput { floor: floor.map(floor_line), cleaner, moved: None });
    }
    match floor {
        None => print_line("no floor: nothing was ever deleted from the log")?,
        Some(LogFloor { second, archive, extent, .. }) => {
            print_line(&format!("floor {second}: entries of the seconds before it may be gone from the log"))?;
            print_line(&format!("archive {archive}, version {}, has them", extent.version))?;
        }
    }
    match cleaner {
        None => print_line("no index cleans the log up"),
        Some(LogCleaner { index, owner }) => print_line(&format!("index {index} of {owner} cleans the log up")),
    }
}

fn print_move(
    report: &FloorMoveReport,
    seen: &LogFloor,
    cleaner: Option<&LogCleaner>,
    output: OutputArgs,
) -> anyhow::Result<()> {
    let FloorMoveReport { floor, was_there, compared, unread } = report;
    if output.json {
        let moved = MoveLine { moved: !was_there, compared: *compared, unread: unread.as_deref() };
        let cleaner = cleaner.map(|cleaner| cleaner.index.as_str());
        return print_json(&FloorOutput { floor: Some(floor_line(floor)), cleaner, moved: Some(moved) });
    }
    if *was_there {
        return print_line(&format!("the log's floor {} rests on {} already", floor.second, floor.archive));
    }
    print_line(&format!("the log's floor {} rests on {}", floor.second, findings(report, seen)))
}

/// The archive, and what was compared.
fn findings(FloorMoveReport { floor, compared, unread, .. }: &FloorMoveReport, seen: &LogFloor) -> String {
    let (archive, known, version) = (&floor.archive, &seen.archive, floor.extent.version);
    match unread {
        None => {
            format!("{archive}, version {version}, which holds all {compared} operations that {known} has below it")
        }
        Some(why) => format!(
            "{archive}, version {version}, which holds the {compared} operations that could be read of {known}; whether it holds what else \
             that one held is not known ({why})"
        ),
    }
}

fn floor_line(LogFloor { second, archive, extent, .. }: &LogFloor) -> FloorLine<'_> {
    FloorLine { second: second.to_string(), archive, version: extent.version, end: extent.end.to_string() }
}
