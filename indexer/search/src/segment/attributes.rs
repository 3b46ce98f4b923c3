//! What is indexed of a payload or descriptor: words of all of it, and columns of its first attributes.
//!
//! Attributes are searched by their path as words, numbers and dates, to a depth of [`MAX_INDEXED_DEPTH`]. What lies deeper is
//! the text of the attribute at that depth, and what has a name that is too long for a path is text of the attribute `value`
//! beside it: nothing is left out of the search.
//!
//! Columns are what attributes are compared, sorted and counted by. Each column costs something in every segment, so a document
//! has at most [`MAX_COLUMN_VALUES`] values in columns: those nearest to the root, of names and texts that are not too long.

use std::borrow::Cow;

use serde_json::{Map, Value};
use tantivy::{TantivyDocument, schema::Field};

/// How deep attributes are indexed by their path.
const MAX_INDEXED_DEPTH: usize = 32;
/// Longest name of an attribute in a path.
const MAX_NAME_BYTES: usize = 256;
/// How deep attributes have columns. An array counts as a level.
const MAX_COLUMN_DEPTH: usize = 8;
/// How many values a document has in the columns of its payload, and as many in those of its descriptor.
const MAX_COLUMN_VALUES: usize = 64;
/// Longest text in a column.
const MAX_COLUMN_TEXT_BYTES: usize = 128;
/// Where a payload has the attributes of its entry.
const ATTRIBUTES: &str = "attributes";
/// Where an entry of Datamon's form has what it says.
const PAYLOAD: &str = "payload";
/// The attribute that holds what has no name of its own.
const UNNAMED: &str = "value";

/// Adds what can be searched of `value` to `indexed`, and what has columns to `columns`. A value that is not an object becomes
/// the attribute `value` of one.
pub(crate) fn add_attributes(doc: &mut TantivyDocument, indexed: Field, columns: Field, value: &Value) {
    match value {
        Value::Null => {}
        Value::Object(_) => {
            doc.add_field_value(indexed, searchable(value, MAX_INDEXED_DEPTH).as_ref());
            if let Some(columned) = columned(value) {
                doc.add_field_value(columns, columned.as_ref());
            }
        }
        other => {
            let object = Value::Object(Map::from_iter([(UNNAMED.to_owned(), other.clone())]));
            add_attributes(doc, indexed, columns, &object);
        }
    }
}

/// The words that the payload of an entry without descriptor is found by: its text, and names and values of its attributes. What
/// begins after `max_bytes` of them is left out.
pub(crate) fn entry_text(payload: &Value, max_bytes: usize) -> String {
    let mut text = String::new();
    match payload {
        Value::Object(entry) => {
            // The attributes are what the text says, where it is a mapping.
            if let Some(said) = entry.get(ATTRIBUTES).or_else(|| entry.get(PAYLOAD)) {
                append_text(&mut text, said, max_bytes);
            }
            let ops = entry.get("ops").and_then(Value::as_array).into_iter().flatten();
            ops.filter_map(|op| op.get(ATTRIBUTES))
                .for_each(|attributes| append_text(&mut text, attributes, max_bytes));
        }
        other => append_text(&mut text, other, max_bytes),
    }
    text
}

/// `value` with text in the place of what is too deep or has too long a name; nothing is copied when all of it can be indexed.
fn searchable(value: &Value, depth: usize) -> Cow<'_, Value> {
    match value {
        _ if is_searchable(value, depth) => Cow::Borrowed(value),
        Value::Array(items) if depth > 0 => {
            Cow::Owned(items.iter().map(|item| searchable(item, depth - 1).into_owned()).collect())
        }
        Value::Object(attributes) if depth > 0 => {
            let (named, unnamed): (Vec<_>, Vec<_>) = attributes.iter().partition(|(name, _)| fits_path(name));
            let named = named.into_iter().map(|(name, item)| (name.clone(), searchable(item, depth - 1).into_owned()));
            let mut object: Map<String, Value> = named.collect();
            let mut text = String::new();
            for (name, item) in unnamed {
                append_word(&mut text, name);
                append_text(&mut text, item, usize::MAX);
            }
            if !text.is_empty() {
                let beside = object.remove(UNNAMED);
                let all = beside.into_iter().chain([Value::String(text)]).collect();
                object.insert(UNNAMED.to_owned(), Value::Array(all));
            }
            Cow::Owned(Value::Object(object))
        }
        _ => {
            let mut text = String::new();
            append_text(&mut text, value, usize::MAX);
            Cow::Owned(Value::String(text))
        }
    }
}

