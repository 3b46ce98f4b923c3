//! Logs that stay when a test panics.
//!
//! Each cluster writes into a folder of its own. A hook on panics marks the folders of all clusters of the process as to be
//! kept and lets each cluster add what it knows at that moment; the [reaper](super::reaper) removes the unmarked ones. So it
//! works for clusters that tests share, which are never dropped. How each cluster looks follows each panic's message on one line,
//! for a reader who has no more than the summary of the run.

use std::{
    fs, panic,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::root;

/// The mark of a folder that stays.
pub(crate) const KEEP: &str = "keep";

/// What a cluster does when a test panics.
struct PanicAnswer {
    collect: Box<dyn Fn(&Path) + Send + Sync>,
    look: Box<dyn Fn() -> String + Send + Sync>,
}

struct LogFolder {
    folder: PathBuf,
    on_panic: OnceLock<PanicAnswer>,
}

static LIVE: Mutex<Vec<Arc<LogFolder>>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();
static MADE: AtomicU32 = AtomicU32::new(0);

/// The folder of one cluster's logs: `target/test-logs/KIND-TEST-PID-NUMBER`.
pub(crate) struct ClusterLogs(Arc<LogFolder>);

impl ClusterLogs {
    /// Makes the folder, named for the test on this thread.
    pub(crate) fn create(kind: &str) -> std::io::Result<Self> {
        HOOK.call_once(keep_on_panic);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-{}-{}-{number}", test_name(), std::process::id());
        let folder = root().join("target/test-logs").join(name);
        fs::create_dir_all(&folder)?;
        let entry = Arc::new(LogFolder { folder, on_panic: OnceLock::new() });
        if let Ok(mut live) = LIVE.lock() {
            live.push(Arc::clone(&entry));
        }
        Ok(Self(entry))
    }

    /// What adds to the folder when a test panics for the first time, and what says on a line how the cluster looks, each time: functions
    /// that block for some seconds at most.
    pub(crate) fn on_panic(
        &self,
        collect: impl Fn(&Path) + Send + Sync + 'static,
        look: impl Fn() -> String + Send + Sync + 'static,
    ) {
        let _ = self.0.on_panic.set(PanicAnswer { collect: Box::new(collect), look: Box::new(look) });
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0.folder
    }
}

impl Drop for ClusterLogs {
    fn drop(&mut self) {
        if let Ok(mut live) = LIVE.lock() {
            live.retain(|entry| !Arc::ptr_eq(entry, &self.0));
        }
    }
}

fn keep_on_panic() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        before(what);
        // A panic inside this hook, or while the list is held, must not wait for itself.
        let live = LIVE.try_lock().map(|live| live.clone()).unwrap_or_default();
        for entry in live {
            let first = fs::File::create_new(entry.folder.join(KEEP)).is_ok();
            if let Some(PanicAnswer { collect, look }) = entry.on_panic.get() {
                eprintln!("seen: {}", look());
                if first {
                    collect(&entry.folder);
                }
            }
            eprintln!("the cluster's logs are in \"{}\"", entry.folder.display());
        }
    }));
}

/// The test harness of Rust names each test's thread for it.
fn test_name() -> String {
    let name = std::thread::current().name().unwrap_or("unnamed").replace("::", "-");
    name.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_".contains(*letter)).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_any_thread_keeps_the_folder_and_asks_the_cluster() {
        let logs = ClusterLogs::create("logs").expect("it is made");
        assert!(!logs.folder().join(KEEP).exists());
        let looks = Arc::new(AtomicU32::new(0));
        let look = {
            let looks = Arc::clone(&looks);
            move || format!("look {}", looks.fetch_add(1, Ordering::Relaxed))
        };
        logs.on_panic(|folder| fs::write(folder.join("objects"), "seen").expect("it is written"), look);
        let panicked = std::thread::spawn(|| panic!("a failing test; this text is part of the test")).join();
        assert!(panicked.is_err());
        assert!(logs.folder().join(KEEP).exists());
        assert_eq!(fs::read_to_string(logs.folder().join("objects")).expect("it is there"), "seen");
        assert!(looks.load(Ordering::Relaxed) > 0, "it is asked how it looks");
        fs::remove_dir_all(logs.folder()).expect("it is removed");
    }
}
