//! Those who write the log: with the library, and by Datamon's rules alone.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, path::Path};
use serde_json::Map;
use tidemark_catalog::RootChain;
use tidemark_store::StoreSecond;
use tidemark_wal::{AppendError, DraftOperation, EntryDraft, LogWriter, LogWriterOptions, Token};

use crate::{
    oracle::Acknowledged,
    process::Process,
    store::SimStore,
    supervise::End,
    truth::{LOG, META},
    world::World,
};

/// How often a writer tries one draft before it turns to the next.
const TRIES: u32 = 4;

/// What a writer remembers over its deaths: the draft it is at.
#[derive(Debug, Default)]
pub struct Desk {
    draft: Option<EntryDraft>,
    number: u64,
    tries: u32,
}

/// One life of a writer that uses the library.
pub async fn write(world: World, process: Process, name: String, desk: Arc<Mutex<Desk>>) -> End {
    let log = world.log(&process);
    let root = RootChain::open(&log, world.entropy());
    let options = LogWriterOptions::named(name.clone());
    let writer = match LogWriter::open(log, Arc::new(root), options, world.entropy()).await {
        Ok(writer) => writer,
        Err(error) => return End::GaveUp(error.to_string()),
    };
    while !world.is_calm() {
        let draft = next_draft(&world, &name, &desk);
        let key = draft.idempotency_key.clone().unwrap_or_default();
        match writer.append(draft).await {
            Ok(receipt) => {
                let (writer, token) = (name.clone(), receipt.token);
                world.cloud.note(&format!("{name} is told that {token} (\"{key}\") is committed"));
                world.judge(|oracle| oracle.acknowledge(Acknowledged { writer, key, token }));
                done(&desk);
            }
            Err(AppendError::Occupied { .. } | AppendError::Invalid { .. }) => {
                world.cloud.mark("occupied");
                done(&desk);
            }
            Err(error) => world.cloud.note(&format!("{name} \"{key}\": {error}")),
        }
        world.rest(world.knobs.rest.clone()).await;
    }
    End::Done
}

/// The draft at hand, or a new one. After [`TRIES`] tries it is given up.
fn next_draft(world: &World, name: &str, desk: &Mutex<Desk>) -> EntryDraft {
    let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
    desk.tries += 1;
    if desk.tries > TRIES {
        *desk = Desk { draft: None, number: desk.number, tries: 1 };
    }
    if let Some(draft) = &desk.draft {
        return draft.clone();
    }
    desk.number += 1;
    let draft = draft(world, name, desk.number);
    desk.draft = Some(draft.clone());
    draft
}

fn done(desk: &Mutex<Desk>) {
    let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
    *desk = Desk { draft: None, number: desk.number, tries: 0 };
}

fn draft(world: &World, name: &str, number: u64) -> EntryDraft {
    let kind = world.among(world.knobs.drafts.clone());
    let bundle = || {
        let id = if world.chance(150) {
            format!("b{}", world.among(0..=world.knobs.names))
        } else {
            format!("{name}-{number}")
        };
        let path = format!("bundles/r{}/{id}/bundle.yaml", world.among(0..=1));
        let body = bundle_yaml(&id, &format!("{name} {number}"));
        DraftOperation::Descriptor { path, body }
    };
    let label = || {
        let (label, bundle) = (format!("l{}", world.among(0..=2)), format!("b{}", world.among(0..=world.knobs.names)));
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
    EntryDraft {
        writer: Some(name.to_owned()),
        idempotency_key: Some(format!("key-{number}")),
        attributes: Map::new(),
        ops,
    }
}

fn bundle_yaml(id: &str, message: &str) -> Bytes {
    Bytes::from(format!(
        "id: {id}\nmessage: {message}\nparents: []\ntimestamp: 2026-11-20T10:00:00Z\ncontributors:\n- name: Ada\n  email: ada@example.org\nversion: 4\n"
    ))
}

/// One life of a writer that knows Datamon's rules only: a plain entry, a plain descriptor, perhaps late, perhaps never.
pub async fn stray(world: World, process: Process, name: String) -> End {
    let (log, meta) = (SimStore::new(&world.cloud, LOG, &process), SimStore::new(&world.cloud, META, &process));
    let entropy = world.entropy();
    while !world.is_calm() {
        world.rest(world.knobs.rest.clone()).await;
        // Its clock is its own.
        let ahead = world.among(0..=6);
        let second = StoreSecond::from_unix(world.true_second().unix() + ahead - 3);
        let token = Token::new(second, &entropy);
        let path = stray_path(&world, &name, token);
        create(&log, &token.to_string(), stray_entry(&world, token, &path)).await;
        let late = world.knobs.parameters.horizon_delay().as_millis();
        let late = u64::try_from(late).unwrap_or(0);
        match world.among(0..=9) {
            0 => continue,
            1 => world.rest(late..=late * 2).await,
            2 => world.rest(late * 2..=late * 3 + 250_000).await,
            _ => world.rest(0..=3_000).await,
        }
        create(&meta, &path, bundle_yaml("stray", &name)).await;
    }
    End::Done
}

/// Mostly a new bundle; at times one that somebody has completed, whose descriptor is not this operation's.
fn stray_path(world: &World, name: &str, token: Token) -> String {
    let taken: Vec<String> = world.cloud.objects(META).into_keys().filter(|key| key.starts_with("bundles/")).collect();
    if !taken.is_empty() && world.chance(200) {
        let index = world.cloud.state().dice.index(taken.len());
        return taken[index].clone();
    }
    format!("bundles/stray/{name}-{token}/bundle.yaml")
}

fn stray_entry(world: &World, token: Token, path: &str) -> Bytes {
    match world.among(0..=11) {
        0 => Bytes::from_static(b"\xff\xfe neither YAML nor JSON {"),
        1 | 2 => Bytes::from(format!("{path}\n")),
        _ => Bytes::from(format!("token: {token}\npayload: {path}\n")),
    }
}

async fn create(store: &SimStore, key: &str, body: Bytes) {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let _ = store.put_opts(&Path::from(key), body.into(), options).await;
}

/// Deletes descriptors of bundles that every index has: a committed update does not un-happen.
pub async fn delete_old(world: World, process: Process) -> End {
    let meta = SimStore::new(&world.cloud, META, &process);
    while !world.is_calm() {
        world.rest(2_000..=15_000).await;
        let decided = world.oracle().decided_paths();
        let there = world.cloud.objects(META);
        let old: Vec<&String> = decided.iter().filter(|path| there.contains_key(*path)).collect();
        if !old.is_empty() {
            let index = world.cloud.state().dice.index(old.len());
            let _ = meta.delete(&Path::from(old[index].as_str())).await;
        }
    }
    End::Done
}
