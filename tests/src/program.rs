//! The `tidemark` program in a process of its own.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::OnceCell,
    time::Instant,
};

use crate::{tools, watchdog::log_file};

/// How long a program may take to say where it listens, or to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a condition may take to become true.
const CONDITION_PATIENCE: Duration = Duration::from_mins(3);
/// How long a command may take that ends by itself.
const COMMAND_PATIENCE: Duration = Duration::from_mins(10);
/// How often it is looked at.
const CONDITION_INTERVAL: Duration = Duration::from_millis(100);
/// How often the memory of a command is read.
const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// The environment of a `tidemark index` on these places: it listens on a free port of loopback, and a second is sealed 3 s after it.
pub(crate) fn index_environment(log: &str, metadata: &str, index: &str) -> BTreeMap<String, String> {
    let variables = [
        ("TIDEMARK_LOG", log),
        ("TIDEMARK_METADATA", metadata),
        ("TIDEMARK_INDEX", index),
        ("TIDEMARK_EXPIRY", "1s"),
        ("TIDEMARK_REQUEST_TIMEOUT", "1s"),
        ("TIDEMARK_VISIBILITY_DELAY", "0s"),
        ("TIDEMARK_LISTEN", "127.0.0.1:0"),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The same on the folders `log`, `metadata` and `index` in `folder`.
pub fn folder_environment(folder: &Path) -> BTreeMap<String, String> {
    let url = |name: &str| format!("file://{}", folder.join(name).display());
    index_environment(&url("log"), &url("metadata"), &url("index"))
}

static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
/// A running `tidemark`. Dropping it kills it; so does the end of the thread that started it.
pub struct TidemarkProcess {
    child: Child,
    url: String,
    log: PathBuf,
    output: Lines<BufReader<ChildStdout>>,
}

/// The memory of a process in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    /// The most that was resident so far.
    pub peak: u64,
    /// What is resident.
    pub resident: u64,
    /// The part of it that no file holds.
    pub anonymous: u64,
    /// The part of it that shows files: the page cache of what is mapped, which the system takes back when it needs room.
    pub file: u64,
}

/// The most memory in bytes that a process was seen to have: each figure at the moment when it was largest.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryPeaks {
    /// Resident, as the system remembers it.
    pub resident: u64,
    /// What no file holds.
    pub anonymous: u64,
    /// What shows files.
    pub file: u64,
}

impl MemoryPeaks {
    /// Takes another look into account.
    pub fn observe(&mut self, ProcessMemory { peak, anonymous, file, .. }: ProcessMemory) {
        self.resident = self.resident.max(peak);
        self.anonymous = self.anonymous.max(anonymous);
        self.file = self.file.max(file);
    }
}

impl ProcessMemory {
    /// The memory of the process with this id, as the system counts it; an error once it has ended.
    pub fn of(id: &str) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let bytes = |name: &str| {
            let figure = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            anyhow::Ok(figure.with_context(|| format!("the system gives no {name}"))?.trim().parse::<u64>()? << 10)
        };
        let [peak, resident, anonymous, file] = ["VmHWM:", "VmRSS:", "RssAnon:", "RssFile:"].map(bytes);
        Ok(Self { peak: peak?, resident: resident?, anonymous: anonymous?, file: file? })
    }
}

impl TidemarkProcess {
    /// Starts a command that serves, and waits until it says where.
    pub async fn serving(arguments: &[&str], environment: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let mut program = Self::begun(arguments, environment).await?;
        let said = tokio::time::timeout(PATIENCE, program.output.next_line()).await;
        let url = said.ok().and_then(Result::ok).flatten().unwrap_or_default().trim_end_matches('/').to_owned();
        ensure!(url.starts_with("http://"), "{arguments:?} said \"{url}\"; its log: {}", program.log());
        program.url = url;
        Ok(program)
    }

    /// Starts a command that serves, and waits for nothing: it has no URL.
    pub async fn begun(arguments: &[&str], environment: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let log = log_file("tidemark")?;
        let mut child =
            command(arguments, environment).await?.stdout(Stdio::piped()).stderr(File::create(&log)?).spawn()?;
        let output = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        Ok(Self { child, url: String::new(), log, output })
    }

    /// Runs a command to its end and gives what it printed.
    pub async fn output(arguments: &[&str], environment: &BTreeMap<String, String>) -> anyhow::Result<String> {
        let ended = Self::ended(arguments, environment).await?;
        ensure!(ended.status.success(), "{arguments:?}: {} {}", ended.status, String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?)
    }

