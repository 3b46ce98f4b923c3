//! What was found in the dictionaries of segments, for the next query: the words of queries repeat, and a segment never changes.

use lru::LruCache;
use parking_lot::Mutex;
use tantivy::{SegmentReader, Term, index::SegmentId, postings::TermInfo};

/// Memory of the cache.
const MAX_BYTES: usize = 8 << 20;
/// What an entry takes beside the bytes of its term, at least as much as it does.
const ENTRY_BYTES: usize = 192;

/// Where the documents of a segment's term lie, or that it has none. The ones used last stay.
pub(crate) struct TermCache(Mutex<CachedTerms>);

struct CachedTerms {
    found: LruCache<(SegmentId, Term), Option<TermInfo>>,
    bytes: usize,
}

impl Default for TermCache {
    fn default() -> Self {
        Self(Mutex::new(CachedTerms { found: LruCache::unbounded(), bytes: 0 }))
    }
}

impl TermCache {
    /// What the dictionary of the segment says of the term.
    pub(crate) fn term_info(&self, reader: &SegmentReader, term: &Term) -> tantivy::Result<Option<TermInfo>> {
        let key = (reader.segment_id(), term.clone());
        if let Some(found) = self.0.lock().found.get(&key) {
            return Ok(found.clone());
        }
        // Without the lock: a dictionary may be read from the store.
        let found = reader.inverted_index(term.field())?.get_term_info(term)?;
        self.0.lock().keep(key, found.clone());
        Ok(found)
    }
}

#[cfg(test)]
impl TermCache {
    /// As if a look-up had found this.
    pub(crate) fn keep(&self, reader: &SegmentReader, term: &Term, found: Option<TermInfo>) {
        self.0.lock().keep((reader.segment_id(), term.clone()), found);
    }
}

impl CachedTerms {
    fn keep(&mut self, key: (SegmentId, Term), found: Option<TermInfo>) {
        let bytes = bytes_of(&key.1);
        if self.found.put(key, found).is_none() {
            self.bytes += bytes;
        }
        while self.bytes > MAX_BYTES
            && let Some(((_, term), _)) = self.found.pop_lru()
        {
            self.bytes -= bytes_of(&term);
        }
    }
}

fn bytes_of(term: &Term) -> usize {
    ENTRY_BYTES + term.serialized_value_bytes().len()
}

#[cfg(test)]
mod tests {
    use tantivy::schema::Field;

    use super::*;

    #[test]
    fn the_cache_forgets_what_was_not_used_for_long_and_keeps_to_its_bytes() {
        let (cache, segment) = (TermCache::default(), SegmentId::generate_random());
        let mut terms = cache.0.lock();
        let key = |n: usize| (segment, Term::from_field_text(Field::from_field_id(0), &format!("{n:01000}")));
        for n in 0..20_000 {
            terms.keep(key(n), None);
            terms.keep(key(n), None);
            assert!(terms.found.get(&key(0)).is_some(), "the first is used again and again");
        }
        assert!(terms.bytes <= MAX_BYTES && terms.found.len() > 6000, "{} in {}", terms.found.len(), terms.bytes);
        assert_eq!(terms.bytes, terms.found.iter().map(|((_, term), _)| bytes_of(term)).sum::<usize>());
        assert!(terms.found.get(&key(19_999)).is_some() && terms.found.get(&key(1)).is_none());
    }
}
