//! Reading rows back, in the order of their tokens.

use std::{ops::Bound, sync::Arc};

use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tidemark_store::Store;
use tidemark_wal::Token;

use crate::{
    checked_object::read_checked,
    data_file::OpenDataFile,
    error::ArchiveError,
    manifest_list::ListedManifest,
    metadata::TableVersion,
    names::ArchiveDay,
    row::ArchiveRow,
    table_files::{TableFile, read_manifest, read_manifest_list},
    tasks::{run_cpu_work, spawn_owned},
    token_range::TokenRange,
};

/// Data files that are read before their turn.
const MAX_FILES_AHEAD: usize = 2;
/// Row groups that are decoded at once: the one whose rows are asked for, and the next.
const MAX_CONCURRENT_GROUPS: usize = 2;

/// The rows of `version` whose tokens lie in `tokens`.
pub(crate) fn rows_of(
    store: Store,
    version: &TableVersion,
    tokens: TokenRange,
) -> BoxStream<'static, Result<ArchiveRow, ArchiveError>> {
    let files = files_of(store.clone(), version.clone(), tokens);
    let open = files.map_ok(move |file| spawn_owned(open_file(store.clone(), file))).try_buffered(MAX_FILES_AHEAD);
    let groups = open.map_ok(move |file| {
        let (groups, file) = (file.groups_with(&tokens), Arc::new(file));
        let decode = move |group| {
            let file = Arc::clone(&file);
            spawn_owned(async move { run_cpu_work(|| file.rows(group, &tokens)) })
        };
        stream::iter(groups).map(decode).buffered(MAX_CONCURRENT_GROUPS)
    });
    groups.try_flatten().map_ok(|rows| stream::iter(rows.into_iter().map(Ok::<_, ArchiveError>))).try_flatten().boxed()
}

/// The data files that may hold rows in `tokens`, by their tokens.
fn files_of(
    store: Store,
    version: TableVersion,
    tokens: TokenRange,
) -> BoxStream<'static, Result<TableFile, ArchiveError>> {
    let location = version.location.clone();
    let list = {
        let store = store.clone();
        stream::once(async move { read_manifest_list(&store, &version).await })
    };
    let manifests = list.map_ok(move |manifests| {
        let manifests = manifests.into_iter().filter(move |manifest| may_hold(tokens, manifest));
        stream::iter(manifests.map(Ok::<_, ArchiveError>))
    });
    let files = manifests.try_flatten().and_then(move |manifest| {
        let (store, location) = (store.clone(), location.clone());
        async move { read_manifest(&store, &location, &manifest).await }
    });
    let files = files.map_ok(move |files| {
        let files = files.into_iter().filter(move |file| tokens.overlaps(file.entry.tokens));
        stream::iter(files.map(Ok::<_, ArchiveError>))
    });
    files.try_flatten().boxed()
}

/// Reads a data file whole, and compares it with what the manifest says.
pub(crate) async fn open_file(store: Store, file: TableFile) -> Result<OpenDataFile, ArchiveError> {
    let object = read_checked(&store, &file.key, Some(file.entry.bytes)).await?;
    OpenDataFile::open(store.url_of(&file.key), &object)
}

/// Whether a row of `manifest` may lie in the range, by its days.
fn may_hold(TokenRange { start, end }: TokenRange, manifest: &ListedManifest) -> bool {
    let day = |bound| match bound {
        Bound::Included(token) | Bound::Excluded(token) => Some(ArchiveDay::of(Token::second(&token))),
        Bound::Unbounded => None,
    };
    day(start).is_none_or(|day| manifest.days.1 >= day) && day(end).is_none_or(|day| manifest.days.0 <= day)
}
