//! Where the words of a query stand in a hit: parts of its texts as HTML.
//!
//! Tantivy's snippets are of no use here: they need the offsets of words in a text, and our words are of the folded text, which
//! has other lengths. So each word of a text is looked at by itself: it is marked if the tokenizer makes a word of it that the
//! query asks for.

use std::{collections::BTreeMap, ops::Range};

use serde_json::Value;
use tantivy::{
    Term,
    query::{BooleanQuery, Occur, Query},
    schema::Field,
    tokenizer::TextAnalyzer,
};
use tidemark_ingest::OperationRecord;
use tidemark_wal::OperationKind;
use unicode_normalization::char::is_combining_mark;

use super::{
    api::{MAX_HIGHLIGHT_CHARS, MAX_HIGHLIGHTED_FIELDS},
    pattern_query::{PatternPlace, PatternQuery},
    term_pattern::TermPattern,
};
use crate::segment::{ENGLISH, SchemaFields, WORDS, entry_text, is_paired, query_tokenizers};

/// How much of a text is looked at, in bytes.
const MAX_READ_BYTES: usize = 16 * 1024;
/// How many characters a part begins before its first marked word, at most.
const CHARS_BEFORE: usize = 40;

/// Finds the words of one query in hits.
pub(crate) struct HitHighlighter<'a> {
    fields: &'a SchemaFields,
    words: TextAnalyzer,
    stems: TextAnalyzer,
    /// What is asked of each field of words.
    wanted: BTreeMap<Field, WantedWords>,
    /// What is asked of attributes: field and path.
    attributes: BTreeMap<(Field, String), WantedWords>,
}

/// The words that a query asks for in one place.
#[derive(Debug, Default)]
struct WantedWords {
    words: Vec<String>,
    patterns: Vec<TermPattern>,
}

impl WantedWords {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|wanted| wanted == word) || self.patterns.iter().any(|pattern| pattern.matches(word))
    }
}

impl<'a> HitHighlighter<'a> {
    pub(crate) fn new(query: &dyn Query, fields: &'a SchemaFields) -> Self {
        let tokenizers = query_tokenizers();
        let analyzer = |name| tokenizers.get(name).unwrap_or_default();
        let (words, stems) = (analyzer(WORDS), analyzer(ENGLISH));
        let mut highlighter = Self { fields, words, stems, wanted: BTreeMap::new(), attributes: BTreeMap::new() };
        highlighter.collect(query);
        highlighter
    }

    /// Adds what a query looks for, but for what must not be there.
    fn collect(&mut self, query: &dyn Query) {
        if let Some(query) = query.downcast_ref::<BooleanQuery>() {
            let parts = query.clauses().iter().filter(|(occur, _)| *occur != Occur::MustNot);
            for (_, part) in parts {
                self.collect(part.as_ref());
            }
        } else if let Some(query) = query.downcast_ref::<PatternQuery>() {
            for PatternPlace { field, path, pattern, phrase } in query.places() {
                for (_, term) in phrase.iter().flat_map(|phrase| &phrase.words) {
                    self.add_term(term);
                }
                // The others are asked of what is only to exist, or to lie between two values.
                if !matches!(pattern, TermPattern::Any | TermPattern::Between { .. }) {
                    self.place(*field, path).patterns.push(pattern.clone());
                }
            }
        } else {
            let mut terms = Vec::new();
            query.query_terms(&mut |term, _| terms.push(term.clone()));
            for term in &terms {
                self.add_term(term);
            }
        }
    }

    fn add_term(&mut self, term: &Term) {
        let key = term.serialized_value_bytes();
        let is_attribute = self.fields.schema.get_field_entry(term.field()).field_type().is_json();
        // A path ends with a zero byte and the type of the value, which is text here.
        let at = if is_attribute { key.windows(2).position(|end| end == b"\0s").map(|at| at + 2) } else { Some(0) };
        let Some((path, word)) = at.map(|at| key.split_at(at)) else { return };
        if let Ok(word) = std::str::from_utf8(word) {
            self.place(term.field(), path).words.push(word.to_owned());
        }
    }

    fn place(&mut self, field: Field, path: &[u8]) -> &mut WantedWords {
        match path.split(|byte| *byte == 0).next() {
            None | Some([]) => self.wanted.entry(field).or_default(),
            Some(path) => {
                let path = String::from_utf8_lossy(path).replace('\u{1}', ".");
                self.attributes.entry((field, path)).or_default()
            }
        }
    }

