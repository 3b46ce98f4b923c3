//! The position in the log up to which everything is decided.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

/// The exclusive position in the log: every token whose second lies below it is decided and recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogCursor(pub StoreSecond);

impl LogCursor {
    /// The first second that is not decided.
    pub const fn second(self) -> StoreSecond {
        self.0
    }

    /// Whether a token is below the cursor: decided and recorded.
    pub fn covers(self, token: Token) -> bool {
        token.second() < self.0
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
