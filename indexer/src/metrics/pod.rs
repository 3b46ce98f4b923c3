//! The state of the process as figures: there also while no manifest is known.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
    registry::Unit,
};
use serde::Serialize;

use super::gauge::gauge;
use crate::pod_status::PodStatus;
use tidemark_crds::{PodReport, SinkReport};

/// The figures of a process.
pub(super) struct PodCollector(pub(super) PodStatus);

impl fmt::Debug for PodCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodCollector")
    }
}

impl Collector for PodCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let PodReport { phase, problems, caught_up, pending_entries, sink, .. } = self.0.report();
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
        sink.map_or(Ok(()), |sink| encode_sink(&mut encoder, &sink))
    }
}

/// The figures of a delivery.
fn encode_sink(encoder: &mut DescriptorEncoder, sink: &SinkReport) -> Result<(), fmt::Error> {
    let figures = [
        ("sink_holding", "1 while this process holds the consumer", u64::from(sink.holding)),
        ("sink_unacknowledged_operations", "records that were read and are not acknowledged", sink.unacknowledged),
        ("sink_delivered_operations", "records that were delivered since the consumer was made", sink.delivered),
        ("sink_dead_letters", "records that were put aside since the consumer was made", sink.dead_lettered),
        ("sink_blocked", "1 while one record holds up all others", u64::from(sink.blocked.is_some())),
    ];
    for (name, help, value) in figures {
        gauge(encoder, name, help, None, value)?;
    }
    let bytes_help = "size of the records that were read and are not acknowledged";
    gauge(encoder, "sink_unacknowledged", bytes_help, Some(&Unit::Bytes), sink.unacknowledged_bytes)?;
    if let Some(operations) = sink.lag_operations {
        gauge(encoder, "sink_lag_operations", "records that are published and not acknowledged", None, operations)?;
    }
    if let Some(seconds) = sink.lag_seconds {
        let help = "how long the oldest record that is not acknowledged has been published";
        gauge(encoder, "sink_lag", help, Some(&Unit::Seconds), seconds)?;
    }
    let one = ConstGauge::new(1u64);
    let help = "what the breaker of the destination lets through";
    let mut family = encoder.encode_descriptor("sink_breaker", help, None, one.metric_type())?;
    one.encode(family.encode_family(&[("state", name(&sink.breaker))])?)
}

/// The name that a value has in the API; empty for none.
fn name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_crds::SinkReport;
    use tidemark_search::IndexSearcher;
    use tidemark_store::StoreError;
    use tokio::sync::watch;

    use crate::{metrics::MetricsRegistry, pod_status::PodStatus};
    use tidemark_ingest::IngestStatus;

    #[test]
    fn the_delivery_of_a_sink_is_in_figures() {
        let report = SinkReport { lag_operations: Some(9), unacknowledged_bytes: 5, ..SinkReport::default() };
        let sink = watch::Sender::new(report);
        let metrics = MetricsRegistry::new();
        metrics.register_pod(PodStatus::sink(sink.subscribe(), Arc::new(IndexSearcher::default())));
        let text = metrics.encode().unwrap();
        for line in [
            "tidemark_sink_lag_operations 9",
            "tidemark_sink_unacknowledged_bytes 5",
            "tidemark_sink_breaker{state=\"open\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("tidemark_sink_lag_seconds"), "it is not known: {text}");
        sink.send_modify(|report| report.lag_seconds = Some(3));
        assert!(metrics.encode().unwrap().contains("tidemark_sink_lag_seconds 3"));
        sink.send_modify(|report| report.lag_operations = None);
        assert!(
            !metrics.encode().unwrap().contains("tidemark_sink_lag_operations"),
            "0 would be a sink that has caught up"
        );
    }

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
