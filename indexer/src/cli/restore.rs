//! `tidemark restore`: an index as it was at a time, from what it recorded.

use clap::Args;
use tidemark_catalog::IndexOwner;
use tidemark_ingest::{RestoreRequest, RestoreTarget, restore, restore_from};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

use super::{
    args::{OriginArgs, second},
    generation_task::{GenerationTaskArgs, GenerationTaskParts},
    index::owner,
};

/// Restore an index to a time, from what it recorded.
///
/// Makes a new generation that holds every operation of the log up to the target, each with its final outcome, from the records of the
/// index, of its snapshots, or of the archive: of that if nothing else reaches so far, or if objects of the index are gone or damaged. An
/// index that was lost or purged is begun again so. The log is not read, and may have been cleaned up. Searches are answered from the present
/// generation until the index switches to the new one, and the tail of the log is left out afterwards. Nothing is indexed before
/// `tidemark promote`. Another restore, to a later time too, takes it back. A target that nothing recorded reaches is refused before anything
/// is written.
///
/// With --from-url the records come from another place instead: from the verified snapshots of this log there, or from its archive there. So an
/// index whose bucket is gone is made again from the copies of its snapshots, and one that is new from those of another index.
///
/// It may be killed at any moment: started again with the same target, it goes on.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark restore --to-time 2026-11-20T10:00:00Z --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    Example: tidemark restore --latest --from-url s3://copies/orders --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    The generation that was replaced stays in the snapshot `before-<generation>`. `tidemark snapshots --from-url URL` lists what is there."
)]
pub(super) struct RestoreCommand {
    #[command(flatten)]
    target: RestoreTargetArgs,
    #[command(flatten)]
    origin: OriginArgs,
    /// Owner of the index, where it is begun again: the one that `tidemark index` has.
    #[arg(long, env = "TIDEMARK_OWNER", value_name = "OWNER", default_value = "tidemark", value_parser = owner)]
    owner: IndexOwner,
    #[command(flatten)]
    task: GenerationTaskArgs,
}

/// What an index is restored to.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RestoreTargetArgs {
    /// Every entry whose token is not after this second, as in 2026-11-20T10:00:00Z.
    #[arg(long, env = "TIDEMARK_TO_TIME", value_name = "TIME", value_parser = second)]
    to_time: Option<StoreSecond>,
    /// This entry and all with smaller tokens.
    #[arg(long, env = "TIDEMARK_TO_TOKEN", value_name = "TOKEN")]
    to_token: Option<Token>,
    /// The time of this snapshot.
    #[arg(long, env = "TIDEMARK_SNAPSHOT", value_name = "NAME")]
    snapshot: Option<String>,
    /// As far as the index, its snapshots and its archive reach.
    #[arg(long, env = "TIDEMARK_LATEST")]
    latest: bool,
}

impl RestoreCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { target, origin, owner, task } = self;
        let request = RestoreRequest { target: target.target(), owner, reaches_floor: false };
        let work = async |parts: &GenerationTaskParts| match &parts.origin {
            Some(origin) => Box::pin(restore_from(&parts.task, &*parts.archive, origin, &request)).await,
            None => Box::pin(restore(&parts.task, &*parts.archive, &request)).await,
        };
        Box::pin(task.run("the index was restored", origin.from_url.as_ref(), work)).await
    }
}

impl RestoreTargetArgs {
    fn target(self) -> RestoreTarget {
        let Self { to_time, to_token, snapshot, latest: _ } = self;
        let time = to_time.map(RestoreTarget::Time).or(to_token.map(RestoreTarget::Token));
        time.or(snapshot.map(RestoreTarget::Snapshot)).unwrap_or(RestoreTarget::Latest)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::CommandLine;

    #[test]
    fn exactly_one_target_is_given() {
        let places = ["--log", "memory:///", "--metadata", "memory:///", "--index", "memory:///"];
        let read = |target: &[&str]| {
            CommandLine::try_parse_from(["tidemark", "restore"].iter().chain(target).chain(&places)).is_ok()
        };
        for target in [
            &["--latest"][..],
            &["--snapshot", "daily"],
            &["--to-time", "2026-11-20T10:00:00Z"],
            &["--to-time", "2026-11-20T11:00:00+01:00"],
            &["--to-token", "0ujtsYcgvSTl8PAuAdqWYSMnLOv"],
        ] {
            assert!(read(target), "{target:?}");
        }
        for target in [
            &[][..],
            &["--latest", "--snapshot", "daily"],
            &["--to-time", "yesterday"],
            &["--to-time", "1960-01-01T00:00:00Z"],
            &["--to-token", "x"],
        ] {
            assert!(!read(target), "{target:?}");
        }
    }
}
