//! Logs with three metadata stores, as Datamon's contexts have: metadata, configuration, values.

use super::*;

const CONTEXT: &str = "contexts/c/context.yaml";

fn three_stores(lab: &TestStore) -> Log {
    let mut log = lab.log();
    log.metadata.insert(1, lab.versioned_store("config"));
    log.metadata[2] = lab.versioned_store("values");
    log
}

fn outcomes(entry: &ResolvedEntry) -> Vec<(Outcome, Option<Evidence>)> {
    entry.ops.iter().map(|op| (op.decision.outcome, op.decision.evidence)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_entry_with_a_descriptor_in_each_store_is_committed_once_the_last_of_them_is_there() {
    let marker = marker_key("r", "v1", token(), 2);
    let parts = [(BUNDLE, "id: b\n"), (CONTEXT, "name: c\n"), (marker.as_str(), "id: b\n")];
    // Where each descriptor lies: Datamon's places, and every other one. `None`: it is written nowhere.
    for places in 0..64 {
        let places = [places % 4, places / 4 % 4, places / 16];
        let log = three_stores(&TestStore::new());
        let ops = [BUNDLE, CONTEXT, LABEL].map(|path| format!(r#"{{"descriptor":"{path}"}}"#)).join(",");
        enter(&log, format!(r#"{{"tidemark":1,"ops":[{ops}]}}"#)).await;
        for ((key, body), place) in parts.iter().zip(places) {
            if let Some(store) = log.metadata.get(place) {
                create(store, key, *body, &[]).await;
            }
        }
        let entry = fetch(&log).await;
        let is_whole = !places.contains(&3);
        let evidence = [Evidence::Timed, Evidence::Timed, Evidence::Bound];
        let expected = evidence.map(|evidence| if is_whole { (Outcome::Committed, Some(evidence)) } else { ABSENT });
        assert_eq!(outcomes(&entry), expected, "{places:?}");
        if is_whole {
            let [bundle, context, label] = [0, 1, 2].map(|op| entry.ops[op].descriptor.clone().unwrap());
            assert_eq!((bundle.id.as_deref(), context.name.as_deref()), (Some("b"), Some("c")));
            assert_eq!(label.id.as_deref(), Some("b"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_wrong_store_holds_under_the_name_decides_nothing() {
    let (own, other) = (token().to_string(), Token::from_parts(OPENED, [8; 16]).to_string());
    for right in 0..3 {
        let log = three_stores(&TestStore::new());
        enter(&log, CONTEXT).await;
        for (place, store) in log.metadata.iter().enumerate().filter(|(place, _)| *place != right) {
            create(store, CONTEXT, format!("name: c\nversion: {place}\n"), &[(TOKEN_FIELD, &other)]).await;
        }
        assert_eq!(decided(&log).await, ABSENT);
        create(&log.metadata[right], CONTEXT, "name: c\nversion: 7\n", &[(TOKEN_FIELD, &own)]).await;
        let op = fetch(&log).await.ops.remove(0);
        assert_eq!((op.decision.outcome, op.decision.evidence), (Outcome::Committed, Some(Evidence::Bound)));
        assert_eq!(op.descriptor_body.as_deref(), Some(&b"name: c\nversion: 7\n"[..]), "store {right}");
    }
}

/// Values were kept elsewhere once: what the other stores have of a label is older.
#[tokio::test(start_paused = true)]
async fn a_label_is_looked_for_in_each_store_whatever_older_versions_another_one_has() {
    for right in 0..3 {
        let log = three_stores(&TestStore::new());
        for store in &log.metadata {
            store.put(LABEL, Bytes::from_static(b"id: old\n")).await.unwrap();
        }
        pass(3).await;
        let moved_there = move_label(&log, 3, None).await;
        assert_eq!(label_moves(&log, &[moved_there]).await, [CRASHED]);
        log.metadata[right].put(LABEL, Bytes::from_static(b"id: b\n")).await.unwrap();
        assert_eq!(label_moves(&log, &[moved_there]).await, [moved("b")], "store {right}");
    }
}

/// A prefix and a path may be longer together than a store takes, in one store and not in the next.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_too_long_for_a_store_names_nothing_there() {
    for path in [BUNDLE, LABEL] {
        for right in 0..3 {
            let lab = TestStore::new();
            let log = three_stores(&lab);
            enter(&log, path).await;
            for wrong in (0..3).filter(|place| *place != right) {
                lab.refuse(&format!("{}/{path}", log.metadata[wrong].url().path()), ReadFault::KeyTooLong);
            }
            let reader = LogReader::new(&log);
            // At once: nothing is waited for.
            let begun = tokio::time::Instant::now();
            let op = reader.lookup(token(), &schedule()).await.unwrap().unwrap().ops.remove(0);
            assert_eq!((op.decision.outcome, op.decision.evidence), ABSENT, "{path}");
            log.metadata[right].put(path, Bytes::from_static(b"id: b\n")).await.unwrap();
            let op = LogReader::new(&log).lookup(token(), &schedule()).await.unwrap().unwrap().ops.remove(0);
            assert_eq!((op.decision.outcome, op.decision.evidence), (Outcome::Committed, Some(Evidence::Timed)));
            assert_eq!(begun.elapsed(), Duration::ZERO);
        }
    }
}
