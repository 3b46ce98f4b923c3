//! What is odd in one object is one warning that names it.

use std::time::Duration;

use tidemark_store::Store;
use tidemark_wal::{Log, LogParameters};

use super::fixtures::{GitFixture, LogFixture, git};
use crate::git::GitPerson;

const COMMITTER: &str = "committer Ada <ada@example.org> 1700000000 +0000\n";

/// What is imported of a commit with such an author line and such further text.
struct OddCommit {
    message: String,
    time: Option<String>,
    people: Vec<GitPerson>,
    /// Empty if nothing is odd.
    warning: String,
}

async fn imported(rest: &[u8]) -> OddCommit {
    let repository = GitFixture::empty();
    let first = repository.commit("a", "the first");
    let odd = repository.commit_literally(Some(&first), rest);
    // What comes after it is imported all the same.
    let last =
        repository.commit_literally(Some(&odd), format!("author A <a@x> 1700000001 +0000\n{COMMITTER}\nz").as_bytes());
    let log = LogFixture::new().await;
    let (summary, warnings) = log.import(&repository.path).await.unwrap();
    assert_eq!((summary.commits, log.bundle(&last).await.message), (3, Some("z".to_owned())));
    assert!(warnings.len() < 2, "{warnings:?}");
    let found = log.bundle(&odd).await;
    if let Some(warning) = warnings.first() {
        assert_eq!(warning.object, format!("commit {odd}"));
    }
    let people = found.contributors.into_iter().map(|who| GitPerson { name: who.name, email: who.email });
    OddCommit {
        message: found.message.unwrap(),
        time: found.timestamp.map(|time| time.to_string()),
        people: people.collect(),
        warning: warnings.into_iter().next().map(|warning| warning.what).unwrap_or_default(),
    }
}

async fn with_author(author: &str) -> OddCommit {
    imported(format!("{author}{COMMITTER}\nodd").as_bytes()).await
}

fn person(name: &str, email: &str) -> GitPerson {
    GitPerson { name: name.to_owned(), email: email.to_owned() }
}

#[tokio::test]
async fn a_malformed_author_is_left_out() {
    let ada = [person("Ada", "ada@example.org")];
    for author in ["author Nobody 1700000000 +0000\n", "author A <a@x 1700000000\n", "author\n", ""] {
        let odd = with_author(author).await;
        assert!(odd.warning.contains("author is malformed"), "{author:?}: {}", odd.warning);
        assert_eq!((odd.time, odd.message.as_str(), &odd.people[..]), (None, "odd", &ada[..]), "{author:?}");
    }
    let odd = imported(b"author A <a@x> 1700000000 +0000\ncommitter ?\n\nodd").await;
    assert!(odd.warning.contains("committer is malformed"), "{}", odd.warning);
    assert_eq!(odd.people, [person("A", "a@x")]);
}

#[tokio::test]
async fn a_date_that_is_missing_or_absurd_is_none() {
    for (time, problem) in [
        ("", "date is missing"),
        (" 0 +0000", "date of 0 s"),
        (" -1 +0000", "date of -1 s"),
        (" -62167219200 +0000", "date of -62167219200 s"),
        (" 1000000000000 +0000", "date of 1000000000000 s"),
        (" 99999999999999999999999 +0000", "date of 99999999999999999999999 s"),
    ] {
        let odd = with_author(&format!("author A <a@x>{time}\n")).await;
        assert!(odd.warning.contains(problem), "{time:?}: {}", odd.warning);
        assert_eq!((odd.time, odd.people.len()), (None, 2), "{time:?}");
    }
}

#[tokio::test]
async fn a_malformed_zone_takes_no_date_away() {
    for zone in [" +0200", " --700", "", " +9999", " ?"] {
        let odd = with_author(&format!("author A <a@x> 1700000000{zone}\n")).await;
        assert_eq!((odd.warning.as_str(), odd.time.as_deref()), ("", Some("2023-11-14T22:13:20Z")), "{zone:?}");
    }
}

#[tokio::test]
async fn the_encoding_of_a_commit_is_honoured() {
    let text = |encoding: &str, name: &[u8], message: &[u8]| {
        let header = if encoding.is_empty() { String::new() } else { format!("encoding {encoding}\n") };
        let author = [b"author ", name, b" <j@x> 1700000000 +0000\n"].concat();
        [&author, COMMITTER.as_bytes(), header.as_bytes(), b"\n", message].concat()
    };
    for (encoding, name, message) in [
        ("ISO-8859-1", &b"J\xFCrgen"[..], &b"Gr\xFC\xDFe"[..]),
        ("latin1", b"J\xFCrgen", b"Gr\xFC\xDFe"),
        ("UTF-8", "Jürgen".as_bytes(), "Grüße".as_bytes()),
        ("", "Jürgen".as_bytes(), "Grüße".as_bytes()),
    ] {
        let odd = imported(&text(encoding, name, message)).await;
        assert_eq!((odd.warning.as_str(), odd.message.as_str()), ("", "Grüße"), "{encoding}");
        assert_eq!(odd.people[0], person("Jürgen", "j@x"), "{encoding}");
    }
    let japanese = imported(&text("Shift_JIS", b"\x93\x63\x92\x86", b"\x93\xfa\x96\x7b")).await;
    assert_eq!((japanese.message.as_str(), japanese.people[0].name.as_str()), ("日本", "田中"));

    let unknown = imported(&text("klingon", b"Worf", b"Qapla'")).await;
    assert_eq!((unknown.message.as_str(), unknown.people[0].name.as_str()), ("Qapla'", "Worf"));
    assert!(unknown.warning.contains("encoding \"klingon\" is unknown"), "{}", unknown.warning);
    let undeclared = imported(&text("", b"J\xFCrgen", b"ok")).await;
    assert_eq!(undeclared.people[0].name, "J\u{FFFD}rgen");
    assert!(undeclared.warning.contains("not UTF-8"), "{}", undeclared.warning);
}

