//! Compaction's merge: one segment made from several, with every document of theirs.

use std::sync::Arc;

use tantivy::{IndexSettings, indexer::merge_filtered_segments};
use tidemark_ingest::engine::{EngineError, PackedSegment};

use super::{
    builder::bundle_index,
    disk_budget::DiskReservation,
    engine_error::{disk, not_written, refused},
    reader::OpenSegment,
    schema::{SchemaFields, tokenizers},
    temp_dir::TempDirectory,
};

/// What a merge takes on the disk beside its files: `meta.json`, the footer, the ends of blocks.
const SCRATCH_MARGIN_BYTES: u64 = 64 << 10;

/// Bytes on the disk that a merge of inputs of so many bytes needs beside them: the output, and its second largest file once
/// more, while that is copied into the output. A sixteenth covers an output that is larger than its inputs.
pub(crate) fn scratch_bytes(inputs: u64) -> u64 {
    inputs + inputs / 2 + inputs / 16 + SCRATCH_MARGIN_BYTES
}

/// One segment with the documents of `segments`, which lie on the disk, one after the other. Its files are in `room`. Blocks.
pub(crate) fn merge_segments(
    segments: &[Arc<OpenSegment>],
    fields: &SchemaFields,
    room: DiskReservation,
) -> Result<PackedSegment, EngineError> {
    let budget = room.budget().clone();
    let temp = TempDirectory::new(budget.folder()).map_err(|e| disk(budget.folder(), e))?;
    let inputs: Vec<_> = segments.iter().map(|segment| segment.tantivy().clone()).collect();
    let everything = inputs.iter().map(|_| None).collect();
    let merged = merge_filtered_segments(&inputs, IndexSettings::default(), everything, temp.clone());
    let mut merged = merged.map_err(|e| not_written("merge segments", &e, &budget))?;
    merged.set_tokenizers(tokenizers());
    let packed = bundle_index(&merged, &temp, fields, room)?;
    let wanted: u64 = segments.iter().map(|segment| segment.of.documents).sum();
    if packed.documents == wanted {
        return Ok(packed);
    }
    let why = format!("{} records went in, {} came out", wanted, packed.documents);
    Err(refused("merge segments", &why))
}
