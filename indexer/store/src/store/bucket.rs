//! Making the bucket that a store lives in. For demonstrations: nothing else of Tidemark makes or removes a bucket.

use crate::{Store, StoreError, store::error_chain};

/// Messages name the store alone.
const KEY: &str = "";

impl Store {
    /// Makes the bucket of an S3 store; `false` if it is there already, also where it is somebody else's.
    ///
    /// One attempt. A folder and a store in memory need none (`false`); other stores are refused with
    /// [`StoreError::Unusable`].
    pub async fn create_bucket(&self) -> Result<bool, StoreError> {
        let Some(signing) = self.signing()? else { return Ok(false) };
        let Some(request) = signing.bucket_request().await.map_err(|error| self.error(KEY, &error))? else {
            return Err(
                self.unusable("only buckets of S3 stores are made here".into(), "make it with the store's tools")
            );
        };
        let failed = |error: reqwest::Error| self.failed(KEY, error_chain(&error.without_url()));
        let answer = self.client()?.put(request.url).body(request.body).send().await.map_err(failed)?;
        match answer.status().as_u16() {
            200..300 => Ok(true),
            409 => Ok(false),
            status @ (401 | 403) => Err(StoreError::Denied {
                url: self.url.to_string(),
                key: KEY.to_owned(),
                why: format!("making the bucket was answered with status {status}"),
            }),
            status => {
                let words = answer.text().await.unwrap_or_default();
                Err(self.failed(KEY, format!("making the bucket was answered with status {status}: {words:.400}")))
            }
        }
    }
}
