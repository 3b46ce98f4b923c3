//! Adding rows: data files, a manifest, a manifest list, and the version that names them.

use std::pin::pin;

use futures::{Stream, StreamExt as _};
use tidemark_catalog::{Generation, LogCursor, LogId};
use tidemark_store::{Entropy, Store};
use tidemark_wal::Token;

use crate::{
    checked_object::write_checked,
    data_file::WriteLimits,
    error::{ArchiveError, RowRejected},
    location::table_location,
    manifest::encode_manifest,
    manifest_list::{ListedManifest, encode_manifest_list},
    metadata::{TableMetadata, TableVersion, VersionDraft},
    names::{PartKind, VersionAttempt},
    row::ArchiveRow,
    table_files::read_manifest_list,
    version_chain::VersionChain,
    version_files::VersionFiles,
};

/// One call that adds rows.
pub(crate) struct TableExtension<'a> {
    pub(crate) store: &'a Store,
    pub(crate) log: &'a LogId,
    pub(crate) entropy: &'a Entropy,
    pub(crate) chain: &'a VersionChain,
    pub(crate) limits: WriteLimits,
    /// The generation of the index that the rows come from.
    pub(crate) generation: &'a Generation,
}

impl TableExtension<'_> {
    pub(crate) async fn run(
        self,
        rows: impl Stream<Item = Result<ArchiveRow, ArchiveError>> + Send,
        up_to: LogCursor,
    ) -> Result<TableVersion, ArchiveError> {
        let mut before = self.chain.latest().await?;
        let mut order = RowOrder::new(before.as_ref(), up_to)?;
        if let Some(version) = before.take_if(|version| version.end == up_to) {
            return Ok(version);
        }
        let mut rows = pin!(rows.peekable());
        loop {
            let number = before.as_ref().map_or(1, |version| version.number + 1);
            let attempt = VersionAttempt { version: number, nonce: self.entropy.nonce() };
            let mut files = VersionFiles::new(self.store, self.log, attempt.clone(), self.limits);
            // Rows of whole seconds: up to the end, or to the second of the next row.
            let end = loop {
                let Some(row) = rows.next().await else { break up_to };
                let row = row?;
                order.check(&row)?;
                let second = row.record.token.second();
                files.push(row).await?;
                if files.bytes() < self.limits.version_bytes {
                    continue;
                }
                match rows.as_mut().peek().await {
                    Some(Ok(next)) if next.record.token.second() > second => {
                        break LogCursor(next.record.token.second());
                    }
                    _ => {}
                }
            };
            let version = self.commit(before.as_ref(), attempt, files, end).await?;
            if end == up_to {
                return Ok(version);
            }
            before = Some(version);
        }
    }

    /// Writes what names the files, and commits the version.
    async fn commit(
        &self,
        before: Option<&TableVersion>,
        attempt: VersionAttempt,
        files: VersionFiles,
        end: LogCursor,
    ) -> Result<TableVersion, ArchiveError> {
        let files = files.finish().await?;
        let metadata = match before {
            Some(version) => version.metadata.as_ref().clone(),
            None => TableMetadata::new(table_location(self.store), self.entropy.bytes()),
        };
        let location = metadata.location().to_owned();
        let mut manifests = match before {
            Some(version) => read_manifest_list(self.store, version).await?,
            None => Vec::new(),
        };
        let mut totals = before.map(|version| version.totals).unwrap_or_default();
        let entries: Vec<_> = files.iter().map(|file| file.entry(&location)).collect();
        files.iter().for_each(|file| file.add_to(&mut totals));
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let bytes = encode_manifest(attempt.version, &entries);
            let written = write_checked(self.store, PartKind::Manifest, attempt.clone(), bytes.into()).await?;
            manifests.push(ListedManifest {
                path: format!("{location}/{}", written.name),
                bytes: written.bytes.len() as u64,
                version: attempt.version,
                files: entries.len() as u64,
                rows: entries.iter().map(|entry| entry.rows).sum(),
                days: (first.day, last.day),
            });
        }
        let list = encode_manifest_list(attempt.version, &manifests);
        let list = write_checked(self.store, PartKind::ManifestList, attempt.clone(), list.into()).await?;
        let draft = VersionDraft {
            attempt,
            generation: self.generation.clone(),
            end,
            totals,
            manifest_list: format!("{location}/{}", list.name),
            time: list.time,
        };
        self.chain.commit(before, &metadata, &draft).await
    }
}

/// The order in which rows come.
struct RowOrder {
    end: LogCursor,
    up_to: LogCursor,
    last: Option<(Token, u32)>,
}

impl RowOrder {
    /// Rows from the end of `before` up to `up_to`.
    fn new(before: Option<&TableVersion>, up_to: LogCursor) -> Result<Self, RowRejected> {
        let end = before.map(|version| version.end).unwrap_or_default();
        if up_to < end {
            return Err(RowRejected::EndBack { end, up_to });
        }
        Ok(Self { end, up_to, last: None })
    }

    /// Whether `row` may come next.
    fn check(&mut self, row: &ArchiveRow) -> Result<(), RowRejected> {
        let (token, op) = (row.record.token, row.record.op);
        if self.end.covers(token) {
            return Err(RowRejected::BelowEnd { token, end: self.end });
        }
        if !self.up_to.covers(token) {
            return Err(RowRejected::BeyondEnd { token, up_to: self.up_to });
        }
        let follows = match self.last {
            Some((last, last_op)) if last == token => op > last_op,
            Some((last, _)) => op == 0 && token > last,
            None => op == 0,
        };
        if !follows {
            return Err(RowRejected::OutOfOrder { token, op });
        }
        row.check()?;
        self.last = Some((token, op));
        Ok(())
    }
}
