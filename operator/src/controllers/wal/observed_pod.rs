//! A pod, and what it reports about itself.

use std::sync::Arc;

use crate::{cache::DataPod, pod_client::Process, pod_poller::PodObservation};

/// A pod, and what it reports about itself.
#[derive(Clone, Debug)]
pub(crate) struct ObservedPod {
    pub(crate) pod: Arc<DataPod>,
    pub(crate) observation: PodObservation,
}

impl ObservedPod {
    /// Its report, while it answers.
    pub(crate) fn answer(&self) -> Option<&Process> {
        self.observation.answer()
    }
}
