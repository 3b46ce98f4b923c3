//! Logging, set up in one place: for people on a terminal, JSON lines otherwise, always on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What is logged when nobody says otherwise: our own doings, and only warnings of others.
const DEFAULT: &str = "warn,tidemark=info,tidemark_indexer=info,tidemark_wal=info,tidemark_catalog=info";

/// Starts logging. `TIDEMARK_LOG`, else `RUST_LOG`, chooses what, in the notation of `tracing` (`debug`,
/// `tidemark_wal=trace,warn`); a directive that cannot be read is left out and reported. A second call does nothing.
pub fn init() {
    let wanted = ["TIDEMARK_LOG", "RUST_LOG"].iter().find_map(|name| chosen(name));
    let (filter, complaint) = filter(wanted);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if std::io::stderr().is_terminal() {
        let layer = fmt::layer().with_writer(std::io::stderr).with_target(false).compact();
        registry.with(layer).try_init()
    } else {
        let layer = fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
        registry.with(layer).try_init()
    };
    if let (Ok(()), Some((name, error))) = (started, complaint) {
        tracing::warn!(variable = name, %error, "the log filter cannot be read; the default is used");
    }
}

type Complaint = (&'static str, tracing_subscriber::filter::ParseError);

fn chosen(name: &'static str) -> Option<(&'static str, String)> {
    let value = std::env::var(name).ok().filter(|value| !value.trim().is_empty())?;
    Some((name, value))
}

fn filter(wanted: Option<(&'static str, String)>) -> (EnvFilter, Option<Complaint>) {
    let default = || EnvFilter::new(DEFAULT);
    match wanted {
        None => (default(), None),
        Some((name, directives)) => match EnvFilter::try_new(directives) {
            Ok(filter) => (filter, None),
            Err(error) => (default(), Some((name, error))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_falls_back_and_is_reported() {
        let (filter, complaint) = filter(Some(("RUST_LOG", "tidemark=loudest".to_owned())));
        assert_eq!(filter.to_string(), EnvFilter::new(DEFAULT).to_string());
        assert_eq!(complaint.map(|(name, _)| name), Some("RUST_LOG"));
    }
}
