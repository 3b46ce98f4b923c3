//! Putting what completes an operation, before the token's expiry and never over another object.

use bytes::Bytes;

use super::{
    AppendError, Writer,
    attempt::{Missed, Started},
    draft::{Part, Target, binding},
    marker::marker_key,
};
use crate::{
    Create, Store,
    planted::{Fault, planted},
};

/// One object that completes an operation, to be put by somebody else.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The operation within the entry.
    pub op: u32,
    /// The store that it goes to.
    pub store: Store,
    /// Its key there.
    pub key: String,
    /// A URL signed for one PUT; `None` where the store has no URLs: then [`Upload::store`] takes it, under
    /// [`Upload::metadata`], not after the end.
    pub url: Option<url::Url>,
    /// The headers that the PUT must carry.
    pub headers: Vec<(String, String)>,
    /// The user metadata that binds the object to its operation.
    pub metadata: crate::Metadata,
    /// What it must hold: the entry names its digest.
    pub body: Bytes,
}

impl Writer {
    pub(super) fn upload(&self, started: &Started, part: Part) -> Result<Upload, AppendError> {
        let (store, key) = match part.target {
            Target::Descriptor(path) => (self.0.log.descriptors(), path),
            Target::Label { repo, label } => (self.0.log.values(), marker_key(&repo, &label, started.token, part.op)),
        };
        Ok(Upload {
            op: part.op,
            store: store.clone(),
            key,
            url: None,
            headers: Vec::new(),
            metadata: binding(started.token, part.op),
            body: part.body,
        })
    }

    /// Puts one part. What became of it shows in the read-back; the error only says why something may be missing.
    pub(super) async fn put(&self, started: &Started, part: &Part) -> Result<(), Missed> {
        let upload = self.upload(started, part.clone()).map_err(|error| started.missed(error.to_string()))?;
        self.put_directly(started, &upload).await
    }

    /// A store without URLs: the expiry is the same, read from a probe.
    async fn put_directly(&self, started: &Started, upload: &Upload) -> Result<(), Missed> {
        let now = self.0.clock.probe().await.map_err(|error| started.missed(error.to_string()))?.now;
        if now > started.ends() {
            return Err(started.missed(format!("its expiry {} has passed", started.ends())));
        }
        let Upload { store, key, body, metadata, .. } = upload;
        if planted(Fault::OverwritableDescriptor) {
            return store.put(key, body.clone()).await.map_err(|error| started.missed(error.to_string()));
        }
        match store.create_resolved(key, body.clone(), metadata).await {
            Create::Committed => Ok(()),
            Create::Lost => Err(started.missed(format!("\"{key}\" exists"))),
            Create::Unknown(error) => Err(started.missed(format!("whether \"{key}\" was written is unknown: {error}"))),
        }
    }
}
