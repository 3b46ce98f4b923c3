//! The kinds of stores, by the scheme of their URLs.

use percent_encoding::percent_decode_str;
use url::Url;

/// The kind of store that a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreScheme {
    Memory,
    Folder,
    S3,
    Google,
    Azure,
}

impl StoreScheme {
    /// The scheme of `url`; `None` if it is not supported.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            "memory" => Some(Self::Memory),
            "file" => Some(Self::Folder),
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" => Some(Self::Azure),
            _ => None,
        }
    }

    /// Whether the store is behind HTTP. Its answers then have a date, and an absence may mean a missing bucket.
    pub(crate) fn speaks_http(self) -> bool {
        matches!(self, Self::S3 | Self::Google | Self::Azure)
    }

    /// The name of the kind, as messages have it.
    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Folder => "folder",
            Self::S3 => "S3",
            Self::Google => "Google Cloud Storage",
            Self::Azure => "Azure Blob Storage",
        }
    }

    /// The prefix of all keys of the store that `url` names. A folder's URL names the folder itself.
    pub(crate) fn base(self, url: &Url) -> String {
        if self == Self::Folder {
            return String::new();
        }
        let segments = url.path().split('/').filter(|segment| !segment.is_empty());
        segments.map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect::<Vec<_>>().join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_below_the_path_of_the_url() {
        let base = |url: &str| {
            let url = url.parse().unwrap();
            StoreScheme::of(&url).unwrap().base(&url)
        };
        assert_eq!(base("s3://bucket"), "");
        assert_eq!(base("s3://bucket/a/b%20c/"), "a/b c");
        assert_eq!(base("file:///tmp/x"), "");
        assert_eq!(base("memory:///log"), "log");
    }
}
