//! Arguments that several commands share.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use tidemark_crds::{parse_byte_size, parse_span};
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{Log, LogParameters};
use url::Url;

use crate::service::{StartupMode, StoresSettings};

/// Where a log lives.
#[derive(Clone, Debug, Args)]
pub(super) struct LogArgs {
    /// The log: a bucket, or a prefix of one, that holds one object for each entry.
    #[arg(long, env = "TIDEMARK_LOG", value_name = "URL", value_parser = url)]
    pub(super) log: Url,
    /// Where descriptors are: a bucket, or a prefix of one. If it is given twice, labels are in the last one (Datamon's `vmetadata`).
    #[arg(long, env = "TIDEMARK_METADATA", value_name = "URL", value_delimiter = ',', required = true, value_parser = url)]
    pub(super) metadata: Vec<Url>,
    // The same as in `StoresArgs`, which must not be flattened here: an `Option<LogArgs>` would always be `None`.
    /// Settings of the stores as JSON or YAML: `{"log": S, "metadata": S, "index": S, "copy": S, "from": S}` with
    /// S = `{"endpoint", "region", "account", "allowHTTP", "caFile", "credentialsDir"}`, all optional. What is left out comes from the
    /// environment, all of `from` from `index`. `credentialsDir` holds one file a credential, read again when it changes.
    #[arg(long, env = "TIDEMARK_STORES", value_name = "JSON", value_parser = stores)]
    stores: Option<Box<StoresSettings>>,
}

impl LogArgs {
    /// How the stores are reached.
    pub(super) fn settings(&self) -> StoresSettings {
        *self.stores.clone().unwrap_or_default()
    }

    /// Opens the log's stores.
    pub(super) fn open(&self) -> Result<Log, StoreError> {
        self.settings().log(&self.log, &self.metadata)
    }
}

/// How stores are reached.
#[derive(Clone, Debug, Args)]
pub(super) struct StoresArgs {
    /// Settings of the stores as JSON or YAML: `{"log": S, "metadata": S, "index": S, "copy": S, "from": S}` with
    /// S = `{"endpoint", "region", "account", "allowHTTP", "caFile", "credentialsDir"}`, all optional. What is left out comes from the
    /// environment, all of `from` from `index`. `credentialsDir` holds one file a credential, read again when it changes.
    #[arg(long, env = "TIDEMARK_STORES", value_name = "JSON", value_parser = stores)]
    stores: Option<Box<StoresSettings>>,
}

impl StoresArgs {
    pub(super) fn settings(&self) -> StoresSettings {
        *self.stores.clone().unwrap_or_default()
    }
}

/// Where an index of a log lives that was made before.
#[derive(Clone, Debug, Args)]
pub(super) struct ExistingIndexArgs {
    #[command(flatten)]
    pub(super) log: LogArgs,
    /// Where the index is: the URL that `tidemark index --index` has.
    #[arg(long, env = "TIDEMARK_INDEX", value_name = "URL")]
    pub(super) index: Url,
    #[command(flatten)]
    pub(super) moved: MovedArgs,
}

/// Another place with snapshots of the same log.
#[cfg(feature = "archive")]
#[derive(Clone, Debug, Args)]
pub(super) struct OriginArgs {
    /// Another place with snapshots and an archive of this log: what `tidemark snapshot --copy-to` has copied, or another index of the
    /// log. It is only read, and nothing is held back from deletion there. It is reached as the index is, unless --stores has a `from`.
    #[arg(long, env = "TIDEMARK_FROM_URL", value_name = "URL", value_parser = url)]
    pub(super) from_url: Option<Url>,
}

