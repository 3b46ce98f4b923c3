//! What leaves the machine in a report, without what must not.
//!
//! Two layers: objects are cleaned by structure, and every file of a report then goes through [`text`], whatever it is.
//! Rather too much is taken away than too little. Names of Secrets stay: a report is of no use without them.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

/// What stands where something was.
pub(super) const REDACTED: &str = "(redacted)";

/// Annotations whose values say how things were made and hold no credentials; other annotations keep their names only.
const KNOWN_ANNOTATIONS: [&str; 7] = [
    "tidemark.dev/",
    "deployment.kubernetes.io/",
    "kubectl.kubernetes.io/default-container",
    "meta.helm.sh/",
    "eks.amazonaws.com/",
    "iam.gke.io/",
    "azure.workload.identity/",
];

/// An object of Kubernetes, cleaned in place.
pub(super) fn object(value: &mut Value) {
    if value["kind"] == "Secret" {
        *value = Value::String(REDACTED.to_owned());
        return;
    }
    if value["kind"] == "ConfigMap" {
        for part in ["data", "binaryData"] {
            for (key, content) in value.get_mut(part).and_then(Value::as_object_mut).into_iter().flatten() {
                // The UID of the WAL to purge: what the operator itself wrote.
                if key != "purge" {
                    *content = REDACTED.into();
                }
            }
        }
    }
    walk(value);
}

fn walk(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::Object(fields) => {
            fields.remove("managedFields");
            if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
                for (name, text) in annotations.iter_mut() {
                    if !KNOWN_ANNOTATIONS.iter().any(|known| name.starts_with(known)) {
                        *text = REDACTED.into();
                    }
                }
            }
            if let Some(Value::Array(variables)) = fields.get_mut("env") {
                variables.iter_mut().for_each(variable);
            }
            for (name, field) in fields.iter_mut() {
                if field.is_string() && sensitive(name) {
                    *field = REDACTED.into();
                } else {
                    walk(field);
                }
            }
        }
        _ => {}
    }
}

/// The operator's own variables say how a pod runs; of every other one only the name stays.
fn variable(variable: &mut Value) {
    let name = variable["name"].as_str().unwrap_or_default();
    let own = name.starts_with("TIDEMARK_") && !name.contains("TOKEN");
    if !own && let Some(value) = variable.get_mut("value") {
        *value = REDACTED.into();
    }
}

/// Whether a field or a setting of this name holds something secret. A name or a reference of a Secret does not.
fn sensitive(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let secret = [
        "password",
        "passwd",
        "secret",
        "accesskey",
        "accountkey",
        "privatekey",
        "apikey",
        "sessiontoken",
        "accesstoken",
        "authorization",
    ];
    secret.iter().any(|part| name.contains(part)) && !["name", "ref", "names"].iter().any(|end| name.ends_with(end))
}

macro_rules! pattern {
    ($name:ident, $pattern:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("a pattern of this file"));
    };
}

