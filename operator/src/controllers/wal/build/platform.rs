//! What is the same for the pods of every WAL.

/// What the operator itself puts into its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformSettings {
    /// Image of the data pods.
    pub image: String,
    /// When the kubelet pulls it: `Always`, `IfNotPresent` or `Never`; `None` leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
    /// Namespace in which the operator's pods run: the policies admit them, so that they can poll the data pods.
    pub operator_namespace: String,
}
