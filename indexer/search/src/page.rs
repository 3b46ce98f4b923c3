//! Cursors: where a page starts, sealed against another question.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    SearchError,
    api::{EntityRequest, SearchRequest},
};

/// Longest cursor that is looked at.
const LONGEST: usize = 1024;
const FORMAT: u32 = 1;

/// What a cursor says. Opaque to clients; kept on its manifest, which the next page is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor<P> {
    #[serde(rename = "v")]
    format: u32,
    /// The generation of the index.
    #[serde(rename = "g")]
    pub(crate) generation: String,
    /// The number of the manifest.
    #[serde(rename = "m")]
    pub(crate) manifest: u64,
    /// The stamp of the manifest, as [`stamp_of`] makes it: another index has the same numbers.
    #[serde(rename = "h")]
    pub(crate) stamp: u64,
    /// Hash of the question.
    #[serde(rename = "q")]
    question: u64,
    /// The last sealed hit that was answered; `None`: the page starts at the first one.
    #[serde(rename = "p")]
    pub(crate) after: Option<P>,
}

/// A hit's place in the order of hits: the first is what is sorted by, the second makes it unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place(pub(crate) u64, pub(crate) u64);

impl<P: Serialize + DeserializeOwned> Cursor<P> {
    pub(crate) fn new(generation: String, (manifest, stamp): (u64, u64), question: u64, after: Option<P>) -> Self {
        Self { format: FORMAT, generation, manifest, stamp, question, after }
    }

    pub(crate) fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a cursor that was given out for the same question.
    pub(crate) fn read(text: &str, question: u64) -> Result<Self, SearchError> {
        if text.len() > LONGEST {
            return Err(refused("is too long to be one of ours"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused("is none of ours"))?;
        let cursor: Self = serde_json::from_slice(&bytes).map_err(|_| refused("is none of ours"))?;
        if cursor.format != FORMAT {
            return Err(refused("was given out by another version of tidemark"));
        }
        if cursor.question != question {
            return Err(refused("belongs to another query, filter or order"));
        }
        Ok(cursor)
    }
}

/// What the cursor is refused for.
pub(crate) fn refused(why: &str) -> SearchError {
    let detail = format!("the cursor {why}; leave it out to start with the first page");
    SearchError::Invalid { parameter: "cursor", detail }
}

/// What tells a manifest from those of the same number in other indexes, given its record's hash.
pub(crate) fn stamp_of(hash: &str) -> u64 {
    xxh3_64(hash.as_bytes())
}

/// A number that two searches share if their pages belong together: the page's size and what is counted may differ.
pub(crate) fn question_of(request: &SearchRequest) -> u64 {
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
        histogram: _,
    } = request;
    let question = format!("{query:?} {filters:?} {outcomes:?} {current:?} {sealed:?} {from:?} {to:?} {sort:?}");
    xxh3_64(question.as_bytes())
}

/// The same for the history of an entity.
pub(crate) fn question_of_entity(request: &EntityRequest) -> u64 {
    xxh3_64(format!("entity {:?}", request.key).as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_of_another_question_is_refused() {
        let one = SearchRequest::default();
        let other = SearchRequest { query: "x".to_owned(), ..SearchRequest::default() };
        let cursor = Cursor::new("g".to_owned(), (7, 8), question_of(&one), Some(Place(1, 2)));
        assert_eq!(Cursor::read(&cursor.text(), question_of(&one)).unwrap(), cursor);
        let error = Cursor::<Place>::read(&cursor.text(), question_of(&other)).unwrap_err();
        assert!(matches!(error, SearchError::Invalid { parameter: "cursor", .. }), "{error}");
    }

    #[test]
    fn the_size_of_a_page_may_change_on_the_way() {
        let other = SearchRequest { size: 3, histogram: false, ..SearchRequest::default() };
        assert_eq!(question_of(&other), question_of(&SearchRequest::default()));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_a_panic(text: String) {
            prop_assert!(Cursor::<Place>::read(&text, 1).is_err());
        }
    }
}
