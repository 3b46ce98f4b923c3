//! Page cursors: where the next page starts, and which query and manifest it belongs to.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    api::{EntityRequest, SearchRequest},
    error::SearchError,
    sort_key::SortKey,
};

/// Longest cursor that is decoded.
const MAX_CURSOR_BYTES: usize = 1024;
const FORMAT: u32 = 1;

/// What a cursor says; opaque to clients. The next page is read from the manifest that it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageCursor {
    #[serde(rename = "v")]
    format: u32,
    /// The generation of the index.
    #[serde(rename = "g")]
    pub(crate) generation: String,
    /// The number of the manifest.
    #[serde(rename = "m")]
    pub(crate) manifest: u64,
    /// The manifest's [`view_fingerprint`]: another index has the same numbers.
    #[serde(rename = "h")]
    pub(crate) fingerprint: u64,
    /// Hash of the query, its filters and its order.
    #[serde(rename = "q")]
    query_hash: u64,
    /// The last sealed hit that was answered; `None`: the page starts at the first one.
    #[serde(rename = "p")]
    pub(crate) after: Option<SortKey>,
}

impl PageCursor {
    pub(crate) fn new(
        generation: String,
        (manifest, fingerprint): (u64, u64),
        query_hash: u64,
        after: Option<SortKey>,
    ) -> Self {
        Self { format: FORMAT, generation, manifest, fingerprint, query_hash, after }
    }

    pub(crate) fn text(&self) -> String {
        // Plain data, which is always JSON.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a cursor that was given out for the same query.
    pub(crate) fn read(text: &str, query_hash: u64) -> Result<Self, SearchError> {
        if text.len() > MAX_CURSOR_BYTES {
            return Err(refused_cursor("is too long to be one of ours"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused_cursor("is none of ours"))?;
        let cursor: Self = serde_json::from_slice(&bytes).map_err(|_| refused_cursor("is none of ours"))?;
        if cursor.format != FORMAT {
            return Err(refused_cursor("was given out by another version of tidemark"));
        }
        if cursor.query_hash != query_hash {
            return Err(refused_cursor("belongs to another query, filter or order"));
        }
        Ok(cursor)
    }
}

/// The error for a cursor that cannot be used.
pub(crate) fn refused_cursor(why: &str) -> SearchError {
    let detail = format!("the cursor {why}; leave it out to start with the first page");
    SearchError::Invalid { parameter: "cursor", detail }
}

/// A number that tells a manifest from those of the same number in other indexes, from its record's hash.
pub(crate) fn view_fingerprint(hash: &str) -> u64 {
    xxh3_64(hash.as_bytes())
}

/// A number that two searches share if their pages belong together: page size and counts may differ.
pub(crate) fn query_hash(request: &SearchRequest) -> u64 {
    let SearchRequest {
        query,
        filters,
        outcomes,
        current,
        sealed,
        from,
        to,
        sort,
        size: _,
        cursor: _,
        facets: _,
        attribute_facets: _,
        histogram: _,
        highlight: _,
        histogram_by: _,
    } = request;
    let text = format!("{query:?} {filters:?} {outcomes:?} {current:?} {sealed:?} {from:?} {to:?} {sort:?}");
    xxh3_64(text.as_bytes())
}

/// The same number for the history of an entity.
pub(crate) fn entity_query_hash(request: &EntityRequest) -> u64 {
    xxh3_64(format!("entity {:?}", request.key).as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::{PageSize, QueryText};

    #[test]
    fn a_cursor_of_another_question_is_refused_cursor() {
        let one = SearchRequest::default();
        let other = SearchRequest { query: QueryText::new("x").unwrap(), ..SearchRequest::default() };
        let cursor = PageCursor::new("g".to_owned(), (7, 8), query_hash(&one), Some(SortKey(1, 3, u128::MAX >> 32, 2)));
        assert_eq!(PageCursor::read(&cursor.text(), query_hash(&one)).unwrap(), cursor);
        let error = PageCursor::read(&cursor.text(), query_hash(&other)).unwrap_err();
        assert!(matches!(error, SearchError::Invalid { parameter: "cursor", .. }), "{error}");
    }

    #[test]
    fn the_size_of_a_page_may_change_on_the_way() {
        let other = SearchRequest { size: PageSize::new(3).unwrap(), histogram: false, ..SearchRequest::default() };
        assert_eq!(query_hash(&other), query_hash(&SearchRequest::default()));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_a_panic(text: String) {
            prop_assert!(PageCursor::read(&text, 1).is_err());
        }
    }
}
