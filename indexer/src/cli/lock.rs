//! `tidemark lock`: the write locks of a log, for people and scripts.

use clap::{Args, Subcommand};
use serde::Serialize;
use tidemark_catalog::RootChain;
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_wal::{
    FencedCommit, GuardedCommit, HeldLock, LockDescription, LockGrant, LockName, LogReader, ParameterSource as _, Token,
};

use super::{
    args::{LogArgs, OutputArgs},
    grant_args::{GrantArgs, lock_exit, open_locks},
    lock_run::LockRunCommand,
    output::{print_json, print_line},
};

/// Bytes of a payload that are shown.
const MAX_SHOWN_BYTES: u64 = 1 << 20;

/// Acquire, renew, release and show the write locks of a log.
///
/// A lock has one holder or none. What a holder appends under it (`tidemark append --lock NAME --grant N`) is committed only if nobody was
/// granted the lock since: the store decides, not the clock of a machine. A holder that was cut off and still believes in its lock commits
/// nothing; what it appends is `fenced`, in every index, and stays for a person to reconcile.
///
/// A lock that is not renewed for its time to live may be acquired by others, who then wait until what its holder had begun to commit is
/// complete or never will be.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark lock run models --holder trainer-7 -- ./publish.sh\n\
    Example: GRANT=$(tidemark lock acquire models --holder trainer-7)\n\
    Example: tidemark lock show models --json")]
pub(super) struct LockCommand {
    #[command(subcommand)]
    command: LockSubcommand,
}

#[derive(Debug, Subcommand)]
enum LockSubcommand {
    Acquire(LockAcquireCommand),
    Renew(LockRenewCommand),
    Release(LockReleaseCommand),
    Show(LockShowCommand),
    List(LockListCommand),
    Run(LockRunCommand),
}

/// Acquire a lock, and print its grant.
///
/// Waits until nobody holds the lock, and then until nothing can complete what earlier holders had begun to commit. Prints the number of the
/// grant, which `append --grant`, `renew` and `release` take. Afterwards renew it at least every third of its time to live.
///
/// To continue from the latest state, read with `min_token` = `lastCommit` of the JSON output: the newest entry that was committed under the
/// lock, which is certain, also while the index still has it as `pending`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark lock acquire models --holder trainer-7 --purpose 'nightly run' --ttl 1m --json"
)]
struct LockAcquireCommand {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    grant: GrantArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The lock.
    #[arg(value_name = "NAME")]
    name: LockName,
}

/// Renew a lock, so that others do not acquire it.
///
/// Ends with code 4 if the grant was overtaken or released.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark lock renew models --grant 3")]
struct LockRenewCommand {
    #[command(flatten)]
    log: LogArgs,
    /// The grant, as `lock acquire` printed it.
    #[arg(long, env = "TIDEMARK_GRANT", value_name = "NUMBER")]
    grant: u64,
    /// The lock.
    #[arg(value_name = "NAME")]
    name: LockName,
}

/// Release a lock, so that the next holder need not wait until it expires.
///
/// By --grant: ends with code 4 if it was overtaken. By --holder: whatever grant that holder has, of the lock NAME or of all locks.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark lock release models --grant 3\n\
    Example: tidemark lock release --holder trainer-7")]
struct LockReleaseCommand {
    #[command(flatten)]
    log: LogArgs,
    /// The grant, as `lock acquire` printed it.
    #[arg(long, env = "TIDEMARK_GRANT", value_name = "NUMBER", requires = "name", conflicts_with = "holder")]
    grant: Option<u64>,
    /// Release what this holder has.
    #[arg(long, env = "TIDEMARK_HOLDER", value_name = "NAME", required_unless_present = "grant")]
    holder: Option<String>,
    /// The lock.
    #[arg(value_name = "NAME")]
    name: Option<LockName>,
}

/// Show a lock: its holder, its last commit, and what was fenced, with the payload.
///
/// Fenced entries were appended under a grant that had been overtaken or released. They are in the log and in every index, and count for
/// nothing. Shown are the newest 32; search for `outcome:fenced` for all.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark lock show models --json")]
struct LockShowCommand {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The lock.
    #[arg(value_name = "NAME")]
    name: LockName,
}

/// List the locks of a log.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark lock list --holder trainer-7")]
struct LockListCommand {
    #[command(flatten)]
    log: LogArgs,
    /// Only those that this holder has.
    #[arg(long, env = "TIDEMARK_HOLDER", value_name = "NAME")]
    holder: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl LockCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            LockSubcommand::Acquire(acquire) => acquire.run().await,
            LockSubcommand::Renew(renew) => renew.run().await,
            LockSubcommand::Release(release) => release.run().await,
            LockSubcommand::Show(show) => show.run().await,
            LockSubcommand::List(list) => list.run().await,
            LockSubcommand::Run(run) => run.run().await,
        }
    }
}

impl LockAcquireCommand {
    async fn run(self) -> anyhow::Result<()> {
        let Self { log, grant, output, name } = self;
        let log = log.open()?;
        let locks = open_locks(&log);
        let held = grant.acquire(&locks, &name).await?;
        if !output.json {
            return print_line(&held.grant.number.to_string());
        }
        let schedule = RootChain::open(&log, Entropy::from_os()).schedule().await?;
        let last_commit = locks.last_committed(&held, &LogReader::new(&log), &schedule).await.map_err(lock_exit)?;
        let HeldLock { name, grant: LockGrant { number, holder, since, .. }, .. } = held;
        print_json(&AcquiredLockJson { lock: name, grant: number, holder, since: since.map(text), last_commit })
    }
}

