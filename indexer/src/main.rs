//! The `tidemark` program.

use clap::Parser as _;
use tidemark_indexer::cli::{Cli, Exit};

#[tokio::main]
async fn main() -> Exit {
    let cli = Cli::parse();
    cli.start_logging();
    cli.run().await
}
