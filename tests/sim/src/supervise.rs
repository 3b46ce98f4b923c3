//! Starts processes again after they die or end, as Kubernetes does.

use std::future::Future;

use tokio::{
    task::JoinHandle,
    time::{Duration, sleep},
};

use crate::{cloud::Cloud, process::Process, run::words};

/// How a life ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its work is done: it is not started again.
    Done,
    /// It gave up with these words, and is started again.
    GaveUp(String),
}

/// Runs `live` as the process `name`, again and again until it is done.
pub fn supervise<F, Fut>(cloud: &Cloud, name: &str, mortal: bool, live: F) -> JoinHandle<()>
where
    F: Fn(Process) -> Fut + Send + 'static,
    Fut: Future<Output = End> + Send + 'static,
{
    let (cloud, name) = (cloud.clone(), name.to_owned());
    tokio::spawn(async move {
        for life in 0_u64.. {
            let process = Process::new(format!("{name}.{life}"), mortal);
            if one_life(&cloud, &process, live(process.clone())).await == End::Done {
                return;
            }
            let rest = cloud.state().dice.among(&(50..=8_000));
            sleep(Duration::from_millis(rest)).await;
        }
    })
}

async fn one_life(cloud: &Cloud, process: &Process, live: impl Future<Output = End> + Send + 'static) -> End {
    cloud.note(&format!("{} starts", process.name()));
    let mut task = tokio::spawn(live);
    let end = tokio::select! {
        biased;
        () = process.killed() => None,
        end = &mut task => Some(end),
    };
    match end {
        None => {
            task.abort();
            End::GaveUp("killed".to_owned())
        }
        Some(Ok(end)) => {
            cloud.note(&format!("{} ends: {end:?}", process.name()));
            // A transaction that violates an invariant is a bug, although the program finds it before it is written.
            if let End::GaveUp(why) = &end
                && why.contains("invariant violated")
            {
                cloud.fail(format!("{}: {why}", process.name()));
            }
            // Whatever it left running does nothing any more.
            process.kill();
            end
        }
        Some(Err(error)) => {
            let why = error.try_into_panic().map_or_else(|error| error.to_string(), |panic| words(panic.as_ref()));
            cloud.fail(format!("{} panicked: {why}", process.name()));
            End::Done
        }
    }
}
