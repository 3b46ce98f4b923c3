//! Names of the table's objects, below its prefix.

use std::fmt;

use tidemark_store::StoreSecond;

/// The folder of the data files.
pub(crate) const DATA_FOLDER: &str = "data";
/// The folder of everything else.
pub(crate) const METADATA_FOLDER: &str = "metadata";
/// The object that engines which are given the table's path read to find the newest version. Nothing of Tidemark reads it.
pub(crate) const VERSION_HINT: &str = "metadata/version-hint.text";
/// What the names of versions begin with. Every other name in the folder sorts before it, or is the hint's.
pub(crate) const VERSION_PREFIX: &str = "metadata/v";
/// The seconds of a day of store time.
const DAY_SECONDS: u64 = 86_400;

/// The key of version `number`: the table's chain.
pub(crate) fn version_key(number: u64) -> String {
    format!("{VERSION_PREFIX}{number}.metadata.json")
}

/// The number of the version that has this key.
pub(crate) fn version_of_key(key: &str) -> Option<u64> {
    let number = key.strip_prefix(VERSION_PREFIX)?.strip_suffix(".metadata.json")?.parse().ok()?;
    (number > 0 && version_key(number) == key).then_some(number)
}

/// Days since 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ArchiveDay(pub(crate) u32);

impl ArchiveDay {
    /// The day of `second`.
    pub(crate) fn of(second: StoreSecond) -> Self {
        Self(u32::try_from(second.unix() / DAY_SECONDS).unwrap_or(u32::MAX))
    }
}

/// As in `2026-11-20`.
impl fmt::Display for ArchiveDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let midnight = StoreSecond::from_unix(u64::from(self.0) * DAY_SECONDS).to_string();
        f.write_str(midnight.split('T').next().unwrap_or_default())
    }
}

/// One attempt to commit a version. Its objects bear both, so that those of an attempt that lost are known by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionAttempt {
    /// The version.
    pub(crate) version: u64,
    /// 32 hexadecimal digits, which the version's object repeats if this attempt commits it.
    pub(crate) nonce: String,
}

/// What an object holds that is written before its version is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// Rows of one day, number `part` of the attempt.
    Data { day: String, part: u32 },
    /// The data files of the version.
    Manifest,
    /// The manifests of the version and of all before.
    ManifestList,
}

/// The name of an object that is written before its version is committed. Objects are written once, and the name has the SHA-256 of
/// the bytes, so that whoever names an object says what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartName {
    pub(crate) kind: PartKind,
    pub(crate) attempt: VersionAttempt,
    /// 64 hexadecimal digits.
    pub(crate) sha256: String,
}

impl PartName {
    /// The name that is this key.
    pub(crate) fn parse(key: &str) -> Option<Self> {
        let (folder, file) = key.rsplit_once('/')?;
        let (stem, extension) = file.split_once('.')?;
        let mut parts = stem.split('-');
        let (version, nonce, place, sha256) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let kind = match (place, extension) {
            ("manifest", "avro") => PartKind::Manifest,
            ("list", "avro") => PartKind::ManifestList,
            (part, "parquet") => {
                let day = folder.strip_prefix("data/time_day=")?.to_owned();
                PartKind::Data { day, part: part.parse().ok()? }
            }
            _ => return None,
        };
        let attempt = VersionAttempt { version: version.parse().ok()?, nonce: nonce.to_owned() };
        let name = Self { kind, attempt, sha256: sha256.to_owned() };
        let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
        (digits(nonce, 32) && digits(sha256, 64) && name.to_string() == key).then_some(name)
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, attempt: VersionAttempt { version, nonce }, sha256 } = self;
        match kind {
            PartKind::Data { day, part } => {
                write!(f, "{DATA_FOLDER}/time_day={day}/{version:020}-{nonce}-{part:06}-{sha256}.parquet")
            }
            PartKind::Manifest => write!(f, "{METADATA_FOLDER}/{version:020}-{nonce}-manifest-{sha256}.avro"),
            PartKind::ManifestList => write!(f, "{METADATA_FOLDER}/{version:020}-{nonce}-list-{sha256}.avro"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(kind: PartKind) -> PartName {
        let attempt = VersionAttempt { version: 12, nonce: "0f".repeat(16) };
        PartName { kind, attempt, sha256: "ab".repeat(32) }
    }

    #[test]
    fn a_name_tells_version_attempt_and_digest() {
        let data = PartKind::Data { day: "2026-11-20".to_owned(), part: 7 };
        for kind in [data, PartKind::Manifest, PartKind::ManifestList] {
            let name = name(kind);
            assert_eq!(PartName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn what_only_looks_like_a_name_is_refused() {
        let good = name(PartKind::Data { day: "2026-11-20".to_owned(), part: 7 }).to_string();
        for bad in [
            good.replace("00000000000000000012", "12"),
            good.replace("000007", "7"),
            good.replace("data/", "date/"),
            good.replace(".parquet", ".avro"),
            good.replace("0f", "0F").replace("ab", "zz"),
            format!("{good}.tmp"),
            version_key(1),
            VERSION_HINT.to_owned(),
        ] {
            assert_eq!(PartName::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_are_listed_behind_everything_else() {
        for kind in [PartKind::Manifest, PartKind::ManifestList] {
            assert!(name(kind).to_string().as_str() < VERSION_PREFIX);
        }
        assert_eq!(version_of_key("metadata/v12.metadata.json"), Some(12));
        for other in
            ["metadata/v0.metadata.json", "metadata/v01.metadata.json", "metadata/v1.metadata.json.gz", VERSION_HINT]
        {
            assert_eq!(version_of_key(other), None, "{other}");
        }
    }

    #[test]
    fn days_are_those_of_utc() {
        let second = |unix| ArchiveDay::of(StoreSecond::from_unix(unix));
        assert_eq!(second(1_763_596_799).to_string(), "2025-11-19");
        assert_eq!(second(1_763_596_800), ArchiveDay(20_412));
        assert_eq!(second(1_763_596_800).to_string(), "2025-11-20");
    }

    proptest! {
        #[test]
        fn any_key_is_read_without_a_panic(key: String) {
            let _ = (PartName::parse(&key), version_of_key(&key));
        }
    }
}
