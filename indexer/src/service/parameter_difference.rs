//! Parameters that a process is given and that the log records otherwise: a process in a pod goes on with the recorded ones and
//! reports the difference.

use std::{convert::Infallible, time::Duration};

use tidemark_catalog::{RootChain, RootState, TransactionRejected};
use tidemark_crds::Reason;
use tidemark_ingest::FailureCause;
use tokio::time::sleep;

use super::bootstrap::ParameterChoice;
use crate::pod_status::PodStatus;

/// How often the given parameters are compared with the recorded ones.
const COMPARISON_INTERVAL: Duration = Duration::from_secs(10);
/// The operation that `/v1/process` names.
const PARAMETERS: &str = "parameters";

/// Reports to `pod`, until it is dropped, whenever the log's newest parameters are not those that `choose` gives.
///
/// Costs no request while they agree: the indexer reads the root for each horizon.
pub(super) async fn report_difference(root: &RootChain, choose: &ParameterChoice, pod: &PodStatus) -> Infallible {
    // An attempt before this one may have ended while it reported a difference.
    pod.clear_problem(PARAMETERS);
    let mut reported = None;
    loop {
        if reported.is_some() {
            // A standby reads the root for nothing else. If it cannot be read, nothing has changed as far as is known.
            let _ = root.head().await;
        }
        let difference = root.known().and_then(|head| difference(&head.state, choose));
        if difference != reported {
            match &difference {
                Some(message) => {
                    tracing::warn!("{message}");
                    pod.set_problem(PARAMETERS, FailureCause::of(Reason::ParametersDiffer), message.clone());
                }
                None => pod.clear_problem(PARAMETERS),
            }
            reported = difference;
        }
        sleep(COMPARISON_INTERVAL).await;
    }
}

/// How the parameters that `choose` gives differ from those that were recorded last.
fn difference(root: &RootState, choose: &ParameterChoice) -> Option<String> {
    let given = choose(Some(root.parameters.last()?.parameters))?;
    match root.ensure(&given) {
        Err(TransactionRejected::ParameterDiffers { name, recorded, given }) => Some(format!(
            "\"{name}\" is {given} here but {recorded} in the log; indexing goes on with {recorded}; give {recorded} here too, or change \
             the log's value with `tidemark log set`"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::{Generation, IndexOwner, IndexRegistration, LogCursor};
    use tidemark_ingest::IngestStatus;
    use tidemark_store::{Entropy, Store};
    use tidemark_wal::{Log, LogParameters};
    use tokio::sync::watch;

    use super::*;

    fn parameters(expiry: u64) -> LogParameters {
        LogParameters::with_expiry(Duration::from_secs(expiry))
    }

    /// A log that records an expiry of ten seconds.
    async fn recorded_log() -> RootChain {
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let root = RootChain::open(&log, Entropy::seeded(1));
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let registration = IndexRegistration::new("memory:///index", owner, Generation::first());
        let cursor = LogCursor::default();
        root.register(None, &parameters(10), "memory:///index", &registration, cursor, None).await.unwrap();
        root.head().await.unwrap();
        root
    }

    /// The reasons of the pod's problems after an attempt in which this expiry is given; it ends, as it does where a store fails.
    async fn reasons_after_attempt(root: &RootChain, pod: &PodStatus, expiry: u64) -> Vec<Reason> {
        let choose: ParameterChoice = Box::new(move |_| Some(parameters(expiry)));
        tokio::select! {
            never = report_difference(root, &choose, pod) => match never {},
            () = sleep(COMPARISON_INTERVAL / 2) => {}
        }
        pod.report().problems.iter().map(|problem| problem.reason).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_difference_that_ended_while_an_attempt_failed_is_no_longer_reported() {
        let root = recorded_log().await;
        let pod = PodStatus::indexer(watch::channel(IngestStatus::default()).1, None);
        assert_eq!(reasons_after_attempt(&root, &pod, 20).await, [Reason::ParametersDiffer]);
        assert!(reasons_after_attempt(&root, &pod, 10).await.is_empty());
        assert_eq!(reasons_after_attempt(&root, &pod, 20).await, [Reason::ParametersDiffer]);
    }
}
