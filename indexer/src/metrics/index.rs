//! The state of the served index as figures.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
    registry::Unit,
};
use tidemark_search::api::{ProcessRole, StatusAnswer};

use super::gauge::gauge;

/// The served index as gauges.
pub(super) struct IndexCollector(pub(super) Box<dyn Fn() -> Option<StatusAnswer> + Send + Sync>);

impl fmt::Debug for IndexCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexCollector")
    }
}

impl Collector for IndexCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(status) = (self.0)() else { return Ok(()) };
        let gauges: [(&str, &str, Option<Unit>, u64); 13] = [
            ("manifest_number", "number of the served manifest", None, status.index_version.manifest),
            ("epoch_number", "number of the index's writer", None, status.epoch),
            (
                "watermark",
                "every entry before this time is decided and served, since 1970",
                Some(Unit::Seconds),
                unix(status.index_version.watermark),
            ),
            (
                "horizon",
                "the log is frozen before this time, since 1970",
                Some(Unit::Seconds),
                status.horizon.map_or(0, unix),
            ),
            ("lag", "how long sealed entries wait to be published", Some(Unit::Seconds), status.lag_seconds),
            ("segments", "segments of the served manifest", None, status.segments),
            ("documents", "records in the served manifest", None, status.documents),
            ("index_size", "size of segments and sidecars", Some(Unit::Bytes), status.bytes),
            (
                "garbage_objects",
                "objects of the index that nothing names and that are deleted after a day",
                None,
                status.garbage.unwrap_or(0),
            ),
            ("unrecognized_keys", "keys in the log that are not valid tokens", None, status.unrecognized_keys),
            (
                "writer_role",
                "1 in the process that writes the index",
                None,
                u64::from(status.role == ProcessRole::Writer),
            ),
            ("problems", "what does not work at present", None, status.problems.len() as u64),
            (
                "overlay_left_out",
                "entries that are neither indexed nor in memory",
                None,
                status.overlay.as_ref().map_or(0, |overlay| overlay.left_out),
            ),
        ];
        for (name, help, unit, value) in gauges {
            gauge(&mut encoder, name, help, unit.as_ref(), value)?;
        }
        operations(&mut encoder, &status)
    }
}

fn operations(encoder: &mut DescriptorEncoder, status: &StatusAnswer) -> Result<(), fmt::Error> {
    let counts = &status.entries;
    let gauge = ConstGauge::new(0u64);
    let mut family = encoder.encode_descriptor("operations", "operations by outcome", None, gauge.metric_type())?;
    for (outcome, count) in [
        ("committed", counts.committed),
        ("late", counts.late),
        ("aborted", counts.aborted),
        ("malformed", counts.malformed),
        ("duplicate", counts.duplicate),
        ("fenced", counts.fenced),
        ("conflicted", counts.conflicted),
        ("expired", counts.expired),
        ("unreadable", counts.unreadable),
        ("unknown", counts.unknown),
        ("pending", counts.pending),
    ] {
        ConstGauge::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
    }
    Ok(())
}

fn unix(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}
