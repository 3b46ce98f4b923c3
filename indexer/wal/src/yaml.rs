//! Untrusted YAML and JSON, read into JSON values within bounds.
//!
//! A document without aliases has at most about one node and one byte of text for each of its bytes, so a small multiple
//! of its length bounds what a document with aliases may expand to. Nesting is bounded so that a value can be stored
//! inside another document and read again. So is the number of values, since each takes many times its text in memory.
//!
//! The parser is `serde_norway`, and the bounds are ours. The budget of `serde-saphyr`, which kube links for the operator,
//! bounds depth, nodes and text too, but it reads scalars by other rules: `yes`, `017` and `1_000` become other
//! values; unknown tags and long integers pass that are refused here, and equal keys and `.inf` are refused that pass here.
//! Entries are decided once and recorded, so a payload must keep its meaning.

use std::{cell::Cell, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess as _, Visitor};
use serde_json::{Map, Number, Value};

use crate::malformed::MalformedInput;

/// Deepest nesting that is read.
pub(crate) const MAX_DEPTH: usize = 64;
/// Most values that are read of one document: scalars, arrays, objects and the names of their members, and of YAML the marks
/// that values may follow ([`count_marks`]). A constant of the protocol, since it decides what is malformed.
pub(crate) const MAX_VALUES: usize = 100_000;

/// Reads one YAML document.
pub(crate) fn read_yaml(text: &str) -> Result<Value, MalformedInput> {
    refuse_deep_flow(text)?;
    // The parser holds every event of the document before the first value is seen.
    if count_marks(text.as_bytes()) > MAX_VALUES {
        return Err(MalformedInput::new(too_many_values()));
    }
    let tagged = text.contains(BINARY_TAG).then(|| with_local_tags(text));
    let text = tagged.as_deref().unwrap_or(text);
    let budget = DocumentBudget::of(text);
    let seed = BoundedValue { budget: &budget, depth: 0 };
    seed.deserialize(serde_norway::Deserializer::from_str(text))
        .map_err(|error| MalformedInput::new(format!("not readable as YAML: {error}")))
}

/// What Go writes before text that is no UTF-8, which it encodes in base64.
const BINARY_TAG: &str = "!!binary";

/// The document with the tags of YAML's core as tags of its own, since the parser tells of no others.
fn with_local_tags(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
    let start = if first.starts_with("---") || first.starts_with('%') { "" } else { "---\n" };
    format!("%TAG !! !\n{start}{text}")
}

fn from_base64(text: &str) -> Option<String> {
    let digits: String = text.split_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(digits).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads one JSON value that fills the whole text.
pub(crate) fn read_json(text: &str) -> Result<Value, MalformedInput> {
    let refused = |error| MalformedInput::new(format!("not readable as JSON: {error}"));
    let budget = DocumentBudget::of(text);
    let seed = BoundedValue { budget: &budget, depth: 0 };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut deserializer).map_err(refused)?;
    deserializer.end().map_err(refused)?;
    Ok(value)
}

/// The YAML scanner's time grows with the square of the flow nesting, so a run of open brackets is refused before it.
fn refuse_deep_flow(text: &str) -> Result<(), MalformedInput> {
    let mut open = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > 16 * MAX_DEPTH {
            return Err(MalformedInput::new("nested too deeply"));
        }
    }
    Ok(())
}

/// How many marks the YAML text has that a value may follow: every `[` and `{`; every `,`, `:` and `?` after the first of
/// them; and every `:`, `?` and `-` before white space.
///
/// In block style the others mean nothing without white space, so that times, URLs and prose do not count. A mark is followed by
/// two values at most.
pub(crate) fn count_marks(text: &[u8]) -> usize {
    let mut flow = false;
    let mut marks = 0;
    for (at, byte) in text.iter().enumerate() {
        // The first bytes of U+0085, U+2028 and U+2029, which end lines too.
        let ends =
            || text.get(at + 1).is_none_or(|next| matches!(next, b' ' | b'\t' | b'\r' | b'\n' | 0 | 0xc2 | 0xe2));
        let is_mark = match byte {
            b'[' | b'{' => {
                flow = true;
                true
            }
            b',' => flow,
            b':' | b'?' => flow || ends(),
            b'-' => ends(),
            _ => false,
        };
        marks += usize::from(is_mark);
    }
    marks
}

fn too_many_values() -> String {
    format!("more than {MAX_VALUES} values, more than are read of one document")
}

/// What may still be read of a document.
struct DocumentBudget {
    /// Values, and bytes of their texts, that aliases may expand to.
    expansion: Cell<usize>,
    values: Cell<usize>,
}

impl DocumentBudget {
    fn of(text: &str) -> Self {
        Self { expansion: Cell::new(4 * text.len() + 64), values: Cell::new(MAX_VALUES) }
    }

    fn spend<E: Error>(&self, cost: usize) -> Result<(), E> {
        let left = self.expansion.get().checked_sub(cost);
        self.expansion.set(left.ok_or_else(|| E::custom("aliases expand to far more than the document"))?);
        Ok(())
    }

    fn spend_value<E: Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get().checked_sub(1).ok_or_else(|| E::custom(too_many_values()))?);
        self.spend(1)
    }
}

#[derive(Clone, Copy)]
struct BoundedValue<'a> {
    budget: &'a DocumentBudget,
    depth: usize,
}

