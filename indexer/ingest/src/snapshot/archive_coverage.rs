//! Whether one archive holds what another one does.

use std::{future, ops::Range, pin::pin};

use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tidemark_catalog::LogCursor;
use tidemark_crds::Reason;
use tidemark_wal::Token;

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    paired_streams::paired,
};
use crate::cause::ToCause as _;

/// Why it is not known that an archive holds what another one does.
#[derive(Debug)]
pub(crate) enum CoverageFault {
    /// An operation is in the other one, and not so in the archive.
    Lacks {
        /// Its entry.
        token: Token,
        /// Its number there.
        op: u32,
        /// What the archive has of it.
        what: &'static str,
    },
    /// The archive cannot be read.
    Archive(SnapshotError),
    /// The other one cannot be read now.
    Other(SnapshotError),
}

/// An archive that is to hold what another one does.
pub(crate) struct ArchiveCoverage<'a> {
    /// The archive, and its version.
    pub(crate) archive: (&'a dyn LogArchive, &'a ArchiveVersion),
    /// The other one.
    pub(crate) other: (&'a dyn LogArchive, &'a ArchiveVersion),
}

impl ArchiveCoverage<'_> {
    /// Reads both: each operation of `seconds` that the other one holds is in the archive, with the same outcome and the same bytes of its
    /// entry. The archive may have more. `on_row` is called for each that was compared.
    ///
    /// What is damaged of the other one is passed over, and what follows it is compared. Gives the first damage.
    ///
    /// Descriptors are not compared: they are no part of the log, and one that its owner has deleted since is in no later archive.
    pub(crate) async fn require(
        &self,
        seconds: Range<LogCursor>,
        on_row: impl Fn(),
    ) -> Result<Option<SnapshotError>, CoverageFault> {
        let Self { archive: (archive, version), other: (other, of_other) } = *self;
        let damage = Mutex::new(None);
        let wanted = other.rows(of_other, seconds.clone()).filter_map(|row| {
            future::ready(match row {
                Err(error) if error.to_cause().reason == Reason::ArchiveDamaged => {
                    damage.lock().get_or_insert(error);
                    None
                }
                row => Some(row.map_err(CoverageFault::Other)),
            })
        });
        let found = archive.rows(version, seconds).map_err(CoverageFault::Archive);
        let mut pairs = pin!(paired(wanted, found, SettledRecord::key, SettledRecord::key));
        while let Some((wanted, found)) = pairs.try_next().await? {
            let Some(wanted) = wanted else { continue };
            if let Some(what) = lack(&wanted, found.as_ref()) {
                let (token, op) = wanted.key();
                return Err(CoverageFault::Lacks { token, op, what });
            }
            on_row();
        }
        Ok(damage.lock().take())
    }
}

/// What is wrong with the row `found` in the place of `wanted`; `None`: it says the same.
fn lack(wanted: &SettledRecord, found: Option<&SettledRecord>) -> Option<&'static str> {
    let Some(found) = found else { return Some("nothing") };
    // The digest of the body as well.
    if wanted.record.set_element() != found.record.set_element() {
        return Some("another outcome or other bytes");
    }
    // A digest of them is not enough.
    let has_bytes = wanted.record.body.bytes().is_none() || wanted.record.body == found.record.body;
    (!has_bytes).then_some("not the bytes")
}
