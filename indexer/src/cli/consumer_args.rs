//! Arguments of commands that hold a named consumer.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde::{Deserialize as _, de::IntoDeserializer as _, de::value};
use tidemark_catalog::ConsumerName;
use tidemark_search::api::{FeedStart, QueryText};
use url::Url;

use super::args::{size, span};
use crate::{
    delivery::{BatchLimits, BreakerOptions, DeliveryOptions, HttpDestinationOptions, RejectedPolicy, WindowLimits},
    http::arguments::FeedStartText,
    service::{AccessMode, PodStores, StoresSettings},
};

/// What may be on its way, and when a destination is left alone.
#[derive(Clone, Debug, Args)]
pub(super) struct DeliveryArgs {
    /// The most records of a batch.
    #[arg(long, env = "TIDEMARK_BATCH_OPERATIONS", value_name = "COUNT", default_value_t = 500, value_parser = count)]
    batch_operations: usize,
    /// The most bytes of a batch, as 5Mi. A larger record is a batch by itself.
    #[arg(long, env = "TIDEMARK_BATCH_SIZE", value_name = "SIZE", default_value = "5Mi", value_parser = size)]
    batch_size: u64,
    /// How long the first record of a batch waits for others.
    #[arg(long, env = "TIDEMARK_BATCH_DELAY", value_name = "SPAN", default_value = "1s", value_parser = span)]
    batch_delay: Duration,
    /// The most records that are read and not acknowledged.
    #[arg(long, env = "TIDEMARK_MAX_UNACKNOWLEDGED", value_name = "COUNT", default_value_t = 10_000, value_parser = count)]
    max_unacknowledged: usize,
    /// The most bytes of them, as 64Mi. A larger record is on its way alone.
    #[arg(long, env = "TIDEMARK_MAX_UNACKNOWLEDGED_SIZE", value_name = "SIZE", default_value = "64Mi", value_parser = size)]
    max_unacknowledged_size: u64,
    /// What becomes of a record that the destination will never take: `dead-letter` puts it aside, below the consumer's folder in the
    /// index, and goes on; `block` tries it again and again, and delivers nothing after it. After 100 dead letters in a row the next one
    /// blocks: then it is the destination that rejects everything.
    #[arg(long, env = "TIDEMARK_ON_REJECTED", value_name = "ACTION", value_enum, default_value_t = OnRejected::DeadLetter)]
    on_rejected: OnRejected,
    /// After so many failures in a row nothing is sent or read for a while.
    #[arg(long, env = "TIDEMARK_BREAKER_FAILURES", value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    breaker_failures: u32,
    /// How long. Then one batch is tried, whose answer decides.
    #[arg(long, env = "TIDEMARK_BREAKER_OPEN_FOR", value_name = "SPAN", default_value = "30s", value_parser = span)]
    breaker_open_for: Duration,
}

/// How a destination is asked over HTTP.
#[derive(Clone, Debug, Args)]
pub(super) struct HttpDestinationArgs {
    /// File with the value of the header `Authorization`, as `ApiKey …` or `Basic …`. It is read again for each request.
    #[arg(long, env = "TIDEMARK_AUTHORIZATION_FILE", value_name = "FILE")]
    authorization_file: Option<PathBuf>,
    /// File with the certificates of the authorities to trust, in PEM, in place of the system's.
    #[arg(long, env = "TIDEMARK_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Send without TLS, also to what is not on loopback.
    #[arg(long, env = "TIDEMARK_ALLOW_HTTP")]
    allow_http: bool,
    /// Send to link-local addresses and those of metadata services too, which are refused else.
    #[arg(long, env = "TIDEMARK_ALLOW_LINK_LOCAL")]
    allow_link_local: bool,
    /// How long a request may take, with its answer.
    #[arg(long, env = "TIDEMARK_TIMEOUT", value_name = "SPAN", default_value = "30s", value_parser = span)]
    timeout: Duration,
}

impl HttpDestinationArgs {
    pub(super) fn options(&self, url: &Url) -> HttpDestinationOptions {
        HttpDestinationOptions {
            url: url.clone(),
            timeout: self.timeout,
            authorization: self.authorization_file.clone(),
            authorities: self.ca_file.clone(),
            allow_http: self.allow_http,
            allow_link_local: self.allow_link_local,
        }
    }
}

/// [`RejectedPolicy`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnRejected {
    DeadLetter,
    Block,
}

impl DeliveryArgs {
    pub(super) fn options(&self) -> DeliveryOptions {
        let Self {
            batch_operations,
            batch_size,
            batch_delay,
            max_unacknowledged,
            max_unacknowledged_size,
            on_rejected,
            breaker_failures,
            breaker_open_for,
        } = *self;
        DeliveryOptions {
            batch: BatchLimits { operations: batch_operations, bytes: batch_size, delay: batch_delay },
            window: WindowLimits { operations: max_unacknowledged as u64, bytes: max_unacknowledged_size },
            breaker: BreakerOptions { failures: breaker_failures, open_for: breaker_open_for },
            rejected: match on_rejected {
                OnRejected::DeadLetter => RejectedPolicy::DeadLetter,
                OnRejected::Block => RejectedPolicy::Block,
            },
            follow: true,
        }
    }
}

/// The index of a consumer: once to be read, once to be written below `consumers/`.
pub(super) fn consumer_stores(index: &Url, settings: &StoresSettings) -> (PodStores, PodStores) {
    let open = |mode| PodStores::at(None, index.clone(), settings, mode);
    (open(AccessMode::ReadOnly), open(AccessMode::ReadWrite))
}

pub(super) fn consumer_name(text: &str) -> Result<ConsumerName, String> {
    text.parse().map_err(|error: tidemark_catalog::InvalidConsumerName| error.to_string())
}

/// Where a feed starts, as `from` of `GET /v1/changes` has it.
pub(super) fn feed_start(text: &str) -> Result<FeedStart, String> {
    let read = FeedStartText::deserialize(text.into_deserializer());
    read.map(|FeedStartText(start)| start).map_err(|error: value::Error| error.to_string())
}

pub(super) fn query_text(text: &str) -> Result<QueryText, String> {
    QueryText::new(text).map_err(|error| error.to_string())
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=1_000_000).contains(count));
    count.ok_or_else(|| format!("invalid number \"{text}\": expected one from 1 to 1000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_read_as_the_service_reads_it() {
        assert_eq!(feed_start("now"), Ok(FeedStart::Latest));
        assert_eq!(feed_start("snapshot:daily"), Ok(FeedStart::Snapshot("daily".to_owned())));
        assert!(feed_start("yesterday").is_err());
        assert!(count("0").is_err() && count("1000001").is_err());
    }
}
