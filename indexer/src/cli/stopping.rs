//! A graceful end: signals in, exit codes out.

use tidemark_catalog::PublishError;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::Exit;
use crate::{ingest::IngestError, service::ServiceError};

/// Resolves once SIGTERM or SIGINT arrives.
pub(super) async fn stop_requested() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Cancels `stop` once a signal asks for it.
pub(super) fn stop_on_signal(stop: CancellationToken) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        stop_requested().await;
        tracing::info!("stopping");
        stop.cancel();
    }))
}

/// The exit code of a service that ended.
pub(super) fn ended(result: Result<(), ServiceError>) -> anyhow::Result<()> {
    result.map_err(|error| match &error {
        ServiceError::Ingest(IngestError::Publish(PublishError::Fenced { .. })) => Exit::Fenced.with(error),
        ServiceError::Unfit { .. } => Exit::Unfit.with(error),
        _ => error.into(),
    })
}