    /// The fields of a record in which words of the query stand, each with the part of its text that has most of them.
    pub(crate) fn highlights(&self, record: &OperationRecord) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        let mut add = |name: &str, snippet: Option<String>| {
            if let Some(snippet) = snippet.filter(|_| found.len() < MAX_HIGHLIGHTED_FIELDS) {
                found.entry(name.to_owned()).or_insert_with(|| vec![snippet]);
            }
        };
        let fields = self.fields;
        let entry = (record.kind == OperationKind::Entry).then(|| entry_text(&record.payload));
        add("message", record.message.as_deref().and_then(|text| self.in_message(text)));
        add("text", record.text.as_deref().or(entry.as_deref()).and_then(|text| self.in_words(fields.text, text)));
        for ((field, path), wanted) in &self.attributes {
            let (name, value) = if *field == fields.payload {
                ("payload", &record.payload)
            } else {
                ("descriptor", &record.descriptor)
            };
            let mut texts = Vec::new();
            texts_at(value, path, &mut texts);
            let snippet = texts.into_iter().find_map(|text| Self::snippet(text, &[(&self.words, wanted)]));
            add(&format!("{name}.{path}"), snippet);
        }
        for person in &record.contributors {
            let text = format!("{} {}", person.name, person.email);
            add("contributors", self.in_words(fields.contributors, text.trim()));
        }
        for (name, text) in [("repo", &record.repo), ("label", &record.label), ("context", &record.context)] {
            add(name, text.as_deref().and_then(|text| self.in_words(fields.names, text)));
        }
        for (name, field, text) in [("path", fields.path, &record.path), ("reason", fields.reason, &record.reason)] {
            add(name, text.as_deref().and_then(|text| self.in_words(field, text)));
        }
        found
    }

    /// Messages are searched by stems, and patterns in their words as they are.
    fn in_message(&self, text: &str) -> Option<String> {
        let places = [(&self.stems, self.fields.message), (&self.words, self.fields.message_words)];
        let wanted: Vec<_> =
            places.into_iter().filter_map(|(words, field)| Some((words, self.wanted.get(&field)?))).collect();
        Self::snippet(text, &wanted)
    }

    fn in_words(&self, field: Field, text: &str) -> Option<String> {
        Self::snippet(text, &[(&self.words, self.wanted.get(&field)?)])
    }

    fn snippet(text: &str, wanted: &[(&TextAnalyzer, &WantedWords)]) -> Option<String> {
        let mut marks: Vec<Range<usize>> = Vec::new();
        let mut wanted: Vec<_> = wanted.iter().map(|(analyzer, wanted)| ((*analyzer).clone(), *wanted)).collect();
        let read = &text[..text.floor_char_boundary(MAX_READ_BYTES)];
        for place in word_places(read) {
            let is_wanted = wanted.iter_mut().any(|(analyzer, wanted)| {
                let mut tokens = analyzer.token_stream(&read[place.clone()]);
                std::iter::from_fn(|| tokens.advance().then(|| tokens.token().text.clone()))
                    .any(|word| wanted.has(&word))
            });
            match marks.last_mut() {
                _ if !is_wanted => {}
                Some(last) if place.start < last.end => last.end = last.end.max(place.end),
                _ => marks.push(place),
            }
        }
        (!marks.is_empty()).then(|| marked(read, &marks))
    }
}

/// The words of a text, in its order. Of a run of characters that are words by themselves, those alone and the pairs.
fn word_places(text: &str) -> Vec<Range<usize>> {
    let is_of_word = |char: char| char.is_alphanumeric() || is_combining_mark(char) || is_invisible(char);
    let mut places: Vec<Range<usize>> = Vec::new();
    let mut last: Option<char> = None;
    for (at, char) in text.char_indices() {
        let end = at + char.len_utf8();
        let (mark, paired) = (is_combining_mark(char) || is_invisible(char), is_paired(char));
        let goes_on = last.is_some_and(|last| mark || (is_of_word(char) && !paired && !is_paired(last)));
        if goes_on {
            if let Some(place) = places.last_mut() {
                place.end = end;
            }
        } else if char.is_alphanumeric() {
            if paired && let Some(place) = places.last().filter(|_| last.is_some_and(is_paired)) {
                // The pair stands after its first character.
                let pair = place.start..end;
                places.push(pair);
            }
            places.push(at..end);
        }
        if !mark {
            last = is_of_word(char).then_some(char);
        }
    }
    places
}

/// Characters within words that nobody sees.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{fe00}'..='\u{fe0f}')
}

/// The texts of an attribute. Names with dots are paths too.
fn texts_at<'v>(value: &'v Value, path: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) if path.is_empty() => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts_at(item, path, found)),
        Value::Object(attributes) => {
            for (name, item) in attributes {
                let rest = path.strip_prefix(name.as_str());
                if let Some(rest) =
                    rest.and_then(|rest| if rest.is_empty() { Some("") } else { rest.strip_prefix('.') })
                {
                    texts_at(item, rest, found);
                }
            }
        }
        _ => {}
    }
}

