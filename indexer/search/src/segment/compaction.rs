//! Compaction: one segment made from several, with every document of theirs. Which ones are compacted is the ingest's decision
//! (`compaction_policy.rs`).

use std::sync::Arc;

use tantivy::{Index, IndexSettings, indexer::merge_filtered_segments};
use tidemark_ingest::engine::{EngineError, PackedSegment};

use super::{
    builder::{DocumentWriter, bundle_index},
    disk_budget::{DiskBudget, DiskReservation},
    engine_error::{disk, not_written, refused},
    reader::OpenSegment,
    schema::SchemaFields,
    temp_dir::TempDirectory,
    tokenizers::tokenizers,
};

/// What a compaction takes on the disk beside its files: `meta.json`, the footer, the ends of blocks.
const SCRATCH_MARGIN_BYTES: u64 = 64 << 10;
/// Memory at which a part of a rebuilt segment is finished. Tantivy's hash tables take 32 MiB from the start.
const MAX_REBUILD_MEMORY_BYTES: usize = 64 << 20;

/// Bytes on the disk that a compaction of inputs of so many bytes needs beside them: the output, and its second largest file once
/// more, while that is copied into the output. A sixteenth covers an output that is larger than its inputs.
pub(crate) fn scratch_bytes(inputs: u64) -> u64 {
    inputs + inputs / 2 + inputs / 16 + SCRATCH_MARGIN_BYTES
}

/// What [`rebuild`] needs on the disk for segments of so many bytes: a format may take more bytes than the one before.
pub(crate) fn rebuild_bytes(inputs: u64) -> u64 {
    inputs + inputs / 4
}

/// One segment with the documents of `segments`, which lie on the disk, one after the other. Its files are in `room`. Those of
/// an older format are rebuilt from their stored records first: Tantivy merges documents with the same fields only. Blocks.
pub(crate) fn compact_segments(
    segments: &[Arc<OpenSegment>],
    fields: &Arc<SchemaFields>,
    room: DiskReservation,
) -> Result<PackedSegment, EngineError> {
    let budget = room.budget().clone();
    let temp = TempDirectory::new(budget.folder()).map_err(|e| disk(budget.folder(), e))?;
    let (mut inputs, mut rebuilt) = (Vec::new(), Vec::new());
    for segment in segments {
        if segment.format == fields.format {
            inputs.push(segment.tantivy().clone());
            continue;
        }
        for (index, folder) in rebuild(segment, fields, &budget, MAX_REBUILD_MEMORY_BYTES)? {
            let segments = index.searchable_segments();
            inputs.extend(segments.map_err(|e| refused("read a rebuilt segment", &e))?);
            rebuilt.push(folder);
        }
    }
    let everything = inputs.iter().map(|_| None).collect();
    let compacted = merge_filtered_segments(&inputs, IndexSettings::default(), everything, temp.clone());
    let mut compacted = compacted.map_err(|e| not_written("compact segments", &e, &budget))?;
    drop((inputs, rebuilt));
    compacted.set_tokenizers(tokenizers());
    let packed = bundle_index(&compacted, &temp, fields, room)?;
    let wanted: u64 = segments.iter().map(|segment| segment.of.documents).sum();
    if packed.documents == wanted {
        return Ok(packed);
    }
    let why = format!("{} records went in, {} came out", wanted, packed.documents);
    Err(refused("compact segments", &why))
}

/// The records of a segment of an older format as segments of the present one, in order: as many as are needed to bound the
/// memory.
fn rebuild(
    segment: &OpenSegment,
    fields: &Arc<SchemaFields>,
    budget: &DiskBudget,
    max_memory_bytes: usize,
) -> Result<Vec<(Index, TempDirectory)>, EngineError> {
    let mut parts = Vec::new();
    let mut writer: Option<DocumentWriter> = None;
    for seq in segment.of.seq.clone() {
        let Some(doc) = segment.doc(seq) else { break };
        let record = segment.record(doc)?;
        let stored = serde_json::to_vec(&record).map_err(|e| refused("store a record", &e))?;
        let mut part = writer.take().map_or_else(|| DocumentWriter::new(fields, budget), Ok)?;
        part.add(&record, &stored, budget)?;
        if part.memory_bytes() < max_memory_bytes {
            writer = Some(part);
        } else {
            parts.push(part.finish(budget)?);
        }
    }
    if let Some(last) = writer {
        parts.push(last.finish(budget)?);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::testing::{TestIndex, plain, token};

    #[tokio::test]
    async fn a_segment_is_rebuilt_in_parts_that_take_little_memory() {
        let mut index = TestIndex::new().await;
        index.publish((0..3).map(|n| plain(token(1, n))).collect()).await;
        let next = index.next_version();
        let view = next.open_manifest(index.manifest()).await.unwrap();
        let folder = tempfile::TempDir::new().unwrap();
        let budget = DiskBudget::open(folder.path(), 1 << 30).unwrap();
        let parts = |max_memory_bytes: usize| {
            let parts = rebuild(&view.segments[0].segment, next.fields(), &budget, max_memory_bytes).unwrap();
            parts.iter().map(|(index, _)| index.reader().unwrap().searcher().num_docs()).collect::<Vec<_>>()
        };
        assert_eq!(parts(MAX_REBUILD_MEMORY_BYTES), [3]);
        assert_eq!(parts(1), [1, 1, 1]);
    }
}
