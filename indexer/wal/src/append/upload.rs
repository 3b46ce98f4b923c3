//! Putting what completes an operation, before the token's expiry and never over another object.
//!
//! Where the store signs URLs the writer uses one itself: the store then refuses what comes after the expiry, however
//! long this process was suspended. Elsewhere the writer probes the clock and creates the object.

use std::fmt::Display;

use backon::Retryable as _;
use bytes::Bytes;

use super::{
    prepared::{CompletionPart, CompletionTarget, binding},
    retry::resend_schedule,
    session::{AppendAttempt, AppendSession},
};
use crate::{lock::guard_key, marker::marker_key};
use tidemark_store::{Create, SignedPut, Store, StoreError, UrlSigner, UserMetadata, put_signed};

/// One object that completes an operation, for another process to put.
#[derive(Clone, Debug)]
pub struct CompletionUpload {
    /// The operation within the entry.
    pub op: u32,
    /// The store that it goes to.
    pub store: Store,
    /// Its key there.
    pub key: String,
    /// The URL to put it to; `None` where the store has no URLs: then [`CompletionUpload::store`] takes it as a create with
    /// [`CompletionUpload::metadata`], which must not be done after the end.
    pub signed: Option<SignedPut>,
    /// The user metadata that binds the object to its operation.
    pub metadata: UserMetadata,
    /// What it must hold: the entry names its digest.
    pub body: Bytes,
}

impl CompletionUpload {
    /// Whether the store has it, as after a PUT whose answer was lost.
    async fn is_there(&self) -> bool {
        let Ok(Some(found)) = self.store.get(&self.key, self.body.len() as u64).await else {
            return false;
        };
        let bound = !self.store.supports_user_metadata()
            || self.metadata.iter().all(|(name, value)| found.metadata.get(name) == Some(value));
        bound && found.body.as_ref() == Some(&self.body)
    }
}

/// Why one PUT failed.
struct SendError {
    why: String,
    is_retryable: bool,
}

impl SendError {
    /// The outcome is unknown: sending the PUT again creates the object or does nothing.
    fn unknown(why: impl Display) -> Self {
        Self { why: why.to_string(), is_retryable: true }
    }

    /// Another PUT would end in the same way.
    fn refused(why: impl Display) -> Self {
        Self { why: why.to_string(), is_retryable: false }
    }
}

impl AppendSession {
    pub(super) async fn upload(
        &self,
        attempt: &AppendAttempt,
        part: &CompletionPart,
    ) -> Result<CompletionUpload, StoreError> {
        let (store, key) = match &part.target {
            CompletionTarget::Descriptor(path) => (self.log.descriptors(), path.clone()),
            CompletionTarget::Label { repo, label } => {
                (self.log.values(), marker_key(repo, label, attempt.token, part.op))
            }
            CompletionTarget::Guard => (&self.log.entries, guard_key(attempt.token)),
        };
        let metadata = binding(attempt.token, part.op);
        // Dated by the token, so that neither end of its validity is the local clock's.
        let signed = UrlSigner::of(store).put_url(&key, attempt.token.second(), attempt.ends(), &metadata).await?;
        let (op, store, body) = (part.op, store.clone(), part.body.clone());
        Ok(CompletionUpload { op, store, key, signed, metadata, body })
    }

    /// Puts one part. The read-back decides whether it is there; the error only says why something may be missing.
    pub(super) async fn put(&self, attempt: &AppendAttempt, part: &CompletionPart) -> Result<(), String> {
        let upload = self.upload(attempt, part).await.map_err(|error| error.to_string())?;
        let put = match &upload.signed {
            Some(signed) => self.put_signed(attempt, &upload, signed).await,
            None => self.put_directly(attempt, &upload).await,
        };
        match put {
            Err(error) if !upload.is_there().await => Err(error.why),
            _ => Ok(()),
        }
    }

    async fn put_signed(
        &self,
        attempt: &AppendAttempt,
        upload: &CompletionUpload,
        signed: &SignedPut,
    ) -> Result<(), SendError> {
        let client = &upload.store.client().map_err(SendError::refused)?;
        let (key, timeout) = (&upload.key, attempt.parameters().request_timeout);
        let send = || async move {
            match tokio::time::timeout(timeout, put_signed(client, signed, upload.body.clone())).await {
                Ok(Ok(answer)) if answer.created() => Ok(()),
                // Another object, or our own whose answer was lost.
                Ok(Ok(answer)) if answer.status == 412 => Err(SendError::refused(format!("\"{key}\" exists"))),
                // 409 comes while another create is in progress, which may yet fail.
                Ok(Ok(answer)) if answer.status < 500 && answer.status != 409 => {
                    let status = answer.status;
                    Err(SendError::refused(format!(
                        "the store refused the signed URL of \"{key}\" with status {status}"
                    )))
                }
                Ok(Ok(answer)) => {
                    Err(SendError::unknown(format!("the store answered \"{key}\" with status {}", answer.status)))
                }
                Ok(Err(error)) => Err(SendError::unknown(error)),
                Err(_) => Err(SendError::unknown(format!("the store did not answer \"{key}\" in time"))),
            }
        };
        send.retry(resend_schedule()).sleep(tokio::time::sleep).when(|error| error.is_retryable).await
    }

    /// Creates in a store without URLs. The expiry is the same; a probe before every try reads the time.
    async fn put_directly(&self, attempt: &AppendAttempt, upload: &CompletionUpload) -> Result<(), SendError> {
        let CompletionUpload { store, key, body, metadata, .. } = upload;
        let send = || async move {
            let now = self.clock.probe().await.map_err(SendError::refused)?.now;
            if now > attempt.ends() {
                return Err(SendError::refused(format!("its expiry {} has passed", attempt.ends())));
            }
            match store.create(key, body.clone(), metadata).await {
                Create::Committed => Ok(()),
                Create::Lost => Err(SendError::refused(format!("\"{key}\" exists"))),
                Create::Unknown(_) if upload.is_there().await => Ok(()),
                Create::Unknown(error) => {
                    Err(SendError::unknown(format!("whether \"{key}\" was written is unknown: {error}")))
                }
            }
        };
        send.retry(resend_schedule()).sleep(tokio::time::sleep).when(|error| error.is_retryable).await
    }
}
