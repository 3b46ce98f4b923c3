//! Options of an ordered dispatch.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::args::span;
use crate::delivery::WorkerSocket;

/// Whom `tidemark changes --name` hands records to, in place of printing them.
#[derive(Debug, Args)]
pub(super) struct DispatchArgs {
    /// With --name: hand the records to workers in place of printing them. `entity`: of each entity one at a time, in order; those of other
    /// entities, and those without one, go to other workers meanwhile.
    #[arg(long, env = "TIDEMARK_BY", value_name = "KEY", value_enum, requires_all = ["name", "workers"])]
    by: Option<DispatchKey>,
    /// The Unix socket at which workers attach. It is made, and only the user of this process may attach.
    #[arg(long, env = "TIDEMARK_WORKERS", value_name = "PATH", requires = "by")]
    workers: Option<PathBuf>,
    /// How long a worker may have a record without an answer. Then its connection is ended, and others get what it has.
    #[arg(long, env = "TIDEMARK_WORK_TIMEOUT", value_name = "SPAN", default_value = "5m", value_parser = span)]
    work_timeout: Duration,
}

/// What keeps records in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DispatchKey {
    Entity,
}

impl DispatchArgs {
    /// Where workers attach; absent where records are printed.
    pub(super) fn socket(self) -> Option<WorkerSocket> {
        let Self { by, workers, work_timeout } = self;
        let (DispatchKey::Entity, path) = by.zip(workers)?;
        Some(WorkerSocket { path, work_timeout })
    }
}
