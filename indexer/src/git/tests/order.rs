//! The order of the import is that of the history, its memory does not grow with the text, and a work tree changes nothing.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use gix::{
    ObjectId,
    objs::Kind,
    odb::pack::cache::{self, object::MemoryCappedHashmap},
};
use tidemark_store::Store;
use tidemark_wal::{Log, LogParameters};

use super::{
    super::{GitCommit, GitRepository, ImportEvent, import::import_git_by},
    fixtures::{GitFixture, LogFixture, git},
};

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

/// As [`history`], each commit the child of the one before.
fn line_of_commits(count: usize) -> String {
    let parents = |mark: usize| (mark > 1).then(|| mark - 1).into_iter().collect();
    history((1..=count).map(|mark| (mark, parents(mark), 1_500_000_000 + i64::try_from(mark).unwrap())))
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

/// What is read of the repository, and how often.
#[derive(Clone, Default)]
struct CountedObjects {
    /// Objects that were asked for.
    asked: Arc<AtomicU64>,
    /// Objects that were read from the disk.
    read: Arc<AtomicU64>,
}

/// The cache of objects, which hears of each look-up and of each object that is read because it does not have it.
struct CountingCache {
    counted: CountedObjects,
    cache: MemoryCappedHashmap,
}

impl cache::Object for CountingCache {
    fn put(&mut self, id: ObjectId, kind: Kind, data: &[u8]) {
        self.counted.read.fetch_add(1, SeqCst);
        self.cache.put(id, kind, data);
    }

    fn get(&mut self, id: &ObjectId, out: &mut Vec<u8>) -> Option<Kind> {
        self.counted.asked.fetch_add(1, SeqCst);
        self.cache.get(id, out)
    }
}

/// The commits at `path`, and how many objects were asked for and read for them.
fn read_counted(path: &Path) -> (Vec<GitCommit>, [u64; 2]) {
    let mut repository = GitRepository::open(path).unwrap();
    assert!(repository.repository.objects.has_object_cache(), "{}", path.display());
    let counted = CountedObjects::default();
    let counts = counted.clone();
    repository.repository.objects.set_object_cache(move || {
        Box::new(CountingCache { counted: counted.clone(), cache: MemoryCappedHashmap::new(16 << 20) })
    });
    let references = repository.references().unwrap();
    let ids = repository.commits(&references).unwrap();
    let commits = ids.into_iter().map(|id| repository.commit(id).unwrap()).collect();
    (commits, [counts.asked, counts.read].map(|count| count.load(SeqCst)))
}

#[test]
fn a_bare_repository_is_read_as_one_with_a_work_tree() {
    const COMMITS: u64 = 60;
    let repository = GitFixture::empty();
    repository.fast_import(&line_of_commits(60));
    repository.git(&["reset", "-q", "--hard"]);
    let bare = repository.beside("bare.git");
    git(&repository.beside(""), &["clone", "-q", "--bare", "project", "bare.git"], b"");
    let (commits, [asked, read]) = read_counted(&repository.path);
    assert_eq!(read_counted(&bare), (commits.clone(), [asked, read]));
    assert_eq!(commits.len() as u64, COMMITS);
    // Each commit and each tree once: what is asked for again comes from the cache.
    assert!(read <= 3 * COMMITS && asked > read, "{read} of {asked} objects were read from the disk");
}

/// Commits are counted between their read and the end of their append: this many of the text are in memory at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_commits_are_held_a_few_at_a_time() {
    const COMMITS: usize = 10_000;
    const MAX_HELD: u64 = 128;
    let repository = GitFixture::empty();
    repository.fast_import(&line_of_commits(COMMITS));
    let log = LogFixture::new().await;
    let held = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let read = {
        let (held, most) = (Arc::clone(&held), Arc::clone(&most));
        move |repository: &mut GitRepository, id| {
            most.fetch_max(held.fetch_add(1, SeqCst) + 1, SeqCst);
            repository.commit(id)
        }
    };
    let mut reported = Vec::new();
    let summary = import_git_by(read, &log.log, &repository.path, |event| match event {
        ImportEvent::Progress { done, total } => {
            held.fetch_sub(1, SeqCst);
            reported.push((done, total));
        }
        ImportEvent::Warning(warning) => panic!("{warning}"),
    });
    assert_eq!(summary.await.unwrap().commits, COMMITS as u64);
    let most = most.load(SeqCst);
    assert!((1..=MAX_HELD).contains(&most), "{most} commits were in memory at once");
    // What a bar shows: each commit once, to the end.
    let total = COMMITS as u64;
    assert_eq!(reported, (1..=total).map(|done| (done, total)).collect::<Vec<_>>());
}

/// 100 000 commits with 4 KiB of text each: 400 MiB, of which the import holds a bounded number at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and a gigabyte of disk; 'make long' runs it"]
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