impl BoundedValue<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.budget.spend_value()?;
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn scalar<E: Error>(self, value: Value) -> Result<Value, E> {
        self.budget.spend_value()?;
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for BoundedValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BoundedValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without tags")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.scalar(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.scalar(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.scalar(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.scalar(Value::String(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.scalar(Value::String(value.to_string()))
    }

    /// JSON has no infinities and no NaN: they become text.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.scalar(Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.budget.spend(value.len())?;
        self.scalar(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    /// A value with a tag. Of those of YAML's core the ones that say of text what it is mean something.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        match tag.as_str() {
            "binary" => {
                let text: String = content.newtype_variant()?;
                let decoded = from_base64(&text).ok_or_else(|| A::Error::custom("binary text that is not base64"))?;
                self.visit_str(&decoded)
            }
            "str" => {
                let text: String = content.newtype_variant()?;
                self.visit_str(&text)
            }
            "null" | "bool" | "int" | "float" | "seq" | "map" => content.newtype_variant_seed(self),
            other => Err(A::Error::custom(format!("a value with the tag \"{other:.64}\""))),
        }
    }

    /// Keys that are not text become text; of equal keys the last counts.
    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut all = Map::new();
        while let Some(key) = pairs.next_key_seed(inner)? {
            let value = pairs.next_value_seed(inner)?;
            all.insert(key_text(key), value);
        }
        Ok(Value::Object(all))
    }
}

fn key_text(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn count_values(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(count_values).sum::<usize>(),
            Value::Object(members) => 1 + members.values().map(|value| 1 + count_values(value)).sum::<usize>(),
            _ => 1,
        }
    }

    #[test]
    fn reads_what_datamon_writes() {
        let value =
            read_yaml("leafSize: 2097152\nid: x\nparents:\n- a\ncontributors:\n- name: n\n  email: e\n").unwrap();
        assert_eq!(
            value,
            json!({"leafSize": 2_097_152, "id": "x", "parents": ["a"], "contributors": [{"name": "n", "email": "e"}]})
        );
        assert_eq!(read_yaml("1: .inf\ntrue: ~\n").unwrap(), json!({"1": "inf", "true": null}));
    }

    #[test]
    fn aliases_may_repeat_but_not_explode() {
        assert_eq!(read_yaml("a: &x 1\nb: *x\n").unwrap(), json!({"a": 1, "b": 1}));
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 9].join(",");
            bomb = format!("{bomb}a{level}: &a{level} [{items}]\n");
        }
        assert!(read_yaml(&bomb).unwrap_err().reason.contains("aliases"));
        let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(5000), "*a,".repeat(5000));
        assert!(read_yaml(&wide).is_err());
    }

    #[test]
    fn the_number_of_values_is_bounded_in_both_forms() {
        let flow = |items: usize| format!("[{}0]", "0,".repeat(items));
        // The array, the last item, and as many marks as items.
        assert!(read_json(&flow(MAX_VALUES - 2)).is_ok() && read_json(&flow(MAX_VALUES - 1)).is_err());
        assert!(read_yaml(&flow(MAX_VALUES - 2)).is_ok() && read_yaml(&flow(MAX_VALUES - 1)).is_err());
        let many = |part: &str| part.repeat(2 * MAX_VALUES / part.matches(['-', ':', '?', ',']).count());
        for part in ["- {}\n", "-\n", "? a\n", "k: v\n", "- - - -\n", "[?,:],"] {
            let text = if part.starts_with('[') { format!("[{}]", many(part)) } else { many(part) };
            let refused = read_yaml(&text).unwrap_err();
            assert!(refused.reason.contains("more than 100000 values"), "{part}: {refused}");
        }
    }

    #[test]
    fn prose_in_a_block_is_one_value() {
        let line = "  at 10:30, see https://example.com/a?b=c-d,e,f\n";
        let text = format!("note: |\n{}", line.repeat(20_000));
        assert_eq!(count_marks(text.as_bytes()), 1);
        assert!(read_yaml(&text).unwrap()["note"].as_str().unwrap().len() > 900_000);
    }

    #[test]
    fn deep_nesting_is_refused_quickly() {
        for open in ["[", "{", "{a: ", "[[{", "- ", "? "] {
            assert!(read_yaml(&open.repeat(1 << 16)).is_err(), "{open}");
        }
        assert!(read_json(&"[".repeat(1 << 20)).is_err());
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        assert!(read_json(&deep).is_err() && read_yaml(&deep).is_err());
        assert!(read_json(&deep[1..deep.len() - 1]).is_ok() && read_yaml(&deep[1..deep.len() - 1]).is_ok());
    }

    proptest! {
        #[test]
        fn json_reads_alike_both_ways(keys in proptest::collection::btree_map("[a-z]{1,8}", -1000i64..1000, 0..8)) {
            let text = serde_json::to_string(&keys).unwrap();
            prop_assert_eq!(read_yaml(&text).unwrap(), read_json(&text).unwrap());
        }

        /// What is counted before the document is parsed bounds what the parser makes of it.
        #[test]
        fn no_document_has_more_values_than_its_marks_allow(text in "([-?:,&*!|>'\"%@`#\\[\\]{}a-c0-9 \n\t]){0,60}") {
            if let Ok(value) = read_yaml(&text) && !text.contains('*') {
                prop_assert!(count_values(&value) <= 2 * count_marks(text.as_bytes()) + 1, "{}", value);
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = (read_yaml(&text), read_json(&text));
        }

        #[test]
        fn text_made_of_yaml_is_read_without_a_panic(text in "([-?:,&*!|>'\"%@`#\\[\\]{}a-c0-9 \n\t]){0,200}") {
            let _ = (read_yaml(&text), read_json(&text));
        }
    }
}
