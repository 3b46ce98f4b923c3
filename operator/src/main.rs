//! `tidemark-operator`: reconciles WAL resources.

use anyhow::Context as _;
use clap::Parser as _;
use tidemark_operator::{
    args::{Cli, Command},
    run, telemetry,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Cli { command } = Cli::parse();
    let Command::Run(args) = command;
    let _telemetry = telemetry::start(&args.telemetry).context("logging cannot be started")?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(false);
    let working = run(*args, stopped);
    tokio::pin!(working);
    let asked = async {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    tokio::select! {
        ended = &mut working => ended,
        () = asked => {
            tracing::info!("asked to stop");
            stop.send_replace(true);
            working.await
        }
    }
}
