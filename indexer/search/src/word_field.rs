//! The words of a leaf in one field: side by side, by a prefix, a wildcard or edits; and patterns of whole values.

use tantivy::{
    Term,
    query::{Query, TermQuery},
    schema::IndexRecordOption,
    tokenizer::TextAnalyzer,
};

use super::{
    boolean_queries::LeafQuery,
    excludable_phrase::ExcludablePhraseQuery,
    query_tree::{LeafValue, QueryLeaf, QueryRefusal, WordChar, text_of, typed_word},
    wildcard_pattern::{WildcardPart, WildcardPattern},
    wildcard_query::{PhraseStart, WildcardPlace},
};
use crate::segment::{MAX_WORD_BYTES, has_long_word, is_paired, is_word_char, is_word_mark};

/// How many letters and wildcards the part of a pattern may have that is compared with terms.
const MAX_WILDCARD_CHARS: usize = 128;

/// What a leaf finds in one field of words.
pub(crate) enum WordMatch {
    /// Nothing to search for.
    Nothing,
    Query(Box<dyn Query>),
    Wildcard(WildcardPlace),
}

impl WordMatch {
    pub(crate) fn of(query: Option<Box<dyn Query>>) -> Self {
        query.map_or(Self::Nothing, Self::Query)
    }
}

/// A field of words, or an attribute, in which the words of a leaf are looked up.
pub(crate) struct WordPlace {
    /// Makes the words of the place.
    pub(crate) tokens: TextAnalyzer,
    /// Makes words as they are.
    pub(crate) exact_tokens: TextAnalyzer,
    /// A term of the place without its text.
    pub(crate) head: Term,
    /// The same of the words as they are.
    pub(crate) exact: Term,
}

impl WordPlace {
    pub(crate) fn words(&self, leaf: &QueryLeaf) -> Result<WordMatch, QueryRefusal> {
        match &leaf.value {
            LeafValue::Word(word) => match text_of(word) {
                Some(text) => self.phrase(leaf, &text, 0).map(WordMatch::of),
                None => self.pattern(leaf, word),
            },
            LeafValue::Fuzzy { word, edits } => {
                check_words(leaf, word)?;
                let tokens = tokens_of(&self.exact_tokens, word);
                if tokens.iter().any(|(_, word)| word.contains(is_paired)) {
                    return Err(leaf.refusal(format!("\"{word}\" has \"~\", and {IN_PAIRS}; leave \"~\" out")));
                }
                let [(_, only)] = tokens.as_slice() else {
                    return Err(leaf.refusal(format!(
                        "\"~\" needs one word before it, and \"{word}\" is {}; put quotes around it",
                        tokens.len()
                    )));
                };
                let pattern = WildcardPattern::Fuzzy { word: only.chars().collect(), edits: *edits };
                Ok(WordMatch::Wildcard(self.pattern_place(pattern, None)))
            }
            LeafValue::Phrase { text, slop, is_prefix: false } => self.phrase(leaf, text, *slop).map(WordMatch::of),
            LeafValue::Phrase { text, .. } => {
                let word: Vec<WordChar> = text.chars().map(WordChar::Text).chain([WordChar::AnyText]).collect();
                self.pattern(leaf, &word)
            }
            LeafValue::Anything | LeafValue::Range { .. } | LeafValue::Set(_) => Ok(WordMatch::Nothing),
        }
    }

    fn pattern_place(&self, pattern: WildcardPattern, phrase: Option<PhraseStart>) -> WildcardPlace {
        WildcardPlace { field: self.exact.field(), path: key_of(&self.exact), pattern, phrase }
    }

    /// The words of `text` side by side.
    pub(crate) fn phrase(&self, leaf: &QueryLeaf, text: &str, slop: u32) -> LeafQuery {
        check_words(leaf, text)?;
        Ok(phrase_of(self.terms(text), slop))
    }

    /// The terms of a text with their positions.
    fn terms(&self, text: &str) -> Vec<(usize, Term)> {
        let tokens = tokens_of(&self.tokens, text).into_iter();
        tokens.map(|(position, text)| (position, with_text(&self.head, &text))).collect()
    }

