//! Supervises the tasks of a process: the first that ends unexpectedly ends the others.

use std::future::Future;

use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

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

/// Runs `ingest` to its end and `follower` beside it, which has no end of its own: if it ends all the same, the ingest is stopped,
/// and that is the failure.
pub(super) async fn ingest_beside<F, E>(
    follower: impl Future<Output = ()> + Send + 'static,
    stop: &CancellationToken,
    ingest: impl FnOnce(CancellationToken) -> F,
) -> Result<(), ServiceError>
where
    F: Future<Output = Result<(), E>>,
    E: Into<ServiceError>,
{
    let stop = stop.child_token();
    // A task of its own, so that a panic is seen here and no search waits for the ingest.
    let mut follower = AbortOnDropHandle::new(tokio::spawn(follower));
    let mut ingest = Box::pin(ingest(stop.clone()));
    let why = tokio::select! {
        ended = &mut ingest => return ended.map_err(Into::into),
        ended = &mut follower => ended.map_or_else(|panic| panic.to_string(), |()| "task exited unexpectedly".to_owned()),
    };
    stop.cancel();
    // It publishes what it has and releases the lease. Its own failure says more: it may be one after which the process has to
    // end at once.
    ingest.await.map_err(Into::into)?;
    Err(ServiceError::Ended { task: "search", why })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

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
    async fn a_follower_that_panics_stops_the_ingest_and_is_the_failure() {
        let (stop, released) = (CancellationToken::new(), AtomicBool::new(false));
        let ingest = async |stop: CancellationToken| {
            stop.cancelled().await;
            released.store(true, Ordering::Relaxed);
            Ok::<(), ServiceError>(())
        };
        let ended = ingest_beside(async { panic!("a view") }, &stop, ingest).await.unwrap_err();
        assert!(matches!(&ended, ServiceError::Ended { task: "search", why } if why.contains("a view")), "{ended}");
        assert!(released.load(Ordering::Relaxed), "the ingest was not asked to stop");
        assert!(!stop.is_cancelled(), "another attempt may follow");
    }

    #[tokio::test]
    async fn the_ingest_ends_its_follower() {
        let (stop, alive) = (CancellationToken::new(), std::sync::Arc::new(()));
        let held = alive.clone();
        let follower = async move {
            std::future::pending::<()>().await;
            drop(held);
        };
        stop.cancel();
        let ingest = async |stop: CancellationToken| {
            stop.cancelled().await;
            Ok::<(), ServiceError>(())
        };
        ingest_beside(follower, &stop, ingest).await.unwrap();
        while std::sync::Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
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
