//! The writers of the log: those that use the library, and those that follow Datamon's rules only.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, path::Path};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tidemark_catalog::RootChain;
use tidemark_store::StoreSecond;
use tidemark_wal::{AppendError, CommitExpectation, DraftOperation, EntryDraft, LogWriter, LogWriterOptions, Token};

use crate::{
    checker::AppendAcknowledgement,
    fault_injecting_store::FaultInjectingStore,
    model::{LOG, META, VMETA},
    process::SimProcess,
    supervise::ProcessEnd,
    world::SimWorld,
};

/// How often a writer tries to append one draft.
const MAX_TRIES: u32 = 4;

/// The draft that a writer is appending. It survives a restart of the writer.
#[derive(Debug, Default)]
pub struct WriterProgress {
    draft: Option<EntryDraft>,
    number: u64,
    tries: u32,
    /// The key of the last draft with several operations.
    last_group: Option<String>,
}

/// A writer that uses the library, until it ends or crashes.
pub async fn write(
    world: SimWorld,
    process: SimProcess,
    name: String,
    progress: Arc<Mutex<WriterProgress>>,
) -> ProcessEnd {
    let log = world.log(&process);
    let root = RootChain::open(&log, world.entropy());
    let options = LogWriterOptions::named(name.clone());
    let writer = match LogWriter::open(log, Arc::new(root), options, world.entropy()).await {
        Ok(writer) => writer,
        Err(error) => return ProcessEnd::GaveUp(error.to_string()),
    };
    while !world.is_fault_burst_over() {
        let draft = next_draft(&world, &name, &progress);
        let key = draft.idempotency_key.clone().unwrap_or_default();
        match writer.append(draft).await {
            Ok(receipt) if receipt.acknowledged().is_none() => {
                world.simulated_store.note(&format!("{name}: {} is undecided (\"{key}\")", receipt.token));
                world.check(|checker| checker.leave_undecided(&name, receipt.token));
                done(&progress);
            }
            Ok(receipt) => {
                let (writer, token) = (name.clone(), receipt.token);
                world.simulated_store.note(&format!("{name} got a receipt for {token} (\"{key}\")"));
                world.check(|checker| checker.acknowledge(AppendAcknowledgement { writer, key, token }));
                done(&progress);
            }
            Err(AppendError::Occupied { .. } | AppendError::Invalid { .. }) => {
                world.simulated_store.mark("occupied");
                done(&progress);
            }
            Err(error) => world.simulated_store.note(&format!("{name} \"{key}\": {error}")),
        }
        world.sleep_for(world.config.append_interval.clone()).await;
    }
    ProcessEnd::Done
}

/// The draft that was not acknowledged yet, or a new one. After [`MAX_TRIES`] tries the writer gives it up.
fn next_draft(world: &SimWorld, name: &str, progress: &Mutex<WriterProgress>) -> EntryDraft {
    let mut progress = progress.lock();
    progress.tries += 1;
    if progress.tries > MAX_TRIES {
        (progress.draft, progress.tries) = (None, 1);
    }
    if let Some(draft) = &progress.draft {
        return draft.clone();
    }
    progress.number += 1;
    if world.config.expecting_drafts > 0 && world.chance(world.config.expecting_drafts) {
        let draft = expecting_draft(world, name, progress.number);
        progress.draft = Some(draft.clone());
        return draft;
    }
    let mut draft = draft(world, name, progress.number);
    match &progress.last_group {
        Some(group) if world.chance(world.config.lookalike_keys) => {
            // What an earlier release derived for the group's second operation.
            draft.idempotency_key = Some(format!("{group}#1"));
            progress.last_group = None;
            world.simulated_store.mark("a look-alike of a group's key");
        }
        _ if draft.ops.len() > 1 => progress.last_group.clone_from(&draft.idempotency_key),
        _ => {}
    }
    progress.draft = Some(draft.clone());
    draft
}

fn done(progress: &Mutex<WriterProgress>) {
    let mut progress = progress.lock();
    (progress.draft, progress.tries) = (None, 0);
}

