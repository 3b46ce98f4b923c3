//! Tokens as columns: read without the store of records, and sorted exactly.

use tantivy::{DocId, SegmentReader, columnar::Column};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

/// The tokens of a segment's documents. A token is cut into three numbers, since the random bits of tokens have no shorter form
/// than a column of numbers.
#[derive(Clone)]
pub(crate) struct TokenColumns {
    first: Column<u64>,
    middle: Column<u64>,
    end: Column<u64>,
}

impl TokenColumns {
    pub(crate) fn open(reader: &SegmentReader) -> tantivy::Result<Self> {
        let columns = reader.fast_fields();
        Ok(Self { first: columns.u64("order")?, middle: columns.u64("orderMiddle")?, end: columns.u64("orderEnd")? })
    }

    /// The sort keys of the tokens.
    pub(crate) fn sort_keys(&self) -> &Column<u64> {
        &self.first
    }

    /// The sort key of one token.
    pub(crate) fn sort_key(&self, doc: DocId) -> u64 {
        self.first.first(doc).unwrap_or_default()
    }

    /// What the sort key lacks of the token, as a number: of tokens with one sort key, the numbers sort alike.
    pub(crate) fn rest(&self, doc: DocId) -> u128 {
        let part = |column: &Column<u64>| u128::from(column.first(doc).unwrap_or_default());
        part(&self.middle) << 32 | part(&self.end)
    }

    /// The token.
    pub(crate) fn token(&self, doc: DocId) -> Token {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.sort_key(doc).to_be_bytes());
        bytes[8..].copy_from_slice(&self.rest(doc).to_be_bytes()[4..]);
        Token::from_bytes(bytes)
    }
}

/// The first eight bytes of a token as a number: tokens and these numbers sort alike.
pub(crate) fn token_sort_key(token: &Token) -> u64 {
    number(&token.as_bytes()[..8])
}

/// Bytes 8 to 15 of a token, and bytes 16 to 19.
pub(crate) fn token_rest(token: &Token) -> (u64, u64) {
    (number(&token.as_bytes()[8..16]), number(&token.as_bytes()[16..]))
}

/// The second of a token with that sort key.
pub(crate) fn second_of_sort_key(sort_key: u64) -> StoreSecond {
    StoreSecond::from_unix(StoreSecond::KSUID_EPOCH.unix() + (sort_key >> 32))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}
