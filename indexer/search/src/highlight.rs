//! Where the words of a query stand in a hit: parts of its texts as HTML.
//!
//! Tantivy's snippets are of no use here: they need the offsets of words in a text, and our words are of the folded text, which
//! has other lengths. So each word of a text is looked at by itself: it is marked if the tokenizer makes a word of it that the
//! query asks for.
//!
//! A hit may have millions of texts. What is looked at of one is bounded in bytes and in values, and the deadline of the query
//! is checked all the while.

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

use super::{
    api::{MAX_HIGHLIGHT_CHARS, MAX_HIGHLIGHTED_FIELDS},
    error::SearchError,
    limits::QueryDeadline,
    query_compiler::QueryCompiler,
    weighted_query::WeightedQuery,
    wildcard_pattern::WildcardPattern,
    wildcard_query::{WildcardPlace, WildcardQuery},
};
use crate::segment::{ENGLISH, SchemaFields, WORDS, entry_text, is_paired, is_word_char, is_word_mark};

/// How much of a text is looked at, in bytes.
const MAX_TEXT_BYTES: usize = 16 * 1024;
/// How much of all texts of a hit is looked at, in bytes.
const MAX_HIT_BYTES: usize = 64 * 1024;
/// How many attributes, items of arrays and people of a hit are looked at.
const MAX_HIT_VALUES: usize = 10_000;
/// Words that are looked at between two checks of the deadline.
const WORDS_PER_DEADLINE_CHECK: usize = 256;
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
    patterns: Vec<WildcardPattern>,
}

impl WantedWords {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|wanted| wanted == word) || self.patterns.iter().any(|pattern| pattern.matches(word))
    }
}

