//! Notes on a query that finds nothing: what of it was searched as text although it looks like a field, a quoted value or an
//! operator. As text all of it is allowed, and mostly meant so; where nothing is found it was probably meant otherwise.

use super::{
    field_names::FieldNames,
    query_tree::{LeafValue, QueryLeaf, QueryNode, typed_word},
};

/// The most notes on a query.
const MAX_NOTES: usize = 5;
/// The fields whose values often have blanks.
const FIELDS_WITH_BLANKS: [&str; 2] = ["contributor", "file"];
/// The signs of a comparison. `->` and `=>` are text.
const COMPARISON_SIGNS: [&str; 9] = [":", "=", "==", "!=", "<>", ">", ">=", "<", "<="];

/// The notes on a query, in the order of its text.
pub(crate) fn query_notes(tree: &QueryNode, fields: &FieldNames) -> Vec<String> {
    let mut notes = Vec::new();
    add_notes(tree, fields, &mut notes);
    notes.truncate(MAX_NOTES);
    notes
}

fn add_notes(node: &QueryNode, fields: &FieldNames, notes: &mut Vec<String>) {
    match node {
        QueryNode::AllOf(parts) => {
            for (at, part) in parts.iter().enumerate() {
                match word_of(part) {
                    Some(leaf) => notes.extend(note_on_words(leaf, &parts[at + 1..], at > 0, fields)),
                    None => add_notes(part, fields, notes),
                }
            }
        }
        QueryNode::AnyOf(parts) => parts.iter().for_each(|part| add_notes(part, fields, notes)),
        QueryNode::Boosted(part, _) => add_notes(part, fields, notes),
        // What is excluded is not why nothing is found.
        QueryNode::Not(_) => {}
        QueryNode::Leaf(leaf) => notes.extend(note_on_words(leaf, &[], false, fields)),
    }
}

/// A word, if a part of a query is one.
fn word_of(part: &QueryNode) -> Option<&QueryLeaf> {
    match part {
        QueryNode::Leaf(leaf) => typed_text(leaf).map(|_| leaf),
        _ => None,
    }
}

/// What a word was typed as.
fn typed_text(leaf: &QueryLeaf) -> Option<String> {
    match &leaf.value {
        LeafValue::Word(word) => Some(typed_word(word)),
        LeafValue::Fuzzy { word, .. } => Some(word.clone()),
        _ => None,
    }
}

/// A bare word as it was typed.
fn bare_text(part: Option<&QueryNode>) -> Option<String> {
    part.and_then(word_of).filter(|leaf| leaf.field.is_none()).and_then(typed_text)
}

/// The note on a word before `rest`, all of which is required. `is_inside`: something stands before it.
fn note_on_words(leaf: &QueryLeaf, rest: &[QueryNode], is_inside: bool, fields: &FieldNames) -> Option<String> {
    let typed = typed_text(leaf)?;
    let next = bare_text(rest.first());
    let note = match &leaf.field {
        Some(name) if FIELDS_WITH_BLANKS.contains(&name.as_str()) => {
            let next = next?;
            format!(
                "\"{typed}\" alone is the value of \"{name}\", and \"{next}\" is a word of its own; a value with blanks is written in quotes: {name}:\"{typed} {next}\""
            )
        }
        Some(_) => return None,
        None if is_inside && next.is_some() && typed.split('/').next() == Some("NEAR") => {
            format!("\"{typed}\" is a word here; words near each other are written \"a b\"~5")
        }
        None => {
            let (name, value, written) = compared(&typed, next.as_deref(), bare_text(rest.get(1)).as_deref())?;
            if fields.contains(&name) {
                return None;
            }
            format!(
                "there is no field \"{name}\", and \"{written}\" was searched as text; an attribute is written payload.attributes.{name}:{value}, and the fields are {}",
                fields.listed()
            )
        }
    };
    Some(format!("position {}: {note}", leaf.position))
}

/// What looks like the comparison of a field: its name, its value, and all of it. It is one word, or three.
fn compared(typed: &str, next: Option<&str>, operand: Option<&str>) -> Option<(String, String, String)> {
    let is_name = |name: &str| {
        name.starts_with(char::is_alphabetic)
            && name.ends_with(char::is_alphanumeric)
            && name.chars().all(|char| char.is_alphanumeric() || "._-".contains(char))
    };
    let is_sign = |char: char| ":=<>!".contains(char);
    let is_value = |value: &str| value.starts_with(|first: char| first.is_alphanumeric() || "\"-.*[{(".contains(first));
    if let Some(at) = typed.find(is_sign) {
        let (name, rest) = typed.split_at(at);
        let value = rest.trim_start_matches(is_sign);
        let sign = &rest[..rest.len() - value.len()];
        let compares = COMPARISON_SIGNS.contains(&sign.trim_start_matches(':')) || COMPARISON_SIGNS.contains(&sign);
        return (is_name(name) && compares && is_value(value))
            .then(|| (name.to_owned(), value.to_owned(), typed.to_owned()));
    }
    let (sign, value) = (next?, operand?);
    (is_name(typed) && COMPARISON_SIGNS.contains(&sign) && is_value(value))
        .then(|| (typed.to_owned(), value.to_owned(), format!("{typed} {sign} {value}")))
}
