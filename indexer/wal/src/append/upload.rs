//! Putting what completes an operation, before the token's expiry and never over another object.
//!
//! Where the store signs URLs the writer uses one itself: the store then refuses what comes after the expiry, however
//! long this process was held up. Elsewhere the writer probes the clock and creates the object.

use std::time::Duration;

use bytes::Bytes;

use super::{
    LogWriter,
    attempt::{AppendAttempt, UnprovenAttempt},
    draft::{CompletionPart, CompletionTarget, binding},
    marker::marker_key,
};
use tidemark_store::{
    Create, SignedPut, Store, StoreError, UrlSigner, UserMetadata,
    planted::{Fault, planted},
    put_signed,
};

/// How often a PUT whose outcome is unknown is sent again: it creates or does nothing.
const SENDS: u32 = 5;
/// The pause before the second PUT; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// One object that completes an operation, to be put by somebody else.
#[derive(Clone, Debug)]
pub struct CompletionUpload {
    /// The operation within the entry.
    pub op: u32,
    /// The store that it goes to.
    pub store: Store,
    /// Its key there.
    pub key: String,
    /// The URL to put it to; `None` where the store has no URLs: then [`CompletionUpload::store`] takes it as a create with
    /// [`CompletionUpload::metadata`], which whoever does that must not do after the end.
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

impl LogWriter {
    pub(super) async fn upload(
        &self,
        started: &AppendAttempt,
        part: &CompletionPart,
    ) -> Result<CompletionUpload, StoreError> {
        let (store, key) = match &part.target {
            CompletionTarget::Descriptor(path) => (self.0.log.descriptors(), path.clone()),
            CompletionTarget::Label { repo, label } => {
                (self.0.log.values(), marker_key(repo, label, started.token, part.op))
            }
        };
        let metadata = binding(started.token, part.op);
        // Dated by the token, so that neither end of its validity is the local clock's.
        let signed = UrlSigner::of(store).put_url(&key, started.token.second(), started.ends(), &metadata).await?;
        let (op, store, body) = (part.op, store.clone(), part.body.clone());
        Ok(CompletionUpload { op, store, key, signed, metadata, body })
    }

    /// Puts one part. What became of it shows in the read-back; the error only says why something may be missing.
    pub(super) async fn put(&self, started: &AppendAttempt, part: &CompletionPart) -> Result<(), UnprovenAttempt> {
        let put = async {
            let upload = self.upload(started, part).await.map_err(|error| error.to_string())?;
            if planted(Fault::OverwritableDescriptor) {
                return upload.store.put(&upload.key, upload.body).await.map_err(|error| error.to_string());
            }
            let put = match &upload.signed {
                Some(signed) => self.put_signed(started, &upload, signed).await,
                None => self.put_directly(started, &upload).await,
            };
            match put {
                Err(why) if !upload.is_there().await => Err(why),
                _ => Ok(()),
            }
        };
        put.await.map_err(|why| started.missed(why))
    }

    async fn put_signed(
        &self,
        started: &AppendAttempt,
        upload: &CompletionUpload,
        signed: &SignedPut,
    ) -> Result<(), String> {
        let client = upload.store.client().map_err(|error| error.to_string())?;
        let longest = started.parameters().request_timeout;
        let mut why = String::new();
        for send in 0..SENDS {
            pause_before(send).await;
            let answer = tokio::time::timeout(longest, put_signed(client, signed, upload.body.clone())).await;
            why = match answer {
                Ok(Ok(answer)) if answer.created() => return Ok(()),
                // Another object, or our own whose answer was lost.
                Ok(Ok(answer)) if answer.status == 412 => return Err(format!("\"{}\" exists", upload.key)),
                Ok(Ok(answer)) if answer.status < 500 && answer.status != 409 => {
                    let (key, status) = (&upload.key, answer.status);
                    return Err(format!("the store refused the signed URL of \"{key}\" with status {status}"));
                }
                Ok(Ok(answer)) => format!("the store answered \"{}\" with status {}", upload.key, answer.status),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("the store did not answer \"{}\" in time", upload.key),
            };
        }
        Err(why)
    }

    /// A store without URLs: the expiry is the same, read from a probe before every try.
    async fn put_directly(&self, started: &AppendAttempt, upload: &CompletionUpload) -> Result<(), String> {
        let CompletionUpload { store, key, body, metadata, .. } = upload;
        let mut why = String::new();
        for send in 0..SENDS {
            pause_before(send).await;
            let now = self.0.clock.probe().await.map_err(|error| error.to_string())?.now;
            if now > started.ends() {
                return Err(format!("its expiry {} has passed", started.ends()));
            }
            match store.create(key, body.clone(), metadata).await {
                Create::Committed => return Ok(()),
                Create::Lost => return Err(format!("\"{key}\" exists")),
                Create::Unknown(_) if upload.is_there().await => return Ok(()),
                Create::Unknown(error) => why = format!("whether \"{key}\" was written is unknown: {error}"),
            }
        }
        Err(why)
    }
}

async fn pause_before(send: u32) {
    if let Some(doublings) = send.checked_sub(1) {
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(doublings)).await;
    }
}
