//! Values of fields that are searched by the whole value: which of them no document can have, and how else a value may be spelled.

use std::collections::BTreeSet;

use tidemark_wal::{Evidence, OperationKind, Outcome, Token};
use unicode_normalization::UnicodeNormalization as _;

use super::query_tree::{QueryLeaf, QueryRefusal, WordChar, text_of};

/// Fields of which an operation has any number of values.
const FIELDS_OF_MANY: [&str; 4] = ["contributor", "email", "parents", "file"];
/// How long a KSUID is.
const KSUID_DIGITS: usize = 27;

/// Refuses a word without quotes that other languages read as several values, as a pattern or as a regular expression.
pub(crate) fn check_unquoted(leaf: &QueryLeaf, name: &str, word: &str) -> Result<(), QueryRefusal> {
    let is_regex = word.len() > 2 && word.starts_with('/') && word.ends_with('/');
    let sign = if is_regex {
        Some("/")
    } else {
        [",", ";", "|", "%", "^", "\"", ".."].into_iter().find(|sign| word.contains(sign))
    };
    match sign {
        None => Ok(()),
        Some(sign) => Err(leaf.refusal(format!(
            "\"{word}\" has \"{sign}\" in it, and \"{name}\" is compared with whole values: write {name}:(a OR b) for any of several, {name}:a* for a beginning, {name}:[a TO b] for a range, and quotes around a value with signs"
        ))),
    }
}

/// Refuses a value that no operation can have.
pub(crate) fn check_possible(leaf: &QueryLeaf, name: &str, text: &str) -> Result<(), QueryRefusal> {
    let why = match name {
        "kind" => text.parse::<OperationKind>().err().map(|error| error.to_string()),
        "outcome" => not_one_of(text, &Outcome::ALL.map(Outcome::as_str)),
        "evidence" => not_one_of(text, &[Evidence::Bound, Evidence::Timed, Evidence::Inferred].map(Evidence::as_str)),
        "token" => text.parse::<Token>().err().map(|_| {
            format!("\"{text}\" is not a token, which has {KSUID_DIGITS} letters and digits; write token:begin* for its beginning, and time: for when it was made")
        }),
        _ => None,
    };
    why.map_or(Ok(()), |why| Err(leaf.refusal(why)))
}

fn not_one_of(text: &str, values: &[&str]) -> Option<String> {
    (!values.contains(&text)).then(|| format!("\"{text}\" is none of the values: {}", values.join(", ")))
}

/// Refuses two values of a field of which an operation has one, where `differ` says of a field that none has both.
pub(crate) fn check_single<'a>(
    leaves: impl Iterator<Item = &'a QueryLeaf>,
    differ: impl Fn(&str, &str, &str) -> bool,
) -> Result<(), QueryRefusal> {
    let mut seen: Vec<(&str, String)> = Vec::new();
    for leaf in leaves {
        let (Some(name), Some(text)) = (leaf.field.as_deref(), leaf.plain_text()) else { continue };
        if FIELDS_OF_MANY.contains(&name) {
            continue;
        }
        if let Some((_, other)) = seen.iter().find(|(seen, other)| *seen == name && differ(name, other, &text)) {
            let why =
                format!("nothing has two values of \"{name}\"; write {name}:(\"{other}\" OR \"{text}\") for either");
            return Err(leaf.refusal(why));
        }
        seen.push((name, text));
    }
    Ok(())
}

/// How a value may be stored: as it was typed, or composed or not with either apostrophe. Keyboards differ in both.
const SPELLINGS: [fn(&str) -> String; 5] = [
    str::to_owned,
    |text| with_apostrophe(text, "'").nfc().collect(),
    |text| with_apostrophe(text, "'").nfd().collect(),
    |text| with_apostrophe(text, "\u{2019}").nfc().collect(),
    |text| with_apostrophe(text, "\u{2019}").nfd().collect(),
];

fn with_apostrophe(text: &str, apostrophe: &str) -> String {
    text.replace(['\'', '\u{2019}'], apostrophe)
}

/// A value as it may be stored.
pub(crate) fn spellings(text: &str) -> BTreeSet<String> {
    SPELLINGS.iter().map(|spelling| spelling(text)).collect()
}

/// The same of a value with wildcards.
pub(crate) fn pattern_spellings(word: &[WordChar]) -> Vec<Vec<WordChar>> {
    let mut spelled: Vec<Vec<WordChar>> = Vec::new();
    for spelling in SPELLINGS {
        let part = |part: &[WordChar]| match text_of(part) {
            Some(text) => spelling(&text).chars().map(WordChar::Text).collect(),
            None => part.to_vec(),
        };
        let is_text = |char: &WordChar| matches!(char, WordChar::Text(_));
        let word = word.chunk_by(|one, next| is_text(one) == is_text(next)).flat_map(part).collect();
        if !spelled.contains(&word) {
            spelled.push(word);
        }
    }
    spelled
}

/// Whether a word is the id of a token or bundle, as Datamon makes them.
pub(crate) fn is_ksuid(word: &str) -> bool {
    word.len() == KSUID_DIGITS && word.parse::<Token>().is_ok()
}
