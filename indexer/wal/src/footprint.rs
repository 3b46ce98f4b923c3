//! How much memory parsed values take.
//!
//! Measured with the allocator's own numbers (64 bits, `serde_json` with `preserve_order`): a value takes 72 bytes where it
//! stands, and twice that in an array that grows; a string its bytes and 16; the smallest object that is not empty about
//! 400, since it makes room for three members at once; the YAML reader 136 for each event while it reads, of which there are
//! two to four a value. 100 000 values, the most that are read of one document, therefore take 7 to 40 MB, and in YAML up to
//! 65 MB more while they are read, however large the text is.

use serde_json::{Map, Value};

use crate::yaml::MAX_VALUES;

/// What an allocation takes beyond the bytes that were asked for.
const ALLOCATION_BYTES: u64 = 16;
/// A member of an object: its hash, its name and its value.
const MEMBER_BYTES: u64 = (size_of::<String>() + size_of::<Value>() + 8) as u64;
/// The most that a value takes besides text and members, with what reading it takes for the moment.
const MAX_VALUE_BYTES: u64 = 320;
/// The most that an object with one member takes besides text.
const MAX_OBJECT_BYTES: u64 = 440;

/// Bytes that `value` has allocated.
pub fn value_bytes(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text_bytes(text),
        Value::Array(values) if values.capacity() == 0 => 0,
        Value::Array(values) => {
            let room = (values.capacity() * size_of::<Value>()) as u64;
            ALLOCATION_BYTES + room + values.iter().map(value_bytes).sum::<u64>()
        }
        Value::Object(members) => {
            let inner = members.iter().map(|(name, value)| text_bytes(name) + value_bytes(value));
            object_bytes(members) + inner.sum::<u64>()
        }
    }
}

/// Bytes that `text` has allocated.
pub fn text_bytes(text: &String) -> u64 {
    if text.capacity() == 0 { 0 } else { ALLOCATION_BYTES + text.capacity() as u64 }
}

/// The room for members: a hash table, which doubles, and a list that is as long as the table is full.
fn object_bytes(members: &Map<String, Value>) -> u64 {
    let buckets = match members.len() as u64 {
        0 => return 0,
        1..4 => 4,
        4..8 => 8,
        more => (more * 8 / 7 + 1).next_power_of_two(),
    };
    let room = if buckets <= 8 { buckets - 1 } else { buckets / 8 * 7 };
    2 * ALLOCATION_BYTES + room * MEMBER_BYTES + buckets * 9 + 16
}

/// The most bytes that reading `text` as YAML or JSON may take: what is charged before the value itself is known.
///
/// Every value follows one of a few marks, so that these bound the number of values. Aliases repeat what stands once. No more
/// than [`MAX_VALUES`] are read in any case.
pub(crate) fn parsing_bytes(text: &[u8]) -> u64 {
    let (mut values, mut objects, mut anchors, mut aliases) = (1, 0, false, false);
    for byte in text {
        match byte {
            b'{' | b':' | b'?' => (values, objects) = (values + 1, objects + 1),
            b'[' | b',' | b'-' | b'\n' => values += 1,
            b'&' => anchors = true,
            b'*' => aliases = true,
            _ => {}
        }
    }
    let length = text.len() as u64;
    if anchors && aliases {
        (values, objects) = (length, length);
    }
    // As YAML two values follow a mark, and as many marks as values are read.
    let (values, objects) = (values.min(2 * MAX_VALUES as u64), objects.min(MAX_VALUES as u64));
    values * MAX_VALUE_BYTES + objects * MAX_OBJECT_BYTES + 2 * length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::yaml::{read_json, read_yaml};

    #[test]
    fn a_value_of_many_small_ones_takes_many_times_its_text() {
        for (part, values, mebibytes) in [("[],", 1, 6..15), ("{\"\":0},", 3, 12..20), ("1,", 1, 6..15)] {
            let text = format!("[{}0]", part.repeat((MAX_VALUES - 2) / values));
            let bytes = value_bytes(&read_json(&text).unwrap());
            assert!(mebibytes.contains(&(bytes >> 20)), "{part}: {} MiB", bytes >> 20);
            assert!(parsing_bytes(text.as_bytes()) >= bytes, "{part}");
        }
    }

    #[test]
    fn whatever_the_size_of_a_text_reading_it_is_charged_what_the_most_values_take() {
        for part in ["[],", "{},", "{\"\":0},", "a: {}\n", "- &a {x: 1}\n- *a\n"] {
            let text = part.repeat((16 << 20) / part.len());
            assert!(parsing_bytes(text.as_bytes()) < (140 << 20) + 2 * text.len() as u64, "{part}");
            assert!(read_yaml(&text).is_err(), "{part}");
        }
    }

    #[test]
    fn the_yaml_readers_events_are_charged() {
        // Two events and a value for each mark: the most that a text below the bound has.
        let text = "- {}\n".repeat(MAX_VALUES / 2);
        let (value, events) = (read_yaml(&text).unwrap(), 136 * (MAX_VALUES as u64 + 2));
        assert!(parsing_bytes(text.as_bytes()) >= value_bytes(&value) + events);
    }

    #[test]
    fn an_ordinary_descriptor_is_charged_a_few_kilobytes() {
        let text = "leafSize: 2097152\nid: 1INzQ5TV4vAAfU2PbRFgPfnzEwR\nmessage: first\nparents:\n- p\ncontributors:\n- name: Ada\n";
        let bytes = value_bytes(&read_yaml(text).unwrap());
        assert!((1000..4000).contains(&bytes), "{bytes}");
        assert!((bytes..16_000).contains(&parsing_bytes(text.as_bytes())));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), "[a-z ]{0,9}".prop_map(Value::from)];
        leaf.prop_recursive(5, 100, 10, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..10).prop_map(Value::from),
                prop::collection::vec(("[a-z]{0,3}", inner), 0..10)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_charged_for_reading_is_never_less_than_what_was_read(value in value()) {
            let (json, yaml) = (value.to_string(), serde_norway::to_string(&value).unwrap());
            prop_assert!(parsing_bytes(json.as_bytes()) >= value_bytes(&read_json(&json).unwrap()));
            prop_assert!(parsing_bytes(yaml.as_bytes()) >= value_bytes(&read_yaml(&yaml).unwrap()));
        }
    }

    #[test]
    fn aliases_are_charged_for_what_they_may_repeat() {
        let text = format!("a: &a {{x: 1}}\nb: [{}1]\n", "*a,".repeat(1000));
        assert!(parsing_bytes(text.as_bytes()) >= value_bytes(&read_yaml(&text).unwrap()));
        assert_eq!(value_bytes(&json!({})), 0);
    }
}
