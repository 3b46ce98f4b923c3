//! Which entities, idempotency keys and words a segment might contain: a binary fuse filter of nine bits a term, so that a
//! look-up, and each word of a query, opens the term dictionaries of few segments. A false positive (one in 256) costs a
//! look-up in vain.
//!
//! ```text
//! number of terms (u64) | kinds of terms in it, a bit each (u64) | descriptor | fingerprints
//! ```

use tantivy::{SegmentReader, schema::Field};
use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter, FilterRef};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::schema::SchemaFields;

/// Bytes before the filter's descriptor.
const HEADER_BYTES: usize = 16;
/// Words of a field beyond which none of them is in the filter: it is held in memory while the segment is open.
const MAX_WORDS: usize = 1 << 20;

/// The kinds of terms in a filter. The number is the seed of their hashes, and part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterKind {
    Entity = 1,
    WriterKey = 2,
    Message = 3,
    Names = 4,
    Contributors = 5,
    Text = 6,
}

impl FilterKind {
    /// Whose terms are in the filters, and where they stand in a segment. All words of a bare word's fields are.
    fn all(fields: &SchemaFields) -> [(Self, Field); 6] {
        [
            (Self::Entity, fields.entity),
            (Self::WriterKey, fields.writer_key),
            (Self::Message, fields.message),
            (Self::Names, fields.names),
            (Self::Contributors, fields.contributors),
            (Self::Text, fields.text),
        ]
    }

    /// The kind of a field's terms, where filters can have them.
    pub(crate) fn of(field: Field, fields: &SchemaFields) -> Option<Self> {
        Self::all(fields).into_iter().find_map(|(kind, filtered)| (filtered == field).then_some(kind))
    }

    fn bit(self) -> u64 {
        1 << self as u32
    }

    fn is_word(self) -> bool {
        !matches!(self, Self::Entity | Self::WriterKey)
    }
}

/// The number that stands for a term. Part of the format.
fn hash(kind: FilterKind, term: &[u8]) -> u64 {
    xxh3_64_with_seed(term, kind as u64)
}

/// The filter of a segment. Empty when there are no terms.
pub(crate) fn build(reader: &SegmentReader, fields: &SchemaFields) -> tantivy::Result<Vec<u8>> {
    let (mut kinds, mut hashes) = (0, Vec::new());
    for (kind, field) in FilterKind::all(fields) {
        let index = reader.inverted_index(field)?;
        if kind.is_word() && index.terms().num_terms() > MAX_WORDS {
            continue;
        }
        kinds |= kind.bit();
        let mut terms = index.terms().stream()?;
        while terms.advance() {
            hashes.push(hash(kind, terms.key()));
        }
    }
    Ok(encode(kinds, hashes))
}

fn encode(kinds: u64, mut hashes: Vec<u64>) -> Vec<u8> {
    hashes.sort_unstable();
    hashes.dedup();
    if hashes.is_empty() {
        return Vec::new();
    }
    // Building fails for duplicates only, and there are none; without a filter every look-up goes to the terms.
    let Ok(filter) = BinaryFuse8::try_from(&hashes) else {
        return Vec::new();
    };
    let mut bytes = vec![0; HEADER_BYTES + BinaryFuse8::DESCRIPTOR_LEN];
    bytes[..8].copy_from_slice(&(hashes.len() as u64).to_le_bytes());
    bytes[8..HEADER_BYTES].copy_from_slice(&kinds.to_le_bytes());
    filter.dma_copy_descriptor_to(&mut bytes[HEADER_BYTES..]);
    bytes.extend_from_slice(filter.dma_fingerprints());
    bytes
}

/// Whether the segment of the filter `bytes` might contain `term`. `false` is certain.
pub(crate) fn might_contain(bytes: &[u8], kind: FilterKind, term: &str) -> bool {
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return true };
    let kinds = header[8..].try_into().map_or(0, u64::from_le_bytes);
    if kinds & kind.bit() == 0 {
        return true;
    }
    match body.split_at_checked(BinaryFuse8::DESCRIPTOR_LEN) {
        Some((descriptor, fingerprints)) => {
            BinaryFuse8Ref::from_dma(descriptor, fingerprints).contains(&hash(kind, term.as_bytes()))
        }
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_is_there_is_missed(terms in vec(".{0,20}", 1..200)) {
            let hashes = terms.iter().map(|term| hash(FilterKind::Entity, term.as_bytes())).collect();
            let bytes = encode(FilterKind::Entity.bit(), hashes);
            for term in &terms {
                prop_assert!(might_contain(&bytes, FilterKind::Entity, term));
            }
        }
    }

    #[test]
    fn most_of_what_is_not_there_is_ruled_out() {
        let hashes = (0..1000u32).map(|n| hash(FilterKind::Entity, &n.to_le_bytes())).collect();
        let bytes = encode(FilterKind::Entity.bit() | FilterKind::WriterKey.bit(), hashes);
        let wrong = (0..1000).filter(|n| might_contain(&bytes, FilterKind::WriterKey, &format!("x{n}"))).count();
        assert!(wrong < 30, "{wrong} of 1000");
    }

    #[test]
    fn without_a_filter_everything_is_possible() {
        assert!(might_contain(&encode(FilterKind::Entity.bit(), Vec::new()), FilterKind::Entity, "x"));
        let entities = encode(FilterKind::Entity.bit(), vec![hash(FilterKind::Entity, b"x")]);
        assert!(
            might_contain(&entities, FilterKind::Message, "y") && !might_contain(&entities, FilterKind::Entity, "y")
        );
    }
}
