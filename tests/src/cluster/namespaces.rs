//! The namespaces that a cluster lives in: network, mounts and processes of its own.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, ensure};

use super::{cgroups, logs::ClusterLogs, reaper::ClusterReaper};

const INIT: &str = include_str!("init.sh");
/// Folders of the machine that `init.sh` covers.
const HIDDEN: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// Namespaces that vanish with everything in them when this is dropped or its process ends.
pub(crate) struct ClusterNamespaces {
    /// The number of their first process.
    pid: u32,
    reaper: ClusterReaper,
}

/// A place on the cluster's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkPlace {
    /// Beside the API server.
    ControlPlane,
    /// A node by its number, from 1.
    Node(u8),
}

impl ClusterNamespaces {
    /// Makes them with a network for some nodes. Needs root.
    pub(crate) fn create(logs: &ClusterLogs, nodes: u8) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "a whole cluster needs root, for namespaces and control groups");
        let (reaper, output) = ClusterReaper::start(logs, |_| {
            let words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INIT, "init"];
            words.map(OsString::from).into_iter().chain([nodes.to_string().into()]).collect()
        })?;
        let hidden = HIDDEN.iter().find(|folder| reaper.state().starts_with(folder));
        ensure!(
            hidden.is_none(),
            "a cluster's folder cannot be below {hidden:?}, which it hides; set TMPDIR to another"
        );
        cgroups::prepare(reaper.name(), nodes)?;
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        let failed =
            || format!("the namespaces were not made; \"{}/namespaces.log\" says why", logs.folder().display());
        Ok(Self { pid: said.trim().parse().with_context(failed)?, reaper })
    }

    pub(crate) fn reaper(&self) -> &ClusterReaper {
        &self.reaper
    }

    /// What to put before a command that is to run in here.
    pub(crate) fn prefix(&self, at: NetworkPlace) -> Vec<OsString> {
        let pid = self.pid;
        let words = ["nsenter".to_owned(), format!("--target={pid}"), "--mount".to_owned(), "--pid".to_owned()];
        let mut words: Vec<OsString> = words.map(OsString::from).into();
        let mut network = OsString::from("--net=");
        network.push(self.network(at));
        words.push(network);
        words
    }

    /// The file that stands for a network.
    pub(crate) fn network(&self, at: NetworkPlace) -> PathBuf {
        PathBuf::from(match at {
            NetworkPlace::ControlPlane => format!("/proc/{}/ns/net", self.pid),
            NetworkPlace::Node(node) => format!("/proc/{}/root/run/netns/node{node}", self.pid),
        })
    }

    /// Runs a command to its end and gives what it printed. Blocks.
    pub(crate) fn run<W: AsRef<OsStr>>(&self, at: NetworkPlace, words: &[W]) -> anyhow::Result<String> {
        let prefix = self.prefix(at);
        let mut command = std::process::Command::new(&prefix[0]);
        command.args(&prefix[1..]).args(words).stdin(Stdio::null());
        let ended = command.output()?;
        let said: Vec<_> = words.iter().map(|word| word.as_ref().display().to_string()).collect();
        let errors = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "{said:?} failed at {at:?} ({}): {}", ended.status, errors.trim());
        Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
    }
}
