//! `tidemark append`: entries and what completes them, from a file or standard input, or from other programs over HTTP.

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::{Map, Value};
use tidemark_catalog::RootChain;
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::{
    AppendError, AppendProof, AppendReceipt, CommitExpectation, EntryDraft, EntryForm, LockName, LockRef, LogWriter,
    LogWriterOptions, Token,
};

use super::{
    append_decision::{AppendDecision, AppendDecisionArgs, DecidedOutcome},
    append_serve::AppendServeArgs,
    args::{LogArgs, OutputArgs},
    exit::CommandExit,
    failure_verdict::ended,
    output::{ProgressReporter, print_json, print_line},
};
use crate::{
    draft_input::{entry_draft, independent_runs, keyed_without_writer},
    service::verify_log_contract,
};

/// Entries that are appended at once, as long as they have nothing in common.
const CONCURRENCY: usize = 16;

/// Append entries to a log and complete them.
///
/// FILE holds one JSON object per entry, one after the other. `ops` lists what the entry announces, committed together or
/// not at all:
///
///   {"path": "bundles/r/b1/bundle.yaml", "body": {"id": "b1"}}   a descriptor; a body that is not a string is written as YAML
///   {"repo": "r", "label": "latest", "bundle": "b1"}             a label moved to a bundle
///   {"attributes": {"ticket": "OPS-7"}}                          nothing but the entry
///
/// An object without `ops` is an entry of its own with all its members as attributes; one with `expect` is refused. `idempotencyKey`
/// makes a repeated append count once, and needs a writer: `writer` beside it, or --writer.
///
/// With `expect`, or --expect, an entry is committed only if the newest commit of an entity is the one that its writer knows when the entry is
/// decided, and `conflicted` else. That is decided by indexes, once the time is over in which an earlier entry may be completed: with --url
/// this command waits for it. Without, it prints the token, and ends with code 5: undecided.
///
/// Entries that name different things are appended several at once; those that share a descriptor, a label, a bundle or a
/// key, in the order of FILE. Tokens are printed in the order of FILE. The first to write to a store verifies its
/// contract, as `tidemark check` does.
///
/// With --serve it reads no FILE and appends what programs of this machine send: `POST /v1/append` takes one such object, or an array of them,
/// and answers when it is committed. So a program in any language writes correctly without knowing the protocol or having credentials.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: echo '{\"ops\": [{\"path\": \"bundles/r/b1/bundle.yaml\", \"body\": {\"id\": \"b1\"}}]}' | \
    tidemark append --log file:///tmp/t/log --metadata file:///tmp/t/metadata -\n\
    Prints the token of each entry once it is acknowledged: from then on every index has it as committed.\n\
    Example: echo '{\"ops\": [{\"repo\": \"r\", \"label\": \"latest\", \"bundle\": \"b1\"}]}' | \
    tidemark append --log s3://wal/orders --metadata s3://meta --expect label/r/latest=none --url http://127.0.0.1:7281 -\n\
    Example: tidemark append --log file:///tmp/t/log --metadata file:///tmp/t/metadata --serve 127.0.0.1:7285 --writer orders\n\
    Then: curl --json '{\"ops\": [], \"idempotencyKey\": \"order-7\", \"attributes\": {\"paid\": true}}' http://127.0.0.1:7285/v1/append"
)]
pub(super) struct AppendCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Name of the writer: idempotency keys count per writer, so entries that have a key need one. Random if left out.
    #[arg(long, env = "TIDEMARK_WRITER")]
    writer: Option<String>,
    /// The form of the entries. `datamon` is what Datamon's reader reads, which reads no JSON intents: one operation an entry, a
    /// descriptor or attributes, no writer, no idempotency key, and at most 1024 bytes.
    #[arg(long, env = "TIDEMARK_FORM", value_enum, default_value_t)]
    form: FormName,
    /// The write lock that guards the entries, but for those that name one themselves: each is committed only if nobody else was granted the lock since. An entry that comes too
    /// late is fenced, and the command ends with code 4.
    #[arg(long, env = "TIDEMARK_LOCK", value_name = "NAME", requires = "grant")]
    lock: Option<LockName>,
    /// The grant of the lock, as `tidemark lock acquire` printed it.
    #[arg(long, env = "TIDEMARK_GRANT", value_name = "NUMBER", requires = "lock")]
    grant: Option<u64>,
    /// The newest commit of an entity, as its history names it, that the entry is to follow; `none`: there is no commit of it yet. The entry is
    /// committed only if that still holds when it is decided. For one entry; `expect` in FILE is for each its own.
    #[arg(long, env = "TIDEMARK_EXPECT", value_name = "ENTITY=TOKEN", conflicts_with = "serve")]
    expect: Option<CommitExpectation>,
    #[command(flatten)]
    decision: AppendDecisionArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    serve: AppendServeArgs,
    /// A file of JSON objects; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "serve", conflicts_with = "serve")]
    file: Option<PathBuf>,
}

