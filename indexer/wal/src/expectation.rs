//! What an intent expects of an entity: which commit is the newest one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    malformed::MalformedInput,
    token::{ParseTokenError, Token},
};

/// Longest name of an entity in bytes: a free one of 1024 bytes behind its prefix.
const MAX_ENTITY_BYTES: usize = 1030;
/// The first segments of the entities that operations have.
const ENTITY_PREFIXES: [&str; 7] = ["repo/", "bundle/", "label/", "context/", "diamond/", "split/", "entry/"];
/// What stands for no commit where an expectation is written as text.
const NO_COMMIT: &str = "none";

/// What is expected of an entity when the operations of an entry are decided: that its newest committed operation is of this entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommitExpectation {
    /// The entity as indexes name it, such as `label/{repo}/{label}` or `entry/{name}`.
    pub entity: String,
    /// The entry of its newest commit; `None`: there is no commit of it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
}

impl CommitExpectation {
    /// Itself, if it names what an operation may have as its entity.
    pub(crate) fn checked(self) -> Result<Self, MalformedInput> {
        let Self { entity, .. } = &self;
        let is_named = ENTITY_PREFIXES.iter().any(|prefix| entity.len() > prefix.len() && entity.starts_with(prefix));
        if entity.len() > MAX_ENTITY_BYTES {
            return Err(MalformedInput::new(format!(
                "the \"entity\" of \"expect\" is longer than {MAX_ENTITY_BYTES} bytes"
            )));
        }
        if !is_named || entity.contains(|c: char| c < ' ') {
            let shown: String = entity.chars().take(64).collect();
            return Err(MalformedInput::new(format!(
                "\"expect\" names the entity {shown:?}, which no operation has; write it as \"label/REPO/LABEL\", \"bundle/REPO/BUNDLE\" or \
                 \"entry/NAME\""
            )));
        }
        Ok(self)
    }
}

impl fmt::Display for CommitExpectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.token {
            Some(token) => write!(f, "{}={token}", self.entity),
            None => write!(f, "{}={NO_COMMIT}", self.entity),
        }
    }
}

/// Why a text is not an expectation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseExpectationError {
    /// It has no `=`.
    #[error("\"{0}\" names no commit; write it as \"label/models/best=TOKEN\", or with \"none\" in place of the token")]
    NoCommit(String),
    /// What follows the last `=` is no token.
    #[error("{0}; write the token of the newest commit that you know, or \"none\"")]
    Token(#[from] ParseTokenError),
    /// No operation has the entity.
    #[error("{0}")]
    Entity(String),
}

impl FromStr for CommitExpectation {
    type Err = ParseExpectationError;

    fn from_str(text: &str) -> Result<Self, ParseExpectationError> {
        let shown = || ParseExpectationError::NoCommit(text.chars().take(64).collect());
        let (entity, token) = text.rsplit_once('=').ok_or_else(shown)?;
        let token = if token == NO_COMMIT { None } else { Some(token.parse()?) };
        let expectation = Self { entity: entity.to_owned(), token };
        expectation.checked().map_err(|malformed| ParseExpectationError::Entity(malformed.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0ujtsYcgvSTl8PAuAdqWYSMnLOv";

    #[test]
    fn an_expectation_is_read_from_its_text() {
        for text in [format!("label/models/best={TOKEN}"), "entry/a=b=none".to_owned()] {
            assert_eq!(text.parse::<CommitExpectation>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("label/models/best", "names no commit"),
            ("label/models/best=", "write the token of the newest commit"),
            ("labels/models/best=none", "which no operation has"),
            ("entry/=none", "which no operation has"),
            (&format!("entry/{}=none", "x".repeat(1025)), "longer than 1030 bytes"),
        ] {
            let refused = text.parse::<CommitExpectation>().unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
