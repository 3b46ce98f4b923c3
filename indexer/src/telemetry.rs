//! Logging, set up in one place: for people on a terminal, JSON lines otherwise, always on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The default filter: our own crates at `info`, dependencies at `warn`.
const DEFAULT: &str = "warn,tidemark=info,tidemark_indexer=info,tidemark_search=info,tidemark_ingest=info,tidemark_catalog=info,tidemark_wal=info,tidemark_store=info";

/// Starts logging. `wanted` chooses what, in the notation of `tracing` (`debug`, `tidemark_wal=trace,warn`); an
/// invalid filter is ignored and reported. A second call does nothing.
pub fn init(wanted: Option<&str>) {
    let (filter, complaint) = filter(wanted);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if std::io::stderr().is_terminal() {
        let layer = fmt::layer().with_writer(std::io::stderr).with_target(false).compact();
        registry.with(layer).try_init()
    } else {
        let layer = fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
        registry.with(layer).try_init()
    };
    if let (Ok(()), Some(error)) = (started, complaint) {
        tracing::warn!(%error, "invalid log filter; using the default");
    }
}

fn filter(wanted: Option<&str>) -> (EnvFilter, Option<tracing_subscriber::filter::ParseError>) {
    let Some(wanted) = wanted.filter(|wanted| !wanted.trim().is_empty()) else {
        return (EnvFilter::new(DEFAULT), None);
    };
    match EnvFilter::try_new(wanted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_falls_back_and_is_reported() {
        let (filter, complaint) = filter(Some("tidemark=loudest"));
        assert_eq!(filter.to_string(), EnvFilter::new(DEFAULT).to_string());
        assert!(complaint.is_some());
    }
}
