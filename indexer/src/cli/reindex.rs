//! `tidemark reindex`: builds an index again from its own records.

use clap::Args;

use tidemark_ingest::reindex;

use super::generation_task::{GenerationTaskArgs, GenerationTaskParts};

/// Build an index again from its own records, in the segment format of this release.
///
/// The new generation is made beside the one that is in use, which is searched and written meanwhile, and takes its place when it has
/// all of its records. The log is not read, and no outcome is decided again: seqs, replaced records and corrections stay, and
/// every search gives the same answer as before. The indexer waits for a moment while the last records are copied.
///
/// It may be killed at any moment: started again, it goes on. A generation that no task goes on with for a day is given up by the
/// next command that makes one. The objects of the old generation stay as long as its snapshot `before-<generation>`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark reindex --log s3://wal/orders --metadata s3://meta --index s3://idx/orders\n\
    An index of which objects are missing or damaged is restored instead: tidemark restore --latest.\n\
    Exit codes: 4: another process took over what this one made; run it again. 6: the outcome of a write is unknown; run it again."
)]
pub(super) struct ReindexCommand {
    #[command(flatten)]
    task: GenerationTaskArgs,
}

impl ReindexCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let work = async |parts: &GenerationTaskParts| Box::pin(reindex(&parts.task)).await;
        Box::pin(self.task.run("the index was built again", None, work)).await
    }
}
