//! The types of tasks, and the command that runs each: one table for the operator, the command line and their tests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names;

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize)]
pub enum TaskType {
    /// Takes a snapshot: pins the newest manifest, extends the archive, and reads again what it wrote.
    Snapshot,
    /// Deletes entries from the log that a verified snapshot has in the archive.
    Cleanup,
    /// Compares index, archive and log.
    Verify,
    /// Deletes the objects of the index that nothing names any more.
    GC,
    /// Builds a new generation of the index from the records of the present one, and switches to it.
    Reindex,
    /// Builds a new generation of the index as of an earlier moment, and switches to it.
    Restore,
    /// Goes on indexing after a restore.
    Promote,
}

/// How a type of task is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskCommand {
    /// The type.
    pub r#type: TaskType,
    /// The command of the program `tidemark`.
    pub command: &'static str,
    /// Whether it writes to the index, the archive or the log. Of those one runs at a time for each WAL, and none during an upgrade.
    pub writes: bool,
}

/// Every type.
pub const TASK_COMMANDS: [TaskCommand; 7] = [
    TaskCommand { r#type: TaskType::Snapshot, command: "snapshot", writes: true },
    TaskCommand { r#type: TaskType::Cleanup, command: "cleanup", writes: true },
    TaskCommand { r#type: TaskType::Verify, command: "verify", writes: false },
    TaskCommand { r#type: TaskType::GC, command: "gc", writes: true },
    TaskCommand { r#type: TaskType::Reindex, command: "reindex", writes: true },
    TaskCommand { r#type: TaskType::Restore, command: "restore", writes: true },
    TaskCommand { r#type: TaskType::Promote, command: "promote", writes: true },
];

impl TaskType {
    /// Whether it is for nothing while no indexer runs. Every command works on the stores alone.
    pub const fn needs_indexer(self) -> bool {
        matches!(self, Self::Promote)
    }

    /// Its row of [`TASK_COMMANDS`].
    pub const fn command(self) -> TaskCommand {
        TASK_COMMANDS[self as usize]
    }

    /// Name of the ServiceAccount of its Jobs, which belongs to the WAL `wal`.
    pub fn service_account(self, wal: &str) -> String {
        if self == Self::Cleanup { names::cleanup_service_account(wal) } else { names::jobs_service_account(wal) }
    }

    /// The type of this name, if this release knows it.
    pub fn parse(name: &str) -> Option<Self> {
        TASK_COMMANDS.into_iter().map(|row| row.r#type).find(|known| known.as_str() == name)
    }

    /// As `spec.type` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "Snapshot",
            Self::Cleanup => "Cleanup",
            Self::Verify => "Verify",
            Self::GC => "GC",
            Self::Reindex => "Reindex",
            Self::Restore => "Restore",
            Self::Promote => "Promote",
        }
    }
}

impl std::fmt::Display for TaskType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_the_table_is_at_the_place_of_its_type() {
        for row in TASK_COMMANDS {
            assert_eq!(row.r#type.command(), row);
            assert_eq!(serde_json::to_value(row.r#type).unwrap(), row.r#type.as_str());
            assert_eq!(TaskType::parse(row.r#type.as_str()), Some(row.r#type));
        }
    }
}
