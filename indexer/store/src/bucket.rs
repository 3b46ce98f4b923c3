//! Creating the bucket of a store. For demonstrations: nothing else of Tidemark creates or removes a bucket.

use crate::{
    errors::{StoreError, error_chain},
    store::Store,
};

/// Messages name the store alone.
const NO_KEY: &str = "";

impl Store {
    /// Creates the bucket of an S3 store; `false` if it exists already, even if it belongs to another account.
    ///
    /// One attempt. A folder and a store in memory need no bucket (`false`); other stores are refused with
    /// [`StoreError::Unusable`].
    pub async fn create_bucket(&self) -> Result<bool, StoreError> {
        let Some(signer) = self.signer() else { return Ok(false) };
        let Some(request) = signer.sign_create_bucket().await.map_err(|error| error.at(self.url(), NO_KEY))? else {
            let why = "Tidemark creates buckets of S3 stores alone".to_owned();
            return Err(self.unusable(why, "create it with the store's tools"));
        };
        let failed = |error: reqwest::Error| self.failed(NO_KEY, error_chain(&error.without_url()));
        let answer = self.client()?.put(request.url).body(request.body).send().await.map_err(failed)?;
        match answer.status().as_u16() {
            200..300 => Ok(true),
            409 => Ok(false),
            status @ (401 | 403) => Err(StoreError::Denied {
                url: self.url().to_string(),
                key: NO_KEY.to_owned(),
                why: format!("creating the bucket was answered with status {status}"),
            }),
            status => {
                let words = answer.text().await.unwrap_or_default();
                Err(self.failed(NO_KEY, format!("creating the bucket was answered with status {status}: {words:.400}")))
            }
        }
    }
}
