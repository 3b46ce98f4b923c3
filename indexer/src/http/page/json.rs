//! JSON for reading: indented, coloured, escaped, bounded.

use maud::{Markup, html};
use serde_json::Value;

/// Larger documents are shown as their beginning, uncoloured.
const MAX_BYTES: usize = 128 * 1024;
/// Deeper values are shown on one line.
const MAX_DEPTH: usize = 40;

/// A value for reading.
pub(crate) fn render(value: &Value) -> Markup {
    let text = value.to_string();
    if text.len() > MAX_BYTES {
        let beginning: String = text.chars().take(MAX_BYTES).collect();
        return html! {
            p.quiet { "Only the beginning is shown; the API has all of it." }
            pre.json tabindex="0" { (beginning) " …" }
        };
    }
    html! { pre.json tabindex="0" { code { (node(value, 0)) } } }
}

fn node(value: &Value, depth: usize) -> Markup {
    match value {
        Value::Null => html! { span.null { "null" } },
        Value::Bool(flag) => html! { span.bool { (flag) } },
        Value::Number(number) => html! { span.number { (number) } },
        Value::String(text) => html! { span.string { (quoted(text)) } },
        Value::Array(items) if items.is_empty() => html! { "[]" },
        Value::Object(fields) if fields.is_empty() => html! { "{}" },
        nested if depth >= MAX_DEPTH => html! { (nested.to_string()) },
        Value::Array(items) => html! {
            "[\n"
            @for (place, item) in items.iter().enumerate() {
                (indent(depth + 1)) (node(item, depth + 1)) (separator(place, items.len()))
            }
            (indent(depth)) "]"
        },
        Value::Object(fields) => html! {
            "{\n"
            @for (place, (name, item)) in fields.iter().enumerate() {
                (indent(depth + 1)) span.name { (quoted(name)) } ": " (node(item, depth + 1))
                (separator(place, fields.len()))
            }
            (indent(depth)) "}"
        },
    }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn separator(place: usize, of: usize) -> &'static str {
    if place + 1 < of { ",\n" } else { "\n" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn markup_in_a_value_stays_text() {
        let html = render(&json!({ "</pre><script>": "<img src=x onerror=alert(1)>" })).into_string();
        assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
        assert!(html.contains("&lt;script&gt;"));
    }

    #[test]
    fn what_is_shown_is_the_same_value() {
        let value = json!({ "a": [1, "two", null, { "b": {} }], "c": true, "d": [] });
        let html = render(&value).into_string();
        let mut text = String::new();
        let mut inside = false;
        for c in html.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => text.push(c),
                _ => {}
            }
        }
        let text = text.replace("&quot;", "\"");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_large_document_is_cut() {
        let value = Value::String("<".repeat(300_000));
        assert!(render(&value).into_string().len() < 5 * MAX_BYTES);
    }
}
