//! A range of tokens, and what it has of others.

use std::ops::Bound;

use tidemark_wal::Token;

/// Which rows are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenRange {
    pub(crate) start: Bound<Token>,
    pub(crate) end: Bound<Token>,
}

impl TokenRange {
    pub(crate) fn contains(&self, token: Token) -> bool {
        let after = match self.start {
            Bound::Included(start) => token >= start,
            Bound::Excluded(start) => token > start,
            Bound::Unbounded => true,
        };
        let before = match self.end {
            Bound::Included(end) => token <= end,
            Bound::Excluded(end) => token < end,
            Bound::Unbounded => true,
        };
        after && before
    }

    /// Whether a token between these two, both included, may lie in the range.
    pub(crate) fn overlaps(&self, (first, last): (Token, Token)) -> bool {
        let (after, before) = (Self { end: Bound::Unbounded, ..*self }, Self { start: Bound::Unbounded, ..*self });
        after.contains(last) && before.contains(first)
    }
}
