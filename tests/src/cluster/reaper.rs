//! What removes a cluster's traces after its owner ended, however it ended.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use super::logs::{ClusterLogs, KEEP};

/// Runs a command that ends when standard input closes; then removes the state folder, the control groups, and the logs
/// unless they are marked as kept. Programs may take a moment to die, so it tries for a while.
const REAPER: &str = r#"
state="$1" logs="$2" keep="$3" cgroup="${1##*/}"
shift 3
trap '' INT TERM HUP
"$@"
clean() {
    left=0
    rm -rf "$state" 2>/dev/null || left=1
    for top in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [ -d "$top/$cgroup" ] || continue
        find "$top/$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ ! -d "$top/$cgroup" ] || left=1
    done
    return $left
}
tries=0
until clean || [ $tries -ge 120 ]; do
    tries=$((tries + 1))
    sleep 0.5
done
[ -e "$logs/$keep" ] || rm -rf "$logs"
"#;

/// The temporary folder of a cluster and the process that removes it. Dropping it waits until all is removed.
pub(crate) struct ClusterReaper {
    child: Child,
    state: PathBuf,
}

impl ClusterReaper {
    /// Makes the folder and starts `command` beside it: it must end when its standard input closes. Its standard output
    /// is given back.
    pub(crate) fn start(
        logs: &ClusterLogs,
        command: impl FnOnce(&Path) -> Vec<OsString>,
    ) -> io::Result<(Self, ChildStdout)> {
        let state = tempfile::Builder::new().prefix("tidemark-cluster-").tempdir()?.keep();
        let errors = std::fs::File::create(logs.folder().join("namespaces.log"))?;
        let mut child = Command::new("sh")
            .args(["-c", REAPER, "reaper"])
            .args([state.as_os_str(), logs.folder().as_os_str(), KEEP.as_ref()])
            .args(command(&state))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((Self { child, state }, output))
    }

    /// The folder's own name, which control groups bear too: no two clusters share it.
    pub(crate) fn name(&self) -> &str {
        self.state.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default()
    }

    /// The folder for everything that the cluster keeps on disk.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }
}

impl Drop for ClusterReaper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
