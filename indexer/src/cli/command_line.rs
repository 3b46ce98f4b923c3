//! The command line as a whole: its commands, their exit codes, and the name by which it is a plugin of `kubectl`.

use std::{ffi::OsString, path::Path};

use clap::{Parser, Subcommand};

#[cfg(feature = "demo")]
use super::demo;
use super::{append, args, audit, changes, check, dev, exit::CommandExit, index, lock, log, probe, serve, sink};
#[cfg(feature = "archive")]
use super::{cleanup, gc, promote, reindex, restore, snapshot, snapshots, verify};
#[cfg(feature = "kubernetes")]
use super::{kubectl, lint};

/// Full-text search over write-ahead logs in object storage.
///
/// Writers put an intent into a log bucket before they complete an update through a signed URL that expires. Once the
/// object store's clock has passed that expiry, the log before it can no longer change. Tidemark indexes the log up to that
/// horizon and serves search over it.
#[derive(Debug, Parser)]
#[command(name = "tidemark", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct CommandLine {
    #[command(subcommand)]
    command: CliCommand,
    #[command(flatten)]
    telemetry: args::LoggingArgs,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a store lacks a guarantee that Tidemark needs, \
4 another process has taken over, or has made what this one was making: run it again (changes --name, cleanup, gc, index, log floor, reindex, restore, promote, sink, snapshot), \
or a grant was overtaken or released (append, lock), \
5 not acknowledged in time, or undecided yet (append), \
6 the outcome of a write is unknown: run it again (changes --name, cleanup, dev, gc, index, log floor, log set, log unregister, snapshot, reindex, restore, promote, sink), \
7 entries are left that cannot be read (audit), 8 something is damaged (verify), or lost or altered at a destination (sink verify), \
9 another append was first, where an expectation was given (append). \
A second SIGTERM or SIGINT forces a service to exit, with 128 + its number.\n\
URLs: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder. \
Credentials are found as each store's own tools find them, the environment first.\n\
Every flag is also an environment variable: --log is TIDEMARK_LOG.";

#[derive(Debug, Subcommand)]
enum CliCommand {
    Dev(dev::DevCommand),
    Index(Box<index::IndexCommand>),
    Serve(serve::ServeCommand),
    Append(append::AppendCommand),
    #[cfg(feature = "demo")]
    Demo(demo::DemoCommand),
    Log(log::LogCommand),
    Lock(lock::LockCommand),
    Changes(Box<changes::ChangesCommand>),
    Sink(Box<sink::SinkCommand>),
    Audit(audit::AuditCommand),
    #[cfg(feature = "archive")]
    Gc(gc::GcCommand),
    #[cfg(feature = "archive")]
    Cleanup(cleanup::CleanupCommand),
    #[cfg(feature = "archive")]
    Reindex(reindex::ReindexCommand),
    #[cfg(feature = "archive")]
    Restore(restore::RestoreCommand),
    #[cfg(feature = "archive")]
    Promote(promote::PromoteCommand),
    #[cfg(feature = "archive")]
    Snapshot(snapshot::SnapshotCommand),
    #[cfg(feature = "archive")]
    Snapshots(snapshots::SnapshotsCommand),
    #[cfg(feature = "archive")]
    Verify(verify::VerifyCommand),
    Check(check::CheckCommand),
    #[cfg(feature = "kubernetes")]
    Kubectl(kubectl::KubectlCommand),
    Probe(probe::ProbeCommand),
    #[cfg(feature = "kubernetes")]
    Lint(lint::LintCommand),
}

/// Called by this name, the program is a plugin of `kubectl`.
const PLUGIN: &str = "kubectl-tidemark";

impl CommandLine {
    /// Reads the command line; `kubectl-tidemark status` is read as `tidemark kubectl status`. Wrong usage and `--help`
    /// end the process.
    pub fn from_command_line() -> Self {
        Self::parse_from(as_plugin(std::env::args_os().collect()))
    }

