//! The data files of one version, written while its rows come.

use std::pin::Pin;

use futures::{StreamExt as _, stream::FuturesOrdered};
use tidemark_catalog::LogId;
use tidemark_store::Store;
use tidemark_wal::Token;

use crate::{
    checked_object::write_checked,
    data_file::{DataFileEncoder, EncodedFile, OpenDataFile, RowTotals, WriteLimits},
    error::ArchiveError,
    manifest::ManifestEntry,
    metadata::TableTotals,
    names::{ArchiveDay, PartKind, PartName, VersionAttempt},
    row::ArchiveRow,
    tasks::{run_cpu_work, spawn_owned},
};

/// Data files that are written and read back while the next one is filled, and how many bytes they have at most, if no single one has
/// more: a row with a large descriptor is a file of its own, and each is held twice meanwhile.
const MAX_CONCURRENT_WRITES: usize = 2;
const MAX_WRITING_BYTES: u64 = 96 << 20;

/// A data file that is being written.
type FileWrite = Pin<Box<dyn Future<Output = Result<WrittenFile, ArchiveError>> + Send>>;

/// The data files of one attempt to commit a version.
pub(crate) struct VersionFiles {
    store: Store,
    log: LogId,
    attempt: VersionAttempt,
    limits: WriteLimits,
    /// The file that takes the next row, if that is of its day.
    filling: Option<DataFileEncoder>,
    writing: FuturesOrdered<FileWrite>,
    /// The bytes of those that are being written.
    writing_bytes: u64,
    written: Vec<WrittenFile>,
    /// How many files are finished.
    files: u32,
    /// Their bytes.
    bytes: u64,
}

impl VersionFiles {
    /// No files yet.
    pub(crate) fn new(store: &Store, log: &LogId, attempt: VersionAttempt, limits: WriteLimits) -> Self {
        Self {
            store: store.clone(),
            log: log.clone(),
            attempt,
            limits,
            filling: None,
            writing: FuturesOrdered::new(),
            writing_bytes: 0,
            written: Vec::new(),
            files: 0,
            bytes: 0,
        }
    }

    /// The bytes of the finished files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a row, which follows those before.
    pub(crate) async fn push(&mut self, row: ArchiveRow) -> Result<(), ArchiveError> {
        let day = ArchiveDay::of(row.record.token.second());
        if self.filling.as_ref().is_some_and(|file| file.day() != day) {
            self.finish_file().await?;
        }
        let file = match &mut self.filling {
            Some(file) => file,
            none => none.insert(DataFileEncoder::new(&self.log, day, self.limits)?),
        };
        file.push(row);
        if file.is_group_full() {
            run_cpu_work(|| file.flush())?;
            if file.is_full() {
                self.finish_file().await?;
            }
        }
        Ok(())
    }

    /// Waits until all files are written and compared.
    pub(crate) async fn finish(mut self) -> Result<Vec<WrittenFile>, ArchiveError> {
        self.finish_file().await?;
        while self.await_written().await? {}
        Ok(self.written)
    }

    /// Begins to write the file that is being filled.
    async fn finish_file(&mut self) -> Result<(), ArchiveError> {
        let Some(file) = self.filling.take() else { return Ok(()) };
        let file = run_cpu_work(|| file.finish())?;
        let bytes = file.bytes.len() as u64;
        while self.writing.len() >= MAX_CONCURRENT_WRITES || self.writing_bytes + bytes > MAX_WRITING_BYTES {
            if !self.await_written().await? {
                break;
            }
        }
        self.bytes += bytes;
        self.writing_bytes += bytes;
        let write = write_file(self.store.clone(), self.attempt.clone(), self.files, file);
        self.files += 1;
        self.writing.push_back(Box::pin(spawn_owned(write)));
        Ok(())
    }

    /// Waits until the first of the files that are being written is compared; gives whether there was one.
    async fn await_written(&mut self) -> Result<bool, ArchiveError> {
        let Some(file) = self.writing.next().await.transpose()? else { return Ok(false) };
        self.writing_bytes -= file.bytes;
        self.written.push(file);
        Ok(true)
    }
}

/// Writes `file`, reads it whole, and compares bytes, counts and digest.
async fn write_file(
    store: Store,
    attempt: VersionAttempt,
    part: u32,
    file: EncodedFile,
) -> Result<WrittenFile, ArchiveError> {
    let EncodedFile { day, bytes, totals } = file;
    let kind = PartKind::Data { day: day.to_string(), part };
    let object = write_checked(&store, kind, attempt, bytes).await?;
    let url = store.url_of(&object.name.to_string());
    let found = run_cpu_work(|| OpenDataFile::open(url.clone(), &object)?.totals())?;
    let Some(tokens) = found.tokens.filter(|_| found == totals) else {
        return Err(ArchiveError::Damaged {
            key: url,
            why: "it does not hold the rows that were written to it".to_owned(),
        });
    };
    Ok(WrittenFile { bytes: object.bytes.len() as u64, name: object.name, day, totals, tokens })
}

/// A data file that was written, read back and compared.
pub(crate) struct WrittenFile {
    name: PartName,
    bytes: u64,
    day: ArchiveDay,
    totals: RowTotals,
    /// The smallest and the largest.
    tokens: (Token, Token),
}

impl WrittenFile {
    /// As the manifest of the table at `location` names it.
    pub(crate) fn entry(&self, location: &str) -> ManifestEntry {
        ManifestEntry {
            path: format!("{location}/{}", self.name),
            day: self.day,
            rows: self.totals.operations,
            bytes: self.bytes,
            tokens: self.tokens,
        }
    }

    /// Adds what it holds.
    pub(crate) fn add_to(&self, totals: &mut TableTotals) {
        totals.entries += self.totals.entries;
        totals.operations += self.totals.operations;
        totals.files += 1;
        totals.bytes += self.bytes;
        totals.digest.merge(&self.totals.digest);
    }
}
