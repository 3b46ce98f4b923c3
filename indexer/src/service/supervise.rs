//! Supervises the tasks of a process: the first that ends unexpectedly ends the others.

use std::future::Future;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{error::ServiceError, startup_retry::StartupRetry};

/// Supervises tasks that end together.
pub(super) struct TaskSupervisor {
    running: JoinSet<(&'static str, Result<(), ServiceError>)>,
    stop: CancellationToken,
}

impl TaskSupervisor {
    /// No tasks yet; all of them end once `stop` is cancelled.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { running: JoinSet::new(), stop }
    }

    /// Starts a task.
    pub(super) fn start<E: Into<ServiceError>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.running.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Starts a task that runs `attempt` as often as `retry` says. An attempt ends when the token that it gets is cancelled.
    pub(super) fn start_retried<F>(
        &mut self,
        name: &'static str,
        retry: StartupRetry,
        attempt: impl Fn(CancellationToken) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), ServiceError>> + Send + 'static,
    {
        let stop = self.stop.clone();
        // The futures of a service are large, so they are boxed.
        self.start(name, async move { Box::pin(retry.until_ok(&stop, || Box::pin(attempt(stop.clone())))).await });
    }

    /// Waits until every task has ended. The first that ends on its own stops the others, and its end is the answer.
    pub(super) async fn join(mut self) -> Result<(), ServiceError> {
        let mut first = Ok(());
        while let Some(ended) = self.running.join_next().await {
            let asked = self.stop.is_cancelled();
            self.stop.cancel();
            let failure = match ended {
                Ok((_, Ok(()))) if asked => continue,
                Ok((task, Ok(()))) => ServiceError::Ended { task, why: "task exited unexpectedly".to_owned() },
                Ok((_, Err(failure))) => failure,
                Err(panic) => ServiceError::Ended { task: "task", why: panic.to_string() },
            };
            if first.is_ok() {
                first = Err(failure);
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_on_its_own_ends_the_others_and_says_so() {
        let stop = CancellationToken::new();
        let mut tasks = TaskSupervisor::new(stop.clone());
        tasks.start("server", async { Ok::<(), ServiceError>(()) });
        tasks.start("ingest", async move {
            stop.cancelled().await;
            Ok::<(), ServiceError>(())
        });
        let ended = tasks.join().await.unwrap_err();
        assert!(matches!(ended, ServiceError::Ended { task: "server", .. }), "{ended}");
    }

    #[tokio::test]
    async fn a_stop_that_was_asked_for_is_no_failure() {
        let stop = CancellationToken::new();
        let mut tasks = TaskSupervisor::new(stop.clone());
        tasks.start("ingest", {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                Ok::<(), ServiceError>(())
            }
        });
        stop.cancel();
        assert!(tasks.join().await.is_ok());
    }
}
