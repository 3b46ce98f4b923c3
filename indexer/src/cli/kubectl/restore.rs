//! `kubectl tidemark restore`: the index of a WAL as it was, and `kubectl tidemark promote`: its end.

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use tidemark_crds::TaskType;

use super::{
    client::KubectlClient,
    objects::{WalObject, display_value},
    task_object::{TaskStartArgs, start},
};
use crate::cli::output::print_line;

/// Restore the index of a WAL to an earlier time.
///
/// The index as of that time is built beside the present one, which answers searches until it is complete. Then search switches, and
/// nothing newer is indexed until "kubectl tidemark promote". The log and the archive are not changed, so nothing is lost: to go back,
/// restore to a later time, or promote. A time outside of the recovery window is refused before anything runs.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: kubectl tidemark restore orders -n data --to-time 2026-11-20T10:00:00Z --wait\nThe recovery window: kubectl get wal orders -n data -o jsonpath='{.status.recoveryWindow}'"
)]
pub(super) struct WalRestoreCommand {
    /// The WAL.
    #[arg(value_name = "WAL")]
    pub(super) wal: String,
    #[command(flatten)]
    pub(super) target: WalRestoreTarget,
    #[command(flatten)]
    pub(super) start: TaskStartArgs,
}

/// What to restore to.
#[derive(Clone, Debug, Default, Args)]
#[group(required = true, multiple = false)]
pub(super) struct WalRestoreTarget {
    /// All operations whose token's second is not later than this time, such as 2026-11-20T10:00:00Z or 2026-11-20T11:00:00+01:00.
    #[arg(long, value_name = "TIME")]
    pub(super) to_time: Option<String>,
    /// All operations up to this token and with it.
    #[arg(long, value_name = "TOKEN")]
    pub(super) to_token: Option<String>,
    /// What this snapshot holds.
    #[arg(long, value_name = "NAME")]
    pub(super) snapshot: Option<String>,
    /// As far as the index, its snapshots and its archive reach.
    #[arg(long)]
    pub(super) latest: bool,
}

impl WalRestoreTarget {
    /// The member `restore` of the task.
    pub(super) fn request(&self) -> anyhow::Result<Value> {
        let Self { to_time, to_token, snapshot, latest } = self;
        if let Some(text) = to_time {
            let time: Timestamp = text.parse().with_context(|| {
                format!("--to-time \"{text}\" is no time; nothing was asked for; write one with its offset, such as 2026-11-20T10:00:00Z")
            })?;
            // Tokens have whole seconds.
            let time = Timestamp::from_second(time.as_second())?;
            return Ok(json!({"time": time}));
        }
        Ok(match (to_token, snapshot) {
            (Some(token), _) => json!({"token": token}),
            (None, Some(snapshot)) => json!({"snapshot": snapshot}),
            // clap lets no other combination through.
            (None, None) => json!({"latest": latest}),
        })
    }
}

impl WalRestoreCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        let Self { wal, target, start: args } = self;
        let restore = target.request()?;
        let wal = WalObject::get(client, &wal).await?;
        print_line(&window_line(&wal.object))?;
        start(&wal, TaskType::Restore, json!({"restore": restore}), args).await
    }
}

/// What the WAL knows of the times that can be restored to. A WAL that was made again knows none, whatever its index has.
pub(super) fn window_line(wal: &Value) -> String {
    let window = |edge: &str| display_value(wal, &format!("/status/recoveryWindow/{edge}"));
    if wal.pointer("/status/recoveryWindow").is_some() {
        return format!(
            "recovery window, as the last task that looked found it: {} to {}",
            window("first"),
            window("last")
        );
    }
    "no task of this WAL has looked for the recovery window yet; the restore itself looks how far index, snapshots and archive reach, and is \
     refused if the target lies outside"
        .to_owned()
}

/// Let a restored WAL index its log again.
///
/// After a restore nothing newer than its target is indexed. A promotion lets the indexer go on from there with the log, which was not
/// changed meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "Example: kubectl tidemark promote orders -n data --wait")]
pub(super) struct WalPromoteCommand {
    /// The WAL.
    #[arg(value_name = "WAL")]
    pub(super) wal: String,
    /// Let the log decide again what was recorded and is lost: where an object is gone or damaged, and no snapshot and no archive has what
    /// it held. Without this such a promotion is refused. An update whose descriptor was deleted since counts as aborted then, so put the
    /// object back instead if you can.
    #[arg(long)]
    pub(super) decide_again: bool,
    #[command(flatten)]
    pub(super) start: TaskStartArgs,
}

impl WalPromoteCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        let Self { wal, decide_again, start: args } = self;
        let wal = WalObject::get(client, &wal).await?;
        let request = if decide_again { json!({"promote": {"decideAgain": true}}) } else { json!({}) };
        start(&wal, TaskType::Promote, request, args).await
    }
}
