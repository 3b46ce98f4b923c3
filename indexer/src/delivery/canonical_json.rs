//! The canonical form of JSON (RFC 8785), and the digest of a document in it.
//!
//! What a search server gives back of a document may have other spaces, another order and numbers written in another way than what it got;
//! the canonical form is the same. A number counts as a double, as the RFC has it. It is read as everywhere in this process, a unit in the last place
//! beside the nearest double at most: what reads the same on both sides is the same.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The field of a change that a reindex writes anew: it names the generation.
const POSITION: &str = "position";

/// The SHA-256 of a document's canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DocumentDigest(pub(super) [u8; 32]);

impl DocumentDigest {
    /// The digest of a change, which is JSON, without its `position`.
    pub(crate) fn of_change(json: &str) -> serde_json::Result<Self> {
        let mut document: Value = serde_json::from_str(json)?;
        if let Value::Object(fields) = &mut document {
            fields.shift_remove(POSITION);
        }
        let mut canonical = String::with_capacity(json.len());
        write_canonical(&document, &mut canonical)?;
        Ok(Self(Sha256::digest(canonical).into()))
    }

    /// The digest of a document that cannot be read as JSON: no change has it.
    pub(crate) fn of_unread(text: &str) -> Self {
        // No UTF-8 begins so, and so no canonical form.
        Self(Sha256::new().chain_update([0xff]).chain_update(text).finalize().into())
    }
}

/// Appends the canonical form of `value`.
fn write_canonical(value: &Value, out: &mut String) -> serde_json::Result<()> {
    match value {
        Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        Value::Number(number) => {
            let mut buffer = ryu_js::Buffer::new();
            out.push_str(buffer.format(number.as_f64().unwrap_or(f64::NAN)));
        }
        // Escapes what the RFC escapes, and in the same way.
        Value::String(text) => out.push_str(&serde_json::to_string(text)?),
        Value::Array(items) => write_list(out, ['[', ']'], items, write_canonical)?,
        Value::Object(fields) => {
            let members = in_order(fields);
            write_list(out, ['{', '}'], members, |(name, value), out| {
                out.push_str(&serde_json::to_string(name)?);
                out.push(':');
                write_canonical(value, out)
            })?;
        }
    }
    Ok(())
}

fn write_list<T>(
    out: &mut String,
    [open, close]: [char; 2],
    items: impl IntoIterator<Item = T>,
    write: impl Fn(T, &mut String) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    out.push(open);
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(item, out)?;
    }
    out.push(close);
    Ok(())
}

/// The members of an object, by their names as UTF-16.
fn in_order(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut members: Vec<_> = fields.iter().collect();
    members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    members
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn canonical(value: &Value) -> String {
        let mut out = String::new();
        write_canonical(value, &mut out).unwrap();
        out
    }

    /// The examples of RFC 8785, sections 3.2.2 and 3.2.3 and appendix B.
    #[test]
    fn the_examples_of_the_rfc_come_out_as_it_says() {
        let given = json!({
            "numbers": [333_333_333.333_333_3, 1e30, 4.50, 2e-3, 1e-27],
            "string": "\u{20ac}$\u{f}\nA'B\"\\\\\"/",
            "literals": [null, true, false],
        });
        let expected = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical(&given), expected);
        let given = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
        assert_eq!(canonical(&given), "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}");
        for (bits, expected) in [
            (0, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(canonical(&json!(f64::from_bits(bits))), expected, "{bits:x}");
        }
        assert_eq!(
            canonical(&json!([1_u64, -424_242_424_242_i64, u64::MAX])),
            "[1,-424242424242,18446744073709552000]"
        );
    }

    #[test]
    fn a_digest_is_of_the_content_and_not_of_how_it_is_written() {
        let digest = |json| DocumentDigest::of_change(json).unwrap();
        let one = digest(r#"{"seq":1,"payload":{"b":[1.0,"x"],"a":{}},"position":"g1:1:ab"}"#);
        assert_eq!(one, digest(r#"{ "position": "g2:1:ab", "payload": {"a": {}, "b": [1, "\u0078"]}, "seq": 1e0 }"#));
        for other in [
            r#"{"seq":2,"payload":{"b":[1.0,"x"],"a":{}}}"#,
            r#"{"seq":1,"payload":{"b":["x",1.0],"a":{}}}"#,
            r#"{"seq":1,"payload":{"b":[1.0,"x"]}}"#,
            r#"{"seq":1,"payload":{"b":[1.0,"x"],"a":{}},"more":null}"#,
            r#"{"seq":"1","payload":{"b":[1.0,"x"],"a":{}}}"#,
            r#"{"seq":1,"payload":{"b":[1.0,"x"],"a":{"position":1}}}"#,
        ] {
            assert_ne!(one, digest(other), "{other}");
        }
        assert!(DocumentDigest::of_change("{").is_err());
        assert_ne!(DocumentDigest::of_unread("{}"), digest("{}"));
    }
}