/// The part of a text with most of the marks, as HTML.
fn marked(text: &str, marks: &[Range<usize>]) -> String {
    let part = best_part(text, marks);
    let mut html = String::new();
    if part.start > 0 {
        html.push('…');
    }
    let mut at = part.start;
    for mark in marks.iter().filter(|mark| mark.start >= part.start && mark.end <= part.end) {
        escape(&text[at..mark.start], &mut html);
        html.push_str("<mark>");
        escape(&text[mark.clone()], &mut html);
        html.push_str("</mark>");
        at = mark.end;
    }
    escape(&text[at..part.end], &mut html);
    if part.end < text.len() {
        html.push('…');
    }
    html
}

/// At most [`MAX_HIGHLIGHT_CHARS`] of a text.
fn best_part(text: &str, marks: &[Range<usize>]) -> Range<usize> {
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let chars = ends.len() - 1;
    if chars <= MAX_HIGHLIGHT_CHARS {
        return 0..text.len();
    }
    let char_at = |byte: usize| ends.partition_point(|at| *at < byte);
    let within = MAX_HIGHLIGHT_CHARS - CHARS_BEFORE;
    let count_from = |first: usize| {
        let limit = char_at(marks[first].start) + within;
        marks[first..].iter().take_while(|mark| char_at(mark.end) <= limit).count()
    };
    // Of parts with as many marks the first one.
    let mut best = (0, 0);
    for first in 0..marks.len() {
        let count = count_from(first);
        if count > best.1 {
            best = (first, count);
        }
    }
    let first = char_at(marks[best.0].start);
    let start = first.saturating_sub(CHARS_BEFORE).min(chars - MAX_HIGHLIGHT_CHARS);
    let (from, to) = (ends[start], ends[start + MAX_HIGHLIGHT_CHARS]);
    // Not in the middle of a word, where there is a blank before the first mark.
    let blank = if from == 0 { None } else { text[from..ends[first]].find(char::is_whitespace) };
    let from = blank.map_or(from, |blank| from + blank);
    text[from..].char_indices().find(|(_, char)| !char.is_whitespace()).map_or(from, |(skipped, _)| from + skipped)..to
}

