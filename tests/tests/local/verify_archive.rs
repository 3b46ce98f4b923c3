//! `tidemark verify` and `tidemark gc` on an archive that the program has written: what is wrong with it is named, and nothing but leaks is deleted.

use std::{collections::BTreeMap, process::Output, time::Duration};

use serde_json::Value;
use tidemark_tests::{ArchivedLog, TidemarkProcess};

/// What becomes of the bytes of an object; `None`: it is removed.
type ObjectChange<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;

async fn verify(log: &ArchivedLog, more: &[&str]) -> (Output, Vec<Value>) {
    let words = [&["verify", "--json"], more].concat();
    let ended = TidemarkProcess::ended(&words, &log.environment).await.expect("it ends");
    let text = String::from_utf8_lossy(&ended.stdout);
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    (ended, lines)
}

/// Every object of the index, with its bytes.
fn contents(log: &ArchivedLog) -> BTreeMap<String, Vec<u8>> {
    let keys = log.server.keys("index").into_iter();
    keys.map(|key| (key.clone(), log.server.body("index", &key).expect("it is there").to_vec())).collect()
}

fn archived(log: &ArchivedLog, part: &str, ending: &str) -> Vec<String> {
    let is_part = |key: &String| key.starts_with("archive/") && key.contains(part) && key.ends_with(ending);
    log.server.keys("index").into_iter().filter(is_part).collect()
}

fn flipped(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    let at = body.len() / 2;
    body[at] ^= 1;
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_of_an_archive_is_named_and_leaks_are_deleted() {
    let log = ArchivedLog::after_rounds(2).await.expect("it is archived");
    let before = contents(&log);
    for more in [&["--all"][..], &["--sample", "30", "--seed", "7"]] {
        let (sound, lines) = verify(&log, more).await;
        assert!(sound.status.success(), "{sound:?}");
        let summary = lines.last().expect("a summary");
        let archive = &summary["archive"];
        let operations = 2 * ArchivedLog::ROUND_OPERATIONS;
        assert_eq!((&archive["version"], &archive["operations"]), (&2.into(), &operations.into()), "{summary}");
        let compared = archive["compared"].as_u64().expect("a number");
        assert!(if more.len() == 1 { compared == operations } else { compared > 0 }, "{summary}");
        assert_eq!(
            (&archive["differ"], &archive["leaks"], &summary["damage"]),
            (&0.into(), &0.into(), &0.into()),
            "{summary}"
        );
    }
    assert_eq!(contents(&log), before, "it writes nothing");

    let (data, list) = (archived(&log, "/data/", ".parquet"), archived(&log, "-list-", ".avro"));
    let (manifest, versions) = (archived(&log, "-manifest-", ".avro"), archived(&log, "/metadata/v", ".metadata.json"));
    let (newest_list, newest) = (list.iter().max().expect("a list"), versions.iter().max().expect("a version"));
    let newer = |body: &[u8]| {
        let newer = r#""tidemark.format":"2""#;
        Some(String::from_utf8_lossy(body).replacen(r#""tidemark.format":"1""#, newer, 1).into_bytes())
    };
    let foreign = |body: &[u8]| {
        Some(String::from_utf8_lossy(body).replacen("tidemark.log-id", "tidemark.log-ix", 1).into_bytes())
    };
    let cases: [(&str, &String, ObjectChange<'_>, i32, &str); 10] = [
        ("a flipped byte", &data[0], &|body| Some(flipped(body)), 8, "SHA-256"),
        ("a truncated file", &data[1], &|body| Some(body[..body.len() / 2].to_vec()), 8, "bytes and not"),
        ("a file that is gone", &data[0], &|_| None, 8, "missing"),
        ("another file in its place", &data[0], &|body| Some(vec![7; body.len()]), 8, "SHA-256"),
        ("a manifest that is gone", &manifest[0], &|_| None, 8, "missing"),
        ("a changed list", newest_list, &|body| Some(flipped(body)), 8, "SHA-256"),
        ("a version that is gone", &versions[0], &|_| None, 8, "it is gone"),
        ("the newest version is gone", newest, &|_| None, 8, "is gone that snapshot"),
        ("a version of another log", newest, &foreign, 8, "is no part of the archive"),
        ("a format from the future", newest, &newer, 1, "has format 2"),
    ];
    for (name, key, change, code, what) in cases {
        let body = &before[key];
        match change(body) {
            Some(changed) => log.server.insert("index", key, changed),
            None => log.server.remove("index", key),
        }
        let during = contents(&log);
        let (found, lines) = verify(&log, &["--all"]).await;
        assert_eq!(found.status.code(), Some(code), "{name}: {lines:#?}");
        assert_eq!(contents(&log), during, "{name}: it changes nothing");
        let wanted = if code == 8 { "damage" } else { "unverified" };
        let of_archive = |line: &&Value| line["check"] == "archive" && line["severity"] == wanted;
        let said: Vec<_> = lines.iter().filter(of_archive).collect();
        let named = said.iter().find(|line| line["what"].as_str().is_some_and(|text| text.contains(what)));
        let named = named.unwrap_or_else(|| panic!("{name}: {lines:#?}"));
        assert!(
            ["effect", "remedy"].iter().all(|part| named[part].as_str().is_some_and(|text| !text.is_empty())),
            "{named}"
        );
        log.server.insert("index", key, body.clone());
    }
    assert!(verify(&log, &["--all"]).await.0.status.success(), "everything is back");

    // What an attempt has left that lost the second version, and what one has written that may still commit the third one.
    let nonce = "0123456789abcdef0123456789abcdef";
    let of_attempt = |version: u64| {
        let (folder, file) = data[1].rsplit_once('/').expect("a folder");
        let digest = file.rsplit('-').next().expect("a digest");
        format!("{folder}/{version:020}-{nonce}-000000-{digest}")
    };
    let (leak, attempt) = (of_attempt(2), of_attempt(3));
    for key in [&leak, &attempt] {
        log.server.insert("index", key, "rows of an attempt");
    }
    let (found, lines) = verify(&log, &["--all"]).await;
    assert!(found.status.success(), "a leak is no damage: {found:?}");
    assert_eq!(lines.last().expect("a summary")["archive"]["leaks"], 1);
    let notices: Vec<_> =
        lines.iter().filter(|line| line["severity"] == "notice" && line["check"] == "archive").collect();
    assert!(
        notices.len() == 1 && notices[0]["location"].as_str().is_some_and(|place| place.ends_with(&leak)),
        "{notices:?}"
    );
    let collect = async || {
        let printed = TidemarkProcess::output(&["gc", "--json"], &log.environment).await.expect("a pass ends");
        serde_json::from_str::<Value>(&printed).expect("it prints JSON")
    };
    assert_eq!(collect().await["archiveDeleted"], 0, "it is not a day old");
    log.server.clock().advance(Duration::from_hours(25));
    let collected = collect().await;
    assert_eq!(
        (&collected["archiveDeleted"], &collected["archiveDeletedBytes"]),
        (&1.into(), &18.into()),
        "{collected}"
    );
    let left = log.server.keys("index");
    assert!(!left.contains(&leak) && left.contains(&attempt));
    let of_archive = |key: &&String| key.starts_with("archive/");
    assert!(before.keys().filter(of_archive).all(|key| left.contains(key)), "nothing else of the archive went");
    assert!(verify(&log, &["--all"]).await.0.status.success());
}
