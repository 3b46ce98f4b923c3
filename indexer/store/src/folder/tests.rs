use std::{fs, time::Duration};

use futures::TryStreamExt as _;

use super::files::{LOCK_FILE, STAGING_DIR};
use crate::{Create, Store, StoreError, StoreSecond, UserMetadata};

async fn keys(store: &Store) -> Vec<String> {
    store.list("", None).map_ok(|info| info.key).try_collect().await.unwrap()
}

#[tokio::test]
async fn what_waits_aside_and_the_lock_are_never_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    store.put("x", "1".into()).await.unwrap();
    fs::write(folder.path().join(STAGING_DIR).join("put-left"), "half").unwrap();
    assert_eq!(keys(&store).await, ["x"]);
    assert!(store.put(LOCK_FILE, "1".into()).await.is_err());
}

#[tokio::test]
async fn abandoned_bytes_are_swept_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    store.put("x", "1".into()).await.unwrap();
    let left = folder.path().join(STAGING_DIR).join("put-left");
    let file = fs::File::create(&left).unwrap();
    let stamp = fs::metadata(folder.path().join(LOCK_FILE)).unwrap().modified().unwrap();
    file.set_modified(stamp - Duration::from_secs(3599)).unwrap();
    Store::folder(folder.path()).unwrap();
    assert!(left.exists());
    file.set_modified(stamp - Duration::from_secs(3601)).unwrap();
    Store::folder(folder.path()).unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn store_time_stands_still_rather_than_going_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    store.put("before", "1".into()).await.unwrap();
    let lock = fs::File::open(folder.path().join(LOCK_FILE)).unwrap();
    let ahead = lock.metadata().unwrap().modified().unwrap() + Duration::from_hours(2);
    lock.set_modified(ahead).unwrap();
    store.put("after", "1".into()).await.unwrap();
    let unix = ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(store.head("after").await.unwrap().unwrap().time, StoreSecond::from_unix(unix));
}

#[tokio::test]
async fn an_object_and_a_folder_of_one_name_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    store.put("a", "1".into()).await.unwrap();
    store.put("b/c", "1".into()).await.unwrap();
    for key in ["a/b", "b"] {
        let refused = store.put(key, "2".into()).await.unwrap_err();
        assert!(matches!(refused, StoreError::BadKey { .. }), "{refused}");
        assert!(matches!(
            store.create(key, "2".into(), &UserMetadata::new()).await,
            Create::Unknown(StoreError::BadKey { .. })
        ));
    }
    store.delete(&["b/c".to_owned()]).await.unwrap();
    store.put("b", "2".into()).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_disappears_is_no_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = Store::folder(&root).unwrap();
    store.put("x", "1".into()).await.unwrap();
    fs::remove_dir_all(&root).unwrap();
    assert!(matches!(store.get("x", 9).await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(store.head("x").await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(store.put("x", "1".into()).await, Err(StoreError::NoBucket { .. })));
    let listed: Result<Vec<_>, _> = store.list("", None).try_collect().await;
    assert!(matches!(listed, Err(StoreError::NoBucket { .. })));
}

#[tokio::test]
async fn hostile_names_are_listed_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    fs::write(folder.path().join("a\u{1}b"), "").unwrap();
    store.put("b", "1".into()).await.unwrap();
    assert_eq!(keys(&store).await, ["a\u{1}b", "b"]);
}

#[tokio::test]
async fn links_are_no_objects_and_fail_no_listing() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    for key in ["a/x", "z"] {
        store.put(key, "1".into()).await.unwrap();
    }
    symlink("loop", folder.path().join("loop")).unwrap();
    symlink("nowhere", folder.path().join("a/dangling")).unwrap();
    symlink("a", folder.path().join("folder")).unwrap();
    symlink("z", folder.path().join("file")).unwrap();
    assert_eq!(keys(&store).await, ["a/x", "z"]);
}

#[tokio::test]
async fn a_reader_makes_no_folder_and_finds_what_is_made_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/below");
    let url = url::Url::from_directory_path(&path).unwrap();
    let reader = Store::open_read_only(&url).unwrap();
    let error = reader.list("", None).try_next().await.unwrap_err();
    assert!(matches!(error, StoreError::NoBucket { .. }), "{error}");
    assert!(matches!(reader.head("x").await, Err(StoreError::NoBucket { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let writer = Store::open(&url).unwrap();
    assert_eq!(writer.url(), reader.url());
    writer.put("x", "1".into()).await.unwrap();
    assert_eq!(keys(&reader).await, ["x"]);
}

/// Payloads of anybody name keys: one that no file can have must read as absent, since a failure is retried without end.
#[tokio::test]
async fn a_name_that_is_too_long_for_a_file_is_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    let key = format!("labels/r/{}/label.yaml", "n".repeat(300));
    assert!(store.get(&key, 100).await.unwrap().is_none());
    assert!(store.head(&key).await.unwrap().is_none());
    let below: Vec<_> = store.list(&key, None).try_collect().await.unwrap();
    assert!(below.is_empty());
    assert!(matches!(store.put(&key, "a".into()).await, Err(StoreError::BadKey { .. })));
}