fn draft(world: &SimWorld, name: &str, number: u64) -> EntryDraft {
    let kind = world.in_range(world.config.draft_kinds.clone());
    let padding = padding(world);
    let bundle = || {
        let id = if world.chance(150) {
            format!("b{}", world.in_range(0..=world.config.shared_names))
        } else {
            format!("{name}-{number}")
        };
        let path = format!("bundles/r{}/{id}/bundle.yaml", world.in_range(0..=1));
        let body = bundle_yaml(&id, &format!("{name} {number}{padding}"));
        DraftOperation::Descriptor { path, body }
    };
    let label = || {
        let (label, bundle) =
            (format!("l{}", world.in_range(0..=2)), format!("b{}", world.in_range(0..=world.config.shared_names)));
        let body = Bytes::from(format!("name: {label}\nid: {bundle}\ntimestamp: 2026-11-20T10:00:00Z\n"));
        DraftOperation::Label { repo: "r0".to_owned(), label, bundle, body }
    };
    let ops = match kind {
        0..=4 => vec![bundle()],
        5 | 6 => vec![label()],
        7 => vec![bundle(), label()],
        8 => vec![DraftOperation::Entry { attributes: Map::new() }],
        _ => vec![bundle(), DraftOperation::Entry { attributes: Map::new() }],
    };
    let mut attributes = Map::new();
    if !padding.is_empty() && world.chance(500) {
        attributes.insert("note".to_owned(), padding.into());
    }
    let (writer, idempotency_key) = (Some(name.to_owned()), Some(format!("key-{number}")));
    EntryDraft { writer, idempotency_key, attributes, ops, ..EntryDraft::default() }
}

/// A draft that expects the newest commit of an entity that the index has, mostly, and commits the next one: others do the same meanwhile.
fn expecting_draft(world: &SimWorld, name: &str, number: u64) -> EntryDraft {
    let entity = format!("e{}", world.in_range(0..=1));
    let is_first = world.chance(100);
    let key = format!("entry/{entity}");
    let token = world.checker().newest_commit(&key).filter(|_| !is_first);
    let attributes: Map<String, Value> = [("entity".to_owned(), entity.into())].into_iter().collect();
    let ops = (0..=world.in_range(0..=1)).map(|_| DraftOperation::Entry { attributes: Map::new() }).collect();
    EntryDraft {
        writer: Some(name.to_owned()),
        idempotency_key: Some(format!("key-{number}")),
        expect: Some(CommitExpectation { entity: key, token }),
        attributes,
        ops,
        ..EntryDraft::default()
    }
}

/// Makes a draft longer.
fn padding(world: &SimWorld) -> String {
    let Some(sizes) = world.config.entry_sizes.filter(|_| world.chance(300)) else { return String::new() };
    let bytes = world.in_range(0..=sizes.max_padding);
    if bytes > sizes.entry_memory {
        world.simulated_store.mark("an entry is larger than all memory for entries");
    }
    "x".repeat(usize::try_from(bytes).unwrap_or(0))
}

pub(super) fn bundle_yaml(id: &str, message: &str) -> Bytes {
    Bytes::from(format!(
        "id: {id}\nmessage: {message}\nparents: []\ntimestamp: 2026-11-20T10:00:00Z\ncontributors:\n- name: Ada\n  email: ada@example.org\nversion: 4\n"
    ))
}

/// A writer that follows Datamon's rules only: it writes a plain entry, then a plain descriptor, which may come late or not at
/// all.
pub async fn stray(world: SimWorld, process: SimProcess, name: String) -> ProcessEnd {
    let (log, meta) = (
        FaultInjectingStore::new(&world.simulated_store, LOG, &process),
        FaultInjectingStore::new(&world.simulated_store, META, &process),
    );
    let entropy = world.entropy();
    while !world.is_fault_burst_over() {
        world.sleep_for(world.config.append_interval.clone()).await;
        // Its clock differs from the store's.
        let ahead = world.in_range(0..=6);
        let second = StoreSecond::from_unix(world.true_second().unix() + ahead - 3);
        let token = Token::new(second, &entropy);
        let path = stray_path(&world, &name, token);
        create(&log, &token.to_string(), stray_entry(&world, token, &path)).await;
        let late = world.config.parameters.horizon_delay().as_millis();
        let late = u64::try_from(late).unwrap_or(0);
        match world.in_range(0..=9) {
            0 => continue,
            1 => world.sleep_for(late..=late * 2).await,
            2 => world.sleep_for(late * 2..=late * 3 + 250_000).await,
            _ => world.sleep_for(0..=3_000).await,
        }
        create(&meta, &path, bundle_yaml("stray", &name)).await;
    }
    ProcessEnd::Done
}

