//! `tidemark-operator`: reconciles WAL resources.

use anyhow::Context as _;
use clap::Parser as _;
use tidemark_operator::{
    args::{OperatorArgs, OperatorCommand},
    run, telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let OperatorArgs { command } = OperatorArgs::parse();
    let OperatorCommand::Run(args) = command;
    let _telemetry = telemetry::start(&args.telemetry).context("failed to start logging")?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let signalled = async {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("received a shutdown signal");
        shutdown.cancel();
        // `run` returns when it has released the lease.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = run(*args, shutdown.clone()) => ended,
        () = signalled => Ok(()),
    }
}
