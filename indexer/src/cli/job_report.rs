//! The result of a job: a file that the one who started it reads.

use std::path::PathBuf;

use clap::Args;
use tidemark_crds::TaskResult;

use super::args::OutputArgs;

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
    /// Whether somebody reads the result.
    pub(super) fn is_wanted(&self) -> bool {
        self.result_file.is_some()
    }

    /// Writes the result to the file, if one was named. A failure is logged: the exit code says how the job ended, too.
    pub(super) fn report(&self, result: &TaskResult) {
        if let Some(file) = &self.result_file
            && let Err(error) = result.write_to(file)
        {
            tracing::error!(file = %file.display(), %error, "the result was not written; only the exit code says how the job ended");
        }
    }
}