/// A client of Datamon's that moves labels: it writes a plain entry, then the label's key, over what is there. Sometimes it crashes
/// in between.
pub async fn move_labels(world: SimWorld, process: SimProcess, name: String) -> ProcessEnd {
    let (log, values) = (
        FaultInjectingStore::new(&world.simulated_store, LOG, &process),
        FaultInjectingStore::new(&world.simulated_store, VMETA, &process),
    );
    let entropy = world.entropy();
    let mut number = 0;
    while !world.is_fault_burst_over() {
        world.sleep_for(world.config.append_interval.clone()).await;
        let token = Token::new(world.true_second(), &entropy);
        let label = format!("l{}", world.in_range(0..=1));
        let path = format!("labels/moved/{label}/label.yaml");
        create(&log, &token.to_string(), stray_entry(&world, token, &path)).await;
        if world.chance(300) {
            continue;
        }
        world.sleep_for(0..=3_000).await;
        number += 1;
        let body = Bytes::from(format!("name: {label}\nid: {name}-{number}\n"));
        let _ = values.put_opts(&Path::from(path), body.into(), PutOptions::default()).await;
    }
    ProcessEnd::Done
}

/// A client that uses a few keys again and again, as a nightly job does: while a key counts, and after it has expired.
pub async fn repeat_keys(world: SimWorld, process: SimProcess) -> ProcessEnd {
    let log = FaultInjectingStore::new(&world.simulated_store, LOG, &process);
    let entropy = world.entropy();
    while !world.is_fault_burst_over() {
        world.sleep_for(1_000..=8_000).await;
        let token = Token::new(world.true_second(), &entropy);
        let key = world.in_range(0..=1);
        let entry = format!(r#"{{"tidemark": 1, "writer": "repeater", "idempotencyKey": "job-{key}", "ops": [{{}}]}}"#);
        create(&log, &token.to_string(), entry.into()).await;
    }
    ProcessEnd::Done
}

/// Usually a new bundle; sometimes one that exists, whose descriptor belongs to another operation.
fn stray_path(world: &SimWorld, name: &str, token: Token) -> String {
    let taken: Vec<String> =
        world.simulated_store.objects(META).into_keys().filter(|key| key.starts_with("bundles/")).collect();
    if !taken.is_empty() && world.chance(200) {
        let index = world.simulated_store.state().rng.index(taken.len());
        return taken[index].clone();
    }
    format!("bundles/stray/{name}-{token}/bundle.yaml")
}

fn stray_entry(world: &SimWorld, token: Token, path: &str) -> Bytes {
    match world.in_range(0..=11) {
        0 => Bytes::from_static(b"\xff\xfe neither YAML nor JSON {"),
        1 | 2 => Bytes::from(format!("{path}\n")),
        _ => Bytes::from(format!("token: {token}\npayload: {path}\n")),
    }
}

pub(super) async fn create(store: &FaultInjectingStore, key: &str, body: Bytes) {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let _ = store.put_opts(&Path::from(key), body.into(), options).await;
}

/// Deletes descriptors of operations that the index has as committed: their outcome must not change.
pub async fn delete_old(world: SimWorld, process: SimProcess) -> ProcessEnd {
    let meta = FaultInjectingStore::new(&world.simulated_store, META, &process);
    while !world.is_fault_burst_over() {
        world.sleep_for(2_000..=15_000).await;
        let decided = world.checker().decided_paths();
        let there = world.simulated_store.objects(META);
        let old: Vec<&String> = decided.iter().filter(|path| there.contains_key(*path)).collect();
        if !old.is_empty() {
            let index = world.simulated_store.state().rng.index(old.len());
            let _ = meta.delete(&Path::from(old[index].as_str())).await;
        }
    }
    ProcessEnd::Done
}