/// What an index is begun with that holds nothing.
#[derive(Clone, Debug, Args)]
pub(super) struct BootstrapArgs {
    /// Begin an index that holds nothing with the snapshots and the archive at this URL, unless it has an archive or snapshots of its own:
    /// those of another index of this log, or copies of its snapshots. Afterwards it has no effect. The place is only read; it is reached as
    /// the index is, unless --stores has a `from`.
    #[arg(long, env = "TIDEMARK_BOOTSTRAP_FROM", value_name = "URL", value_parser = url)]
    pub(super) bootstrap_from: Option<Url>,
    /// Begin it with every entry whose token is not after this second, and index nothing more before `tidemark promote --from-url URL`. Left
    /// out, it is begun with all that is recorded there, and the log is indexed from there on.
    #[arg(long, env = "TIDEMARK_BOOTSTRAP_TIME", value_name = "TIME", requires = "bootstrap_from", value_parser = second)]
    pub(super) bootstrap_time: Option<StoreSecond>,
}

/// Where a log was.
#[derive(Clone, Debug, Args)]
pub(super) struct MovedArgs {
    /// The URL at which the log was before it was moved. Give it when an index is refused because it belongs to the log at that URL,
    /// and never for a copy of a log that is still written there.
    #[arg(long, env = "TIDEMARK_MOVED_FROM", value_name = "URL")]
    moved_from: Option<String>,
}

impl MovedArgs {
    pub(super) fn url(self) -> Option<String> {
        self.moved_from.filter(|url| !url.is_empty())
    }
}

/// Whether to wait for dependencies that are not usable yet.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct StartupArgs {
    /// Listen first, and retry instead of exiting while a dependency, such as a bucket or a credential, is not usable:
    /// `/v1/process` reports the problem.
    #[arg(long, env = "TIDEMARK_WAIT")]
    pub(super) wait: bool,
}

impl StartupArgs {
    pub(super) fn startup_mode(self) -> StartupMode {
        if self.wait { StartupMode::WaitForDependencies } else { StartupMode::FailFast }
    }
}

/// The dated parameters of a log. The first indexer records them; a later difference is refused.
#[derive(Clone, Debug, Args)]
pub(super) struct ParameterArgs {
    /// How long after its entry an update may still be completed (`W`), from 1s to 168h.
    #[arg(long, env = "TIDEMARK_EXPIRY", value_name = "SPAN", value_parser = span)]
    pub(super) expiry: Option<Duration>,
    /// How far the clock that dates signed URLs may be ahead of the store's (`S`).
    #[arg(long, alias = "signerClockLead", env = "TIDEMARK_SIGNER_CLOCK_LEAD", value_name = "SPAN", value_parser = span)]
    pub(super) signer_clock_lead: Option<Duration>,
    /// The longest time that a request may take, from the check of its signature to the object's store time (`R`).
    #[arg(long, alias = "requestTimeout", env = "TIDEMARK_REQUEST_TIMEOUT", value_name = "SPAN", value_parser = span)]
    pub(super) request_timeout: Option<Duration>,
    /// The longest time from an object's store time until listings show the object (`V`).
    #[arg(long, alias = "visibilityDelay", env = "TIDEMARK_VISIBILITY_DELAY", value_name = "SPAN", value_parser = span)]
    pub(super) visibility_delay: Option<Duration>,
    /// For how long an aborted operation is checked again for descriptors that arrived late.
    #[arg(long, alias = "auditWindow", env = "TIDEMARK_AUDIT_WINDOW", value_name = "SPAN", value_parser = span)]
    pub(super) audit_window: Option<Duration>,
    /// The largest entry, from 1Ki to 64Mi: bytes, or with Ki, Mi or Gi. Writers refuse a larger one, readers count it as
    /// malformed.
    #[arg(long, alias = "maxEntrySize", env = "TIDEMARK_MAX_ENTRY_SIZE", value_name = "SIZE", value_parser = size)]
    pub(super) max_entry_size: Option<u64>,
    /// The largest descriptor, from 1Ki to 256Mi: bytes, or with Ki, Mi or Gi. Writers refuse a larger one, readers do not
    /// read it.
    #[arg(long, alias = "maxDescriptorSize", env = "TIDEMARK_MAX_DESCRIPTOR_SIZE", value_name = "SIZE", value_parser = size)]
    pub(super) max_descriptor_size: Option<u64>,
    /// How far the clocks of the stores may differ, up to 1m, where the times of an entry and its descriptors are compared.
    #[arg(long, alias = "clockTolerance", env = "TIDEMARK_CLOCK_TOLERANCE", value_name = "SPAN", value_parser = span)]
    pub(super) clock_tolerance: Option<Duration>,
    /// For how long a committed operation makes a later one of the same writer with the same idempotency key a duplicate: at least `W` + `S` +
    /// `R` + 1s, up to 87840h; or `forever`, as it is if this is never given.
    #[arg(long, alias = "idempotencyRetention", env = "TIDEMARK_IDEMPOTENCY_RETENTION", value_name = "SPAN", value_parser = key_retention)]
    pub(super) idempotency_retention: Option<KeyRetention>,
}