#[tokio::test]
async fn names_and_messages_that_are_too_long_are_cut() {
    let odd = with_author(&format!("author {} <a@x> 1700000000 +0000\n", "ü".repeat(2500))).await;
    assert_eq!(odd.people[0], person(&"ü".repeat(512), "a@x"));
    assert!(odd.warning.contains("of 5000 bytes is cut"), "{}", odd.warning);
    let message = "word ".repeat(300_000);
    let odd = imported(format!("author A <a@x> 1700000000 +0000\n{COMMITTER}\n{message}").as_bytes()).await;
    assert_eq!(odd.message, message[..256 << 10]);
    assert!(odd.warning.contains("its message of 1499999 bytes is cut"), "{}", odd.warning);
}

#[tokio::test]
async fn a_commit_that_the_log_does_not_take_is_left_out() {
    let repository = GitFixture::empty();
    let first = repository.commit("a", "first");
    let odd = repository.commit("b", &"long ".repeat(1000));
    let last = repository.commit("c", "last");
    let parameters = LogParameters { max_descriptor_size: 4096, ..LogParameters::with_expiry(Duration::from_mins(10)) };
    let log = LogFixture::over(Log::over(Store::memory(), vec![Store::memory()]), parameters).await;
    let (summary, warnings) = log.import(&repository.path).await.unwrap();
    assert_eq!((summary.commits, log.commits().await), (2, vec![first, last]));
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(warning.object, format!("commit {odd}"));
    assert!(warning.what.contains("maxDescriptorSize") && warning.what.contains("not imported"), "{warning}");
}

#[tokio::test]
async fn an_object_that_is_missing_is_named() {
    let repository = GitFixture::empty();
    let lost = repository.commit("a", "lost");
    let kept = repository.commit("b", "kept");
    repository.git(&["tag", "v1", &lost]);
    repository.lose(&lost);
    let log = LogFixture::new().await;
    let (summary, warnings) = log.import(&repository.path).await.unwrap();
    assert_eq!((summary.commits, summary.tags), (1, 0));
    assert_eq!(log.bundle(&kept).await.parents, std::slice::from_ref(&lost));
    let objects: Vec<_> = warnings.iter().map(|warning| warning.object.as_str()).collect();
    assert_eq!(objects, ["refs/tags/v1", &format!("commit {lost}"), &format!("commit {kept}")], "{warnings:?}");
    assert!(warnings[1].what.contains("it is missing; it is not imported"), "{}", warnings[1]);
}

#[tokio::test]
async fn a_clone_without_file_contents_lacks_nothing() {
    let repository = GitFixture::empty();
    repository.commit("a", "first");
    repository.git(&["mv", "a", "b"]);
    let moved = repository.commit("c", "moved");
    let clone = repository.beside("blobless.git");
    partial_clone(&repository, "blob:none");
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&clone).await.commits, 2);
    assert_eq!(log.files(&moved).await, Some([1, 1, 0]));
}

#[tokio::test]
async fn a_clone_without_trees_is_one_warning() {
    let repository = GitFixture::empty();
    let commits = [repository.commit("a", "first"), repository.commit("b", "second"), repository.commit("c", "third")];
    partial_clone(&repository, "tree:0");
    let log = LogFixture::new().await;
    let (summary, warnings) = log.import(&repository.beside("blobless.git")).await.unwrap();
    assert_eq!(summary.commits, 3);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(warning.object, format!("commit {}", commits[0]));
    assert!(warning.what.contains("tree is missing, as in a partial clone"), "{warning}");
    for commit in &commits {
        assert_eq!(log.files(commit).await, None);
        assert_eq!(log.bundle_of("blobless", commit).await.unwrap().count, None);
    }
}

fn partial_clone(repository: &GitFixture, filter: &str) {
    repository.git(&["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", repository.path.display());
    let clone = repository.beside("blobless.git");
    let filter = format!("--filter={filter}");
    git(&repository.beside(""), &["clone", "-q", "--bare", &filter, &url, clone.to_str().unwrap()], b"");
}
