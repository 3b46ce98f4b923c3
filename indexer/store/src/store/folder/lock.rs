//! The lock and the clock of a folder.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path as FilePath,
    time::{Duration, SystemTime},
};

use super::{ASIDE, LOCK};

/// Bytes that have waited this long for their name belong to a process that died.
const ABANDONED: Duration = Duration::from_hours(1);
/// A clock that stands this far behind the last stamp is worth a warning.
const SUSPICIOUS: Duration = Duration::from_secs(10);

/// The folder's one lock, held until it is dropped.
///
/// The lock file's own modification time is the last stamp given: the clock of the folder.
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Waits for the lock of the folder `root`.
    pub(super) fn take(root: &FilePath) -> io::Result<Self> {
        let path = root.join(LOCK);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.lock()?;
        Ok(Self { file })
    }

    /// The folder's time, for the object that is about to get its name. Never earlier than the stamp before.
    #[expect(clippy::disallowed_methods, reason = "the wall clock of this machine is the folder store's clock")]
    pub(super) fn stamp(&self) -> io::Result<SystemTime> {
        let last = self.file.metadata()?.modified()?;
        let now = SystemTime::now();
        if let Ok(behind) = last.duration_since(now)
            && behind > SUSPICIOUS
        {
            tracing::warn!(
                ?behind,
                "the machine's clock was set back; the folder's time stands still until it catches up"
            );
        }
        let stamp = now.max(last);
        self.file.set_modified(stamp)?;
        Ok(stamp)
    }
}

/// Removes the bytes that dead processes left aside. What cannot be removed is left.
pub(super) fn sweep(root: &FilePath) {
    let last = fs::metadata(root.join(LOCK)).and_then(|lock| lock.modified());
    let (Ok(last), Ok(aside)) = (last, fs::read_dir(root.join(ASIDE))) else {
        return;
    };
    for entry in aside.flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if modified.is_ok_and(|at| last.duration_since(at).is_ok_and(|age| age > ABANDONED)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
