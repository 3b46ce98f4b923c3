//! Clients of a log in runs of days: they write entries by Datamon's rules, with descriptors that come in time, late or not at all.

use bytes::Bytes;
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::Token;

use super::{
    long_run::{LOG, LongRun},
    writers::{bundle_yaml, create},
};
use crate::{fault_injecting_store::FaultInjectingStore, model::META, process::SimProcess, supervise::ProcessEnd};

/// With so many bytes more an entry is larger than `MAX_ENTRY_SIZE` allows.
const PADDING: usize = 2_000;

/// Writes a few entries now and then, until it crashes.
pub(super) async fn append(run: LongRun, process: SimProcess) -> ProcessEnd {
    let stores = [LOG, META].map(|bucket| FaultInjectingStore::new(&run.simulated_store, bucket, &process));
    let entropy = run.entropy();
    loop {
        run.sleep_minutes(20..=300).await;
        for _ in 0..run.number(1..=4) {
            append_entry(&run, &stores, &entropy).await;
        }
    }
}

async fn append_entry(run: &LongRun, [log, meta]: &[FaultInjectingStore; 2], entropy: &Entropy) {
    let token = Token::new(StoreSecond::from_unix(run.simulated_store.now() / 1_000), entropy);
    let path = format!("bundles/r0/{token}/bundle.yaml");
    let entry = match run.number(0..=9) {
        0 => Bytes::from_static(b"\xff\xfe neither YAML nor JSON {"),
        1 => Bytes::from(format!("token: {token}\npayload: {path}\nnote: {}\n", "x".repeat(PADDING))),
        _ => Bytes::from(format!("token: {token}\npayload: {path}\n")),
    };
    create(log, &token.to_string(), entry).await;
    match run.number(0..=9) {
        0 => return,
        1 => run.sleep_minutes(15..=150).await,
        _ => {}
    }
    create(meta, &path, bundle_yaml(&token.to_string(), "a client")).await;
}
