//! A cluster that another process owns, to end that process and see what stays.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

/// The process of `make cluster`.
pub(crate) struct ClusterOwner {
    child: Child,
    kubeconfig: PathBuf,
    programs: PathBuf,
    logs: PathBuf,
}

impl ClusterOwner {
    /// Starts it and waits until it has said everything.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark-cluster"));
        let mut child = command.args(arguments).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut said = Vec::new();
        while let Some(line) = lines.next_line().await.expect("it is text") {
            said.push(line);
            if said.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
                break;
            }
        }
        let whole = said.last().is_some_and(|line| line.starts_with("Ctrl-C"));
        let ended = if whole { None } else { Some(child.wait().await) };
        assert!(ended.is_none(), "it ended early with {ended:?} and said {said:?}");
        let after = |mark: &str| {
            let found = said.iter().find_map(|line| line.split_once(mark)).map(|(_, rest)| rest);
            PathBuf::from(found.unwrap_or_else(|| panic!("\"{mark}\" was said: {said:?}")).trim_end_matches(":$PATH"))
        };
        // What it says later must find a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, kubeconfig: after("KUBECONFIG="), programs: after("PATH="), logs: after("meanwhile: ") }
    }

    pub(crate) async fn kubectl(&self, words: &[&str], input: &str) {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(words).stdin(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).await.expect("it reads");
        assert!(child.wait().await.expect("it ends").success(), "kubectl {words:?} failed");
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// SIGINT, and waits for a good end.
    pub(crate) async fn interrupt(&mut self) {
        let id = i32::try_from(self.child.id().expect("it runs")).expect("a number of a process");
        let id = rustix::process::Pid::from_raw(id).expect("a number of a process");
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it is told");
        let ended = tokio::time::timeout(Duration::from_mins(2), self.child.wait()).await;
        assert!(ended.expect("it ends within two minutes").expect("it ends").success(), "it ended well");
    }

    /// What of it can be seen on the machine: folders, control groups, and processes that name it or are in its groups.
    pub(crate) fn traces(&self) -> Vec<String> {
        let state = self.kubeconfig.ancestors().nth(2).expect("the state's folder");
        let name = state.file_name().expect("it has a name").to_str().expect("it is text");
        let mut folders = vec![state.to_owned(), self.logs.clone()];
        let tops = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok);
        folders.extend(tops.map(|top| top.path().join(name)));
        folders.push(PathBuf::from("/sys/fs/cgroup").join(name));
        let mut traces: Vec<String> =
            folders.into_iter().filter(|folder| folder.exists()).map(|folder| folder.display().to_string()).collect();
        for process in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
            for file in ["cmdline", "cgroup"] {
                let bytes = std::fs::read(process.path().join(file)).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
                if text.contains(name) {
                    traces.push(format!("process {}: {text}", process.path().display()));
                }
            }
        }
        traces
    }
}
