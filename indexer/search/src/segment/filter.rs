//! Which entities and idempotency keys a segment might contain: a binary fuse filter of nine bits a term, so that a look-up
//! opens the term dictionaries of few segments. A false positive (one in 256) costs a look-up in vain.
//!
//! ```text
//! number of terms (u64) | descriptor | fingerprints
//! ```

use tantivy::{SegmentReader, schema::Field};
use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter, FilterRef};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::schema::SchemaFields;

/// The kinds of terms in a filter. The number is the seed of their hashes, and part of the format.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FilterKind {
    Entity = 1,
    WriterKey = 2,
}

/// The number that stands for a term. Part of the format.
fn hash(kind: FilterKind, term: &[u8]) -> u64 {
    xxh3_64_with_seed(term, kind as u64)
}

/// The filter of all entities and idempotency keys of a segment. Empty when there are none.
pub(crate) fn build(reader: &SegmentReader, fields: &SchemaFields) -> tantivy::Result<Vec<u8>> {
    let mut hashes = Vec::new();
    collect(reader, fields.entity, FilterKind::Entity, &mut hashes)?;
    collect(reader, fields.writer_key, FilterKind::WriterKey, &mut hashes)?;
    Ok(encode(hashes))
}

fn collect(reader: &SegmentReader, field: Field, kind: FilterKind, hashes: &mut Vec<u64>) -> tantivy::Result<()> {
    let index = reader.inverted_index(field)?;
    let mut terms = index.terms().stream()?;
    while terms.advance() {
        hashes.push(hash(kind, terms.key()));
    }
    Ok(())
}

fn encode(mut hashes: Vec<u64>) -> Vec<u8> {
    hashes.sort_unstable();
    hashes.dedup();
    if hashes.is_empty() {
        return Vec::new();
    }
    // Building fails for duplicates only, and there are none; without a filter every look-up goes to the terms.
    let Ok(filter) = BinaryFuse8::try_from(&hashes) else {
        return Vec::new();
    };
    let mut bytes = vec![0; 8 + BinaryFuse8::DESCRIPTOR_LEN];
    bytes[..8].copy_from_slice(&(hashes.len() as u64).to_le_bytes());
    filter.dma_copy_descriptor_to(&mut bytes[8..]);
    bytes.extend_from_slice(filter.dma_fingerprints());
    bytes
}

/// Whether the segment of the filter `bytes` might contain `term`. `false` is certain.
pub(crate) fn might_contain(bytes: &[u8], kind: FilterKind, term: &str) -> bool {
    let body = bytes.get(8..).unwrap_or_default();
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
            let bytes = encode(terms.iter().map(|term| hash(FilterKind::Entity, term.as_bytes())).collect());
            for term in &terms {
                prop_assert!(might_contain(&bytes, FilterKind::Entity, term));
            }
        }
    }

    #[test]
    fn most_of_what_is_not_there_is_ruled_out() {
        let bytes = encode((0..1000u32).map(|n| hash(FilterKind::Entity, &n.to_le_bytes())).collect());
        let wrong = (0..1000).filter(|n| might_contain(&bytes, FilterKind::WriterKey, &format!("x{n}"))).count();
        assert!(wrong < 30, "{wrong} of 1000");
    }

    #[test]
    fn without_a_filter_everything_is_possible() {
        assert!(might_contain(&encode(Vec::new()), FilterKind::Entity, "x"));
    }
}
