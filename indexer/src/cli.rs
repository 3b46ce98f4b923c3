//! The command line: a clap struct a concern, a file a command.

mod append;
mod args;
mod audit;
mod check;
mod command_line;
#[cfg(feature = "demo")]
mod demo;
mod dev;
mod exit;
mod gc;
mod generation_task;
mod index;
mod kubectl;
mod lint;
mod log;
mod log_unregister;
mod output;
mod probe;
mod promote;
mod reindex;
mod restore;
mod serve;
mod shutdown;

pub use command_line::CommandLine;
pub use exit::CommandExit;
