//! The lock and the clock of a folder.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path as FilePath,
    time::{Duration, SystemTime},
};

use super::files::{LOCK_FILE, STAGING_DIR};

/// Bytes that have waited this long for their name belong to a process that died.
const STAGED_TIMEOUT: Duration = Duration::from_hours(1);
/// A clock that is this far behind the last stamp is worth a warning.
const CLOCK_WARNING_THRESHOLD: Duration = Duration::from_secs(10);

/// The folder's one lock, held until it is dropped.
///
/// The lock file's own modification time is the last stamp given: the clock of the folder.
pub(super) struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Waits for the lock of the folder `root`.
    pub(super) fn acquire(root: &FilePath) -> io::Result<Self> {
        let path = root.join(LOCK_FILE);
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
            && behind > CLOCK_WARNING_THRESHOLD
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

/// Removes the staged files that dead processes left. What cannot be removed stays.
pub(super) fn sweep(root: &FilePath) {
    let last = fs::metadata(root.join(LOCK_FILE)).and_then(|lock| lock.modified());
    let (Ok(last), Ok(staged)) = (last, fs::read_dir(root.join(STAGING_DIR))) else {
        return;
    };
    for entry in staged.flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if modified.is_ok_and(|at| last.duration_since(at).is_ok_and(|age| age > STAGED_TIMEOUT)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
