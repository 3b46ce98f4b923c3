//! The state of the process as figures: there also while no manifest is known.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};
use serde::Serialize;

use super::gauge::gauge;
use crate::pod_status::PodStatus;
use tidemark_crds::PodReport;

/// The figures of a process.
pub(super) struct PodCollector(pub(super) PodStatus);

impl fmt::Debug for PodCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodCollector")
    }
}

impl Collector for PodCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let PodReport { phase, problems, caught_up, pending_entries, .. } = self.0.report();
        let caught_up_help = "1 when everything up to the horizon is published";
        gauge(&mut encoder, "caught_up", caught_up_help, None, u64::from(caught_up))?;
        gauge(&mut encoder, "pending_entries", "entries read and not published yet", None, pending_entries)?;
        let one = ConstGauge::new(1u64);
        let mut family =
            encoder.encode_descriptor("process_phase", "what the process does", None, one.metric_type())?;
        one.encode(family.encode_family(&[("phase", name(&phase))])?)?;
        let help = "what keeps the process from its work, by reason and store";
        let mut family = encoder.encode_descriptor("process_problem", help, None, one.metric_type())?;
        for problem in &problems {
            let labels = [("reason", name(&problem.reason)), ("role", name(&problem.role))];
            one.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The name that a value has in the API; empty for none.
fn name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tidemark_store::StoreError;
    use tokio::sync::watch;

    use crate::{metrics::MetricsRegistry, pod_status::PodStatus};
    use tidemark_ingest::IngestStatus;

    #[test]
    fn phase_and_problems_are_figures() {
        let pod = PodStatus::indexer(watch::channel(IngestStatus::default()).1, None);
        let error = StoreError::NoBucket { url: "s3://b".to_owned(), why: "gone".to_owned() };
        pod.set_failure("opening", &error);
        let metrics = MetricsRegistry::new();
        metrics.register_pod(pod);
        let text = metrics.encode().unwrap();
        assert!(text.contains("tidemark_process_phase{phase=\"starting\"} 1"), "{text}");
        assert!(text.contains("tidemark_process_problem{reason=\"BucketMissing\",role=\"\"} 1"), "{text}");
        assert!(text.contains("tidemark_caught_up 0"), "{text}");
    }
}
