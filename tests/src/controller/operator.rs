//! The `tidemark-operator` program.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use tokio::{process::Command, sync::OnceCell};

use super::eventually;
use crate::{
    ProcessMemory,
    watchdog::{ProcessRecipe, WatchedProcess, log_file},
};

static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
/// How an operator is started.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// The API server's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Image of the data pods: another one is another release.
    pub image: String,
    /// Name of the replica.
    pub identity: String,
    /// Namespace of the lease.
    pub lease_namespace: String,
    /// Port of the data pods.
    pub pod_port: u16,
    /// Everything else.
    pub flags: Vec<String>,
}

/// An operator at work. Dropping it kills it, as does the end of the test's process.
pub struct OperatorProcess {
    process: WatchedProcess,
    address: String,
    log: PathBuf,
}

impl OperatorProcess {
    /// Starts one, and waits until it answers. Whether it is ready is another matter.
    pub async fn start(options: &OperatorOptions) -> anyhow::Result<Self> {
        let OperatorOptions { kubeconfig, image, identity, lease_namespace, pod_port, flags } = options;
        let program = BUILT.get_or_try_init(built).await?;
        let log = log_file("operator")?;
        let mut words = vec![program.display().to_string()];
        words.extend(["run", "--listen=127.0.0.1:0"].map(str::to_owned));
        words.extend([
            format!("--image={image}"),
            format!("--identity={identity}"),
            format!("--lease-namespace={lease_namespace}"),
            format!("--pod-port={pod_port}"),
        ]);
        words.extend(flags.iter().cloned());
        let mut recipe = ProcessRecipe::new(words, &log);
        recipe.environment = vec![
            ("KUBECONFIG".to_owned(), kubeconfig.display().to_string()),
            // The environment's proxy must not see what stays on this machine.
            ("NO_PROXY".to_owned(), "*".to_owned()),
            ("no_proxy".to_owned(), "*".to_owned()),
        ];
        let mut operator = Self { process: WatchedProcess::start(recipe)?, address: String::new(), log };
        operator.address = operator.listening().await?;
        Ok(operator)
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.stop();
    }

    /// What `path` answers: the status and the text.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The sum of the metrics `name` whose line holds every one of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        let lines = text.lines().filter(|line| {
            line.starts_with(name)
                && line[name.len()..].starts_with(['{', ' '])
                && labels.iter().all(|label| line.contains(label))
        });
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// How many writes it has asked the API server for, those of its lease left out.
    pub async fn writes(&self) -> anyhow::Result<f64> {
        let mut writes = 0.0;
        for verb in ["create", "patch", "delete"] {
            writes += self.requests(verb).await?;
        }
        Ok(writes)
    }

    /// How many requests of this verb it has made.
    pub async fn requests(&self, verb: &str) -> anyhow::Result<f64> {
        self.metric("tidemark_operator_api_requests_total", &[&format!("verb=\"{verb}\"")]).await
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process's peak memory in bytes, and the seconds of processor time that it has used.
    pub fn cost(&self) -> anyhow::Result<(u64, f64)> {
        // The watchdog's child is the program; its command line names it.
        let mut found = None;
        for entry in std::fs::read_dir("/proc")? {
            let folder = entry?.path();
            let command = std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
            let mine = command.starts_with('/') && command.contains("tidemark-operator\0run");
            if mine && std::fs::read_link(folder.join("fd/1")).is_ok_and(|log| log == self.log_target()) {
                found = Some(folder);
            }
        }
        let folder = found.context("the operator runs")?;
        let id = folder.file_name().and_then(OsStr::to_str).context("a process has a number")?;
        let memory = ProcessMemory::of(id)?;
        let stat = std::fs::read_to_string(folder.join("stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok((memory.peak, ticks / 100.0))
    }

    fn log_target(&self) -> PathBuf {
        std::fs::canonicalize(&self.log).unwrap_or_else(|_| self.log.clone())
    }

    /// The address that it says it listens on.
    async fn listening(&mut self) -> anyhow::Result<String> {
        let (log, process) = (self.log.clone(), &mut self.process);
        eventually("the operator listens", async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = process.ended() {
                anyhow::bail!("it ended: {status}; {text}");
            }
            let lines =
                text.lines().filter_map(|line| serde_json::from_str::<BTreeMap<String, serde_json::Value>>(line).ok());
            let mut addresses = lines.filter(|line| line.get("message").is_some_and(|message| message == "listening"));
            Ok(addresses.next().and_then(|line| Some(line.get("address")?.as_str()?.to_owned())))
        })
        .await
    }
}

impl Drop for OperatorProcess {
    fn drop(&mut self) {
        self.process.stop();
        if !std::thread::panicking() {
            let _ = std::fs::remove_file(&self.log);
        }
    }
}

/// The program: beside the one that `make test` has built, else a fresh build.
async fn built() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os("TIDEMARK_PROGRAM") {
        return Ok(PathBuf::from(program).with_file_name("tidemark-operator"));
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "tidemark-operator"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .await?;
    ensure!(built.success(), "tidemark-operator does not build");
    // Tests are in target/debug/deps, programs in target/debug.
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test lies two folders deep")?;
    Ok(folder.join("tidemark-operator"))
}
