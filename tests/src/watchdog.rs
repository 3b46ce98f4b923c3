//! Programs that end with the process that started them, however it ends.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

static LOG_FILES: AtomicU32 = AtomicU32::new(0);

/// The path of a log file of its own for a program of this name, in `target/test-logs`.
pub(crate) fn log_file(program: &str) -> io::Result<PathBuf> {
    let folder = crate::root().join("target/test-logs");
    std::fs::create_dir_all(&folder)?;
    let number = LOG_FILES.fetch_add(1, Ordering::Relaxed);
    Ok(folder.join(format!("{program}-{}-{number}.log", std::process::id())))
}

/// Runs a program and kills it when the pipe on standard input closes; then removes its folder, if one is named. The pipe
/// closes however its owner ends, so that not even SIGKILL leaves a program behind.
const WATCHDOG: &str = r#"
scratch="$1"; shift
exec 3<&0
"$@" </dev/null 3<&- & program=$!
( read -r _ <&3; kill -9 "$program" ) 2>/dev/null & watcher=$!
exec 3<&-
wait "$program"; code=$?
kill -9 "$watcher" 2>/dev/null
[ -z "$scratch" ] || rm -rf "$scratch"
exit "$code"
"#;

/// What to run, and where.
#[derive(Clone, Debug)]
pub(crate) struct ProcessRecipe {
    /// What runs the watchdog itself: empty on this machine, `nsenter` and its arguments in namespaces.
    pub(crate) prefix: Vec<OsString>,
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Variables beside those of this process.
    pub(crate) environment: Vec<(String, String)>,
    /// Takes both outputs; is appended to.
    pub(crate) log: PathBuf,
    /// A folder to remove after the program.
    pub(crate) scratch: Option<PathBuf>,
}

impl ProcessRecipe {
    /// A program on this machine.
    pub(crate) fn new(command: impl IntoIterator<Item = impl Into<OsString>>, log: impl Into<PathBuf>) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        Self { prefix: Vec::new(), command, environment: Vec::new(), log: log.into(), scratch: None }
    }
}

/// A program at work. Dropping it kills it and waits for its end.
pub(crate) struct WatchedProcess {
    recipe: ProcessRecipe,
    watchdog: Option<Child>,
}

impl WatchedProcess {
    /// Starts the program; whether it stays up is to be asked with [`Self::ended`].
    pub(crate) fn start(recipe: ProcessRecipe) -> io::Result<Self> {
        let watchdog = Some(begin(&recipe)?);
        Ok(Self { recipe, watchdog })
    }

    /// SIGKILL, and waits for the end. Nothing happens when it is stopped already.
    pub(crate) fn stop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }

    /// Starts a stopped program again, with the same arguments.
    pub(crate) fn start_again(&mut self) -> io::Result<()> {
        self.stop();
        self.watchdog = Some(begin(&self.recipe)?);
        Ok(())
    }

    /// What the program ended with by itself, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.watchdog.as_mut().and_then(|watchdog| watchdog.try_wait().ok().flatten())
    }

    /// Where its output goes.
    pub(crate) fn log(&self) -> &std::path::Path {
        &self.recipe.log
    }
}

impl Drop for WatchedProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

fn begin(recipe: &ProcessRecipe) -> io::Result<Child> {
    let scratch = recipe.scratch.clone().unwrap_or_default().into_os_string();
    let shell = ["sh".into(), "-c".into(), WATCHDOG.into(), "watchdog".into(), scratch];
    let mut words = recipe.prefix.iter().chain(&shell).chain(&recipe.command);
    let log = File::options().create(true).append(true).open(&recipe.log)?;
    Command::new(words.next().ok_or(io::ErrorKind::InvalidInput)?)
        .args(words)
        .envs(recipe.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C at the terminal goes to the tests, which end; then the pipe closes.
        .process_group(0)
        .spawn()
}