fn is_searchable(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(|item| is_searchable(item, depth - 1)),
        Value::Object(attributes) => {
            depth > 0 && attributes.iter().all(|(name, item)| fits_path(name) && is_searchable(item, depth - 1))
        }
        _ => true,
    }
}

/// Tantivy ends a path with a zero byte.
fn fits_path(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !name.contains('\0')
}

/// Appends the names and values in `value` that begin within `max_bytes` of `text`.
fn append_text(text: &mut String, value: &Value, max_bytes: usize) {
    match value {
        _ if text.len() >= max_bytes => {}
        Value::Null => {}
        Value::String(item) => append_word(text, item),
        Value::Bool(_) | Value::Number(_) => append_word(text, &value.to_string()),
        Value::Array(items) => items.iter().for_each(|item| append_text(text, item, max_bytes)),
        Value::Object(attributes) => {
            for (name, item) in attributes {
                if text.len() >= max_bytes {
                    return;
                }
                append_word(text, name);
                append_text(text, item, max_bytes);
            }
        }
    }
}

fn append_word(text: &mut String, word: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(word);
}

/// What of an object has columns; nothing is copied when all of it has.
fn columned(value: &Value) -> Option<Cow<'_, Value>> {
    let mut count = ColumnCount::default();
    count.visit(value, MAX_COLUMN_DEPTH);
    if count.is_whole && count.values <= MAX_COLUMN_VALUES {
        return (count.values > 0).then_some(Cow::Borrowed(value));
    }
    // All values of the levels down to the one at which they become too many, and some of that one.
    let mut left = MAX_COLUMN_VALUES;
    for depth in 1..=MAX_COLUMN_DEPTH {
        let mut count = ColumnCount::default();
        count.visit(value, depth);
        if count.values > MAX_COLUMN_VALUES {
            return pruned(value, depth, &mut left).map(Cow::Owned);
        }
        left = MAX_COLUMN_VALUES - count.values;
    }
    left = usize::MAX;
    pruned(value, MAX_COLUMN_DEPTH, &mut left).map(Cow::Owned)
}

/// What there is for columns in a value.
struct ColumnCount {
    values: usize,
    /// Whether nothing is left out.
    is_whole: bool,
}

impl Default for ColumnCount {
    fn default() -> Self {
        Self { values: 0, is_whole: true }
    }
}

impl ColumnCount {
    fn visit(&mut self, value: &Value, depth: usize) {
        if self.values > MAX_COLUMN_VALUES {
            return;
        }
        match value {
            Value::Array(items) if depth > 0 => items.iter().for_each(|item| self.visit(item, depth - 1)),
            Value::Object(attributes) if depth > 0 => {
                for (name, item) in attributes {
                    if fits_path(name) {
                        self.visit(item, depth - 1);
                    } else {
                        self.is_whole = false;
                    }
                }
            }
            _ if fits_column(value) => self.values += usize::from(!value.is_null()),
            _ => self.is_whole = false,
        }
    }
}