    /// Runs the command until it is done, or until it receives SIGTERM or SIGINT.
    pub async fn run(self) -> CommandExit {
        let result = match self.command {
            CliCommand::Dev(dev) => dev.run().await,
            CliCommand::Index(index) => index.run().await,
            CliCommand::Serve(serve) => Box::pin(serve.run()).await,
            CliCommand::Append(append) => append.run().await,
            #[cfg(feature = "demo")]
            CliCommand::Demo(demo) => demo.run().await,
            CliCommand::Log(log) => log.run().await,
            CliCommand::Lock(lock) => Box::pin(lock.run()).await,
            CliCommand::Changes(changes) => Box::pin(changes.run()).await,
            CliCommand::Sink(sink) => Box::pin(sink.run()).await,
            CliCommand::Audit(audit) => Box::pin(audit.run()).await,
            #[cfg(feature = "archive")]
            CliCommand::Gc(gc) => gc.run().await,
            #[cfg(feature = "archive")]
            CliCommand::Cleanup(cleanup) => Box::pin(cleanup.run()).await,
            #[cfg(feature = "archive")]
            CliCommand::Reindex(reindex) => Box::pin(reindex.run()).await,
            #[cfg(feature = "archive")]
            CliCommand::Restore(restore) => Box::pin(restore.run()).await,
            #[cfg(feature = "archive")]
            CliCommand::Promote(promote) => Box::pin(promote.run()).await,
            #[cfg(feature = "archive")]
            CliCommand::Snapshot(snapshot) => Box::pin(snapshot.run()).await,
            #[cfg(feature = "archive")]
            CliCommand::Snapshots(snapshots) => snapshots.run().await,
            #[cfg(feature = "archive")]
            CliCommand::Verify(verify) => Box::pin(verify.run()).await,
            CliCommand::Check(check) => check.run().await,
            #[cfg(feature = "kubernetes")]
            CliCommand::Kubectl(kubectl) => kubectl.run().await,
            CliCommand::Probe(probe) => probe.run().await,
            #[cfg(feature = "kubernetes")]
            CliCommand::Lint(lint) => lint.run(),
        };
        CommandExit::of(result)
    }

    /// Starts logging, as the flags say.
    pub fn start_logging(&self) {
        crate::telemetry::init(self.telemetry.log_level.as_deref());
    }
}

fn as_plugin(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().map(|program| Path::new(program).file_stem().unwrap_or_default() == PLUGIN);
    if called == Some(true) {
        arguments.insert(1, "kubectl".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_flag_is_an_environment_variable_of_its_name() {
        for command in CommandLine::command().get_subcommands() {
            for argument in command.get_arguments().filter(|argument| !argument.is_positional()) {
                let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                    continue;
                };
                let wanted = format!("TIDEMARK_{}", long.to_uppercase().replace('-', "_"));
                let found = argument.get_env().map(|env| env.to_string_lossy().into_owned());
                assert_eq!(found.as_deref(), Some(wanted.as_str()), "{} --{long}", command.get_name());
            }
        }
    }

    #[test]
    #[cfg(feature = "kubernetes")]
    fn called_as_a_plugin_it_is_one() {
        let read = |words: &[&str]| CommandLine::try_parse_from(as_plugin(words.iter().map(Into::into).collect()));
        assert!(read(&["/usr/local/bin/kubectl-tidemark", "status", "-A"]).is_ok());
        assert!(read(&["tidemark", "kubectl", "status", "-A"]).is_ok());
        assert!(read(&["tidemark", "status"]).is_err());
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in CommandLine::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn a_log_is_listed_with_no_flag_but_its_places() {
        let places = ["--log", "memory:///", "--metadata", "memory:///"];
        assert!(CommandLine::try_parse_from(["tidemark", "log"].iter().chain(&places)).is_ok());
        assert!(CommandLine::try_parse_from(["tidemark", "log", "set"].iter().chain(&places)).is_ok());
        assert!(CommandLine::try_parse_from(["tidemark", "log"]).is_err());
    }
}
