//! `tidemark promote`: a restored index takes publications again.

use clap::Args;
use tidemark_ingest::{LostOutcomePolicy, promote_from};

use super::{
    args::OriginArgs,
    generation_task::{GenerationTaskArgs, GenerationTaskParts},
};

/// Let a restored index take publications again.
///
/// What comes after the time that the index was restored to was decided before: those outcomes are taken from the generations that it
/// replaced, from snapshots and from the archive, all at once, and are not decided again. The indexer goes on with what none of them has. An
/// index that was restored from another place needs --from-url again, for the archive there. Refused if the index was not restored, or was
/// promoted before by another task than the one of `--task`. It may be killed at any moment: the index is as before, or promoted.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark promote --log s3://wal/orders --metadata s3://meta --index s3://idx/orders")]
pub(super) struct PromoteCommand {
    /// Let the log decide again what was recorded and is lost: where an object is gone or damaged, and no snapshot and no archive has what
    /// it held. Without this such a promotion is refused. An update whose descriptor was deleted since counts as aborted then, so put the
    /// object back instead if you can. The result says from which second on. A restored index that was not audited up to the log's floor is
    /// promoted only with it, too: its outcomes stand as they were seen.
    #[arg(long, env = "TIDEMARK_DECIDE_AGAIN")]
    decide_again: bool,
    #[command(flatten)]
    origin: OriginArgs,
    #[command(flatten)]
    task: GenerationTaskArgs,
}

impl PromoteCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { decide_again, origin, task } = self;
        let policy = if decide_again { LostOutcomePolicy::DecideAgain } else { LostOutcomePolicy::Refuse };
        let work = async |parts: &GenerationTaskParts| {
            Box::pin(promote_from(&parts.task, &*parts.archive, parts.origin.as_ref(), policy)).await
        };
        Box::pin(task.run("the index was promoted", origin.from_url.as_ref(), work)).await
    }
}