fn fits_column(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() <= MAX_COLUMN_TEXT_BYTES,
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// The part of `value` that has columns, with at most `left` values of the lowest level.
fn pruned(value: &Value, depth: usize, left: &mut usize) -> Option<Value> {
    match value {
        Value::Array(items) if depth > 0 => {
            let kept: Vec<_> = items.iter().filter_map(|item| pruned(item, depth - 1, left)).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        Value::Object(attributes) if depth > 0 => {
            let named = attributes.iter().filter(|(name, _)| fits_path(name));
            let kept = named.filter_map(|(name, item)| Some((name.clone(), pruned(item, depth - 1, left)?)));
            let kept: Map<String, Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        _ if value.is_null() || !fits_column(value) || (depth == 0 && *left == 0) => None,
        _ => {
            *left -= usize::from(depth == 0);
            Some(value.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,6}".prop_map(Value::from),
            Just(Value::from("x".repeat(MAX_COLUMN_TEXT_BYTES + 1))),
        ];
        leaf.prop_recursive(40, 300, 8, |inner| {
            let name = prop_oneof!["[a-z]{1,4}", Just("n".repeat(MAX_NAME_BYTES + 1)), Just("a\0b".to_owned())];
            prop_oneof![
                vec(inner.clone(), 0..8).prop_map(Value::Array),
                vec((name, inner), 0..8).prop_map(|items| Value::Object(items.into_iter().collect())),
            ]
        })
    }

    fn words_of(value: &Value) -> Vec<String> {
        let mut text = String::new();
        append_text(&mut text, value, usize::MAX);
        let mut words: Vec<_> = text.split(' ').filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect();
        words.sort();
        words
    }

    fn depth_of(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            Value::Object(items) => 1 + items.values().map(depth_of).max().unwrap_or(0),
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn no_word_is_lost(value in value(), depth in 0usize..5) {
            let indexed = searchable(&value, depth);
            prop_assert!(is_searchable(&indexed, depth + 1), "`value` may be one level deeper");
            let (mut found, wanted) = (words_of(&indexed), words_of(&value));
            // The attribute `value` is made.
            found.retain(|word| word != UNNAMED);
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn columns_are_bounded_and_hold_what_is_there(value in value()) {
            let Some(found) = columned(&value) else { return Ok(()) };
            let mut count = ColumnCount::default();
            count.visit(&found, MAX_COLUMN_DEPTH);
            prop_assert!(count.is_whole && count.values <= MAX_COLUMN_VALUES && count.values > 0);
            prop_assert!(depth_of(&found) <= MAX_COLUMN_DEPTH);
            let there = words_of(&value);
            prop_assert!(words_of(&found).iter().all(|word| there.contains(word)));
        }
    }

    #[test]
    fn what_is_near_to_the_root_has_columns_first() {
        let many: Map<String, Value> = (0..100).map(|n| (format!("a{n}"), json!(n))).collect();
        let value = json!({ "deep": many, "near": 1 });
        let found = columned(&value).unwrap().into_owned();
        assert_eq!((&found["near"], found["deep"].as_object().unwrap().len()), (&json!(1), MAX_COLUMN_VALUES - 1));
        let wide = Value::Object(many);
        assert_eq!(columned(&wide).unwrap().as_object().unwrap().len(), MAX_COLUMN_VALUES);
        let text = json!({ "long": "x".repeat(300), "short": "y", "none": null });
        assert_eq!(columned(&text).unwrap().into_owned(), json!({ "short": "y" }));
        assert!(columned(&json!({})).is_none() && columned(&json!({ "a": null, "b": {} })).is_none());
    }

    #[test]
    fn an_entry_is_found_by_what_it_says_and_not_by_its_form() {
        let ours = json!({"tidemark": 1, "writer": "w", "attributes": {"team": "core"}, "ops": [{"kind": "entry", "attributes": {"n": 7}}]});
        assert_eq!(entry_text(&ours, usize::MAX), "team core n 7");
        assert_eq!(entry_text(&ours, 5), "team core");
        assert_eq!(entry_text(&json!({"token": "t", "payload": "sea level"}), usize::MAX), "sea level");
        assert_eq!(entry_text(&json!({"token": "t", "payload": {"a": ["b", true]}}), usize::MAX), "a b true");
        let text = json!({"token": "t", "payload": "{\"team\": \"core\"}", "attributes": {"team": "core"}});
        assert_eq!(entry_text(&text, usize::MAX), "team core");
        assert_eq!(entry_text(&json!("a/path"), usize::MAX), "a/path");
    }

    #[test]
    fn a_name_that_is_too_long_for_a_path_is_text_beside_the_others() {
        let long = "n".repeat(300);
        let value = json!({ "a": 1, "value": "v", long.clone(): { "b": "c" } });
        let wanted = json!({ "a": 1, "value": ["v", format!("{long} b c")] });
        assert_eq!(searchable(&value, 9).into_owned(), wanted);
        assert_eq!(
            searchable(&json!({ "a": { "b": { "c": ["d", 5] } } }), 2).into_owned(),
            json!({ "a": { "b": "c d 5" } })
        );
    }
}