pattern!(PEM, r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)");
pattern!(USER_INFO, r#"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s"'<>?#]*@"#);
pattern!(
    QUERY,
    r#"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|googleaccessid|signature|sig|token|access_token|password|secret)=)[^&\s"'<>]+"#
);
pattern!(HEADER, r#"(?i)(authorization\\?["']?\s*[:=]\s*\\?["']?)[^"'\\\n]+"#);
pattern!(SCHEME, r"(?i)\b(bearer|basic)[ \t]+[A-Za-z0-9._~+/=-]{8,}");
pattern!(SETTING, r#"([A-Za-z0-9_.-]+)(\\?["']?[ \t]*[:=][ \t]*)(\\?"(?:[^"\\]|\\[^"])*\\?"|'[^']*'|[^\s,;&}\]"']+)"#);
pattern!(KEY_ID, r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b");
pattern!(JWT, r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*");
pattern!(RANDOM, r"[A-Za-z0-9/+]{40,}={0,2}");

/// Any text, without what looks like a credential.
pub(super) fn text(text: &str) -> String {
    let text = PEM.replace_all(text, REDACTED);
    let text = USER_INFO.replace_all(&text, format!("${{1}}{REDACTED}@"));
    let text = QUERY.replace_all(&text, format!("${{1}}{REDACTED}"));
    let text = HEADER.replace_all(&text, format!("${{1}}{REDACTED}"));
    let text = SCHEME.replace_all(&text, format!("${{1}} {REDACTED}"));
    let text = SETTING.replace_all(&text, |found: &Captures<'_>| {
        let (name, between) = (&found[1], &found[2]);
        let quote = ["\\\"", "\"", "'"].into_iter().find(|quote| found[3].starts_with(quote)).unwrap_or_default();
        if sensitive(name) { format!("{name}{between}{quote}{REDACTED}{quote}") } else { found[0].to_owned() }
    });
    let text = KEY_ID.replace_all(&text, REDACTED);
    let text = JWT.replace_all(&text, REDACTED);
    let text =
        RANDOM.replace_all(
            &text,
            |found: &Captures<'_>| {
                if looks_random(&found[0]) { REDACTED.to_owned() } else { found[0].to_owned() }
            },
        );
    text.into_owned()
}

/// Whether this may be a key: forty characters as AWS makes them, or a long run of base64 that ends as base64 does.
/// Digests, which are hexadecimal, and the paths of objects stay.
fn looks_random(run: &str) -> bool {
    let mixed = run.contains(|c: char| c.is_ascii_lowercase())
        && run.contains(|c: char| c.is_ascii_uppercase())
        && run.contains(|c: char| c.is_ascii_digit());
    mixed && (run.len() == 40 || run.len() >= 44 && run.ends_with('='))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_leave_a_text_and_the_rest_stays() {
        for (before, after) in [
            ("GET https://ada:s3cr3t@s3.corp/wal", "GET https://(redacted)@s3.corp/wal"),
            (
                "GET https://s3/wal?X-Amz-Signature=ab12&list-type=2",
                "GET https://s3/wal?X-Amz-Signature=(redacted)&list-type=2",
            ),
            ("az://c/x?sv=1&sig=AbC%3D end", "az://c/x?sv=1&sig=(redacted) end"),
            ("Authorization: Bearer abc", "Authorization: (redacted)"),
            ("sent Bearer abcdefgh12 twice", "sent Bearer (redacted) twice"),
            ("{\"authorization\":\"Basic YTpi\",\"a\":1}", "{\"authorization\":\"(redacted)\",\"a\":1}"),
            ("AWS_SECRET_ACCESS_KEY=hunter2 x", "AWS_SECRET_ACCESS_KEY=(redacted) x"),
            ("{\"password\": \"a b\", \"n\": 1}", "{\"password\": \"(redacted)\", \"n\": 1}"),
            ("key AKIAIOSFODNN7EXAMPLE here", "key (redacted) here"),
            ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY!", "(redacted)!"),
            ("a eyJhbGciOiJI.eyJzdWIiOiJ.c2ln b", "a (redacted) b"),
            ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nnext", "(redacted)\nnext"),
            ("-----BEGIN RSA PRIVATE KEY-----\\nMIIE and no end", "(redacted)"),
        ] {
            assert_eq!(text(before), after);
        }
        for kept in [
            "secretRef:\n  name: orders-s3",
            "secretName: orders-s3",
            "Secret \"orders-s3\" has no key \"AWS_ACCESS_KEY_ID\"; add it",
            "cursor 2YxKSUIDksuidKSUIDksuid1234 at s3://wal/orders",
            "bundles/orders/2YxKSUIDksuidKSUIDksuid1234/bundle.yaml",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "https://s3.corp/wal?list-type=2&prefix=orders/",
        ] {
            assert_eq!(text(kept), kept);
        }
    }

    #[test]
    fn objects_keep_their_shape() {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": {
                "managedFields": [1],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "s3cr3t", "vault": "s3cr3t", "tidemark.dev/release": "1a"},
            },
            "spec": {"containers": [{"env": [
                {"name": "TIDEMARK_LOG", "value": "s3://wal"},
                {"name": "HTTPS_PROXY", "value": "http://a:s3cr3t@p"},
                {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            ]}], "volumes": [{"secret": {"secretName": "orders-s3"}}]},
        });
        object(&mut pod);
        let told = pod.to_string();
        assert!(!told.contains("s3cr3t") && !told.contains("managedFields"), "{told}");
        for kept in ["s3://wal", "orders-s3", "HTTPS_PROXY", "metadata.uid", "\"1a\"", "vault"] {
            assert!(told.contains(kept), "{kept} is gone: {told}");
        }
        let mut map = json!({"kind": "ConfigMap", "data": {"purge": "uid", "other": "s3cr3t"}});
        object(&mut map);
        assert_eq!(map["data"], json!({"purge": "uid", "other": REDACTED}));
        let mut secret = json!({"kind": "Secret", "data": {"token": "czNjcjN0"}});
        object(&mut secret);
        assert_eq!(secret, json!(REDACTED));
    }
}
