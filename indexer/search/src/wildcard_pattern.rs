//! Which terms of a dictionary a prefix, a wildcard or a fuzzy word stands for.

use std::{cmp::min, mem::swap};

use super::term_scan::KeyRange;

/// What terms are asked for. Only a part of a dictionary is read for them: its [`keys`](WildcardPattern::keys).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WildcardPattern {
    /// Those that begin so.
    Prefix(String),
    /// Those that consist of these parts after a text that is not empty.
    Wildcard { start: String, parts: Vec<WildcardPart> },
    /// Those that differ by at most `edits` edits, and not in the first letter. An edit inserts, removes or replaces a letter, or
    /// swaps two neighbours.
    Fuzzy { word: Vec<char>, edits: usize },
}

/// A part of a word with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WildcardPart {
    Char(char),
    /// `?`
    One,
    /// `?` at the end: questions end so.
    OneOrNone,
    /// `*`
    Many,
}

impl WildcardPattern {
    /// Where its terms lie in a dictionary whose keys begin with `path`.
    pub(crate) fn keys(&self, path: &[u8]) -> KeyRange {
        let start = match self {
            Self::Prefix(start) | Self::Wildcard { start, .. } => start.clone(),
            Self::Fuzzy { word, .. } => word.iter().take(1).collect(),
        };
        KeyRange::beginning_with([path, start.as_bytes()].concat())
    }

    /// Whether a term between the keys is meant.
    pub(crate) fn matches(&self, term: &str) -> bool {
        match self {
            Self::Prefix(start) => term.starts_with(start.as_str()),
            Self::Wildcard { start, parts } => {
                term.strip_prefix(start.as_str()).is_some_and(|rest| matches_parts(rest, parts))
            }
            Self::Fuzzy { word, edits } => is_within(word, term, *edits),
        }
    }
}

/// Follows all ways through the parts at once: `reached[n]` is whether the text so far is parts 0 to n.
fn matches_parts(text: &str, parts: &[WildcardPart]) -> bool {
    let skip = |reached: &mut [bool]| {
        for (at, part) in parts.iter().enumerate() {
            let can_be_empty = matches!(part, WildcardPart::Many | WildcardPart::OneOrNone);
            reached[at + 1] |= reached[at] && can_be_empty;
        }
    };
    let mut reached = vec![false; parts.len() + 1];
    let mut next = reached.clone();
    reached[0] = true;
    skip(&mut reached);
    for char in text.chars() {
        next.fill(false);
        for (at, part) in parts.iter().enumerate() {
            match part {
                WildcardPart::Char(wanted) => next[at + 1] |= reached[at] && *wanted == char,
                WildcardPart::One | WildcardPart::OneOrNone => next[at + 1] |= reached[at],
                WildcardPart::Many => next[at + 1] |= reached[at] || reached[at + 1],
            }
        }
        skip(&mut next);
        swap(&mut reached, &mut next);
    }
    reached[parts.len()]
}

