//! A query as a tree: what its text asks for. Each leaf knows where it was typed.

use std::ops::Bound;

/// A query, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum QueryNode {
    AllOf(Vec<Self>),
    AnyOf(Vec<Self>),
    Not(Box<Self>),
    Boosted(Box<Self>, f32),
    Leaf(QueryLeaf),
}

/// One word, phrase, range or set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueryLeaf {
    /// Where it begins: the number of its first character, from 1.
    pub(crate) position: usize,
    /// The field's name, of an attribute its path; `None` for a bare word.
    pub(crate) field: Option<String>,
    pub(crate) value: LeafValue,
}

/// What a leaf asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LeafValue {
    /// `*`: any document, or any with a value of the field.
    Anything,
    /// A word as it was typed, perhaps with wildcards.
    Word(Vec<WordChar>),
    /// A word with at most this number of edits.
    Fuzzy { word: String, edits: usize },
    /// Words side by side, or an exact value.
    Phrase { text: String, slop: u32, is_prefix: bool },
    /// What lies between two bounds.
    Range { lower: Bound<String>, upper: Bound<String> },
    /// Any of these phrases or values.
    Set(Vec<String>),
}

/// A character of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordChar {
    Text(char),
    /// `*`
    AnyText,
    /// `?`
    AnyChar,
}

impl QueryNode {
    /// Whether any part of it names a field.
    pub(crate) fn has_field(&self) -> bool {
        match self {
            Self::AllOf(parts) | Self::AnyOf(parts) => parts.iter().any(Self::has_field),
            Self::Not(part) | Self::Boosted(part, _) => part.has_field(),
            Self::Leaf(leaf) => leaf.field.is_some(),
        }
    }
}

impl QueryLeaf {
    /// The one value that it asks for, if it is neither a pattern nor several.
    pub(crate) fn plain_text(&self) -> Option<String> {
        match &self.value {
            LeafValue::Word(word) => text_of(word),
            LeafValue::Phrase { text, slop: 0, is_prefix: false } => Some(text.clone()),
            _ => None,
        }
    }

    /// A pattern as it was typed; `None` for anything else.
    pub(crate) fn pattern_text(&self) -> Option<String> {
        match &self.value {
            LeafValue::Word(word) => Some(typed_word(word)).filter(|_| text_of(word).is_none()),
            LeafValue::Phrase { text, is_prefix: true, .. } => Some(format!("{text}*")),
            LeafValue::Fuzzy { word, .. } => Some(word.clone()),
            _ => None,
        }
    }

    /// The refusal of the query at this leaf.
    pub(crate) fn refusal(&self, why: impl Into<String>) -> QueryRefusal {
        QueryRefusal { position: self.position, why: why.into() }
    }

    /// What was typed, as messages name it.
    pub(crate) fn typed(&self) -> String {
        let text = match &self.value {
            LeafValue::Word(word) => typed_word(word),
            LeafValue::Fuzzy { word, edits } => format!("{word}~{edits}"),
            LeafValue::Phrase { text, .. } => text.clone(),
            LeafValue::Anything => "*".to_owned(),
            LeafValue::Range { .. } => "the range".to_owned(),
            LeafValue::Set(_) => "the set".to_owned(),
        };
        format!("position {}: \"{text}\"", self.position)
    }
}

/// A word as it was typed.
pub(crate) fn typed_word(word: &[WordChar]) -> String {
    let char = |part: &WordChar| match part {
        WordChar::Text(char) => *char,
        WordChar::AnyText => '*',
        WordChar::AnyChar => '?',
    };
    word.iter().map(char).collect()
}

/// The text of a word without wildcards.
pub(crate) fn text_of(word: &[WordChar]) -> Option<String> {
    let char = |part: &WordChar| match part {
        WordChar::Text(char) => Some(*char),
        WordChar::AnyText | WordChar::AnyChar => None,
    };
    word.iter().map(char).collect()
}

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {position}: {why}")]
pub(crate) struct QueryRefusal {
    /// The number of the character at fault, from 1.
    pub(crate) position: usize,
    pub(crate) why: String,
}
