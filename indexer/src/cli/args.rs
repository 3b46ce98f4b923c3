//! Arguments that several commands share.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use tidemark_store::{Store, StoreError};
use tidemark_wal::{Log, LogParameters, ReaderLimits};
use url::Url;

use crate::service::{Patience, StoresSettings};

/// Where a log lives.
#[derive(Clone, Debug, Args)]
pub(super) struct LogArgs {
    /// The log: a bucket, or a prefix of one, that holds one object an entry.
    #[arg(long, env = "TIDEMARK_LOG", value_name = "URL", value_parser = url)]
    pub(super) log: Url,
    /// Where descriptors live. Given twice, the last one holds labels (Datamon's `vmetadata`).
    #[arg(long, env = "TIDEMARK_METADATA", value_name = "URL", value_delimiter = ',', required = true, value_parser = url)]
    pub(super) metadata: Vec<Url>,
    // The same as in `StoresArgs`, which must not be flattened here: an `Option<LogArgs>` would always be `None`.
    /// Settings of the stores as JSON or YAML: `{"log": S, "metadata": S, "index": S}` with
    /// S = `{"endpoint", "region", "allowHTTP", "caFile", "credentialsDir"}`, all optional. What is left out comes from the
    /// environment. `credentialsDir` holds one file a credential, read again when it changes.
    #[arg(long, env = "TIDEMARK_STORES", value_name = "JSON", value_parser = stores)]
    stores: Option<StoresSettings>,
}

impl LogArgs {
    /// How the stores are reached.
    pub(super) fn settings(&self) -> StoresSettings {
        self.stores.clone().unwrap_or_default()
    }

    /// Opens another store in the way of the log's own.
    pub(super) fn open_beside(&self, url: &Url) -> Result<Store, StoreError> {
        self.settings().beside_log(url)
    }

    /// Opens the log's stores.
    pub(super) fn open(&self) -> Result<Log, StoreError> {
        self.settings().log(&self.log, &self.metadata)
    }
}

/// How stores are reached.
#[derive(Clone, Debug, Args)]
pub(super) struct StoresArgs {
    /// Settings of the stores as JSON or YAML: `{"log": S, "metadata": S, "index": S}` with
    /// S = `{"endpoint", "region", "allowHTTP", "caFile", "credentialsDir"}`, all optional. What is left out comes from the
    /// environment. `credentialsDir` holds one file a credential, read again when it changes.
    #[arg(long, env = "TIDEMARK_STORES", value_name = "JSON", value_parser = stores)]
    stores: Option<StoresSettings>,
}

impl StoresArgs {
    pub(super) fn settings(&self) -> StoresSettings {
        self.stores.clone().unwrap_or_default()
    }
}

/// What is read of a log.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct LimitArgs {
    /// An entry whose body is larger is malformed and not read: bytes, or with Ki, Mi or Gi.
    #[arg(long, env = "TIDEMARK_MAX_ENTRY_SIZE", value_name = "SIZE", default_value = "1Mi", value_parser = size)]
    max_entry_size: u64,
}

impl LimitArgs {
    pub(super) fn limits(self) -> ReaderLimits {
        ReaderLimits { entry: self.max_entry_size, ..ReaderLimits::default() }
    }
}

/// Whether to wait for what is wrong to be mended.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct WaitArgs {
    /// Listen first, and wait for what is wrong outside of this process to be mended instead of ending: `/v1/process` tells
    /// what it is.
    #[arg(long, env = "TIDEMARK_WAIT")]
    pub(super) wait: bool,
}

impl WaitArgs {
    pub(super) fn patience(self) -> Patience {
        if self.wait { Patience::Waits } else { Patience::None }
    }
}

/// The dated parameters of a log. The first indexer records them; a later difference is refused.
#[derive(Clone, Debug, Args)]
pub(super) struct ParameterArgs {
    /// How long after its entry an update may still be completed (`W`), from 1s to 168h.
    #[arg(long, env = "TIDEMARK_EXPIRY", value_name = "SPAN", value_parser = span)]
    pub(super) expiry: Option<Duration>,
    /// How far the clock that dates signed URLs may lead the store's (`S`).
    #[arg(long, alias = "signerClockLead", env = "TIDEMARK_SIGNER_CLOCK_LEAD", value_name = "SPAN", value_parser = span)]
    pub(super) signer_clock_lead: Option<Duration>,
    /// The longest request, from the check of its signature to the object's store time (`R`).
    #[arg(long, alias = "requestTimeout", env = "TIDEMARK_REQUEST_TIMEOUT", value_name = "SPAN", value_parser = span)]
    pub(super) request_timeout: Option<Duration>,
    /// The longest delay from an object's store time to its being visible (`V`).
    #[arg(long, alias = "visibilityDelay", env = "TIDEMARK_VISIBILITY_DELAY", value_name = "SPAN", value_parser = span)]
    pub(super) visibility_delay: Option<Duration>,
    /// How long an aborted operation is looked at again.
    #[arg(long, alias = "auditWindow", env = "TIDEMARK_AUDIT_WINDOW", value_name = "SPAN", value_parser = span)]
    pub(super) audit_window: Option<Duration>,
}

