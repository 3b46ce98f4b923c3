//! `tidemark promote`: a restored index takes publications again.

use clap::Args;
use tidemark_ingest::promote_from;

use super::{
    args::OriginArgs,
    generation_task::{GenerationTaskArgs, GenerationTaskParts},
};

/// Let a restored index take publications again.
///
/// What comes after the time that the index was restored to was decided before: those outcomes are taken from the generations that it
/// replaced and from the archive, all at once, and are not decided again. The indexer goes on with what none of them has. Refused if the index was not
/// restored, or was promoted before. An index that was restored from another place needs --from again, for the archive there. It may be killed at any moment: the index is as before, or promoted.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark promote --log s3://wal/orders --metadata s3://meta --index s3://idx/orders")]
pub(super) struct PromoteCommand {
    #[command(flatten)]
    origin: OriginArgs,
    #[command(flatten)]
    task: GenerationTaskArgs,
}

impl PromoteCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { origin, task } = self;
        let work = async |parts: &GenerationTaskParts| {
            Box::pin(promote_from(&parts.task, &*parts.archive, parts.origin.as_ref())).await
        };
        task.run("the index was promoted", origin.from.as_ref(), work).await
    }
}
