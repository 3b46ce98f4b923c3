//! Tags become labels, and labels follow them.

use std::{collections::BTreeSet, time::Duration};

use tidemark_store::StoreSecond;
use tidemark_wal::{Token, marker_key};

use super::fixtures::{GitFixture, LogFixture};

#[tokio::test]
async fn a_tag_that_moves_away_and_back_ends_where_it_is() {
    let repository = GitFixture::empty();
    let (a, b) = (repository.commit("a", "A"), repository.commit("b", "B"));
    let log = LogFixture::new().await;
    for commit in [&a, &b, &a, &b, &a] {
        repository.git(&["tag", "--force", "v1", commit]);
        assert_eq!(log.import_clean(&repository.path).await.tags, 1);
        assert_eq!(log.label("v1").await.as_ref(), Some(commit));
        // What is there already is not appended again.
        assert_eq!(log.import_clean(&repository.path).await.tags, 0);
        // Moves of two writers in one second have no order.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    // Moves that bore one idempotency key would count once, and the label would stay where it was.
    let entries = log.entries().await;
    let moves: Vec<_> = entries.iter().filter(|entry| entry["attributes"]["tag"] == "v1").collect();
    let keys: BTreeSet<_> = moves.iter().map(|entry| entry["idempotencyKey"].to_string()).collect();
    assert_eq!((moves.len(), keys.len()), (5, 5), "{keys:?}");
}

#[tokio::test]
async fn a_label_with_slashes_is_not_taken_for_the_one_that_its_name_ends_with() {
    let repository = GitFixture::empty();
    let a = repository.commit("a", "A");
    repository.git(&["tag", "v1"]);
    let log = LogFixture::new().await;
    let token = Token::first_of(StoreSecond::from_unix(1_700_000_000));
    let marker = marker_key("project", "sub/v1", token, 0);
    log.log.values().put(&marker, format!("id: {a}\n").into()).await.unwrap();
    assert_eq!(log.import_clean(&repository.path).await.tags, 1);
    assert_eq!(log.label("v1").await, Some(a));
}

#[tokio::test]
async fn annotated_tags_name_their_commit_and_tags_of_files_none() {
    let repository = GitFixture::empty();
    let a = repository.commit("a", "A");
    repository.git(&["tag", "--annotate", "--message", "one", "v1"]);
    repository.git(&["tag", "file", "HEAD:a"]);
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&repository.path).await.tags, 1);
    assert_eq!((log.label("v1").await, log.label("file").await), (Some(a), None));
}

#[tokio::test]
async fn a_tag_whose_name_is_too_long_gets_a_shorter_label() {
    let repository = GitFixture::empty();
    let a = repository.commit("a", "A");
    let tags = ["1", "2"].map(|end| format!("{}{end}", "long-".repeat(45)));
    for tag in &tags {
        repository.git(&["tag", tag]);
    }
    let log = LogFixture::new().await;
    let (summary, warnings) = log.import(&repository.path).await.unwrap();
    assert_eq!((summary.tags, warnings.len()), (2, 2), "{warnings:?}");
    for (tag, warning) in tags.iter().zip(&warnings) {
        assert_eq!(warning.object, format!("tag \"{tag}\""));
        let label = warning.what.rsplit('"').nth(1).unwrap();
        assert!(label.len() < tag.len() && log.label(label).await.as_ref() == Some(&a), "{warning}");
    }
}
