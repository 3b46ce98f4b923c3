//! `tidemark verify` on a folder, with the real engine: what is wrong is named with its place and its remedy, and nothing is changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;
use tidemark_tests::{TidemarkProcess, folder_environment};

/// What becomes of the bytes of a file; `None`: it is removed.
type FileChange<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;

/// A log and its index in a folder.
struct IndexFolder {
    folder: tempfile::TempDir,
}

impl IndexFolder {
    /// A log of `entries` made-up entries, indexed.
    async fn indexed(entries: u64) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        let environment = place.environment();
        let indexer = TidemarkProcess::serving(&["index"], &environment).await.expect("it starts");
        let count = entries.to_string();
        let demo = ["demo", "--count", &count, "--every", "0s", "--seed", "1"];
        TidemarkProcess::output(&demo, &environment).await.expect("the log is filled");
        indexer.until_answer("/v1/process", |process| process["entries"].as_u64() >= Some(entries)).await;
        assert!(indexer.stop().await.expect("it ends").success());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn environment(&self) -> BTreeMap<String, String> {
        folder_environment(self.folder.path())
    }

    async fn verify(&self, more: &[&str]) -> Output {
        let result = self.path("result").display().to_string();
        let words = [&["verify", "--all", "--json", "--result-file", &result], more].concat();
        // `index` takes it from the environment, `verify` has none.
        let environment = self.environment();
        TidemarkProcess::ended(&words, &environment).await.expect("it ends")
    }

    fn result(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("result")).expect("there is a result")).expect("it is JSON")
    }

    /// Every file of log, metadata and index, with its bytes.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut contents = BTreeMap::new();
        for name in ["log", "metadata", "index"] {
            read_all(&self.path(name), &mut contents);
        }
        contents
    }

    /// The files below a folder of the index, by name.
    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut contents = BTreeMap::new();
        read_all(&self.path("index").join(folder), &mut contents);
        contents.into_keys().collect()
    }
}

