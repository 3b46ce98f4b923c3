//! Data files: rows of one day as Parquet, in the order of their tokens.

use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
        arrow_writer::ArrowWriterOptions,
    },
    basic::Compression,
    errors::ParquetError,
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::WriterProperties,
    },
    schema::types::ColumnPath,
};
use tidemark_catalog::{LogId, SetDigest};
use tidemark_wal::Token;

use crate::{
    checked_object::CheckedObject,
    columns::{ARROW_SCHEMA, DISTINCT_COLUMNS},
    error::ArchiveError,
    metadata::TABLE_FORMAT,
    names::ArchiveDay,
    row::ArchiveRow,
    row_decoder::{RowDecoder, RowSummary},
    row_encoder::encode_rows,
    token_range::TokenRange,
};

/// How much is written at once. A reader has one row group in memory at a time, a writer some data files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteLimits {
    /// About how many bytes of rows, as they are in memory, make a row group.
    pub(crate) group_bytes: u64,
    /// The most rows of a row group.
    pub(crate) group_rows: usize,
    /// About the largest data file in bytes.
    pub(crate) file_bytes: usize,
    /// About how many bytes of data files one version adds: what is written again after a failure.
    pub(crate) version_bytes: u64,
}

impl Default for WriteLimits {
    fn default() -> Self {
        Self { group_bytes: 8 << 20, group_rows: 16 * 1024, file_bytes: 32 << 20, version_bytes: 512 << 20 }
    }
}

/// What the rows of a data file add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowTotals {
    /// Rows with the first operation of an entry.
    pub(crate) entries: u64,
    /// Rows.
    pub(crate) operations: u64,
    pub(crate) digest: SetDigest,
    /// The smallest and the largest token; `None` of no rows.
    pub(crate) tokens: Option<(Token, Token)>,
}

impl RowTotals {
    fn insert(&mut self, summary: &RowSummary) {
        let token = summary.element.token;
        self.entries += u64::from(summary.element.op == 0);
        self.operations += 1;
        self.digest.insert(&summary.element);
        let (first, last) = self.tokens.unwrap_or((token, token));
        self.tokens = Some((first.min(token), last.max(token)));
    }
}

/// A finished data file, not written to the store yet.
pub(crate) struct EncodedFile {
    pub(crate) day: ArchiveDay,
    pub(crate) bytes: Bytes,
    pub(crate) totals: RowTotals,
}

/// A data file that is being filled.
pub(crate) struct DataFileEncoder {
    day: ArchiveDay,
    limits: WriteLimits,
    writer: ArrowWriter<Vec<u8>>,
    /// Rows of the next row group.
    rows: Vec<ArchiveRow>,
    rows_bytes: u64,
    totals: RowTotals,
}

impl DataFileEncoder {
    /// An empty file of `day` in the archive of `log`.
    pub(crate) fn new(log: &LogId, day: ArchiveDay, limits: WriteLimits) -> Result<Self, ArchiveError> {
        let options = ArrowWriterOptions::new().with_properties(file_properties(log)).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&ARROW_SCHEMA), options);
        let writer = writer.map_err(|error| ArchiveError::codec("begin a data file", &error))?;
        Ok(Self { day, limits, writer, rows: Vec::new(), rows_bytes: 0, totals: RowTotals::default() })
    }

    pub(crate) fn day(&self) -> ArchiveDay {
        self.day
    }

    /// Adds a row, which follows those before.
    pub(crate) fn push(&mut self, row: ArchiveRow) {
        self.totals.insert(&RowSummary { element: row.record.set_element(), body_fits: true });
        self.rows_bytes += row.memory_bytes();
        self.rows.push(row);
    }

    /// Whether [`Self::flush`] is due.
    pub(crate) fn is_group_full(&self) -> bool {
        self.rows_bytes >= self.limits.group_bytes || self.rows.len() >= self.limits.group_rows
    }

    /// Whether the file is large enough.
    pub(crate) fn is_full(&self) -> bool {
        self.writer.bytes_written() >= self.limits.file_bytes
    }

    /// Makes a row group of the rows that were added. Keeps a core busy.
    pub(crate) fn flush(&mut self) -> Result<(), ArchiveError> {
        let rows = std::mem::take(&mut self.rows);
        self.rows_bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let batch = encode_rows(&rows)?;
        let written = self.writer.write(&batch).and_then(|()| self.writer.flush());
        written.map_err(|error| ArchiveError::codec("write a row group", &error))
    }

    /// The file. Keeps a core busy.
    pub(crate) fn finish(mut self) -> Result<EncodedFile, ArchiveError> {
        self.flush()?;
        let bytes = self.writer.into_inner().map_err(|error| ArchiveError::codec("finish a data file", &error))?;
        Ok(EncodedFile { day: self.day, bytes: bytes.into(), totals: self.totals })
    }
}

