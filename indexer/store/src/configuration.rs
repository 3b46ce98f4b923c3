//! How a store is reached, once settings, environment and the files of its own tools are put together.

use std::fmt;

use serde::Serialize;
use url::Url;

use crate::scheme::StoreScheme;

/// A value, and where it comes from: `variable AWS_REGION`, a setting, a field of a profile in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfiguredValue {
    /// The value.
    pub value: String,
    /// Where it comes from, in words.
    pub source: String,
}

/// What a store is reached with. It holds no secret: credentials are named by where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreConfiguration {
    /// The kind of store: `S3`, `Google Cloud Storage`, `Azure Blob Storage`, `folder` or `memory`.
    pub provider: &'static str,
    /// The bucket or container; for a folder its path.
    pub bucket: String,
    /// The prefix of all keys, without a slash at either end.
    pub prefix: String,
    /// The server's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<ConfiguredValue>,
    /// The region that requests are signed for (S3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<ConfiguredValue>,
    /// The storage account (Azure).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<ConfiguredValue>,
    /// Where the credentials come from; `None` where a store needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// The file of the authorities that sign the server's certificate; `None` for those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<ConfiguredValue>,
}

impl ConfiguredValue {
    /// The value of a provider that nothing was set for.
    pub(crate) fn default_of(value: impl Into<String>) -> Self {
        Self { value: value.into(), source: "default".to_owned() }
    }
}

impl StoreConfiguration {
    /// A store that is reached without a server.
    pub(crate) fn local(scheme: StoreScheme, url: &Url) -> Self {
        let bucket = if scheme == StoreScheme::Folder { url.path() } else { url.host_str().unwrap_or_default() };
        Self {
            provider: scheme.provider(),
            bucket: bucket.to_owned(),
            prefix: scheme.base(url),
            endpoint: None,
            region: None,
            account: None,
            credentials: None,
            certificates: None,
        }
    }

    /// The lines that a person reads: a name and a value each.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let Self { provider, bucket, prefix, endpoint, region, account, credentials, certificates } = self;
        let mut lines = vec![("provider", (*provider).to_owned()), ("bucket", bucket.clone())];
        if !prefix.is_empty() {
            lines.push(("prefix", prefix.clone()));
        }
        let configured = [("endpoint", endpoint), ("region", region), ("account", account), ("CA", certificates)];
        lines.extend(configured.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?.to_string()))));
        lines.extend(credentials.clone().map(|credentials| ("credentials", credentials)));
        lines
    }
}

impl fmt::Display for ConfiguredValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.value, self.source)
    }
}
