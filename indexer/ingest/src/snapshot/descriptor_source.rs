//! The bytes of descriptors that are too large to stand in a record, from the metadata buckets.

use std::time::Duration;

use bytes::Bytes;
use tidemark_catalog::BodyDigest;
use tidemark_store::StoreError;
use tidemark_wal::{Log, LogParameters, ParameterSchedule};

use crate::record::OperationRecord;

/// A smaller one stands in the record, unless the descriptors of its entry together were too large: then the archive has its digest.
const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Where the descriptors of a log are. One is read at a time, whole: a row of an archive has it whole.
#[derive(Clone, Debug)]
pub(super) struct DescriptorSource {
    log: Log,
    /// The largest descriptor of which the log takes a digest, in bytes.
    max_bytes: u64,
}

impl DescriptorSource {
    /// Of `log`, whose parameters say how large descriptors may be: those of any time, since what was judged may be older than they are.
    pub(super) fn new(log: &Log, parameters: Option<&ParameterSchedule>) -> Self {
        let sizes = parameters.into_iter().flat_map(ParameterSchedule::sets);
        let max_bytes = sizes.map(|dated| dated.parameters.max_descriptor_size).max();
        let default_bytes = || LogParameters::with_expiry(Duration::ZERO).max_descriptor_size;
        Self { log: log.clone(), max_bytes: max_bytes.unwrap_or_else(default_bytes) }
    }

    /// The descriptor's bytes as they were judged, if the record has only their digest. `None` if no bucket has them any more: a
    /// descriptor may be deleted or overwritten by its owner, which takes nothing from what was decided.
    pub(super) async fn large_descriptor(&self, record: &OperationRecord) -> Result<Option<Bytes>, StoreError> {
        if record.descriptor_body.is_some() {
            return Ok(None);
        }
        for seen in record.decision.observations.iter().filter(|seen| !seen.digest.is_empty()) {
            for store in &self.log.metadata {
                let object = match store.get(&seen.key, self.max_bytes).await {
                    // A refusal is an error: a row is written once, and would never get these bytes.
                    Err(StoreError::BadKey { .. }) => continue,
                    object => object?,
                };
                let body = object.and_then(|object| object.body);
                let is_wanted =
                    |body: &Bytes| body.len() > MAX_RECORD_BYTES && BodyDigest::of(body).to_string() == seen.digest;
                if let Some(body) = body.filter(is_wanted) {
                    return Ok(Some(body));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark_store::{Store, StoreSecond};
    use tidemark_wal::Token;

    use super::*;

    const KEY: &str = "bundles/r/b/bundle.yaml";

    /// What is archived of a descriptor of `size` bytes, where the log takes `limit` bytes.
    async fn archived(size: usize, limit: u64) -> Option<usize> {
        let log = Log::over(Store::memory(), vec![Store::memory(), Store::memory()]);
        let body = Bytes::from(vec![b'x'; size]);
        log.metadata[1].put(KEY, body.clone()).await.unwrap();
        let second = StoreSecond::from_unix(1_800_000_000);
        let record = json!({
            "seq": 1, "token": Token::first_of(second), "op": 0, "kind": "bundle", "size": 1,
            "decision": {
                "outcome": "committed", "entryTime": second,
                "observations": [{"key": KEY, "time": second, "digest": BodyDigest::of(&body).to_string(), "evidence": "timed"}],
            },
        });
        let limits = LogParameters { max_descriptor_size: limit, ..LogParameters::with_expiry(Duration::from_mins(1)) };
        let source = DescriptorSource::new(&log, Some(&ParameterSchedule::constant(limits)));
        let found = source.large_descriptor(&serde_json::from_value(record).unwrap()).await.unwrap();
        found.map(|bytes| bytes.len())
    }

    #[tokio::test]
    async fn the_log_says_how_large_a_descriptor_is_archived() {
        for (size, limit, expected) in [
            (MAX_RECORD_BYTES, 16 << 20, None),
            (MAX_RECORD_BYTES + 1, 16 << 20, Some(MAX_RECORD_BYTES + 1)),
            ((64 << 20) + 1, 256 << 20, Some((64 << 20) + 1)),
            ((1 << 20) + 1, 1 << 20, None),
        ] {
            assert_eq!(archived(size, limit).await, expected, "{size} bytes");
        }
    }
}