    /// A word or phrase that ends with a pattern.
    fn pattern(&self, leaf: &QueryLeaf, word: &[WordChar]) -> Result<WordMatch, QueryRefusal> {
        let shown = typed_word(word);
        let first_char = word.iter().find(|part| **part != WordChar::AnyChar);
        let begins_word = matches!(first_char, Some(WordChar::Text(char)) if char.is_alphanumeric());
        if begins_word && word[0] == WordChar::AnyChar {
            return Err(begins_with_wildcard(leaf, &shown));
        }
        let word = without_questions(word);
        let (text, pattern) = split_at_wildcard(&word);
        if pattern.is_empty() {
            return self.phrase(leaf, &text, 0).map(WordMatch::of);
        }
        check_words(leaf, &text)?;
        let is_prefix = pattern == [WordChar::AnyText];
        let touches = text.chars().rfind(|char| !is_word_mark(*char)).is_some_and(char::is_alphanumeric);
        let mut exact = tokens_of(&self.exact_tokens, &text);
        let is_paired_end = touches && exact.last().is_some_and(|(_, word)| word.ends_with(is_paired));
        // A character more or none, of text that is found by its parts.
        let is_question = is_paired_end && pattern.iter().all(|part| *part == WordChar::AnyChar);
        if is_question || (!touches && is_prefix && !exact.is_empty()) {
            return self.phrase(leaf, &text, 0).map(WordMatch::of);
        }
        let in_pairs = || {
            let why = format!("\"{shown}\" has a wildcard, and {IN_PAIRS}; leave the wildcard out, or end with \"*\"");
            leaf.refusal(why)
        };
        if is_paired_end && !is_prefix {
            return Err(in_pairs());
        }
        let Some((position, start)) = exact.pop().filter(|_| touches) else {
            return Err(begins_with_wildcard(leaf, &shown));
        };
        let pattern = if is_prefix {
            WildcardPattern::Prefix(start)
        } else {
            let parts = self.parts(pattern).ok_or_else(|| {
                leaf.refusal(format!("\"{shown}\" has signs after a wildcard, so that it is several words; put quotes around text, and blanks between words"))
            })?;
            if parts.iter().any(|part| matches!(part, WildcardPart::Char(char) if is_paired(*char))) {
                return Err(in_pairs());
            }
            check_length(leaf, start.chars().count() + parts.len())?;
            WildcardPattern::Wildcard { start, parts }
        };
        let mut words = self.terms(&text);
        words.retain(|(at, _)| *at < position);
        let phrase = (!words.is_empty()).then(|| PhraseStart {
            words,
            position,
            last: self.head.clone(),
            stems: (self.head.field() != self.exact.field()).then(|| self.tokens.clone()),
        });
        Ok(WordMatch::Wildcard(self.pattern_place(pattern, phrase)))
    }

    /// The parts of a pattern, folded as words are; `None` if it is more than one word.
    fn parts(&self, pattern: &[WordChar]) -> Option<Vec<WildcardPart>> {
        let mut parts = Vec::new();
        let mut at = 0;
        while at < pattern.len() {
            match pattern[at] {
                WordChar::AnyText | WordChar::AnyChar => {
                    parts.push(wildcard_part(pattern, at));
                    at += 1;
                }
                WordChar::Text(_) if is_of_word(pattern[at]) => {
                    // Folded with its marks: a letter and a mark may be another letter, such as `й`.
                    let marks = pattern[at + 1..].iter().take_while(|part| is_mark(**part)).count();
                    let letter = text_of(&pattern[at..=at + marks]).unwrap_or_default();
                    let folded = tokens_of(&self.exact_tokens, &letter);
                    parts.extend(folded.iter().flat_map(|(_, text)| text.chars()).map(WildcardPart::Char));
                    at += 1 + marks;
                }
                WordChar::Text(_) => return None,
            }
        }
        Some(parts)
    }
}

/// Why there are no wildcards in some scripts.
const IN_PAIRS: &str = "Chinese, Japanese and Korean are found by any part of the text";

fn begins_with_wildcard(leaf: &QueryLeaf, shown: &str) -> QueryRefusal {
    leaf.refusal(format!(
        "\"{shown}\" begins with a wildcard, which would read every word; put letters before it, or quotes around text"
    ))
}

