//! A pod, and what it reports about itself.

use std::sync::Arc;

use tidemark_crds::PodReport;

use crate::{cache::DataPod, pod_report_poller::PodObservation};

/// A pod, and what it reports about itself.
#[derive(Clone, Debug)]
pub(crate) struct ObservedPod {
    pub(crate) pod: Arc<DataPod>,
    pub(crate) observation: PodObservation,
}

impl ObservedPod {
    /// Its report, while it answers.
    pub(crate) fn answer(&self) -> Option<&PodReport> {
        self.observation.answer()
    }
}
