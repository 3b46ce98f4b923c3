//! Compaction's merge: one segment made from several, with every document of theirs.

use std::{path::Path, sync::Arc};

use tantivy::{IndexSettings, indexer::merge_filtered_segments};
use tidemark_ingest::engine::{EngineError, PackedSegment};

use super::{
    builder::bundle_index,
    engine_error::{disk, refused},
    reader::OpenSegment,
    schema::{SchemaFields, tokenizers},
    temp_dir::TempDirectory,
};

/// One segment with the documents of `segments`, one after the other. Blocks.
pub(crate) fn merge_segments(
    segments: &[Arc<OpenSegment>],
    fields: &SchemaFields,
    folder: &Path,
) -> Result<PackedSegment, EngineError> {
    let temp = TempDirectory::new(folder).map_err(|e| disk(folder, e))?;
    let inputs: Vec<_> = segments.iter().map(|segment| segment.tantivy().clone()).collect();
    let everything = inputs.iter().map(|_| None).collect();
    let merged = merge_filtered_segments(&inputs, IndexSettings::default(), everything, temp.clone());
    let mut merged = merged.map_err(|e| refused("merge segments", &e))?;
    merged.set_tokenizers(tokenizers());
    let packed = bundle_index(&merged, &temp, fields, folder)?;
    let wanted: u64 = segments.iter().map(|segment| segment.of.documents).sum();
    if packed.documents == wanted {
        return Ok(packed);
    }
    let why = format!("{} records went in, {} came out", wanted, packed.documents);
    Err(refused("merge segments", &why))
}