/// A form of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FormName {
    /// A JSON intent.
    #[default]
    Intent,
    /// The mapping of token and payload.
    Datamon,
}

impl From<FormName> for EntryForm {
    fn from(form: FormName) -> Self {
        match form {
            FormName::Intent => Self::Intent,
            FormName::Datamon => Self::Datamon,
        }
    }
}

impl AppendCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log, writer, form, lock, grant, expect, decision, output, serve, file } = self;
        let lock = lock.map(|name| LockRef { name, grant });
        // Everything is read and checked before anything is written.
        let drafts = match &file {
            Some(file) => drafts_to_append(file, lock.as_ref(), expect, writer.is_some())
                .map_err(|error| CommandExit::Usage.with(error))?,
            None => Vec::new(),
        };
        let stores = log.open()?;
        let entropy = Entropy::from_os();
        let root = Arc::new(RootChain::open(&stores, entropy.clone()));
        let has_name = writer.is_some();
        let writer = writer.unwrap_or_else(|| format!("append-{}", entropy.nonce()));
        let mut options = LogWriterOptions { form: form.into(), ..LogWriterOptions::named(writer) };
        if file.is_none() {
            // Several services may write in one name, for as long as they like.
            options.clock = format!("append-{}", entropy.nonce());
        }
        let opened = LogWriter::open(stores.clone(), root.clone(), options, entropy.clone()).await;
        let writer = opened.map_err(|error| exit(error, None))?;
        // After the writer was opened: a log without parameters is not worth proving fit.
        ended(verify_log_contract(&root, &stores, &entropy).await)?;
        match file {
            Some(_) => DraftAppender { writer, decision: decision.open()?, output }.append(drafts).await,
            None => serve.run(writer, has_name, lock).await,
        }
    }
}

/// The drafts of a file, which are refused as a whole if one has a fault.
fn drafts_to_append(
    file: &std::path::Path,
    lock: Option<&LockRef>,
    expect: Option<CommitExpectation>,
    has_writer: bool,
) -> anyhow::Result<Vec<EntryDraft>> {
    let mut drafts = read(file)?;
    if expect.is_some() {
        let [draft] = &mut drafts[..] else {
            anyhow::bail!(
                "--expect is for one entry, and there are {}; nothing was appended; give each its own \"expect\"",
                drafts.len()
            );
        };
        draft.expect = draft.expect.take().or(expect);
    }
    for draft in &mut drafts {
        draft.lock = draft.lock.take().or_else(|| lock.cloned());
    }
    if !has_writer {
        require_writers(&drafts)?;
    }
    Ok(drafts)
}

/// Appends drafts, and prints what became of each.
struct DraftAppender {
    writer: LogWriter,
    /// Where it learns what became of entries with an expectation.
    decision: Option<AppendDecision>,
    output: OutputArgs,
}

