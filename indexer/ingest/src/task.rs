//! Waiting for a task that this process spawned.

use tokio::task::JoinError;

/// The result of `task`. A panic in the task continues in the caller.
pub(crate) async fn join<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The task was aborted: its runtime shuts down, and the caller is dropped with it.
        Err(_) => std::future::pending().await,
    }
}
