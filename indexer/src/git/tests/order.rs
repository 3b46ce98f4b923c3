//! The order of the import is that of the history, and its memory does not grow with the text.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use tidemark_store::Store;
use tidemark_wal::{Log, LogParameters};

use super::fixtures::{GitFixture, LogFixture};

/// Commands of `git fast-import`: commits with these marks, parents and dates.
fn history(commits: impl IntoIterator<Item = (usize, Vec<usize>, i64)>) -> String {
    let mut commands = String::new();
    for (mark, parents, date) in commits {
        let message = format!("commit {mark}");
        write!(commands, "commit refs/heads/main\nmark :{mark}\ncommitter A <a@x> {date} +0000\n").unwrap();
        write!(commands, "data {}\n{message}\n", message.len()).unwrap();
        for (n, parent) in parents.iter().enumerate() {
            writeln!(commands, "{} :{parent}", if n == 0 { "from" } else { "merge" }).unwrap();
        }
        write!(commands, "M 100644 inline file-{}\ndata {}\n{message}\n", mark % 50, message.len()).unwrap();
    }
    commands
}

#[tokio::test]
async fn newest_first_is_the_order_of_the_commits() {
    let repository = GitFixture::empty();
    // Two lines that are merged every ten commits; the clock of each second committer is a day early.
    let commits = (1..=400).map(|mark| {
        let parents = match mark {
            1 => vec![],
            2 => vec![1],
            _ if mark % 10 == 0 => vec![mark - 1, mark - 2],
            _ => vec![mark - 2 + mark % 10 / 9],
        };
        let skew = if mark % 2 == 0 { 86_400 } else { 0 };
        (mark, parents, 1_700_000_000 + 60 * i64::try_from(mark).unwrap() - skew)
    });
    repository.fast_import(&history(commits));
    repository.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    let log = LogFixture::new().await;
    let summary = log.import_clean(&repository.path).await;
    let imported = log.commits().await;
    assert_eq!((summary.commits, imported.len()), (imported.len() as u64, imported.len()));
    let expected = repository.git(&["rev-list", "--date-order", "--reverse", "--all"]);
    assert_eq!(imported, expected.lines().collect::<Vec<_>>());
    let places: BTreeMap<_, _> = imported.iter().enumerate().map(|(place, id)| (id.clone(), place)).collect();
    for (id, place) in &places {
        let parents = log.bundle(id).await.parents;
        assert!(parents.iter().all(|parent| places[parent] < *place), "{id} comes before a parent");
    }
}

/// 100 000 commits with 4 KiB of text each: 400 MiB, of which the import holds a bounded number at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and a gigabyte of disk"]
async fn a_hundred_thousand_commits_need_little_memory() {
    const COMMITS: usize = 100_000;
    const MAX_GROWTH_KIB: u64 = 96 << 10;
    let repository = GitFixture::empty();
    for chunk in (1..=COMMITS).collect::<Vec<_>>().chunks(10_000) {
        let mut commands = String::new();
        for mark in chunk {
            let message = format!("commit {mark}\n\n{}", format!("{mark} words of a message. ").repeat(160));
            let date = 1_500_000_000 + mark;
            write!(commands, "commit refs/heads/main\ncommitter A <a@x> {date} +0000\n").unwrap();
            write!(commands, "data {}\n{message}\n", message.len()).unwrap();
            if mark == &chunk[0] && *mark > 1 {
                commands.push_str("from refs/heads/main^0\n");
            }
            write!(commands, "M 100644 inline file-{}\ndata 8\n{mark:08}\n", mark % 50).unwrap();
        }
        repository.fast_import(&commands);
    }
    let folder = tempfile::tempdir().unwrap();
    let store = |name: &str| Store::folder(&folder.path().join(name)).unwrap();
    let parameters = LogParameters::with_expiry(Duration::from_mins(10));
    let log = LogFixture::over(Log::over(store("log"), vec![store("metadata")]), parameters).await;
    // What the fixtures took does not count.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_kib();
    let summary = log.import_clean(&repository.path).await;
    let growth = peak_kib() - before;
    assert_eq!(summary.commits, COMMITS as u64);
    assert!(growth < MAX_GROWTH_KIB, "the import took {growth} KiB");
    println!("the import of {COMMITS} commits took {growth} KiB");
}

/// The most memory that this process had resident since the peak was reset.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