    /// Runs a command to its end, and gives what it printed and its exit code, whatever that is.
    pub async fn ended(arguments: &[&str], environment: &BTreeMap<String, String>) -> anyhow::Result<Output> {
        let mut command = command(arguments, environment).await?;
        let ended = tokio::time::timeout(COMMAND_PATIENCE, command.output()).await;
        Ok(ended.with_context(|| format!("{arguments:?} did not end"))??)
    }

    /// Runs a command to its end as [`Self::ended`] does, and gives also the most memory that it was seen to have.
    pub async fn measured(
        arguments: &[&str],
        environment: &BTreeMap<String, String>,
    ) -> anyhow::Result<(Output, MemoryPeaks)> {
        let mut command = command(arguments, environment).await?;
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let id = child.id().context("it has ended already")?.to_string();
        let mut ended = std::pin::pin!(child.wait_with_output());
        let mut peaks = MemoryPeaks::default();
        loop {
            match tokio::time::timeout(MEMORY_INTERVAL, &mut ended).await {
                Ok(ended) => return Ok((ended?, peaks)),
                // Once it has ended the system gives no figures, until its output was read.
                Err(_) => ProcessMemory::of(&id).into_iter().for_each(|memory| peaks.observe(memory)),
            }
        }
    }

    /// Where the program is; builds it unless `TIDEMARK_PROGRAM` names one.
    pub async fn path() -> anyhow::Result<&'static Path> {
        Ok(BUILT.get_or_try_init(built).await?)
    }

    /// Where it serves, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// SIGKILL.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Waits until it ends by itself, and gives what it ended with.
    pub async fn wait(mut self) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(COMMAND_PATIENCE, self.child.wait()).await;
        Ok(ended.with_context(|| format!("it did not end; its log: {}", read(&self.log)))??)
    }

    /// SIGTERM, and what it ended with.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.context("it has ended already")?, rustix::process::Signal::TERM)?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        Ok(ended.with_context(|| format!("it did not stop; its log: {}", read(&self.log)))??)
    }

    /// An answer of its API; an error while it is not to be had.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let answer = client.get(format!("{}{path}", self.url)).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{status} for {path}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until its API answers `path` with what is wanted, and gives that.
    pub async fn until_answer(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(path, async || match self.get(path).await {
            Ok(answer) if wanted(&answer) => Ok(answer),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Waits until `ask` gives something, and gives that. Panics with what it gave last in its place, and the program's log, when
    /// that takes too long.
    pub async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
        let give_up = Instant::now() + CONDITION_PATIENCE;
        loop {
            match ask().await {
                Ok(found) => return found,
                Err(seen) => {
                    assert!(Instant::now() < give_up, "\"{what}\" did not come true: {seen}; its log: {}", self.log());
                }
            }
            tokio::time::sleep(CONDITION_INTERVAL).await;
        }
    }

    /// The most memory in bytes that it has had resident so far.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        Ok(self.memory()?.peak)
    }

    /// Its memory; an error once it has ended.
    pub fn memory(&self) -> anyhow::Result<ProcessMemory> {
        let id = self.child.id().context("it has ended already")?;
        ProcessMemory::of(&id.to_string()).with_context(|| format!("it has ended; its log: {}", self.log()))
    }

    /// The processor time that it has used so far, by the system's hundredths of a second.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let id = self.child.id().context("it has ended already")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // Behind the name, which may hold anything: the 14th and the 15th field.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let hundredths: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
        Ok(Duration::from_millis(10 * hundredths))
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }
}

impl Drop for TidemarkProcess {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_file(&self.log);
        }
    }
}

async fn command(arguments: &[&str], environment: &BTreeMap<String, String>) -> anyhow::Result<Command> {
    let program = TidemarkProcess::path().await?;
    // Where there is setpriv, the program also ends with a test that is killed.
    let mut command = if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(arguments).envs(environment).env("RUST_BACKTRACE", "1").stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// The program: the one that `make test` has built, else a fresh build.
async fn built() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os("TIDEMARK_PROGRAM") {
        return Ok(PathBuf::from(program));
    }
    let folder = tokio::task::spawn_blocking(|| tools::script("binaries.sh", &["demo"])).await??;
    Ok(folder.join("tidemark"))
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}
