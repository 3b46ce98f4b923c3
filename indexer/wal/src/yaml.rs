//! Untrusted YAML and JSON, read into JSON values within bounds.
//!
//! A document without aliases has at most about one node and one byte of text for each of its bytes, so a small multiple
//! of its length bounds what a document with aliases may expand to. Nesting is bounded so that a value can be stored
//! inside another document and read again.
//!
//! The parser is `serde_norway`, and the bounds are ours. The budget of `serde-saphyr`, which kube links for the operator,
//! bounds depth, nodes and text too, but it reads scalars by other rules: `yes`, `017`, `1_000` and `!!binary` become other
//! values; unknown tags and long integers pass that are refused here, and equal keys and `.inf` are refused that pass here.
//! Entries are decided once and recorded, so a payload must keep its meaning.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::malformed::MalformedInput;

/// Deepest nesting that is read.
pub(crate) const MAX_DEPTH: usize = 64;

/// Reads one YAML document.
pub(crate) fn read_yaml(text: &str) -> Result<Value, MalformedInput> {
    refuse_deep_flow(text)?;
    let budget = ExpansionBudget::of(text);
    let seed = BoundedValue { budget: &budget, depth: 0 };
    seed.deserialize(serde_norway::Deserializer::from_str(text))
        .map_err(|error| MalformedInput::new(format!("not readable as YAML: {error}")))
}

/// Reads one JSON value that fills the whole text.
pub(crate) fn read_json(text: &str) -> Result<Value, MalformedInput> {
    let refused = |error| MalformedInput::new(format!("not readable as JSON: {error}"));
    let budget = ExpansionBudget::of(text);
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

struct ExpansionBudget(Cell<usize>);

impl ExpansionBudget {
    fn of(text: &str) -> Self {
        Self(Cell::new(4 * text.len() + 64))
    }

    fn spend<E: Error>(&self, cost: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(cost);
        self.0.set(left.ok_or_else(|| E::custom("aliases expand to far more than the document"))?);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct BoundedValue<'a> {
    budget: &'a ExpansionBudget,
    depth: usize,
}

impl BoundedValue<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.budget.spend(1)?;
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn scalar<E: Error>(self, value: Value) -> Result<Value, E> {
        self.budget.spend(1)?;
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
