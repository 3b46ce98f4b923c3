//! Kind `WALTask`: something that is done once to a WAL's index, archive or log.
#![expect(unreachable_pub, reason = "`KubeSchema` repeats the type inside of a function")]

mod spec;
mod status;
mod task_type;

pub(crate) use self::spec::SNAPSHOT_NAME_PATTERN;
pub use self::{
    spec::{CleanupTask, PromoteTask, RestoreTarget, SnapshotTask, VerifyTask, WalReference, WalTask, WalTaskSpec},
    status::{TaskFailureClass, WalTaskState, WalTaskStatus},
    task_type::{TASK_COMMANDS, TaskCommand, TaskType},
};
