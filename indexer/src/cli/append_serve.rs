//! `tidemark append --serve`: appends for programs of this machine.

use clap::Args;
use tidemark_wal::{LockRef, LogWriter};
use tokio_util::sync::CancellationToken;

use super::{args::size, output::print_line, shutdown::stop_on_signal};
use crate::http::{AppendEndpoint, AppendLimits, AppendServer};

/// Where the service of appends listens, and how much it takes at once.
#[derive(Debug, Args)]
pub(super) struct AppendServeArgs {
    /// Serve appends to programs of this machine until stopped, on an address of loopback (port 0 takes a free one) or on a Unix socket that
    /// only this user may use; prints where. Whoever reaches the service may append.
    #[arg(long, env = "TIDEMARK_SERVE", value_name = "ADDR|unix:PATH")]
    serve: Option<AppendEndpoint>,
    /// The most entries that --serve appends at once; more are refused with status 429.
    #[arg(long, env = "TIDEMARK_MAX_IN_FLIGHT", value_name = "ENTRIES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// The most bytes of requests that --serve reads and works on at once, and the largest request: bytes, or with Ki, Mi or Gi.
    #[arg(long, env = "TIDEMARK_MAX_IN_FLIGHT_SIZE", value_name = "SIZE", default_value = "32Mi", value_parser = size)]
    max_in_flight_size: u64,
}

impl AppendServeArgs {
    /// Serves until stopped. `lock` guards the drafts that name none; `has_name`: the writer's name was given.
    pub(super) async fn run(self, writer: LogWriter, has_name: bool, lock: Option<LockRef>) -> anyhow::Result<()> {
        let Self { serve, max_in_flight, max_in_flight_size } = self;
        let endpoint = serve.ok_or_else(|| anyhow::anyhow!("there is neither a file nor a place to listen on"))?;
        let limits = AppendLimits { entries: max_in_flight, bytes: u32::try_from(max_in_flight_size)? };
        let stop = CancellationToken::new();
        let _signal = stop_on_signal(stop.clone())?;
        let listener = endpoint.listen().await?;
        print_line(listener.endpoint())?;
        AppendServer::new(writer, has_name, lock, limits, stop).run(listener).await;
        Ok(())
    }
}
