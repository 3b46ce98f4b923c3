//! The bytes of descriptors that are too large to stand in a record, from the metadata buckets.

use bytes::Bytes;
use tidemark_catalog::BodyDigest;
use tidemark_store::StoreError;
use tidemark_wal::Log;

use crate::record::OperationRecord;

/// The largest descriptor whose bytes are archived. Of a larger one the archive has the digest.
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 20;

/// A smaller one stands in the record, unless the descriptors of its entry together were too large: then the archive has its digest.
const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Where the descriptors of a log are.
#[derive(Clone, Debug)]
pub(super) struct DescriptorSource(Log);

impl DescriptorSource {
    pub(super) fn new(log: &Log) -> Self {
        Self(log.clone())
    }

    /// The descriptor's bytes as they were judged, if the record has only their digest. `None` if no bucket has them any more: a
    /// descriptor may be deleted or overwritten by its owner, which takes nothing from what was decided.
    pub(super) async fn large_descriptor(&self, record: &OperationRecord) -> Result<Option<Bytes>, StoreError> {
        if record.descriptor_body.is_some() {
            return Ok(None);
        }
        for seen in record.decision.observations.iter().filter(|seen| !seen.digest.is_empty()) {
            for store in &self.0.metadata {
                let object = match store.get(&seen.key, MAX_DESCRIPTOR_BYTES).await {
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