/// Refuses text with a word that no index has.
fn check_words(leaf: &QueryLeaf, text: &str) -> Result<(), QueryRefusal> {
    if !has_long_word(text) {
        return Ok(());
    }
    let why = format!(
        "the word is longer than {MAX_WORD_BYTES} bytes, and such words are not indexed; search for another part"
    );
    Err(leaf.refusal(why))
}

pub(crate) fn check_length(leaf: &QueryLeaf, chars: usize) -> Result<(), QueryRefusal> {
    if chars <= MAX_WILDCARD_CHARS {
        return Ok(());
    }
    let why = format!(
        "a word with wildcards or \"~\" has at most {MAX_WILDCARD_CHARS} characters; type its beginning and \"*\""
    );
    Err(leaf.refusal(why))
}

/// A word in which a question mark after what is no letter, or within an address, is a sign as others are; without signs at its
/// end.
fn without_questions(word: &[WordChar]) -> Vec<WordChar> {
    let mut word = word.to_vec();
    let is_address = typed_word(&word).contains("://");
    for at in 0..word.len() {
        let after_word = at > 0 && is_of_word(word[at - 1]);
        if word[at] == WordChar::AnyChar && (is_address || !after_word) {
            word[at] = WordChar::Text('?');
        }
    }
    while word.last().is_some_and(|last| !is_of_word(*last)) {
        word.pop();
    }
    word
}

/// The text before the first wildcard, and what follows it.
fn split_at_wildcard(word: &[WordChar]) -> (String, &[WordChar]) {
    let first = word.iter().position(|part| !matches!(part, WordChar::Text(_))).unwrap_or(word.len());
    let (text, pattern) = word.split_at(first);
    (text_of(text).unwrap_or_default(), pattern)
}

/// A pattern of whole values: case and signs count.
pub(crate) fn exact_pattern(leaf: &QueryLeaf, word: &[WordChar]) -> Result<WildcardPattern, QueryRefusal> {
    let (start, pattern) = split_at_wildcard(word);
    if start.is_empty() {
        let why = format!(
            "\"{}\" begins with a wildcard, which would read every value; put text before it, or quotes around it",
            typed_word(word)
        );
        return Err(leaf.refusal(why));
    }
    if pattern == [WordChar::AnyText] {
        return Ok(WildcardPattern::Prefix(start));
    }
    check_length(leaf, word.len())?;
    let parts = (0..pattern.len()).map(|at| wildcard_part(pattern, at)).collect();
    Ok(WildcardPattern::Wildcard { start, parts })
}

/// What the character at `at` of a pattern stands for.
fn wildcard_part(pattern: &[WordChar], at: usize) -> WildcardPart {
    match pattern[at] {
        WordChar::Text(char) => WildcardPart::Char(char),
        WordChar::AnyText => WildcardPart::Many,
        WordChar::AnyChar if pattern[at..].iter().all(|part| *part == WordChar::AnyChar) => WildcardPart::OneOrNone,
        WordChar::AnyChar => WildcardPart::One,
    }
}

fn is_mark(part: WordChar) -> bool {
    matches!(part, WordChar::Text(char) if is_word_mark(char))
}

/// Whether a character is part of a word, or a wildcard.
fn is_of_word(part: WordChar) -> bool {
    match part {
        WordChar::Text(char) => is_word_char(char),
        WordChar::AnyText | WordChar::AnyChar => true,
    }
}

fn phrase_of(mut terms: Vec<(usize, Term)>, slop: u32) -> Option<Box<dyn Query>> {
    match terms.len() {
        0 => None,
        1 => Some(Box::new(TermQuery::new(terms.remove(0).1, IndexRecordOption::WithFreqs))),
        _ => Some(Box::new(ExcludablePhraseQuery::new(terms, slop))),
    }
}

/// The words of a text with their positions.
fn tokens_of(analyzer: &TextAnalyzer, text: &str) -> Vec<(usize, String)> {
    let mut analyzer = analyzer.clone();
    let mut tokens = Vec::new();
    analyzer.token_stream(text).process(&mut |token| tokens.push((token.position, token.text.clone())));
    tokens
}

fn with_text(head: &Term, text: &str) -> Term {
    let mut term = head.clone();
    term.append_bytes(text.as_bytes());
    term
}

/// What the keys of a place's terms begin with.
fn key_of(head: &Term) -> Vec<u8> {
    head.serialized_value_bytes().to_vec()
}