/// Whether `term` is `word` after at most `edits` edits, by the table of all their beginnings.
fn is_within(word: &[char], term: &str, edits: usize) -> bool {
    // The longest character has four bytes.
    if term.len() > 4 * (word.len() + edits) {
        return false;
    }
    let term: Vec<char> = term.chars().collect();
    if term.first() != word.first() || term.len().abs_diff(word.len()) > edits {
        return false;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=word.len()).collect();
    for at in 1..=term.len() {
        let mut row = vec![at];
        for place in 1..=word.len() {
            let replaced = last[place - 1] + usize::from(term[at - 1] != word[place - 1]);
            let mut least = min(replaced, min(last[place], row[place - 1]) + 1);
            if at > 1 && place > 1 && term[at - 1] == word[place - 2] && term[at - 2] == word[place - 1] {
                least = min(least, before[place - 2] + 1);
            }
            row.push(least);
        }
        // No further row has less: a swap adds one to the row before this one, which has one less at most.
        if row.iter().all(|so_far| *so_far > edits) {
            return false;
        }
        before = std::mem::replace(&mut last, row);
    }
    last[word.len()] <= edits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wildcard(start: &str, rest: &str) -> WildcardPattern {
        let part = |char| match char {
            '?' => WildcardPart::One,
            '!' => WildcardPart::OneOrNone,
            '*' => WildcardPart::Many,
            other => WildcardPart::Char(other),
        };
        WildcardPattern::Wildcard { start: start.to_owned(), parts: rest.chars().map(part).collect() }
    }

    #[test]
    fn wildcards_stand_for_what_they_should() {
        for (start, rest, found, missed) in [
            ("te", "?t", vec!["test", "text", "teét"], vec!["tet", "tests", "te"]),
            ("col", "*r", vec!["color", "colour", "colr"], vec!["cool", "col", "colors"]),
            ("a", "*b*c", vec!["abc", "axbxc", "abbcc"], vec!["ac", "acb"]),
            ("v", "!", vec!["v", "v1"], vec!["v12"]),
        ] {
            let pattern = wildcard(start, rest);
            assert!(found.iter().all(|term| pattern.matches(term)), "{start}{rest}");
            assert!(!missed.iter().any(|term| pattern.matches(term)), "{start}{rest}");
        }
    }

    #[test]
    fn fuzzy_words_differ_by_a_few_letters() {
        let fuzzy = |word: &str, edits| WildcardPattern::Fuzzy { word: word.chars().collect(), edits };
        for term in ["migration", "migraton", "migratoon", "migraotn", "migrato"] {
            assert!(fuzzy("migraton", 1).matches(term), "{term}");
        }
        assert!(!fuzzy("migraton", 1).matches("migrations") && fuzzy("migraton", 2).matches("migrations"));
        assert!(!fuzzy("migraton", 2).matches("nigraton"), "the first letter stands");
    }

    /// The fewest edits between two words, by trying all, swaps of neighbours that are not edited otherwise among them.
    fn naive_edits(one: &[char], other: &[char]) -> usize {
        let ([first, rest @ ..], [other_first, other_rest @ ..]) = (one, other) else { return one.len() + other.len() };
        let mut least = naive_edits(rest, other_rest) + usize::from(first != other_first);
        least = least.min(naive_edits(rest, other) + 1).min(naive_edits(one, other_rest) + 1);
        if let ([second, rest @ ..], [other_second, other_rest @ ..]) = (rest, other_rest)
            && (first, second) == (other_second, other_first)
        {
            least = least.min(naive_edits(rest, other_rest) + 1);
        }
        least
    }

    proptest! {
        #[test]
        fn a_fuzzy_word_is_what_all_ways_of_editing_say(word in "a[abc]{0,5}", term in "a[abc]{0,5}", edits in 0usize..3) {
            let (word, chars): (Vec<char>, Vec<char>) = (word.chars().collect(), term.chars().collect());
            prop_assert_eq!(is_within(&word, &term, edits), naive_edits(&word, &chars) <= edits);
        }

        #[test]
        fn a_wildcard_is_what_a_regular_expression_is(start in "[ab]", rest in "[ab?*]{0,6}", term in "[ab]{0,8}") {
            let written = format!("^{start}{}$", rest.replace('?', ".").replace('*', ".*"));
            prop_assert_eq!(wildcard(&start, &rest).matches(&term), regex_matches(&written, &term));
        }
    }

    /// A naive matcher of `^`, `$`, `.` and `.*`.
    fn regex_matches(regex: &str, text: &str) -> bool {
        fn rest(regex: &[u8], text: &[u8]) -> bool {
            match regex {
                [] => text.is_empty(),
                [b'.', b'*', after @ ..] => (0..=text.len()).any(|skipped| rest(after, &text[skipped..])),
                [char, after @ ..] => text
                    .split_first()
                    .is_some_and(|(first, text)| (*char == b'.' || char == first) && rest(after, text)),
            }
        }
        rest(regex.trim_matches(['^', '$']).as_bytes(), text.as_bytes())
    }
}
