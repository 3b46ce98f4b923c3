//! The schedules of a WAL: they make tasks, never Jobs, and the tasks' results become a part of the WAL's status.
//!
//! [`due_tasks`] says what is due, [`scheduled_task`] builds a task, [`make_tasks`] creates it, [`task_history`] reads the tasks that
//! exist, and [`task_results`] what they found.

pub(crate) mod due_tasks;
pub(crate) mod make_tasks;
mod scheduled_task;
pub(crate) mod task_history;
pub(crate) mod task_results;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world_tests;
