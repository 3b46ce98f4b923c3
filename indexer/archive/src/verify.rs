//! Reading a table again, to find what is missing or damaged.

use futures::{StreamExt as _, stream};
use tidemark_catalog::SetDigest;
use tidemark_store::Store;

use crate::{
    data_file::RowTotals,
    error::{ArchiveDamage, ArchiveError},
    metadata::{TableTotals, TableVersion},
    table_files::{TableFile, read_manifest, read_manifest_list},
    table_rows::open_file,
    tasks::{run_cpu_work, spawn_owned},
    version_chain::VersionChain,
};

/// How many damaged objects a report names.
const MAX_NAMED_DAMAGE: usize = 100;
/// Data files that are read at once.
const MAX_CONCURRENT_READS: usize = 2;
/// Versions that are read at once.
const MAX_CONCURRENT_VERSIONS: usize = 8;

/// What was found of a table that was read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableReport {
    /// Versions that were read.
    pub versions: u64,
    /// What the data files hold that are there and whole.
    pub totals: TableTotals,
    /// Objects that are missing, damaged or not the table's: the first hundred.
    pub damaged: Vec<ArchiveDamage>,
    /// How many there are.
    pub damaged_count: u64,
}

impl TableReport {
    /// Whether everything is there and as the table says.
    pub fn is_intact(&self) -> bool {
        self.damaged_count == 0
    }

    fn add_damage(&mut self, damage: ArchiveDamage) {
        self.damaged_count += 1;
        if self.damaged.len() < MAX_NAMED_DAMAGE {
            self.damaged.push(damage);
        }
    }

    /// The value, or nothing where damage was found and noted.
    fn noted<T>(&mut self, found: Result<T, ArchiveError>) -> Result<Option<T>, ArchiveError> {
        match found.map_err(ArchiveError::into_damage) {
            Ok(value) => Ok(Some(value)),
            Err(Ok(damage)) => {
                self.add_damage(damage);
                Ok(None)
            }
            Err(Err(error)) => Err(error),
        }
    }

    fn add_file(&mut self, file: &TableFile, rows: &RowTotals) {
        let TableTotals { entries, operations, files, bytes, digest } = &mut self.totals;
        *entries += rows.entries;
        *operations += rows.operations;
        *files += 1;
        *bytes += file.entry.bytes;
        SetDigest::merge(digest, &rows.digest);
    }
}

/// Reads `version`, all versions before it and all their files again.
pub(crate) async fn verify_table(
    store: &Store,
    chain: &VersionChain,
    version: &TableVersion,
) -> Result<TableReport, ArchiveError> {
    let mut report = TableReport::default();
    verify_versions(store, chain, version, &mut report).await?;
    let manifests = report.noted(read_manifest_list(store, version).await)?.unwrap_or_default();
    for manifest in &manifests {
        let files = report.noted(read_manifest(store, &version.location, manifest).await)?.unwrap_or_default();
        let checks = stream::iter(files).map(|file| spawn_owned(check_file(store.clone(), file)));
        let mut checks = checks.buffered(MAX_CONCURRENT_READS);
        while let Some(checked) = checks.next().await {
            if let Some((file, rows)) = report.noted(checked)? {
                report.add_file(&file, &rows);
            }
        }
    }
    if report.is_intact() && report.totals != version.totals {
        let why = format!("its files hold {:?} and it says {:?}", report.totals, version.totals);
        report.add_damage(ArchiveDamage { key: store.url_of(&version.key()), why });
    }
    Ok(report)
}

/// Reads the versions up to `last`, each of which has the hash of the one before and ends at or behind it.
async fn verify_versions(
    store: &Store,
    chain: &VersionChain,
    last: &TableVersion,
    report: &mut TableReport,
) -> Result<(), ArchiveError> {
    let read = |number| async move { (number, chain.read(number).await) };
    let mut versions = stream::iter(1..=last.number).map(read).buffered(MAX_CONCURRENT_VERSIONS);
    let mut before: Option<TableVersion> = None;
    while let Some((number, found)) = versions.next().await {
        let url = store.url_of(&crate::names::version_key(number));
        let found = found.and_then(|found| found.ok_or_else(|| ArchiveError::Gone { key: url.clone() }));
        let version = report.noted(found)?;
        if let Some(version) = &version {
            report.versions += 1;
            let of_last = number < last.number || version.hash == last.hash;
            if !of_last || before.as_ref().is_some_and(|before| !version.follows(before)) {
                let why = "it does not follow the version before it, or was replaced".to_owned();
                report.add_damage(ArchiveDamage { key: url, why });
            }
        }
        before = version;
    }
    Ok(())
}

/// Reads a data file, and compares what it holds with what the manifest says.
async fn check_file(store: Store, file: TableFile) -> Result<(TableFile, RowTotals), ArchiveError> {
    let open = open_file(store.clone(), file.clone()).await?;
    let rows = run_cpu_work(|| open.totals())?;
    if rows.operations != file.entry.rows || rows.tokens != Some(file.entry.tokens) {
        let why = "it does not hold the rows that its manifest says".to_owned();
        return Err(ArchiveError::Damaged { key: store.url_of(&file.key), why });
    }
    Ok((file, rows))
}
