//! The store contract on the stores that need no server.

use futures::{StreamExt as _, TryStreamExt as _, future};
use proptest::prelude::*;

use crate::{Create, Store, StoreError, UserMetadata};

const ENOUGH: u64 = 1 << 20;

struct TestStore {
    store: Store,
    _folder: Option<tempfile::TempDir>,
}

/// One empty store of each kind, below a prefix.
fn test_stores() -> Vec<TestStore> {
    let folder = tempfile::tempdir().unwrap();
    let memory = TestStore { store: Store::memory().below("some/prefix"), _folder: None };
    let files = TestStore { store: Store::folder(folder.path()).unwrap().below("some/prefix"), _folder: Some(folder) };
    vec![memory, files]
}

async fn keys(store: &Store, prefix: &str, after: Option<&str>) -> Vec<String> {
    store.list(prefix, after).map_ok(|info| info.key).try_collect().await.unwrap()
}

fn named(pairs: &[(&str, &str)]) -> UserMetadata {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn of_two_creates_the_second_is_lost() {
    for one in test_stores() {
        let store = one.store;
        let metadata = named(&[("token", "t1")]);
        assert!(matches!(store.create("a/b", "one".into(), &metadata).await, Create::Committed));
        assert!(matches!(store.create("a/b", "two".into(), &metadata).await, Create::Lost));
        let object = store.get("a/b", ENOUGH).await.unwrap().unwrap();
        assert_eq!(object.body.unwrap(), "one");
        let kept = if store.supports_user_metadata() { metadata } else { UserMetadata::new() };
        assert_eq!(object.metadata, kept);
        assert_eq!(store.head("a/b").await.unwrap().unwrap(), object.info);
    }
}

#[tokio::test]
async fn of_32_racers_exactly_one_wins() {
    for one in test_stores() {
        let racers = (0..32).map(|racer| {
            let store = one.store.clone();
            tokio::spawn(async move { store.create("slot", racer.to_string().into(), &UserMetadata::new()).await })
        });
        let outcomes = future::try_join_all(racers).await.unwrap();
        let won = outcomes.iter().filter(|outcome| matches!(outcome, Create::Committed)).count();
        let lost = outcomes.iter().filter(|outcome| matches!(outcome, Create::Lost)).count();
        assert_eq!((won, lost), (1, 31), "{}", one.store.url());
    }
}

#[tokio::test]
async fn a_resolved_create_knows_its_own_body() {
    for one in test_stores() {
        let store = one.store;
        store.put("slot", "nonce 1".into()).await.unwrap();
        let none = UserMetadata::new();
        assert!(matches!(store.create_resolved("slot", "nonce 1".into(), &none).await, Create::Committed));
        assert!(matches!(store.create_resolved("slot", "nonce 2".into(), &none).await, Create::Lost));
    }
}

#[tokio::test]
async fn absent_objects_are_none_and_delete_is_idempotent() {
    for one in test_stores() {
        let store = one.store;
        assert!(store.get("x", ENOUGH).await.unwrap().is_none());
        assert!(store.head("x/y").await.unwrap().is_none());
        assert!(matches!(store.get_range("x", 0..1).await, Err(StoreError::Absent { .. })));
        store.put("x", "1".into()).await.unwrap();
        let both = ["x".to_owned(), "never".to_owned()];
        store.delete(&both).await.unwrap();
        store.delete(&both).await.unwrap();
        assert!(keys(&store, "", None).await.is_empty());
    }
}

#[tokio::test]
async fn a_large_body_is_not_read() {
    for one in test_stores() {
        one.store.put("x", "12345".into()).await.unwrap();
        let object = one.store.get("x", 4).await.unwrap().unwrap();
        assert_eq!((object.info.size, object.body), (5, None));
        assert_eq!(one.store.get("x", 5).await.unwrap().unwrap().body.unwrap(), "12345");
        assert_eq!(one.store.get_range("x", 1..3).await.unwrap(), "23");
    }
}

#[tokio::test]
async fn a_listing_is_in_key_order_and_starts_strictly_after() {
    for one in test_stores() {
        let store = one.store;
        for key in ["a/z", "a-b", "a0", "b", "a/b/c", "a.x"] {
            store.put(key, "".into()).await.unwrap();
        }
        let all = ["a-b", "a.x", "a/b/c", "a/z", "a0", "b"];
        assert_eq!(keys(&store, "", None).await, all);
        assert_eq!(keys(&store, "", Some("a/b/c")).await, all[3..]);
        assert_eq!(keys(&store, "", Some("a/")).await, all[2..]);
        assert_eq!(keys(&store, "", Some("a/zz")).await, all[4..]);
        assert_eq!(keys(&store, "", Some("/zz")).await, all);
        assert_eq!(keys(&store, "a", None).await, ["a/b/c", "a/z"]);
        assert_eq!(keys(&store, "a/", Some("a/b/c")).await, ["a/z"]);
        assert_eq!(keys(&store.below("a"), "", None).await, ["b/c", "z"]);
        assert!(keys(&store, "nothing/here", None).await.is_empty());
    }
}

#[tokio::test]
async fn a_listing_goes_past_its_first_page() {
    for one in test_stores() {
        let writes = (0..1100).map(|n| {
            let store = one.store.clone();
            async move { store.put(&format!("{n:05}"), "".into()).await.unwrap() }
        });
        futures::stream::iter(writes).buffer_unordered(32).collect::<()>().await;
        let listed = keys(&one.store, "", Some("00010")).await;
        let expected: Vec<String> = (11..1100).map(|n| format!("{n:05}")).collect();
        assert_eq!(listed, expected);
    }
}

#[tokio::test]
async fn keys_that_climb_out_are_refused() {
    for one in test_stores() {
        for key in ["../x", "a//b", "", "/a", "a/", "a/./b", "a\u{1}"] {
            let refused = one.store.put(key, "".into()).await;
            assert!(matches!(refused, Err(StoreError::BadKey { .. })), "{key:?}");
        }
    }
}

#[tokio::test]
async fn a_large_file_is_uploaded_whole() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let body: Vec<u8> = (0..(17_u32 << 20)).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    std::fs::write(file.path(), &body).unwrap();
    for one in test_stores() {
        one.store.put_file("big", file.path()).await.unwrap();
        let back = one.store.get("big", 1 << 30).await.unwrap().unwrap();
        assert!(back.body.unwrap() == body, "{}", one.store.url());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn folder_and_memory_list_alike(
        written in proptest::collection::btree_set("[ab][.0-]?(/[ab-]{1,2}){0,2}", 0..12),
        after in proptest::option::of("[ab/.0-]{0,4}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut both = Vec::new();
            let nested = |key: &String| written.iter().any(|other| other.starts_with(&format!("{key}/")));
            for one in test_stores() {
                for key in written.iter().filter(|key| !nested(key)) {
                    one.store.put(key, "".into()).await.unwrap();
                }
                both.push(keys(&one.store, "", after.as_deref()).await);
            }
            assert_eq!(both[0], both[1]);
        });
    }
}