fn escape(text: &str, html: &mut String) {
    for char in text.chars() {
        match char {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;
    use tidemark_wal::Contributor;

    use super::*;
    use crate::{
        error::SearchError,
        limits::QueryDeadline,
        query_compiler::QueryCompiler,
        segment::testing::{plain, token},
    };

    fn compile(fields: &Arc<SchemaFields>, query: &str) -> Result<Box<dyn Query>, SearchError> {
        let deadline = QueryDeadline::after(std::time::Duration::from_hours(1));
        QueryCompiler::new(fields).parse(query, 0, deadline).map(|compiled| compiled.query)
    }

    fn highlights(query: &str, record: &OperationRecord) -> BTreeMap<String, Vec<String>> {
        let fields = Arc::new(SchemaFields::current());
        let query = compile(&fields, query).unwrap();
        HitHighlighter::new(query.as_ref(), &fields).highlights(record)
    }

    fn of_message(query: &str, message: &str) -> Option<String> {
        let record = OperationRecord { message: Some(message.to_owned()), ..plain(token(1, 1)) };
        highlights(query, &record).remove("message").map(|mut snippets| snippets.remove(0))
    }

    #[test]
    fn words_are_marked_in_whatever_form_they_stand() {
        for (query, message, wanted) in [
            ("race", "Fix a race in it", "Fix a <mark>race</mark> in it"),
            ("fixing", "Fixes, and FIXED", "<mark>Fixes</mark>, and <mark>FIXED</mark>"),
            (
                "naive strasse",
                "Der na\u{ef}ve Weg zur Stra\u{df}e",
                "Der <mark>na\u{ef}ve</mark> Weg zur <mark>Stra\u{df}e</mark>",
            ),
            ("naive", "nai\u{308}ve, na\u{ad}ive", "<mark>nai\u{308}ve</mark>, <mark>na\u{ad}ive</mark>"),
            ("migrat*", "migrating to new migrations", "<mark>migrating</mark> to new <mark>migrations</mark>"),
            (
                "te?t",
                "a test, a text, a tent-like",
                "a <mark>test</mark>, a <mark>text</mark>, a <mark>tent</mark>-like",
            ),
            ("migraton~1", "one migration", "one <mark>migration</mark>"),
            ("\"roll ba\"*", "Roll back the role", "<mark>Roll</mark> <mark>back</mark> the role"),
            ("message:(a OR flush)^2", "the flush", "the <mark>flush</mark>"),
            ("race -\"in it\"", "race in vain, it is", "<mark>race</mark> in vain, it is"),
            (
                "\u{6771}\u{4eac}",
                "\u{5927}\u{6771}\u{4eac}\u{90fd}No1",
                "\u{5927}<mark>\u{6771}\u{4eac}</mark>\u{90fd}No1",
            ),
            ("\u{4eac}", "\u{6771}\u{4eac}", "\u{6771}<mark>\u{4eac}</mark>"),
            (
                "\u{6771}\u{4eac}\u{90fd}",
                "\u{6771}\u{4eac}\u{90fd}\u{306e}",
                "<mark>\u{6771}\u{4eac}\u{90fd}</mark>\u{306e}",
            ),
        ] {
            assert_eq!(of_message(query, message).as_deref(), Some(wanted), "{query}");
        }
        assert_eq!(of_message("other", "Fix a race"), None);
        assert_eq!(of_message("message:*", "Fix a race"), None, "nothing is asked for");
    }

    #[test]
    fn markup_in_a_text_stays_text() {
        let attack = "<script>alert('a & \"b\"')</script><mark>race</mark>";
        let wanted = "&lt;script&gt;alert(&#39;a &amp; &quot;b&quot;&#39;)&lt;/script&gt;&lt;mark&gt;<mark>race</mark>&lt;/mark&gt;";
        assert_eq!(of_message("race", attack).as_deref(), Some(wanted));
    }

    #[test]
    fn of_a_long_text_the_part_with_most_words_is_shown() {
        let text =
            format!("{} race {} a race, a flush and a race {}", "x ".repeat(200), "y ".repeat(200), "z ".repeat(200));
        let part = of_message("race flush", &text).unwrap();
        assert!(part.starts_with("…y y") && part.ends_with("z…"), "{part}");
        assert_eq!(part.matches("<mark>").count(), 3, "{part}");
        let end = of_message("last", &format!("{}last", "x".repeat(300))).is_none();
        assert!(end, "it is one word");
        let end = of_message("last", &format!("{} last", "x".repeat(300))).unwrap();
        assert!(end.ends_with("<mark>last</mark>"), "{end}");
    }

    #[test]
    fn three_fields_are_shown_at_most() {
        let record = OperationRecord {
            kind: OperationKind::Bundle,
            message: Some("Ada's models".to_owned()),
            repo: Some("ada-models".to_owned()),
            label: Some("ada".to_owned()),
            path: Some("bundles/ada/1".to_owned()),
            contributors: vec![
                Contributor { name: "Grace".to_owned(), email: String::new() },
                Contributor { name: "Ada".to_owned(), email: "a@b".to_owned() },
            ],
            payload: json!({ "attributes": { "team": ["core", "ada & co"], "a.b": "ada" } }),
            ..plain(token(1, 1))
        };
        let all = highlights("ada", &record);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["contributors", "message", "repo"]);
        assert_eq!(all["contributors"], ["<mark>Ada</mark> a@b"]);
        let attribute = highlights("payload.attributes.team:ad*", &record);
        assert_eq!(attribute["payload.attributes.team"], ["<mark>ada</mark> &amp; co"]);
        assert_eq!(highlights("payload.attributes.a.b:ada", &record).len(), 1);
        assert_eq!(highlights("path:ada", &record)["path"], ["bundles/<mark>ada</mark>/1"]);
        assert!(highlights("repo:ada-models kind:bundle", &record).is_empty(), "whole values are not marked");
    }

    proptest! {
        #[test]
        fn any_text_is_marked_within_bounds(text in "\\PC{0,400}", from: prop::sample::Index, words in "[a-z ]{0,300}") {
            let text = format!("{words}{text}");
            let terms = text.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()).collect::<Vec<_>>();
            prop_assume!(!terms.is_empty());
            let query = format!("\"{}\"", terms[from.index(terms.len())]);
            let fields = Arc::new(SchemaFields::current());
            let Ok(query) = compile(&fields, &query) else { return Ok(()) };
            let record = OperationRecord { message: Some(text.clone()), ..plain(token(1, 1)) };
            for snippet in HitHighlighter::new(query.as_ref(), &fields).highlights(&record).into_values().flatten() {
                let bare = snippet.replace("<mark>", "").replace("</mark>", "");
                prop_assert!(!bare.contains(['<', '>', '"', '\'']), "{}", snippet);
                let plain = bare.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&");
                prop_assert!(plain.chars().count() <= MAX_HIGHLIGHT_CHARS + 2);
                prop_assert!(text.contains(plain.trim_start_matches('…').trim_end_matches('…')) || text.contains('…'));
            }
        }
    }
}
