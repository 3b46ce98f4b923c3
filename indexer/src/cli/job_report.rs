//! How a job ends: what it prints, its exit code, and the result that whoever started it reads.

use std::path::PathBuf;

use clap::Args;
use tidemark_crds::{TaskFigures, TaskResult};
use tidemark_ingest::{ToCause as _, snapshot::SnapshotError};
use tidemark_store::error_chain;

use super::{args::OutputArgs, exit::CommandExit};

/// Where a job reports to.
#[derive(Clone, Debug, Args)]
pub(super) struct JobReportArgs {
    /// File that gets the result as one JSON object of at most 4096 bytes, also when the command fails.
    #[arg(long, env = "TIDEMARK_RESULT_FILE", value_name = "PATH")]
    result_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

impl JobReportArgs {
    /// Writes the result to the file: of a job that was done, `summary` and `figures` say what.
    pub(super) fn report<T>(
        &self,
        ended: &Result<T, SnapshotError>,
        summary: impl FnOnce(&T) -> (String, TaskFigures),
    ) {
        let Some(file) = &self.result_file else { return };
        let result = match ended {
            Ok(done) => {
                let (summary, figures) = summary(done);
                TaskResult::succeeded(summary).with(figures)
            }
            Err(error) if error.is_refusal() => TaskResult::refused(error.to_cause().reason, error_chain(error)),
            Err(error) => TaskResult::failed(error.to_cause().reason, error_chain(error)),
        };
        if let Err(error) = result.write_to(file) {
            tracing::error!(file = %file.display(), %error, "the result was not written; whoever started this command has its exit code only");
        }
    }
}

/// The result of a command with the exit code of its error.
pub(super) fn job_ended<T>(ended: Result<T, SnapshotError>) -> anyhow::Result<T> {
    ended.map_err(|error| if error.is_unknown() { CommandExit::Unknown.with(error) } else { error.into() })
}
