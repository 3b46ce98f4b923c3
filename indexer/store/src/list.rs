//! Listings: of keys, in their order, and of the versions of one object.

use backon::ExponentialBackoff;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{ObjectMeta, path::Path};

use crate::{errors::StoreError, keys, object::ObjectInfo, object_versions::VersionPage, retry, store::Store};

impl Store {
    /// Objects whose key starts with the folder `prefix` (`""` for all), in key order, strictly after key `after`. Lists
    /// lazily, page by page; each page retries. Objects below deeper folders are included.
    ///
    /// Keys come as they are, also those that no call can read or write (`a//b`, `a/../b`, control characters). A store
    /// that lists out of order is an error: readers of a log rely on the order.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let listing = KeyListing {
            store: self.clone(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            floor: after.map(str::to_owned),
            last: None,
            page: None,
            pauses: retry::pauses(),
        };
        stream::unfold(Some(listing), |listing| async move {
            let mut listing = listing?;
            match listing.next().await {
                Some(Ok(info)) => Some((Ok(info), Some(listing))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        })
        .boxed()
    }

    /// A page of the versions of `key`: the newest, or those behind `after`, which a page before named as its next; `None` where the
    /// store lists none. Retries.
    ///
    /// To list versions is a right of its own, which reading does not include: [`StoreError::Denied`] without it.
    pub async fn version_page(&self, key: &str, after: Option<&str>) -> Result<Option<VersionPage>, StoreError> {
        let path = self.path(key)?;
        let Some(lister) = self.version_lister() else { return Ok(None) };
        let page = || async { lister.list_versions(&path, after).await.map_err(|error| self.error(key, &error)) };
        retry::retried(page).await
    }
}

/// A listing in progress, which resumes after the last key that it gave.
struct KeyListing {
    store: Store,
    prefix: String,
    /// Where the current stream of pages starts; the transport may give earlier keys.
    floor: Option<String>,
    /// The last key that the current stream of pages gave.
    last: Option<String>,
    page: Option<BoxStream<'static, object_store::Result<ObjectMeta>>>,
    pauses: ExponentialBackoff,
}

impl KeyListing {
    async fn next(&mut self) -> Option<Result<ObjectInfo, StoreError>> {
        loop {
            match self.page().next().await? {
                Ok(meta) => {
                    if let Some(info) = self.accept(&meta) {
                        return Some(info);
                    }
                }
                Err(error) => {
                    if let Err(error) = self.recover(&error).await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    fn page(&mut self) -> &mut BoxStream<'static, object_store::Result<ObjectMeta>> {
        let Self { store, prefix, floor, page, .. } = self;
        page.get_or_insert_with(|| open(store, prefix, floor.as_deref()))
    }

    /// The object if it belongs to the listing: in its folder, and strictly after the last key.
    fn accept(&mut self, meta: &ObjectMeta) -> Option<Result<ObjectInfo, StoreError>> {
        let full = keys::unescaped(meta.location.as_ref());
        let key = inside(self.store.base(), &full)?;
        inside(&self.prefix, key)?;
        if self.floor.as_deref().is_some_and(|floor| key <= floor) {
            return None;
        }
        if let Some(last) = self.last.as_deref().filter(|last| key <= *last) {
            let why =
                format!("it lists \"{key}\" after \"{last}\", out of key order, so a log in it could not be read");
            return Some(Err(self.store.unusable(why, "use another store")));
        }
        self.last = Some(key.to_owned());
        self.pauses = retry::pauses();
        Some(Ok(ObjectInfo::new(key.to_owned(), meta)))
    }

    /// Drops the page that failed, so that the next one starts after the last key. Gives up after too many failures in a
    /// row.
    async fn recover(&mut self, error: &object_store::Error) -> Result<(), StoreError> {
        let error = self.store.error(&format!("{}/", self.prefix), error);
        self.page = None;
        self.floor = self.last.take().or(self.floor.take());
        match self.pauses.next() {
            Some(pause) if error.is_retryable() => {
                tracing::debug!(%error, ?pause, "listing failed; resuming after the last key");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

fn open(store: &Store, prefix: &str, last: Option<&str>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let folder = keys::below(store.base(), prefix);
    let folder = match Path::parse(&folder) {
        Ok(path) => path,
        Err(source) => return stream::iter([Err(object_store::Error::InvalidPath { source })]).boxed(),
    };
    let folder = (!folder.as_ref().is_empty()).then_some(folder);
    match last.and_then(|last| offset(store.base(), last)) {
        Some(offset) => store.inner().list_with_offset(folder.as_ref(), &offset),
        None => store.inner().list(folder.as_ref()),
    }
}

/// Where the transport may start for a listing after `last`: at that key, or not at all where it is no path.
fn offset(base: &str, last: &str) -> Option<Path> {
    let full = keys::below(base, last);
    Path::parse(&full).ok().filter(|path| !path.as_ref().is_empty() && path.as_ref() <= full.as_str())
}

/// The part of `key` below the folder `base`.
fn inside<'a>(base: &str, key: &'a str) -> Option<&'a str> {
    if base.is_empty() { Some(key) } else { key.strip_prefix(base)?.strip_prefix('/') }
}
