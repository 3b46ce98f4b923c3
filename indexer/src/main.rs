//! The `tidemark` program.

use std::time::Duration;

use tidemark_indexer::cli::{CommandExit, CommandLine};
use tokio::runtime::Builder;

/// Ten percent less processor time for an entry than with the C library's allocator, and the memory of a batch goes back to the
/// system once it is published, which that one keeps (BENCHMARKS.md).
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long blocking threads may delay the exit of the process: their work can be redone.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

fn main() -> CommandExit {
    let cli = CommandLine::from_command_line();
    cli.start_logging();
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the process cannot start its threads: {error}");
            return CommandExit::Failed;
        }
    };
    let exit = runtime.block_on(cli.run());
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit
}