impl DraftAppender {
    async fn append(&self, drafts: Vec<EntryDraft>) -> anyhow::Result<()> {
        let total = drafts.len();
        let shown = total > CONCURRENCY && !std::io::stdout().is_terminal();
        let progress = shown.then(|| ProgressReporter::new("entries"));
        let (mut done, mut undecided) = (0, None);
        for run in independent_runs(drafts) {
            let mut receipts = stream::iter(run).map(|draft| self.writer.append(draft)).buffered(CONCURRENCY);
            while let Some(receipt) = receipts.next().await {
                let receipt = receipt.map_err(|error| exit(error, Some((done + 1, total))))?;
                let mut finished = self.finish(&receipt).await;
                // One with an expectation is a run of its own: the next one begins after it.
                if total > 1 && receipt.acknowledged().is_none() {
                    let place = format!("entry {} of {total} (none after it was appended)", done + 1);
                    finished = finished.context(place);
                }
                undecided = finished?.or(undecided);
                done += 1;
                if let Some(progress) = &progress {
                    progress.report(done as u64, total as u64);
                }
            }
        }
        undecided.map_or(Ok(()), |undecided| Err(CommandExit::Unacknowledged.with(undecided)))
    }

    /// Prints what became of an entry, and waits for it where only an index can tell. Gives what there is to say of an undecided one.
    async fn finish(&self, receipt: &AppendReceipt) -> anyhow::Result<Option<anyhow::Error>> {
        let token = receipt.token;
        let AppendProof::Undecided { seen, decided } = receipt.proof else {
            self.print(receipt, Some(DecidedOutcome::committed()))?;
            return Ok(None);
        };
        let Some(decision) = &self.decision else {
            self.print(receipt, None)?;
            return Ok(Some(anyhow::anyhow!(
                "entry \"{token}\" is complete in time, and whether its expectation holds is undecided until {decided} at least; ask an index \
                 then (\"GET /v1/entries/{token}?min_token={token}\"), or append with --url"
            )));
        };
        let outcome = decision.wait(token, decided.since(seen)).await?;
        // Of a duplicate, too: the process that appended the first one may have ended before it heard of its outcome.
        if let Some(token) = outcome.committed_entry(token)
            && let Err(error) = self.writer.refresh_committed(token).await
        {
            tracing::warn!(%token, %error, "the labels that it moved were not rewritten for Datamon's clients; the next writer rewrites them");
        }
        if !outcome.is_conflicted() {
            self.print(receipt, Some(outcome))?;
            return Ok(None);
        }
        let why = outcome.reason();
        if self.output.json {
            self.print(receipt, Some(outcome))?;
        }
        Err(CommandExit::Conflicted.with(anyhow::anyhow!(
            "entry \"{token}\" is conflicted: {why}; it is not committed; read what was committed meanwhile, and append again with that"
        )))
    }

    /// Prints a line for an entry; `outcome`: what it is known to be.
    fn print(&self, receipt: &AppendReceipt, outcome: Option<DecidedOutcome>) -> anyhow::Result<()> {
        if !self.output.json {
            return print_line(&receipt.token.to_string());
        }
        let AppendReceipt { token, proof, attempts, .. } = *receipt;
        let (acknowledged, decided) = match proof {
            AppendProof::Committed { acknowledged } => (Some(acknowledged), None),
            AppendProof::Undecided { decided, .. } => (None, Some(decided).filter(|_| outcome.is_none())),
        };
        print_json(&AppendedJson { token, acknowledged, decided, outcome, attempts })
    }
}

/// Refused if an entry has a key that counts for no writer.
fn require_writers(drafts: &[EntryDraft]) -> anyhow::Result<()> {
    match keyed_without_writer(drafts) {
        None => Ok(()),
        Some(index) => anyhow::bail!(
            "entry {} has an idempotency key and no writer, and keys count per writer; nothing was appended; give --writer, \
             the same each time",
            index + 1
        ),
    }
}