fn read_all(folder: &Path, contents: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        if entry.path().is_dir() {
            read_all(&entry.path(), contents);
        } else {
            contents.insert(entry.path(), fs::read(entry.path()).expect("a file"));
        }
    }
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// The findings of this severity.
fn findings<'a>(lines: &'a [Value], severity: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["severity"] == severity).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_named_and_nothing_is_changed() {
    let place = IndexFolder::indexed(40).await;
    let before = place.contents();
    let sound = place.verify(&[]).await;
    assert!(sound.status.success(), "{sound:?}");
    let summary = lines(&sound).pop().expect("a summary");
    assert_eq!((&summary["damage"], &summary["unverified"]), (&0.into(), &0.into()), "{summary}");
    let outcomes = &summary["outcomes"];
    assert!(outcomes["operations"].as_u64() >= Some(40) && outcomes["entries"].as_u64() >= Some(40), "{summary}");
    assert_eq!(outcomes["agree"], outcomes["operations"], "{summary}");
    assert_eq!((&place.result()["state"], &place.result()["damaged"]), (&"succeeded".into(), &0.into()));
    assert_eq!(place.contents(), before, "it writes nothing");

    let segment = place.files("g1/segment").pop().expect("a segment");
    let record = place.files("g1/manifest").into_iter().filter(|file| !file.display().to_string().contains("boundary"));
    let record = record.max().expect("a manifest");
    let flip = |body: &[u8]| {
        let mut body = body.to_vec();
        let at = body.len() / 3;
        body[at] ^= 1;
        Some(body)
    };
    let newer =
        |body: &[u8]| Some(String::from_utf8_lossy(body).replacen("\"reads\":1", "\"reads\":2", 1).into_bytes());
    let cases: [(&str, &Path, FileChange<'_>, i32, &str); 6] = [
        ("a flipped byte", &segment, &flip, 8, "SHA-256"),
        ("truncated", &segment, &|body| Some(body[..body.len() / 2].to_vec()), 8, "the manifest says"),
        ("removed", &segment, &|_| None, 8, "does not exist"),
        ("another file in its place", &segment, &|body| Some(vec![7; body.len()]), 8, "SHA-256"),
        ("a manifest that was changed", &record, &flip, 8, "is damaged"),
        ("a format from the future", &record, &newer, 1, "is read by version 2 or later"),
    ];
    for (name, file, change, code, what) in cases {
        let body = fs::read(file).expect("a file");
        match change(&body) {
            Some(changed) => fs::write(file, changed).expect("it is written"),
            None => fs::remove_file(file).expect("it is removed"),
        }
        let during = place.contents();
        let found = place.verify(&[]).await;
        assert_eq!(found.status.code(), Some(code), "{name}: {found:?}");
        assert_eq!(place.contents(), during, "{name}: it changes nothing");
        let lines = lines(&found);
        let wanted = if code == 8 { "damage" } else { "unverified" };
        let location = file.display().to_string();
        let named = findings(&lines, wanted).into_iter().find(|line| {
            line["location"].as_str().is_some_and(|text| text.ends_with(&location) || location.ends_with(text))
        });
        let named = named.unwrap_or_else(|| panic!("{name}: {lines:#?}"));
        assert!(named["what"].as_str().is_some_and(|text| text.contains(what)), "{name}: {named}");
        assert!(named["remedy"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {named}");
        assert_eq!(place.result()["state"], "failed", "{name}");
        fs::write(file, body).expect("it is written back");
    }

    let entry = fs::read_dir(place.path("log")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let entry = entry.filter(|path| path.is_file() && path.file_name().is_some_and(|name| name.len() == 27)).max();
    let entry = entry.expect("an entry");
    let body = fs::read(&entry).expect("a file");
    fs::remove_file(&entry).expect("it is removed");
    let found = place.verify(&[]).await;
    assert_eq!(found.status.code(), Some(8), "{found:?}");
    let lines = lines(&found);
    assert!(findings(&lines, "damage")[0]["what"].as_str().is_some_and(|text| text.contains("gone from the log")));
    assert_eq!(place.result()["reason"], "OutcomesDiffer");
    fs::write(&entry, body).expect("it is written back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_verified_is_refused_and_what_may_not_be_read_is_named() {
    let place = IndexFolder::indexed(5).await;
    // A copy of the log.
    let copy = place.path("copy");
    let mut contents = BTreeMap::new();
    read_all(&place.path("log"), &mut contents);
    for (file, body) in contents {
        let target = copy.join(file.strip_prefix(place.path("log")).expect("it is below"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("a folder");
        fs::write(target, body).expect("it is written");
    }
    let url = format!("file://{}", copy.display());
    let refused = place.verify(&["--log", &url]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is a copy") && said.contains("--moved-from"), "{said}");
    assert_eq!((&place.result()["state"], &place.result()["reason"]), (&"refused".into(), &"LogMoved".into()));
    let empty = format!("file://{}", place.path("empty").display());
    fs::create_dir(place.path("empty")).expect("a folder");
    let refused = place.verify(&["--index", &empty]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds no index"), "{refused:?}");
}

/// The line says what was looked at, and a run that looked at no entry says that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_says_what_it_looked_at() {
    let place = IndexFolder::indexed(20).await;
    let summary = lines(&place.verify(&[]).await).pop().expect("a summary");
    assert_eq!((&summary["all"], summary.get("sample")), (&true.into(), None), "{summary}");
    let result = place.path("result").display().to_string();
    let sample = async |count: &str| {
        let words = ["verify", "--json", "--result-file", &result, "--sample", count, "--seed", "9"];
        let ended = TidemarkProcess::ended(&words, &place.environment()).await.expect("it ends");
        assert!(ended.status.success(), "{ended:?}");
        lines(&ended)
    };
    let three = sample("3").await.pop().expect("a summary");
    let chosen = (&three["all"], &three["sample"], &three["seed"]);
    assert_eq!(chosen, (&false.into(), &3.into(), &9.into()), "{three}");
    let looked = (&three["outcomes"]["operations"], &three["outcomes"]["entries"]);
    assert_eq!(looked, (&3.into(), &3.into()), "{three}");
    assert_eq!(three["bytes"], summary["bytes"], "a sample reads all objects");
    let none = sample("0").await;
    let notices = findings(&none, "notice");
    let is_said = |line: &&Value| line["what"].as_str().is_some_and(|text| text.contains("no entry was looked at"));
    assert!(notices.iter().any(is_said), "{none:#?}");
    let message = place.result()["message"].as_str().map(str::to_owned);
    assert!(message.is_some_and(|text| text.contains("no entry was looked at")), "{}", place.result());
}
