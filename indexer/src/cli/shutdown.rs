//! Graceful shutdown: what signals do.

use std::{future::Future, io, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::failure_verdict::ended;
use crate::service::ServiceError;

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

/// Cancels `stop` at the first signal; later ones change nothing.
pub(super) fn stop_on_first_signal(stop: CancellationToken) -> io::Result<AbortOnDropHandle<()>> {
    let mut signals = ShutdownSignals::new()?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        signals.next().await;
        stop.cancel();
        // Signals are this process's to handle as long as the answer lives.
        std::future::pending::<()>().await;
    })))
}

/// The result of `start`; none if the process was stopped before.
pub(super) async fn unless_stopped<T>(
    stop: &CancellationToken,
    start: impl Future<Output = Result<T, ServiceError>>,
) -> anyhow::Result<Option<T>> {
    stop.run_until_cancelled(start).await.map(ended).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_that_hangs_ends_when_it_is_asked_to() {
        let stop = CancellationToken::new();
        stop.cancel();
        let started = unless_stopped(&stop, std::future::pending::<Result<(), ServiceError>>()).await;
        assert!(started.unwrap().is_none());
    }
}
