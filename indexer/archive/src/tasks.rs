//! Work beside the task that waits for it.

use std::panic::resume_unwind;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::task::AbortOnDropHandle;

/// Runs `work`, which keeps a core busy for some ten milliseconds, on this thread, from which other tasks are moved away where there are
/// threads for them. On a runtime of one thread the order of all steps stays as it is: the simulation repeats a seed.
pub(crate) fn run_cpu_work<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Starts `work` at once, as a task that ends when its result is dropped. A panic in it continues where the result is awaited.
pub(crate) fn spawn_owned<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send {
    let task = AbortOnDropHandle::new(tokio::spawn(work));
    async move {
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // It was aborted: the runtime shuts down, and who awaits this is dropped with it.
            Err(_) => std::future::pending().await,
        }
    }
}