impl<'a> HitHighlighter<'a> {
    /// A highlighter of what `compiler` made `query` of.
    pub(crate) fn new(query: &dyn Query, compiler: &'a QueryCompiler) -> Self {
        let mut highlighter = Self {
            fields: compiler.fields(),
            words: compiler.analyzer(WORDS),
            stems: compiler.analyzer(ENGLISH),
            wanted: BTreeMap::new(),
            attributes: BTreeMap::new(),
        };
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
        } else if let Some(query) = query.downcast_ref::<WeightedQuery>() {
            self.collect(query.query());
        } else if let Some(query) = query.downcast_ref::<WildcardQuery>() {
            for place in query.places() {
                let WildcardPlace { field, path, pattern, phrase } = place;
                for (_, term) in phrase.iter().flat_map(|phrase| &phrase.words) {
                    self.add_term(term);
                }
                self.place(*field, path).patterns.push(pattern.clone());
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
    pub(crate) fn highlights(
        &self,
        record: &OperationRecord,
        deadline: QueryDeadline,
    ) -> Result<BTreeMap<String, Vec<String>>, SearchError> {
        let fields = self.fields;
        let mut marker = HitMarker::new(deadline);
        // Messages are searched by stems, and patterns in their words as they are.
        let in_message = self.asked([(&self.stems, fields.message), (&self.words, fields.message_words)]);
        if let Some(message) = &record.message {
            marker.add("message", message, &in_message)?;
        }
        let in_text = self.words_of(fields.text);
        if let Some(text) = &record.text {
            marker.add("text", text, &in_text)?;
        } else if record.kind == OperationKind::Entry && !in_text.is_empty() {
            marker.add("text", &entry_text(&record.payload, MAX_TEXT_BYTES), &in_text)?;
        }
        for ((field, path), wanted) in &self.attributes {
            let (name, value) = if *field == fields.payload {
                ("payload", &record.payload)
            } else {
                ("descriptor", &record.descriptor)
            };
            marker.add_attribute(&format!("{name}.{path}"), value, path, &[(&self.words, wanted)])?;
        }
        let in_people = self.words_of(fields.contributors);
        for person in &record.contributors {
            let text = format!("{} {}", person.name, person.email);
            if marker.is_complete_at_next_value() || marker.add("contributors", text.trim(), &in_people)? {
                break;
            }
        }
        for (name, field, text) in [
            ("repo", fields.names, &record.repo),
            ("label", fields.names, &record.label),
            ("context", fields.names, &record.context),
            ("path", fields.path, &record.path),
            ("reason", fields.reason, &record.reason),
        ] {
            if let Some(text) = text {
                marker.add(name, text, &self.words_of(field))?;
            }
        }
        Ok(marker.found)
    }

    fn words_of(&self, field: Field) -> AnalyzedWords<'_> {
        self.asked([(&self.words, field)])
    }

    fn asked<'s, const N: usize>(&'s self, places: [(&'s TextAnalyzer, Field); N]) -> AnalyzedWords<'s> {
        places.into_iter().filter_map(|(words, field)| Some((words, self.wanted.get(&field)?))).collect()
    }
}

/// What is asked of a field, each with what makes words of its text.
type AnalyzedWords<'a> = Vec<(&'a TextAnalyzer, &'a WantedWords)>;

/// The highlights of one hit, and how much of it may still be looked at.
struct HitMarker {
    found: BTreeMap<String, Vec<String>>,
    bytes: usize,
    values: usize,
    deadline: QueryDeadline,
}

impl HitMarker {
    fn new(deadline: QueryDeadline) -> Self {
        Self { found: BTreeMap::new(), bytes: MAX_HIT_BYTES, values: MAX_HIT_VALUES, deadline }
    }

    /// Whether nothing more of the hit is looked at.
    fn is_complete(&self) -> bool {
        self.values == 0 || self.bytes == 0 || self.found.len() >= MAX_HIGHLIGHTED_FIELDS
    }

    /// Counts a value that is looked at. Whether it is not, because nothing more is.
    fn is_complete_at_next_value(&mut self) -> bool {
        self.values = self.values.saturating_sub(1);
        self.is_complete()
    }

    /// Adds the part of a text that is marked, if any is. Whether the field needs no other text.
    fn add(&mut self, name: &str, text: &str, wanted: &[(&TextAnalyzer, &WantedWords)]) -> Result<bool, SearchError> {
        if wanted.is_empty() || self.is_complete() {
            return Ok(true);
        }
        let read = &text[..text.floor_char_boundary(MAX_TEXT_BYTES.min(self.bytes))];
        self.bytes -= read.len();
        let snippet = self.snippet(read, wanted)?;
        let is_marked = snippet.is_some();
        self.found.extend(snippet.map(|snippet| (name.to_owned(), vec![snippet])));
        Ok(is_marked)
    }

    /// The same of the texts at the path of an attribute in `value`. Names with dots are paths too.
    fn add_attribute(
        &mut self,
        name: &str,
        value: &Value,
        path: &str,
        wanted: &[(&TextAnalyzer, &WantedWords)],
    ) -> Result<bool, SearchError> {
        match value {
            Value::String(text) if path.is_empty() => return self.add(name, text, wanted),
            Value::Array(items) => {
                for item in items {
                    if self.is_complete_at_next_value() || self.add_attribute(name, item, path, wanted)? {
                        return Ok(true);
                    }
                }
            }
            Value::Object(attributes) => {
                for (attribute, item) in attributes {
                    if self.is_complete_at_next_value() {
                        return Ok(true);
                    }
                    let rest = path.strip_prefix(attribute.as_str());
                    let rest = rest.and_then(|rest| if rest.is_empty() { Some("") } else { rest.strip_prefix('.') });
                    if let Some(rest) = rest
                        && self.add_attribute(name, item, rest, wanted)?
                    {
                        return Ok(true);
                    }
                }
            }
            _ => {}
        }
        Ok(false)
    }

    fn snippet(&self, text: &str, wanted: &[(&TextAnalyzer, &WantedWords)]) -> Result<Option<String>, SearchError> {
        let mut marks: Vec<Range<usize>> = Vec::new();
        let mut wanted: Vec<_> = wanted.iter().map(|(analyzer, wanted)| ((*analyzer).clone(), *wanted)).collect();
        for (number, place) in word_places(text).into_iter().enumerate() {
            if number % WORDS_PER_DEADLINE_CHECK == 0 {
                self.deadline.check()?;
            }
            let is_wanted = wanted.iter_mut().any(|(analyzer, wanted)| {
                let mut tokens = analyzer.token_stream(&text[place.clone()]);
                std::iter::from_fn(|| tokens.advance().then(|| wanted.has(&tokens.token().text))).any(|has| has)
            });
            match marks.last_mut() {
                _ if !is_wanted => {}
                Some(last) if place.start < last.end => last.end = last.end.max(place.end),
                _ => marks.push(place),
            }
        }
        Ok((!marks.is_empty()).then(|| marked(text, &marks)))
    }
}

/// The words of a text, in its order. Of a run of characters that are words by themselves, those alone and the pairs.
fn word_places(text: &str) -> Vec<Range<usize>> {
    let mut places: Vec<Range<usize>> = Vec::new();
    let mut last: Option<char> = None;
    for (at, char) in text.char_indices() {
        let end = at + char.len_utf8();
        let (mark, paired) = (is_word_mark(char), is_paired(char));
        let goes_on = last.is_some_and(|last| mark || (is_word_char(char) && !paired && !is_paired(last)));
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
            last = is_word_char(char).then_some(char);
        }
    }
    places
}

/// The part of a text with most of the marks, as HTML.
fn marked(text: &str, marks: &[Range<usize>]) -> String {
    let part = best_part(text, marks);
    let mut html = String::new();
    if part.start > 0 {
        html.push('…');
    }
    let mut at = part.start;
    for mark in marks.iter().filter(|mark| mark.start < part.end && part.start < mark.end) {
        // What does not fit is cut as the text is.
        let (start, end) = (mark.start.max(part.start), mark.end.min(part.end));
        escape(&text[at..start], &mut html);
        html.push_str("<mark>");
        escape(&text[start..end], &mut html);
        html.push_str("</mark>");
        at = end;
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
    // Of parts with as many marks the first one.
    let (mut best, mut end) = ((0, 0), 0);
    for first in 0..marks.len() {
        let limit = char_at(marks[first].start) + within;
        end = end.max(first);
        while marks.get(end).is_some_and(|mark| char_at(mark.end) <= limit) {
            end += 1;
        }
        if end - first > best.1 {
            best = (first, end - first);
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

    fn later() -> QueryDeadline {
        QueryDeadline::after(std::time::Duration::from_hours(1))
    }

    fn try_highlights(
        query: &str,
        record: &OperationRecord,
        deadline: QueryDeadline,
    ) -> Result<BTreeMap<String, Vec<String>>, SearchError> {
        let compiler = QueryCompiler::new(&Arc::new(SchemaFields::current()));
        let query = compiler.parse(query, 0, later())?.query;
        HitHighlighter::new(query.as_ref(), &compiler).highlights(record, deadline)
    }

    fn highlights(query: &str, record: &OperationRecord) -> BTreeMap<String, Vec<String>> {
        try_highlights(query, record, later()).unwrap()
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
            // Invisible characters, in pairs too.
            ("\u{6771}\u{4eac}", "\u{6771}\u{640}\u{4eac}", "<mark>\u{6771}\u{640}\u{4eac}</mark>"),
            ("\u{645}\u{62d}", "\u{645}\u{640}\u{640}\u{62d}", "<mark>\u{645}\u{640}\u{640}\u{62d}</mark>"),
            ("migrat*^2", "one migration", "one <mark>migration</mark>"),
            ("message:migrat*^2", "one migration", "one <mark>migration</mark>"),
            ("(rac* OR migraton~1)^3", "race to migration", "<mark>race</mark> to <mark>migration</mark>"),
            ("(race -flush)^2", "a race to flush", "a <mark>race</mark> to flush"),
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
    fn a_mark_that_is_longer_than_a_part_is_cut_with_it() {
        let word = "\u{6771}\u{4eac}".repeat(100);
        let part = of_message(&word[..300], &format!("{} {word}", "x ".repeat(50))).unwrap();
        assert!(part.contains(&format!("<mark>{}</mark>…", &word[..480])), "{part}");
        let accents = "\u{301}".repeat(300);
        let part = of_message("race", &format!("rac{accents}e")).unwrap();
        assert_eq!(part, format!("<mark>rac{}</mark>…", "\u{301}".repeat(MAX_HIGHLIGHT_CHARS - 3)));
        // A shorter one that fits is preferred.
        let part = of_message("race flush", &format!("rac{accents}e, a flush {}", "z ".repeat(200))).unwrap();
        assert!(part.contains("a <mark>flush</mark> z"), "{part}");
    }

    #[test]
    fn what_is_looked_at_of_a_hit_is_bounded_in_texts_and_in_bytes() {
        let of = |team: Value| {
            let payload = json!({ "attributes": { "team": team } });
            let record = OperationRecord { kind: OperationKind::Bundle, payload, ..plain(token(1, 1)) };
            highlights("payload.attributes.team:ada", &record).len()
        };
        let last = |texts: usize, text: &str| json!([vec![text; texts], ["ada"]]);
        assert_eq!(of(last(9_000, "x")), 1);
        assert_eq!(of(last(10_000, "x")), 0);
        assert_eq!(of(json!([vec![json!({ "n": 1 }); 5_000], "ada"])), 0);
        assert_eq!(of(last(3, &"x ".repeat(20_000))), 1, "of each text 16 KiB");
        assert_eq!(of(last(4, &"x ".repeat(20_000))), 0);
        let contributors = vec![Contributor { name: "Bob".to_owned(), email: String::new() }; 10_000];
        let grace = Contributor { name: "Grace".to_owned(), email: String::new() };
        let record = OperationRecord { contributors: [contributors, vec![grace]].concat(), ..plain(token(1, 1)) };
        assert!(highlights("grace", &record).is_empty());
    }

    #[test]
    fn highlighting_ends_at_the_deadline() {
        let late = QueryDeadline::after(std::time::Duration::ZERO);
        let payload = json!({ "attributes": { "team": ["x", "y"] } });
        let record = OperationRecord { message: Some("a".to_owned()), payload, ..plain(token(1, 1)) };
        for query in ["a", "b*", "payload.attributes.team:a"] {
            let error = try_highlights(query, &record, late).unwrap_err();
            assert!(matches!(error, SearchError::Overloaded { .. }), "{query}: {error}");
        }
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
            let record = OperationRecord { message: Some(text.clone()), ..plain(token(1, 1)) };
            let Ok(found) = try_highlights(&query, &record, later()) else { return Ok(()) };
            for snippet in found.into_values().flatten() {
                prop_assert!(snippet.contains("<mark>"), "{}", snippet);
                let bare = snippet.replace("<mark>", "").replace("</mark>", "");
                prop_assert!(!bare.contains(['<', '>', '"', '\'']), "{}", snippet);
                let plain = bare.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&");
                prop_assert!(plain.chars().count() <= MAX_HIGHLIGHT_CHARS + 2);
                prop_assert!(text.contains(plain.trim_start_matches('…').trim_end_matches('…')) || text.contains('…'));
            }
        }
    }
}