impl LockRenewCommand {
    async fn run(self) -> anyhow::Result<()> {
        let Self { log, grant, name } = self;
        open_locks(&log.open()?).renew(&name, grant).await.map_err(lock_exit)
    }
}

impl LockReleaseCommand {
    async fn run(self) -> anyhow::Result<()> {
        let Self { log, grant, holder, name } = self;
        let locks = open_locks(&log.open()?);
        if let (Some(name), Some(grant)) = (&name, grant) {
            return locks.release(name, grant).await.map_err(lock_exit);
        }
        let names = match name {
            Some(name) => vec![name],
            None => locks.names().await.map_err(lock_exit)?,
        };
        for name in names {
            let Some(LockDescription { state, .. }) = locks.describe(&name).await.map_err(lock_exit)? else { continue };
            if state.is_held() && holder.as_deref() == Some(state.grant.holder.as_str()) {
                locks.release(&name, state.grant.number).await.map_err(lock_exit)?;
                print_line(name.as_str())?;
            }
        }
        Ok(())
    }
}

impl LockShowCommand {
    async fn run(self) -> anyhow::Result<()> {
        let Self { log, output, name } = self;
        let log = log.open()?;
        let described = open_locks(&log).describe(&name).await.map_err(lock_exit)?;
        let Some(described) = described else {
            anyhow::bail!(
                "lock \"{name}\" was never acquired; nothing is shown; \"tidemark lock list\" lists all locks"
            );
        };
        let mut fenced = Vec::new();
        for FencedCommit { token, slot, grant, by } in described.state.fenced.clone() {
            let payload = payload(&log.entries, token).await?;
            fenced.push(FencedEntryJson { token, slot, grant, overtaken_by: by, payload });
        }
        let lock = LockJson { fenced, ..LockJson::of(described) };
        if output.json { print_json(&lock) } else { lock.print() }
    }
}

impl LockListCommand {
    async fn run(self) -> anyhow::Result<()> {
        let Self { log, holder, output } = self;
        let locks = open_locks(&log.open()?);
        for name in locks.names().await.map_err(lock_exit)? {
            let Some(described) = locks.describe(&name).await.map_err(lock_exit)? else { continue };
            let lock = LockJson::of(described);
            if holder.as_ref().is_some_and(|holder| !lock.held || lock.holder != *holder) {
                continue;
            }
            if output.json { print_json(&lock)? } else { print_line(&lock.line())? }
        }
        Ok(())
    }
}

/// What the entry says, as text; `None` where the log has it no more.
async fn payload(entries: &Store, token: Token) -> anyhow::Result<Option<String>> {
    let found = entries.get(&token.to_string(), MAX_SHOWN_BYTES).await?;
    Ok(found.map(|found| match found.body {
        Some(body) => String::from_utf8_lossy(&body).into_owned(),
        None => format!("{} bytes, not shown", found.info.size),
    }))
}

fn text(second: StoreSecond) -> String {
    second.to_string()
}

/// What is printed for a lock that was acquired.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AcquiredLockJson {
    lock: LockName,
    grant: u64,
    holder: String,
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_commit: Option<Token>,
}

/// A lock as it is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LockJson {
    lock: LockName,
    held: bool,
    grant: u64,
    holder: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renewed: Option<String>,
    /// When others may acquire it unless it is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    ttl_seconds: u64,
    complete_within_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_commit: Option<Token>,
    /// How many of the newest commits were fenced.
    fenced_commits: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fenced: Vec<FencedEntryJson>,
}

/// A fenced entry as it is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FencedEntryJson {
    token: Token,
    slot: u64,
    grant: u64,
    overtaken_by: u64,
    /// Absent where the log has the entry no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

impl LockJson {
    /// Without the entries that were fenced.
    fn of(described: LockDescription) -> Self {
        let LockDescription { state, renewed, expires } = described;
        let held = state.is_held();
        let LockGrant { number, holder, purpose, ttl_seconds, complete_within_seconds, since } = state.grant;
        Self {
            lock: state.name,
            held,
            grant: number,
            holder,
            purpose,
            since: since.map(text),
            renewed: renewed.map(text),
            expires: expires.map(text),
            ttl_seconds,
            complete_within_seconds,
            last_commit: state.commit.map(|GuardedCommit { token, .. }| token),
            fenced_commits: state.fenced.len(),
            fenced: Vec::new(),
        }
    }

    /// The lock in one line.
    fn line(&self) -> String {
        let Self { lock, grant, holder, .. } = self;
        match &self.expires {
            Some(expires) => format!("{lock}\theld by {holder}\tgrant {grant}\texpires {expires} unless renewed"),
            None => format!("{lock}\treleased by {holder}\tgrant {grant}"),
        }
    }

    fn print(&self) -> anyhow::Result<()> {
        print_line(&self.line())?;
        if let Some(purpose) = &self.purpose {
            print_line(&format!("purpose: {purpose}"))?;
        }
        if let Some(token) = &self.last_commit {
            print_line(&format!("last commit: {token}"))?;
        }
        for FencedEntryJson { token, grant, overtaken_by, payload, .. } in &self.fenced {
            let how =
                if overtaken_by == grant { "released".to_owned() } else { format!("overtaken by {overtaken_by}") };
            print_line(&format!("fenced: {token}, grant {grant} {how}"))?;
            let payload = payload.as_deref().unwrap_or("the log has it no more; the archive and the index do");
            print_line(&format!("  {payload}"))?;
        }
        Ok(())
    }
}