/// The error with its exit code and, of many entries, which one it is.
fn exit(error: AppendError, place: Option<(usize, usize)>) -> anyhow::Error {
    let exit = match &error {
        AppendError::Unproven { .. } | AppendError::KeyExpired { .. } => CommandExit::Unacknowledged,
        AppendError::Invalid { .. } => CommandExit::Usage,
        AppendError::Fenced { .. } => CommandExit::Fenced,
        _ => CommandExit::Failed,
    };
    let mut error = anyhow::Error::from(error);
    if let Some((number, total)) = place.filter(|(_, total)| *total > 1) {
        let rest = "those before it are acknowledged, some after it may have been appended";
        error = error.context(format!("entry {number} of {total} ({rest})"));
    }
    exit.with(error)
}

/// What is printed for an entry with `--json`.
#[derive(Serialize)]
struct AppendedJson {
    token: Token,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc_3339")]
    acknowledged: Option<StoreSecond>,
    /// Of an undecided one: from when on an index may know.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc_3339")]
    decided: Option<StoreSecond>,
    #[serde(flatten)]
    outcome: Option<DecidedOutcome>,
    attempts: u32,
}

#[expect(clippy::ref_option, reason = "serde hands on a reference")]
fn rfc_3339<S: serde::Serializer>(second: &Option<StoreSecond>, serializer: S) -> Result<S::Ok, S::Error> {
    match second {
        Some(second) => serializer.collect_str(second),
        None => serializer.serialize_none(),
    }
}

fn read(file: &std::path::Path) -> anyhow::Result<Vec<EntryDraft>> {
    let mut text = String::new();
    if file == std::path::Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input cannot be read as UTF-8; nothing was appended")?;
    } else {
        text = std::fs::read_to_string(file)
            .with_context(|| format!("\"{}\" cannot be read; nothing was appended", file.display()))?;
    }
    parse(&text)
}

fn parse(text: &str) -> anyhow::Result<Vec<EntryDraft>> {
    let mut drafts = Vec::new();
    for (index, value) in serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>().enumerate() {
        let number = index + 1;
        let value = value.with_context(|| format!("entry {number} is not a JSON object; nothing was appended"))?;
        let draft =
            entry_draft(value).with_context(|| format!("entry {number} cannot be appended; nothing was appended"))?;
        drafts.push(draft);
    }
    anyhow::ensure!(
        !drafts.is_empty(),
        "the file holds no entry; nothing was appended; give one JSON object per entry"
    );
    Ok(drafts)
}

#[cfg(test)]
mod tests {
    use tidemark_wal::DraftOperation;

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
        assert!(matches!(&drafts[0].ops[0], DraftOperation::Descriptor { body, .. } if body == "id: b\n"));
        assert!(matches!(&drafts[0].ops[1], DraftOperation::Label { label, .. } if label == "latest"));
        assert!(matches!(&drafts[0].ops[2], DraftOperation::Entry { .. }));
        assert_eq!(drafts[1].attributes.get("free"), Some(&Value::Bool(true)));
    }

    #[test]
    fn a_key_needs_a_writer() {
        let refusal = |text: &str| require_writers(&parse(text).unwrap()).err().map(|error| error.to_string());
        assert_eq!(refusal(r#"{}{"ops": []}{"writer": "team-a", "idempotencyKey": "k", "ops": []}"#), None);
        let refused = refusal(r#"{}{"idempotencyKey": "k", "ops": []}"#).unwrap();
        assert!(refused.starts_with("entry 2 ") && refused.contains("--writer"), "{refused}");
    }

    #[test]
    fn an_error_names_the_entry_and_keeps_its_exit_code() {
        let invalid = || AppendError::Invalid { why: "too large".to_owned() };
        let error = exit(invalid(), Some((3, 9)));
        assert!(error.to_string().starts_with("entry 3 of 9"), "{error:#}");
        assert!(format!("{error:#}").ends_with("too large; nothing was appended; correct the draft"), "{error:#}");
        assert_eq!(CommandExit::of(Err(error)), CommandExit::Usage);
        assert!(!exit(invalid(), Some((1, 1))).to_string().contains("entry 1"));
    }

    #[test]
    fn nothing_is_appended_when_any_entry_is_wrong() {
        for text in ["", "[]", "{\"ops\": [{\"path\": 1}]}", "{} {", "{\"ops\": [], \"idempotencykey\": \"typo\"}"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
