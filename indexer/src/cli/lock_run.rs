//! `tidemark lock run`: a command that runs while a lock is held.

use std::{ffi::OsString, os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tidemark_wal::{HeldLock, LockError, LockName, WriteLocks};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    args::LogArgs,
    exit::CommandExit,
    grant_args::{GrantArgs, lock_exit, open_locks},
    shutdown::stop_on_first_signal,
};

/// How long a command may take to end after SIGTERM, once the lock is lost.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Run a command while the lock is held.
///
/// Acquires the lock, runs the command with `TIDEMARK_LOCK` and `TIDEMARK_GRANT` in its environment, so that `tidemark append` in it is
/// guarded, renews the lock meanwhile, and releases it when the command ends. Ends with the exit code of the command, or 128 and the number of
/// the signal that ended it.
///
/// If the lock is lost, because it could not be renewed or somebody else was granted it, the command gets SIGTERM, and SIGKILL 5 s later, and
/// the exit code is 4. What it appends then is fenced in any case. SIGTERM and SIGINT are handed on to the command.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark lock run models --holder trainer-7 -- sh -c 'tidemark append entries.json'")]
pub(super) struct LockRunCommand {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    grant: GrantArgs,
    /// The lock.
    #[arg(value_name = "NAME")]
    name: LockName,
    /// The command and its arguments.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,
}

/// How the command ended.
enum CommandEnd {
    Exited(ExitStatus),
    /// The lock was lost before.
    LockLost(LockError),
}

impl LockRunCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log, grant, name, command } = self;
        let locks = open_locks(&log.open()?);
        let held = grant.acquire(&locks, &name).await?;
        let ended = supervise(&locks, &held, &command).await;
        match ended {
            Ok(CommandEnd::LockLost(error)) => {
                let error = anyhow::Error::from(error).context("the lock was lost, and the command was ended");
                Err(CommandExit::Fenced.with(error))
            }
            ended => {
                let released = locks.release(&name, held.grant.number).await.map_err(lock_exit);
                let Ok(CommandEnd::Exited(status)) = ended else { return ended.map(drop) };
                released?;
                exit_of(status)
            }
        }
    }
}

/// Runs the command to its end, and renews the lock meanwhile.
async fn supervise(locks: &WriteLocks, held: &HeldLock, command: &[OsString]) -> anyhow::Result<CommandEnd> {
    let stop = CancellationToken::new();
    let _signal = stop_on_first_signal(stop.clone())?;
    let mut child = spawn(held, command)?;
    let lost = keep_renewed(locks, held);
    let mut lost = std::pin::pin!(lost);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return Ok(CommandEnd::Exited(status?)),
            error = &mut lost => {
                tracing::error!(%error, lock = %held.name, "the lock is lost; the command is ended, and what it appends is fenced");
                end(&mut child).await?;
                return Ok(CommandEnd::LockLost(error));
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                signal(&child, Signal::TERM);
            }
        }
    }
}

fn spawn(held: &HeldLock, command: &[OsString]) -> anyhow::Result<Child> {
    let (program, arguments) = command.split_first().context("no command is given")?;
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.env("TIDEMARK_LOCK", held.name.as_str()).env("TIDEMARK_GRANT", held.grant.number.to_string());
    command.spawn().with_context(|| format!("{} cannot be started; the lock is released", program.display()))
}

/// Renews the lock until it is lost. A failure of the store is one only when the lock has expired by then, as this process counts.
async fn keep_renewed(locks: &WriteLocks, held: &HeldLock) -> LockError {
    let ttl = Duration::from_secs(held.grant.ttl_seconds);
    let mut renewed = Instant::now();
    loop {
        let begun = Instant::now();
        match locks.renew(&held.name, held.grant.number).await {
            Ok(()) => renewed = begun,
            Err(error) if error.rejection().is_some() || renewed.elapsed() >= ttl => return error,
            Err(error) => tracing::warn!(%error, lock = %held.name, "the lock was not renewed; trying again"),
        }
        sleep(held.renewal_interval()).await;
    }
}

/// Ends the command: SIGTERM, then SIGKILL.
async fn end(child: &mut Child) -> anyhow::Result<()> {
    signal(child, Signal::TERM);
    if tokio::time::timeout(TERMINATION_TIMEOUT, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

/// A command that has ended gets none.
fn signal(child: &Child, signal: Signal) {
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(id) = id
        && let Err(error) = kill_process(id, signal)
    {
        tracing::warn!(%error, "the command did not get the signal");
    }
}

fn exit_of(status: ExitStatus) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    let code = u8::try_from(code).unwrap_or(1);
    Err(CommandExit::OfCommand(code).with(anyhow::anyhow!("the command ended with {status}; the lock is released")))
}