fn file_properties(log: &LogId) -> WriterProperties {
    let pair = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::default()))
        .set_created_by("tidemark".to_owned())
        .set_key_value_metadata(Some(vec![
            pair("tidemark.format", TABLE_FORMAT.to_string()),
            pair("tidemark.log-id", log.to_string()),
        ]))
        .set_sorting_columns(Some(
            (0..2).map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: true }).collect(),
        ))
        .set_max_row_group_row_count(None);
    for name in DISTINCT_COLUMNS {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    properties.build()
}

/// A data file that was read whole, and whose rows are read a row group at a time.
pub(crate) struct OpenDataFile {
    /// The object's URL.
    url: String,
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
}

impl OpenDataFile {
    /// Opens the file that `object` is. An error unless it has the archive's columns.
    pub(crate) fn open(url: String, object: &CheckedObject) -> Result<Self, ArchiveError> {
        let bytes = object.bytes.clone();
        let metadata = match ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new()) {
            Ok(metadata) => metadata,
            Err(error) => return Err(ArchiveError::Damaged { key: url, why: error.to_string() }),
        };
        if !is_archive_schema(&metadata) {
            return Err(ArchiveError::Damaged { key: url, why: "its columns are not the archive's".to_owned() });
        }
        Ok(Self { url, bytes, metadata })
    }

    /// How many row groups there are.
    pub(crate) fn groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// The row groups that may hold rows with these tokens, by what the footer says of each.
    pub(crate) fn groups_with(&self, tokens: &TokenRange) -> Vec<usize> {
        let may_hold = |group: &usize| self.tokens_of(*group).is_none_or(|held| tokens.overlaps(held));
        (0..self.groups()).filter(may_hold).collect()
    }

    /// The smallest and the largest token of a row group; `None` where the footer does not say.
    fn tokens_of(&self, group: usize) -> Option<(Token, Token)> {
        let group = self.metadata.metadata().row_group(group);
        let column = group.columns().iter().find(|column| column.column_path().string() == "token")?;
        let statistics = column.statistics()?;
        // One that was cut is no token.
        let token = |bytes: Option<&[u8]>| std::str::from_utf8(bytes?).ok()?.parse().ok();
        Some((token(statistics.min_bytes_opt())?, token(statistics.max_bytes_opt())?))
    }

    /// The rows of a row group with these tokens; of the others only the token is decoded. Keeps a core busy.
    pub(crate) fn rows(&self, group: usize, tokens: &TokenRange) -> Result<Vec<ArchiveRow>, ArchiveError> {
        let batch = self.batch(group)?;
        let decoder = RowDecoder::new(&batch);
        let wanted = |index| match decoder.token(index) {
            Ok(token) if !tokens.contains(token) => None,
            Ok(_) => Some(decoder.row(index)),
            Err(why) => Some(Err(why)),
        };
        (0..decoder.len()).filter_map(wanted).map(|row| row.map_err(|why| self.damaged(&why))).collect()
    }

    /// What all rows add up to. Every column is read; the bodies are compared with their digests. Keeps a core busy.
    pub(crate) fn totals(&self) -> Result<RowTotals, ArchiveError> {
        let mut totals = RowTotals::default();
        for group in 0..self.groups() {
            let batch = self.batch(group)?;
            let decoder = RowDecoder::new(&batch);
            for index in 0..decoder.len() {
                let summary = decoder.summary(index).map_err(|why| self.damaged(&why))?;
                if !summary.body_fits {
                    return Err(
                        self.damaged(&format!("the body of \"{}\" is not of its digest", summary.element.token))
                    );
                }
                totals.insert(&summary);
            }
        }
        Ok(totals)
    }

    fn batch(&self, group: usize) -> Result<RecordBatch, ArchiveError> {
        let read = || -> Result<RecordBatch, ParquetError> {
            let rows = usize::try_from(self.metadata.metadata().row_group(group).num_rows()).unwrap_or_default();
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.metadata.clone());
            let mut reader = builder.with_row_groups(vec![group]).with_batch_size(rows.max(1)).build()?;
            let batch = reader.next().ok_or_else(|| ParquetError::General("a row group is empty".to_owned()))??;
            Ok(batch)
        };
        read().map_err(|error| self.damaged(&error.to_string()))
    }

    fn damaged(&self, why: &str) -> ArchiveError {
        ArchiveError::Damaged { key: self.url.clone(), why: why.to_owned() }
    }
}

/// Names and types, as they follow from the Parquet schema.
fn is_archive_schema(metadata: &ArrowReaderMetadata) -> bool {
    let of = |schema: &arrow_schema::Schema| -> Vec<_> {
        let fields = schema.fields().iter();
        fields.map(|field| (field.name().clone(), field.data_type().clone(), field.is_nullable())).collect()
    };
    of(metadata.schema()) == of(&ARROW_SCHEMA)
}
