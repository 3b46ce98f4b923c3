//! The command line: a clap struct a concern, a file a command.

mod append;
mod append_decision;
mod append_serve;
mod args;
mod audit;
mod changes;
mod check;
#[cfg(feature = "archive")]
mod cleanup;
mod command_line;
mod consumer_args;
#[cfg(feature = "demo")]
mod demo;
mod dev;
mod dispatch_args;
mod exit;
mod failure_verdict;
#[cfg(feature = "archive")]
mod gc;
#[cfg(feature = "archive")]
mod generation_task;
mod grant_args;
mod index;
#[cfg(feature = "archive")]
mod job_report;
#[cfg(feature = "kubernetes")]
mod kubectl;
#[cfg(feature = "kubernetes")]
mod lint;
mod lock;
mod lock_run;
mod log;
#[cfg(feature = "archive")]
mod log_floor;
mod log_unregister;
mod output;
mod probe;
#[cfg(feature = "archive")]
mod promote;
mod read_commits;
#[cfg(feature = "archive")]
mod reindex;
#[cfg(feature = "archive")]
mod restore;
mod serve;
mod shutdown;
mod sink;
mod sink_verify;
#[cfg(feature = "archive")]
mod snapshot;
#[cfg(feature = "archive")]
mod snapshots;
#[cfg(feature = "archive")]
mod verify;

pub use command_line::CommandLine;
pub use exit::CommandExit;