/// For how long idempotency keys count; `None`: forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRetention(Option<Duration>);

impl ParameterArgs {
    /// `base` with every parameter that was given replaced.
    pub(super) fn over(&self, base: LogParameters) -> LogParameters {
        LogParameters {
            expiry: self.expiry.unwrap_or(base.expiry),
            signer_clock_lead: self.signer_clock_lead.unwrap_or(base.signer_clock_lead),
            request_timeout: self.request_timeout.unwrap_or(base.request_timeout),
            visibility_delay: self.visibility_delay.unwrap_or(base.visibility_delay),
            audit_window: self.audit_window.unwrap_or(base.audit_window),
            max_entry_size: self.max_entry_size.unwrap_or(base.max_entry_size),
            max_descriptor_size: self.max_descriptor_size.unwrap_or(base.max_descriptor_size),
            clock_tolerance: self.clock_tolerance.unwrap_or(base.clock_tolerance),
            idempotency_retention: self.idempotency_retention.map_or(base.idempotency_retention, |given| given.0),
        }
    }

    /// The parameters that were given over the documented defaults; `None` without `--expiry`.
    pub(super) fn complete(&self) -> Option<LogParameters> {
        self.expiry.map(|expiry| self.over(LogParameters::with_expiry(expiry)))
    }
}

/// The parameters as the flags that set them.
pub(super) fn parameter_flags(parameters: &LogParameters) -> String {
    let LogParameters {
        expiry,
        signer_clock_lead,
        request_timeout,
        visibility_delay,
        audit_window,
        max_entry_size,
        max_descriptor_size,
        clock_tolerance,
        idempotency_retention,
    } = *parameters;
    let span = |span: Duration| match span.subsec_millis() {
        0 => format!("{}s", span.as_secs()),
        _ => format!("{}ms", span.as_millis()),
    };
    let flags = [
        ("expiry", span(expiry)),
        ("signer-clock-lead", span(signer_clock_lead)),
        ("request-timeout", span(request_timeout)),
        ("visibility-delay", span(visibility_delay)),
        ("audit-window", span(audit_window)),
        ("max-entry-size", max_entry_size.to_string()),
        ("max-descriptor-size", max_descriptor_size.to_string()),
        ("clock-tolerance", span(clock_tolerance)),
    ];
    let retention = idempotency_retention.map(|retention| ("idempotency-retention", span(retention)));
    let flags: Vec<_> = flags.into_iter().chain(retention).map(|(name, value)| format!("--{name} {value}")).collect();
    flags.join(" ")
}

/// The cache of fetched segments.
#[derive(Clone, Debug, Args)]
pub(super) struct CacheArgs {
    /// Folder for fetched segments; a temporary one if left out.
    #[arg(long, env = "TIDEMARK_CACHE_DIR", value_name = "DIR")]
    pub(super) cache_dir: Option<PathBuf>,
    /// The largest size of the cache, in MiB, from 64. What an index has beyond it is read from its store, which is slower.
    #[arg(long, env = "TIDEMARK_CACHE_MIB", value_name = "MIB", default_value_t = 10_240, value_parser = cache_mib)]
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
    /// Print one JSON object per line.
    #[arg(long, env = "TIDEMARK_JSON")]
    pub(super) json: bool,
}

