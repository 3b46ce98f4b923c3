//! The command line: a clap struct a concern. Every flag is an environment variable of its name.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Parser, Subcommand};

/// Reconciles WAL resources: indexers, search, and their status.
#[derive(Debug, Parser)]
#[command(name = "tidemark-operator", version, propagate_version = true, after_help = AFTER_HELP)]
pub struct OperatorArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: OperatorCommand,
}

const AFTER_HELP: &str = "Every flag is also an environment variable: --image is TIDEMARK_OPERATOR_IMAGE.\n\
Exit codes: 0 shut down by a signal, 1 failed, 2 wrong usage.";

const RUN_EXAMPLE: &str = "Example, outside a cluster with the present kubectl context:\n  \
tidemark-operator run --image tidemark.dev/tidemark:dev --lease-namespace default --identity \"$(hostname)\"";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Watch WAL resources and keep their indexers and search services as specified, until stopped.
    #[command(after_help = RUN_EXAMPLE)]
    Run(Box<RunArgs>),
}

/// Everything that `run` takes.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The data pods.
    #[command(flatten)]
    pub data: DataPodArgs,
    /// What is watched.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Which replica works.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// How upgrades roll out.
    #[command(flatten)]
    pub upgrade: UpgradeArgs,
    /// Rates of the reconciliation.
    #[command(flatten)]
    pub rates: RateArgs,
    /// Where metrics and traces go.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// What the help leaves out.
    #[command(flatten)]
    pub hidden: HiddenArgs,
}

/// What the data pods run.
#[derive(Clone, Debug, Args)]
pub struct DataPodArgs {
    /// Image of the indexer and search pods: the operator's own, so that both are of one release.
    #[arg(long, env = "TIDEMARK_OPERATOR_IMAGE")]
    pub image: String,
    /// When nodes pull the image: always, when they lack it, or never.
    #[arg(long, env = "TIDEMARK_OPERATOR_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,
}

/// What the operator watches.
#[derive(Clone, Debug, Args)]
pub struct ScopeArgs {
    /// Watch this namespace only; may be given more than once, or as a list with commas. Without it the whole cluster is
    /// watched, which needs a ClusterRole.
    #[arg(long = "namespace", env = "TIDEMARK_OPERATOR_NAMESPACE", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Name of this cluster in the ownership records of logs. The default is the UID of the namespace kube-system; it must
    /// be given where the operator may not read that namespace. With another value every index belongs to another owner.
    #[arg(long, env = "TIDEMARK_OPERATOR_CLUSTER_ID")]
    pub cluster_id: Option<String>,
}

/// The lease: its holder works, the other replicas wait.
#[derive(Clone, Debug, Args)]
pub struct LeaseArgs {
    /// Name of the lease.
    #[arg(long, env = "TIDEMARK_OPERATOR_LEASE_NAME", default_value = "tidemark-operator")]
    pub lease_name: String,
    /// Namespace of the lease: the operator's own.
    #[arg(long, env = "TIDEMARK_OPERATOR_LEASE_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of this replica in the lease and in Events: the pod's name.
    #[arg(long, env = "TIDEMARK_OPERATOR_IDENTITY")]
    pub identity: String,
}

/// How a new release reaches the data pods. Without approval it does not.
#[derive(Clone, Debug, Args)]
pub struct UpgradeArgs {
    /// Release revision that may roll out to every WAL. Empty: each WAL is approved by its own annotation
    /// tidemark.dev/approve-upgrade. Condition `UpgradePending` of a WAL names the revision.
    #[arg(long, env = "TIDEMARK_OPERATOR_UPGRADE_APPROVED", default_value = "")]
    pub upgrade_approved: String,
    /// How many WALs roll at the same time.
    #[arg(long, env = "TIDEMARK_OPERATOR_MAX_CONCURRENT_UPGRADES", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub max_concurrent_upgrades: u16,
}

/// Rates of the reconciliation.
#[derive(Clone, Debug, Args)]
pub struct RateArgs {
    /// How many WALs are reconciled at the same time.
    #[arg(long, env = "TIDEMARK_OPERATOR_CONCURRENCY", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// How often each settled data pod is polled (with jitter); one that is not settled is polled more often.
    #[arg(long, env = "TIDEMARK_OPERATOR_POLL_INTERVAL", default_value = "10s", value_parser = span)]
    pub poll_interval: Duration,
}

/// Where metrics and traces go.
#[derive(Clone, Debug, Args)]
pub struct TelemetryArgs {
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "TIDEMARK_OPERATOR_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// OpenTelemetry collector that takes traces over HTTP, such as `http://collector:4318/v1/traces`. None: no traces.
    #[arg(long, env = "TIDEMARK_OPERATOR_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Which log lines are written, such as `info` or `tidemark_operator=debug,kube=info`.
    #[arg(long, env = "TIDEMARK_OPERATOR_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// What the tests set and the chart does not: the help leaves it out, since no cluster is known that needs other values, and a
/// wrong one is found late. Another port finds no pod of the operator's own, replicas with different lease durations do not wait
/// for each other long enough, and a short purge leaves an index behind.
#[derive(Clone, Debug, Args)]
pub struct HiddenArgs {
    /// Port on which the data pods are polled.
    #[arg(long, env = "TIDEMARK_OPERATOR_POD_PORT", default_value_t = tidemark_crds::names::CONTAINER_PORT, hide = true)]
    pub pod_port: u16,
    /// How long a lease holds without being renewed. A replica that dies is replaced after this time.
    #[arg(long, env = "TIDEMARK_OPERATOR_LEASE_DURATION", default_value = "15s", value_parser = span, hide = true)]
    pub lease_duration: Duration,
    /// How long after a WAL's deletion its index may take to be removed (deletionPolicy Purge) before the WAL is deleted without that.
    #[arg(long, env = "TIDEMARK_OPERATOR_PURGE_TIMEOUT", default_value = "10m", value_parser = span, hide = true)]
    pub purge_timeout: Duration,
}

/// Reads a span of time such as 10s or 1h30m. Zero is refused: every interval and time-out of the operator needs some time.
fn span(text: &str) -> Result<Duration, String> {
    let span = tidemark_crds::TimeSpan::new(text).duration().map_err(|error| error.to_string())?;
    if span.is_zero() { Err("\"0s\" is too short; give a longer span".to_owned()) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        OperatorArgs::command().debug_assert();
    }

    #[test]
    fn every_flag_is_an_environment_variable_of_its_name() {
        for command in OperatorArgs::command().get_subcommands() {
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                    continue;
                };
                let wanted = format!("TIDEMARK_OPERATOR_{}", long.to_uppercase().replace('-', "_"));
                let found = argument.get_env().map(|env| env.to_string_lossy().into_owned());
                assert_eq!(found.as_deref(), Some(wanted.as_str()), "{} --{long}", command.get_name());
            }
        }
    }

    #[test]
    fn the_help_leaves_out_the_hidden_flags_alone() {
        let names = |command: clap::Command, all: bool| -> Vec<String> {
            let flags = command.get_arguments().filter(|flag| all || flag.is_hide_set());
            flags.map(|flag| flag.get_id().to_string()).collect()
        };
        let command = clap::Command::new("run");
        let hidden = names(HiddenArgs::augment_args(command.clone()), true);
        assert_eq!(names(RunArgs::augment_args(command), false), hidden);
        assert!(!hidden.is_empty());
    }

    #[test]
    fn a_span_of_zero_is_refused() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert!(span("0s").is_err() && span("soon").is_err());
    }
}