impl ParameterArgs {
    /// `base` with every parameter that was given replaced.
    pub(super) fn over(&self, base: LogParameters) -> LogParameters {
        LogParameters {
            expiry: self.expiry.unwrap_or(base.expiry),
            signer_clock_lead: self.signer_clock_lead.unwrap_or(base.signer_clock_lead),
            request_timeout: self.request_timeout.unwrap_or(base.request_timeout),
            visibility_delay: self.visibility_delay.unwrap_or(base.visibility_delay),
            audit_window: self.audit_window.unwrap_or(base.audit_window),
        }
    }

    /// The parameters that were given over the documented defaults; `None` without `--expiry`.
    pub(super) fn complete(&self) -> Option<LogParameters> {
        self.expiry.map(|expiry| self.over(LogParameters::with_expiry(expiry)))
    }
}

/// Where to keep what can be fetched again.
#[derive(Clone, Debug, Args)]
pub(super) struct CacheArgs {
    /// Folder for fetched segments; a temporary one if left out.
    #[arg(long, env = "TIDEMARK_CACHE_DIR", value_name = "DIR")]
    pub(super) cache_dir: Option<PathBuf>,
    /// How many bytes of segments to keep there, in MiB.
    #[arg(long, env = "TIDEMARK_CACHE_MIB", value_name = "MIB", default_value_t = 10_240)]
    pub(super) cache_mib: u64,
}

/// Where to listen.
#[derive(Clone, Debug, Args)]
pub(super) struct ListenArgs {
    /// Address of the search API and the page; port 0 takes a free one and prints it.
    #[arg(long, env = "TIDEMARK_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7280")]
    pub(super) listen: SocketAddr,
}

/// What a command prints.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OutputArgs {
    /// Print one JSON object a line.
    #[arg(long, env = "TIDEMARK_JSON")]
    pub(super) json: bool,
}

/// How to log. Log lines go to standard error: for people on a terminal, JSON otherwise.
#[derive(Clone, Debug, Args)]
pub(super) struct Telemetry {
    /// What to log: `debug`, or filters such as `tidemark_indexer=debug,warn`.
    #[arg(long, env = "TIDEMARK_LOG_LEVEL", value_name = "FILTER", global = true)]
    pub(super) log_level: Option<String>,
}

fn stores(text: &str) -> Result<StoresSettings, String> {
    serde_norway::from_str(text).map_err(|error| error.to_string())
}

fn url(text: &str) -> Result<Url, String> {
    Url::parse(text)
        .map_err(|error| format!("{error}; wanted is s3://, gs://, az:// or file:// followed by a bucket or folder"))
}

/// Bytes, as Kubernetes writes quantities.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] =
        [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];
    let wanted = || format!("\"{text}\" is no size; wanted is a number of bytes from 1 to 1Gi, such as 1048576 or 1Mi");
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((text, 1));
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(bytes));
    size.filter(|size| (1..=1 << 30).contains(size)).ok_or_else(wanted)
}

pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wanted =
        || format!("\"{text}\" is no span of time; wanted is a number with h, m, s or ms, such as 1h30m or 500ms");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wanted())?;
    Duration::try_from(span).map_err(|_| wanted())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_kubernetes_writes_them() {
        assert_eq!(size("1Mi"), Ok(1 << 20));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("2k"), Ok(2000));
        for text in ["", "0", "1Ti", "-1", "2Gi", "Mi"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_of_stores_read_as_json_and_as_yaml() {
        let json =
            stores(r#"{"log": {"endpoint": "http://m:9000", "allowHTTP": true, "credentialsDir": "/c"}}"#).unwrap();
        let yaml = stores("log: {endpoint: 'http://m:9000', allowHTTP: true, credentialsDir: /c}").unwrap();
        assert_eq!(json, yaml);
        assert_eq!(json.index, tidemark_store::StoreSettings::default());
        assert!(stores(r#"{"archive": {}}"#).is_err());
    }

    #[test]
    fn spans_read_as_people_write_them() {
        assert_eq!(span("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(span("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert!(span("-5s").is_err());
        assert!(span("10").is_err());
        assert!(span("soon").is_err());
    }
}
