//! `tidemark append`: entries and what completes them, from a file or standard input.

use std::{io::Read as _, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_catalog::RootChain;
use tidemark_wal::{AppendError, Draft, DraftOp, Entropy, Log, Second, Token, Writer, WriterOptions};

use super::{
    Exit,
    args::{LogArgs, OutputArgs},
    output::{print_json, print_line},
};

/// Append entries to a log and complete them.
///
/// FILE holds one JSON object an entry, one after the other. `ops` lists what the entry announces, committed together or
/// not at all:
///
///   {"path": "bundles/r/b1/bundle.yaml", "body": {"id": "b1"}}   a descriptor; a body that is no text is written as YAML
///   {"repo": "r", "label": "latest", "bundle": "b1"}             a label moved to a bundle
///   {"attributes": {"ticket": "OPS-7"}}                          nothing but the entry
///
/// An object without `ops` is an entry of its own with all its members as attributes. `idempotencyKey` makes a repeated
/// append count once.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: echo '{\"ops\": [{\"path\": \"bundles/r/b1/bundle.yaml\", \"body\": {\"id\": \"b1\"}}]}' | \
    tidemark append --log file:///tmp/t/log --metadata file:///tmp/t/metadata -\n\
    Prints the token of each entry once it is acknowledged: committed in every index and for ever."
)]
pub(super) struct Append {
    #[command(flatten)]
    log: LogArgs,
    /// Name of the writer: idempotency keys count per writer.
    #[arg(long, env = "TIDEMARK_WRITER", default_value = "tidemark-append")]
    writer: String,
    #[command(flatten)]
    output: OutputArgs,
    /// A file of JSON objects; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Append {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log, writer, output, file } = self;
        // Everything is read and checked before anything is written.
        let drafts = read(&file).map_err(|error| Exit::Usage.with(error))?;
        let log = Log::open(&log.log, &log.metadata)?;
        let entropy = Entropy::from_os();
        let root = Arc::new(RootChain::open(&log, entropy.clone()));
        let writer = Writer::open(log, root, WriterOptions::named(writer), entropy).await.map_err(exit)?;
        for draft in drafts {
            let receipt = writer.append(draft).await.map_err(exit)?;
            if output.json {
                print_json(&Appended {
                    token: receipt.token,
                    acknowledged: receipt.acknowledged,
                    attempts: receipt.attempts,
                })?;
            } else {
                print_line(&receipt.token.to_string())?;
            }
        }
        Ok(())
    }
}

fn exit(error: AppendError) -> anyhow::Error {
    match error {
        AppendError::Unproven { .. } => Exit::Unacknowledged.with(error),
        AppendError::Invalid { .. } => Exit::Usage.with(error),
        other => other.into(),
    }
}

/// What is printed for an entry with `--json`.
#[derive(Serialize)]
struct Appended {
    token: Token,
    #[serde(serialize_with = "rfc_3339")]
    acknowledged: Second,
    attempts: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands on a reference")]
fn rfc_3339<S: serde::Serializer>(second: &Second, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(second)
}

/// One object of the file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Input {
    #[serde(default)]
    writer: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    ops: Vec<InputOp>,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum InputOp {
    Descriptor { path: String, body: Value },
    Label { repo: String, label: String, bundle: String },
    Entry { attributes: Map<String, Value> },
}

fn read(file: &std::path::Path) -> anyhow::Result<Vec<Draft>> {
    let mut text = String::new();
    if file == std::path::Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read as UTF-8")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("\"{}\" cannot be read", file.display()))?;
    }
    parse(&text)
}

fn parse(text: &str) -> anyhow::Result<Vec<Draft>> {
    let mut drafts = Vec::new();
    for (index, value) in serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>().enumerate() {
        let number = index + 1;
        let value = value.with_context(|| format!("entry {number} is no JSON object; nothing was appended"))?;
        let draft = draft(value).with_context(|| format!("entry {number} cannot be appended; nothing was appended"))?;
        drafts.push(draft);
    }
    anyhow::ensure!(!drafts.is_empty(), "there is nothing to append; wanted is one JSON object an entry");
    Ok(drafts)
}

fn draft(value: Map<String, Value>) -> anyhow::Result<Draft> {
    if !value.contains_key("ops") {
        return Ok(Draft { attributes: value, ..Draft::default() });
    }
    let Input { writer, idempotency_key, attributes, ops } = serde_json::from_value(Value::Object(value))?;
    let ops = ops.into_iter().map(operation).collect::<Result<_, _>>()?;
    Ok(Draft { writer, idempotency_key, attributes, ops })
}

fn operation(op: InputOp) -> anyhow::Result<DraftOp> {
    Ok(match op {
        InputOp::Descriptor { path, body: Value::String(text) } => {
            DraftOp::Descriptor { path, body: Bytes::from(text) }
        }
        InputOp::Descriptor { path, body } => DraftOp::Descriptor { path, body: yaml(&body)? },
        InputOp::Label { repo, label, bundle } => {
            let body = yaml(&serde_json::json!({"name": label, "id": bundle}))?;
            DraftOp::Label { repo, label, bundle, body }
        }
        InputOp::Entry { attributes } => DraftOp::Entry { attributes },
    })
}

fn yaml(value: &Value) -> anyhow::Result<Bytes> {
    Ok(Bytes::from(serde_norway::to_string(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_operation() {
        let drafts = parse(
            r#"{"idempotencyKey": "k", "ops": [
                {"path": "bundles/r/b/bundle.yaml", "body": {"id": "b"}},
                {"repo": "r", "label": "latest", "bundle": "b"},
                {"attributes": {"ticket": "OPS-7"}}]}
               {"free": true}"#,
        )
        .unwrap();
        assert_eq!(drafts.len(), 2);
        assert_eq!(drafts[0].idempotency_key.as_deref(), Some("k"));
        assert!(matches!(&drafts[0].ops[0], DraftOp::Descriptor { body, .. } if body == "id: b\n"));
        assert!(matches!(&drafts[0].ops[1], DraftOp::Label { label, .. } if label == "latest"));
        assert!(matches!(&drafts[0].ops[2], DraftOp::Entry { .. }));
        assert_eq!(drafts[1].attributes.get("free"), Some(&Value::Bool(true)));
    }

    #[test]
    fn nothing_is_appended_when_any_entry_is_wrong() {
        for text in ["", "[]", "{\"ops\": [{\"path\": 1}]}", "{} {", "{\"ops\": [], \"idempotencykey\": \"typo\"}"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
