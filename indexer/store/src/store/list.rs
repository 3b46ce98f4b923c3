//! Listing in key order.

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{ObjectMeta, path::Path};

use super::{ObjectInfo, Store, StoreError, keys, read, retry};

impl Store {
    /// Objects whose key starts with the folder `prefix` (`""` for all), in key order, strictly after key `after`. Lists
    /// lazily, page by page; each page retries. Objects below deeper folders are included.
    ///
    /// Keys come as they are, also those that no call can read or write (`a//b`, `a/../b`, control characters). A store
    /// that lists out of order is an error: whoever walks a log relies on it.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let listing = Listing {
            store: self.clone(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            floor: after.map(str::to_owned),
            last: None,
            page: None,
            pauses: Box::new(retry::pauses()),
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
}

/// A listing under way, which can be taken up again behind the last key that it gave.
struct Listing {
    store: Store,
    prefix: String,
    /// Where the present page stream starts; the transport may give keys from before it.
    floor: Option<String>,
    /// The last key that the present page stream gave.
    last: Option<String>,
    page: Option<BoxStream<'static, object_store::Result<ObjectMeta>>>,
    pauses: Box<dyn Iterator<Item = std::time::Duration> + Send>,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<ObjectInfo, StoreError>> {
        loop {
            match self.page().next().await? {
                Ok(meta) => {
                    if let Some(info) = self.taken(&meta) {
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
    fn taken(&mut self, meta: &ObjectMeta) -> Option<Result<ObjectInfo, StoreError>> {
        let full = keys::unescaped(meta.location.as_ref());
        let key = inside(&self.store.base, &full)?;
        inside(&self.prefix, key)?;
        if self.floor.as_deref().is_some_and(|floor| key <= floor) {
            return None;
        }
        if let Some(last) = self.last.as_deref().filter(|last| key <= *last) {
            let why =
                format!("it lists \"{key}\" after \"{last}\", out of key order, so that a log in it could not be read");
            return Some(Err(self.store.unusable(why, "use another store")));
        }
        self.last = Some(key.to_owned());
        self.pauses = Box::new(retry::pauses());
        Some(Ok(read::info(key.to_owned(), meta)))
    }

    /// Drops the page that failed, so that the next one starts behind the last key; gives up after too many in a row.
    async fn recover(&mut self, error: &object_store::Error) -> Result<(), StoreError> {
        let error = self.store.error(&format!("{}/", self.prefix), error);
        self.page = None;
        self.floor = self.last.take().or(self.floor.take());
        match self.pauses.next() {
            Some(pause) if error.is_retryable() => {
                tracing::debug!(%error, ?pause, "a listing failed and is taken up again");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

fn open(store: &Store, prefix: &str, last: Option<&str>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let folder = keys::below(&store.base, prefix);
    let folder = match Path::parse(&folder) {
        Ok(path) => path,
        Err(source) => return stream::iter([Err(object_store::Error::InvalidPath { source })]).boxed(),
    };
    let folder = (!folder.as_ref().is_empty()).then_some(folder);
    match last.and_then(|last| offset(&store.base, last)) {
        Some(offset) => store.backend.inner.list_with_offset(folder.as_ref(), &offset),
        None => store.backend.inner.list(folder.as_ref()),
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
