//! Restarts processes after they crash or end, as Kubernetes does.

use std::future::Future;

use tokio::{
    task::JoinHandle,
    time::{Duration, sleep},
};

use crate::{process::SimProcess, run::panic_message, simulated_store::SimulatedStore};

/// How a process ended without a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// Its work is done. It is not restarted.
    Done,
    /// It gave up with this message. It is restarted.
    GaveUp(String),
}

/// Runs `main` as the process `name`, and restarts it until it is done.
pub fn supervise<F, Fut>(simulated_store: &SimulatedStore, name: &str, crashes: bool, main: F) -> JoinHandle<()>
where
    F: Fn(SimProcess) -> Fut + Send + 'static,
    Fut: Future<Output = ProcessEnd> + Send + 'static,
{
    let (simulated_store, name) = (simulated_store.clone(), name.to_owned());
    tokio::spawn(async move {
        for restart in 0_u64.. {
            let process = SimProcess::new(format!("{name}.{restart}"), crashes);
            if run_process(&simulated_store, &process, main(process.clone())).await == ProcessEnd::Done {
                return;
            }
            let delay = simulated_store.state().rng.in_range(&(50..=8_000));
            sleep(Duration::from_millis(delay)).await;
        }
    })
}

async fn run_process(
    simulated_store: &SimulatedStore,
    process: &SimProcess,
    main: impl Future<Output = ProcessEnd> + Send + 'static,
) -> ProcessEnd {
    simulated_store.record_start(process.name());
    let mut task = tokio::spawn(main);
    let end = tokio::select! {
        biased;
        () = process.killed() => None,
        end = &mut task => Some(end),
    };
    match end {
        None => {
            task.abort();
            ProcessEnd::GaveUp("killed".to_owned())
        }
        Some(Ok(end)) => {
            simulated_store.note(&format!("{} ends: {end:?}", process.name()));
            // The program refuses a transaction that violates an invariant, but trying one is a bug already.
            if let ProcessEnd::GaveUp(why) = &end
                && why.contains("invariant violated")
            {
                simulated_store.fail(format!("{}: {why}", process.name()));
            }
            // The tasks that it spawned still run; their calls get no answer from now on.
            process.kill();
            end
        }
        Some(Err(error)) => {
            let why =
                error.try_into_panic().map_or_else(|error| error.to_string(), |panic| panic_message(panic.as_ref()));
            simulated_store.fail(format!("{} panicked: {why}", process.name()));
            ProcessEnd::Done
        }
    }
}
