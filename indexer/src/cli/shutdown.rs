//! Graceful shutdown: from signals to exit codes.

use std::{future::Future, io, time::Duration};

use tidemark_catalog::PublishError;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::exit::CommandExit;
use crate::service::ServiceError;
use tidemark_ingest::IngestError;

/// How long a graceful shutdown may take. Kubernetes kills a search pod 30 s after its deletion, and the `preStop` sleep takes the
/// first 10 s of them.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// SIGTERM and SIGINT as they come.
struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal.
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// Cancels `stop` at the first signal. A second one forces the process to exit, and so does a shutdown that takes too long:
/// the next process continues after the last record.
pub(super) fn stop_on_signal(stop: CancellationToken) -> io::Result<AbortOnDropHandle<()>> {
    // From here on a signal waits for the task, however late that runs.
    let mut signals = ShutdownSignals::new()?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        signals.next().await;
        tracing::info!("received a shutdown signal; a second one forces exit");
        stop.cancel();
        let kind = tokio::time::timeout(SHUTDOWN_TIMEOUT, signals.next()).await.unwrap_or(SignalKind::terminate());
        tracing::warn!("second signal or time-out: forcing exit");
        std::process::exit(128 + kind.as_raw_value());
    })))
}

/// The result of `start`; none if the process was stopped before.
pub(super) async fn unless_stopped<T>(
    stop: &CancellationToken,
    start: impl Future<Output = Result<T, ServiceError>>,
) -> anyhow::Result<Option<T>> {
    stop.run_until_cancelled(start).await.map(ended).transpose()
}

/// The result of a service with the exit code of its error.
pub(super) fn ended<T>(result: Result<T, ServiceError>) -> anyhow::Result<T> {
    result.map_err(|error| match &error {
        ServiceError::Ingest(IngestError::Publish(PublishError::Fenced { .. })) => CommandExit::Fenced.with(error),
        ServiceError::StoreUnsupported { .. } => CommandExit::StoreUnsupported.with(error),
        unknown if unknown.is_unknown() => CommandExit::Unknown.with(error),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::{AcquireError, CatalogError};

    use super::*;
    use crate::cli::exit::ExitError;

    fn exit(error: ServiceError) -> Option<CommandExit> {
        ended::<()>(Err(error)).unwrap_err().downcast_ref::<ExitError>().map(|with| with.exit)
    }

    #[test]
    fn a_write_whose_outcome_is_unknown_has_an_exit_code_of_its_own() {
        let (key, why) = ("manifest/7".to_owned(), "no answer".to_owned());
        let chain = || CatalogError::Unknown { key: key.clone(), why: why.clone() };
        let published = PublishError::Unknown { key: key.clone(), why: why.clone() };
        for error in [
            ServiceError::Chain(chain()),
            IngestError::Root(chain()).into(),
            IngestError::Acquire(AcquireError::Chain(chain())).into(),
            IngestError::Publish(published).into(),
        ] {
            assert_eq!(exit(error), Some(CommandExit::Unknown));
        }
        let fenced = PublishError::Fenced { epoch: 1, by: 2 };
        assert_eq!(exit(IngestError::Publish(fenced).into()), Some(CommandExit::Fenced));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_hangs_ends_when_it_is_asked_to() {
        let stop = CancellationToken::new();
        stop.cancel();
        let started = unless_stopped(&stop, std::future::pending::<Result<(), ServiceError>>()).await;
        assert!(started.unwrap().is_none());
    }
}
