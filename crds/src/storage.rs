//! Where the objects are and how to get at them.
#![expect(unreachable_pub, reason = "`KubeSchema` repeats the type inside of a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An object store and the credentials for it.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.endpoint) || !self.endpoint.startsWith('http://') || self.allowHTTP")
        .message("plain http sends the data in clear: use https, or set allowHTTP: true")
        .field_path(".endpoint")
)]
pub struct StorageSpec {
    /// Address of the store's API, such as `https://s3.example.com`. Left out for AWS, Google Cloud and Azure, which are
    /// found by region or account. `http://` needs `allowHTTP`. A change rolls the WAL's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._~/-]*)?$"))]
    pub endpoint: Option<String>,
    /// Region of the buckets, for S3. A change rolls the WAL's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub region: Option<String>,
    /// Storage account of the containers, for Azure. It may stand in the Secret instead. A change rolls the WAL's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 24), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: Option<String>,
    /// Whether an endpoint without encryption may be used. The data, and with some stores
    /// the credentials, then cross the network in clear.
    #[serde(default, rename = "allowHTTP")]
    pub allow_http: bool,
    /// ConfigMap of the same namespace whose key `ca.crt` holds the certificates (PEM) to trust for the endpoint, in place
    /// of the public ones. A changed certificate is read without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaReference>,
    /// How the pods prove who they are.
    pub credentials: StorageCredentials,
}

/// A ConfigMap with certificates, in the WAL's namespace.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct CaReference {
    /// Name of the ConfigMap. It may be made later: until then the pods report what is missing.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// A Secret in the WAL's namespace.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct SecretReference {
    /// Name of the Secret. It may be made later: until then the pods report what is missing.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// How the pods prove to a store who they are.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'Secret') == has(self.secretRef)")
        .message("type Secret needs secretRef, and no other type takes one")
        .field_path(".secretRef")
)]
pub struct StorageCredentials {
    /// `Secret`: keys from a Secret. `WorkloadIdentity`: what the cloud gives to the pod's service account, as
    /// `serviceAccountAnnotations` of `indexer` and `search` ask for; no key is kept in the cluster.
    pub r#type: CredentialsType,
    /// The Secret, for type `Secret`. Its keys bear the names that each store's own tools read:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and perhaps `AWS_SESSION_TOKEN` (S3), `GOOGLE_SERVICE_ACCOUNT_KEY`
    /// (the JSON key), `AZURE_STORAGE_ACCOUNT_NAME` (unless `account` is set) and `AZURE_STORAGE_ACCOUNT_KEY` or
    /// `AZURE_STORAGE_SAS_TOKEN`. New values are read without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

/// Kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum CredentialsType {
    /// Keys from a Secret.
    Secret,
    /// What the cloud gives to the pod's service account.
    WorkloadIdentity,
}
