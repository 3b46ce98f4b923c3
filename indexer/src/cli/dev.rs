//! `tidemark dev`: everything in one process on a local folder.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    args::{ListenArgs, MovedArgs, span},
    failure_verdict::ended,
    output::print_line,
    shutdown::{stop_on_signal, unless_stopped},
};
use crate::service::{DevOptions, DevService};

/// Run everything in one process on a local folder: log, indexer, compaction, search and the page.
///
/// Nothing leaves this machine.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark dev --dir /tmp/tidemark\n\
    Another shell: tidemark append --log file:///tmp/tidemark/log --metadata file:///tmp/tidemark/metadata FILE")]
pub(super) struct DevCommand {
    /// Append the history of this git repository first, through the ordinary writer: a commit is a bundle, a tag is a label.
    /// Another run adds only what is new.
    #[cfg(feature = "demo")]
    #[arg(long, env = "TIDEMARK_GIT", value_name = "PATH")]
    git: Option<PathBuf>,
    /// The folder for log, metadata, index and cache. It is made if it does not exist.
    #[arg(long, env = "TIDEMARK_DIR", value_name = "DIR", default_value = "tidemark-dev")]
    dir: PathBuf,
    /// How long after its entry an update may still be completed.
    #[arg(long, env = "TIDEMARK_EXPIRY", value_name = "SPAN", default_value = "5s", value_parser = span)]
    expiry: Duration,
    #[command(flatten)]
    moved: MovedArgs,
    #[command(flatten)]
    listen: ListenArgs,
}

impl DevCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self {
            #[cfg(feature = "demo")]
            git,
            dir,
            expiry,
            moved,
            listen,
        } = self;
        let stop = CancellationToken::new();
        let _signal = stop_on_signal(stop.clone())?;
        let options = DevOptions { folder: dir, expiry, moved_from: moved.url(), listen: listen.listen };
        let start = DevService::start(options, stop.clone());
        let Some(service) = unless_stopped(&stop, Box::pin(start)).await? else { return Ok(()) };
        let address = service.address();
        #[cfg(feature = "demo")]
        let log = service.log().clone();
        let running = tokio::spawn(service.run());
        if let Some(address) = address {
            print_line(&format!("http://{address}/"))?;
            print_line(&format!("curl -s 'http://{address}/v1/search?size=3'"))?;
        }
        #[cfg(feature = "demo")]
        if let Some(path) = git
            && let Some(Err(error)) = stop.run_until_cancelled(Box::pin(append_history(&log, &path))).await
        {
            stop.cancel();
            ended(running.await?)?;
            return Err(error);
        }
        ended(running.await?)
    }
}

/// Warnings that are logged at most: a history may be odd all over.
#[cfg(feature = "demo")]
const MAX_LOGGED_WARNINGS: usize = 100;

#[cfg(feature = "demo")]
async fn append_history(log: &tidemark_wal::Log, path: &std::path::Path) -> anyhow::Result<()> {
    use crate::git::{ImportEvent, ImportSummary, import_git};

    let progress = super::output::ProgressReporter::new("commits and tags");
    let mut unlogged = MAX_LOGGED_WARNINGS;
    let import = import_git(log, path, |event| match event {
        ImportEvent::Progress { done, total } => progress.report(done, total),
        ImportEvent::Warning(warning) if unlogged > 0 => {
            unlogged -= 1;
            progress.interrupt(|| tracing::warn!("{warning}"));
        }
        ImportEvent::Warning(_) => {}
    });
    let ImportSummary { commits, tags, present, warnings } = import.await?;
    progress.finish();
    tracing::info!(commits, tags, present, warnings, "the git history is in the log");
    Ok(())
}
