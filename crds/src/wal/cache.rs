//! The disk of a data pod: segments that it fetches and builds.
#![expect(unreachable_pub, reason = "`KubeSchema` repeats the type inside of a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::byte_size::{ByteSize, ByteSizeError};

/// The smallest [`CacheSpec::size`], in bytes. Segments that are built have an eighth of the cache to themselves (112 MiB), and the
/// largest entry and descriptor of the default parameters, 17 MiB together, take up to 91 MiB there.
const MIN_SIZE_BYTES: u64 = 1 << 30;
/// The largest, in bytes.
const MAX_SIZE_BYTES: u64 = 64 << 40;

/// The disk of a role's pods, each with its own: segments that are fetched from the index or built, and files of compactions. Everything
/// on it can be fetched again.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(self.size).compareTo(quantity('1Gi')) >= 0 && quantity(self.size).compareTo(quantity('64Ti')) <= 0")
        .message("the size of a cache is from 1Gi to 65536Gi: less does not hold a segment while it is built")
        .field_path(".size")
)]
pub struct CacheSpec {
    /// Size of the volume, from 1Gi. The program fills seven eighths of it; the rest is for the file system. It is the size limit of an
    /// emptyDir and part of the pod's `ephemeral-storage` request, or the request of the claim if there is a `volumeClaimTemplate`.
    /// An index that is larger works: what does not fit is read from the object store, which makes searches slower, and the largest
    /// compaction is a seventh of it. Give it 50 times `log.maxEntrySize` and `log.maxDescriptorSize` together, or more. A change rolls the
    /// pods.
    #[serde(default = "default_size")]
    pub size: ByteSize,
    /// Takes a volume of a storage class in place of the node's disk: a generic ephemeral volume, which is made and deleted with
    /// its pod. `{}` takes the default class. A change rolls the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim_template: Option<CacheClaimTemplate>,
}

/// The claim of a cache, as in a pod's `ephemeral.volumeClaimTemplate`. Its storage request is the size of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct CacheClaimTemplate {
    /// What the claim asks for beside its size.
    #[serde(default)]
    pub spec: CacheClaimSpec,
}

/// What the claim of a cache asks for beside its size.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheClaimSpec {
    /// The storage class; the cluster's default class if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub storage_class_name: Option<String>,
    /// How the volume is attached.
    #[serde(default = "default_access_modes")]
    #[schemars(length(min = 1, max = 3))]
    pub access_modes: Vec<CacheAccessMode>,
}

/// Access modes of a volume that a pod can write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum CacheAccessMode {
    /// By one node.
    ReadWriteOnce,
    /// By one pod.
    ReadWriteOncePod,
    /// By many nodes; each pod has a volume of its own nevertheless.
    ReadWriteMany,
}

impl CacheAccessMode {
    /// As in a claim's `accessModes`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
            Self::ReadWriteMany => "ReadWriteMany",
        }
    }
}

/// A size of a cache that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheSizeError {
    /// It does not write a size.
    #[error(transparent)]
    Unreadable(#[from] ByteSizeError),
    /// It is out of bounds.
    #[error("the size \"{0}\" is not from 1Gi to 65536Gi; less does not hold a segment while it is built; correct it")]
    OutOfBounds(ByteSize),
}

impl CacheSpec {
    /// The size of the volume in bytes.
    pub fn volume_bytes(&self) -> Result<u64, CacheSizeError> {
        let bytes = self.size.bytes()?;
        let fits = (MIN_SIZE_BYTES..=MAX_SIZE_BYTES).contains(&bytes);
        if fits { Ok(bytes) } else { Err(CacheSizeError::OutOfBounds(self.size.clone())) }
    }
}

impl Default for CacheSpec {
    fn default() -> Self {
        Self { size: default_size(), volume_claim_template: None }
    }
}

impl Default for CacheClaimSpec {
    fn default() -> Self {
        Self { storage_class_name: None, access_modes: default_access_modes() }
    }
}

fn default_size() -> ByteSize {
    ByteSize::new("8Gi")
}

fn default_access_modes() -> Vec<CacheAccessMode> {
    vec![CacheAccessMode::ReadWriteOnce]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_within_its_bounds() {
        let read = |size: &str| CacheSpec { size: ByteSize::new(size), ..CacheSpec::default() }.volume_bytes();
        assert_eq!(CacheSpec::default().volume_bytes(), Ok(8 << 30));
        assert_eq!(read("1Gi"), Ok(1 << 30));
        assert_eq!(read("65536Gi"), Ok(64 << 40));
        for wrong in ["1023Mi", "65537Gi", "0", "1Ti"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_empty_template_is_a_volume_of_the_default_class() {
        let spec: CacheSpec = serde_json::from_str(r#"{"volumeClaimTemplate": {}}"#).unwrap();
        assert_eq!(spec.volume_claim_template, Some(CacheClaimTemplate::default()));
        assert_eq!(spec.size, ByteSize::new("8Gi"));
    }
}
