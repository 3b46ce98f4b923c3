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
