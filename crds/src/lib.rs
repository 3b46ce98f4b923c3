//! The resources of Tidemark's Kubernetes API.