/// How to log. Log lines go to standard error: for people on a terminal, JSON otherwise.
#[derive(Clone, Debug, Args)]
pub(super) struct LoggingArgs {
    /// What to log: `debug`, or filters such as `tidemark_indexer=debug,warn`.
    #[arg(long, env = "TIDEMARK_LOG_LEVEL", value_name = "FILTER", global = true)]
    pub(super) log_level: Option<String>,
}

/// In a box, which keeps the commands small.
fn stores(text: &str) -> Result<Box<StoresSettings>, String> {
    serde_norway::from_str(text).map_err(|error| error.to_string())
}

/// A time, to the second.
pub(super) fn second(text: &str) -> Result<StoreSecond, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{error}; write it as 2026-11-20T10:00:00Z"))?;
    let second = u64::try_from(time.as_second()).map_err(|_| "it is before 1970".to_owned())?;
    Ok(StoreSecond::from_unix(second))
}

fn key_retention(text: &str) -> Result<KeyRetention, String> {
    match text {
        "forever" => Ok(KeyRetention(None)),
        text => span(text).map(|span| KeyRetention(Some(span))),
    }
}

fn url(text: &str) -> Result<Url, String> {
    if text.starts_with("s3://arn:") {
        let remedy = "write s3://ALIAS/prefix with the alias that AWS shows for it (it ends with -s3alias)";
        return Err(format!("an access point is named by its alias, not by its ARN; {remedy}"));
    }
    Url::parse(text).map_err(|error| {
        format!("invalid URL: {error}; expected s3://, gs://, az:// or file:// followed by a bucket or folder")
    })
}

/// The largest size that a flag takes.
const MAX_SIZE_BYTES: u64 = 1 << 30;

/// The smallest cache, in MiB. A segment that is built has at least an eighth of it, and the largest entry of the default parameters
/// takes 4 MiB there.
const MIN_CACHE_MIB: u64 = 64;
/// The largest, in MiB: 1 PiB.
const MAX_CACHE_MIB: u64 = 1 << 30;

fn cache_mib(text: &str) -> Result<u64, String> {
    let size = text.parse().ok().filter(|size| (MIN_CACHE_MIB..=MAX_CACHE_MIB).contains(size));
    size.ok_or_else(|| {
        format!(
            "invalid size \"{text}\": expected MiB from {MIN_CACHE_MIB} to {MAX_CACHE_MIB}; less does not hold a segment while it is built"
        )
    })
}

/// Bytes, as Kubernetes writes quantities.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let size = parse_byte_size(text).ok().filter(|size| (1..=MAX_SIZE_BYTES).contains(size));
    size.ok_or_else(|| {
        format!("invalid size \"{text}\": expected a number of bytes from 1 to 1Gi, such as 1048576 or 1Mi")
    })
}

pub(super) fn span(text: &str) -> Result<Duration, String> {
    parse_span(text).map_err(|_| {
        format!("invalid time span \"{text}\": expected numbers with h, m, s or ms, such as 1h30m or 500ms")
    })
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
    fn a_cache_in_which_no_segment_can_be_built_is_refused() {
        assert_eq!((cache_mib("64"), cache_mib("10240")), (Ok(64), Ok(10_240)));
        for text in ["63", "0", "-1", "1Gi", "", "99999999999"] {
            assert!(cache_mib(text).unwrap_err().contains("from 64"), "{text}");
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

    #[derive(Debug, clap::Parser)]
    struct ParameterCommand {
        #[command(flatten)]
        parameters: ParameterArgs,
    }

    #[test]
    fn parameters_are_printed_as_the_flags_that_set_them() {
        let parameters = LogParameters {
            signer_clock_lead: Duration::from_millis(1500),
            max_entry_size: 3 << 20,
            ..LogParameters::with_expiry(Duration::from_mins(20))
        };
        let flags = parameter_flags(&parameters);
        assert!(flags.starts_with("--expiry 1200s --signer-clock-lead 1500ms "), "{flags}");
        let read = <ParameterCommand as clap::Parser>::parse_from(["set"].into_iter().chain(flags.split(' ')));
        assert_eq!(read.parameters.complete(), Some(parameters));
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
