//! What a data pod reports about itself: `GET /v1/process`.
//!
//! Pods of another release answer, too: what is left out counts as nothing, and what is not known is passed over.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tidemark_crds::Reason;

/// How long a pod may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A data pod, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) version: String,
    pub(crate) phase: Phase,
    pub(crate) identity: Option<String>,
    pub(crate) generation: Option<String>,
    pub(crate) epoch: Option<i64>,
    pub(crate) manifest: Option<i64>,
    pub(crate) horizon: Option<Timestamp>,
    pub(crate) cursor: Option<Timestamp>,
    pub(crate) lag_seconds: Option<i64>,
    pub(crate) pending_entries: Option<i64>,
    pub(crate) entries: Option<i64>,
    pub(crate) caught_up: bool,
    pub(crate) probed: bool,
    pub(crate) adopted_from: Option<String>,
    /// Identity of the present writer, as far as the process knows.
    pub(crate) writer: Option<String>,
    pub(crate) problems: Vec<Problem>,
}

/// What a data pod does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Probing,
    Standby,
    Writing,
    Serving,
    Purging,
    Purged,
    Ended,
    /// It opens its storage, or says something newer than this operator.
    #[default]
    #[serde(other)]
    Starting,
}

/// What is wrong, from a pod's point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) reason: String,
    pub(crate) place: Option<String>,
    pub(crate) message: String,
}

impl Problem {
    /// The reason as conditions know it; one that is not known is a pod's internal affair.
    pub(crate) fn reason(&self) -> Reason {
        Reason::parse(&self.reason).unwrap_or(Reason::Internal)
    }

    /// Whether it is about the stores or what is in them.
    pub(crate) fn is_storage(&self) -> bool {
        !matches!(self.reason(), Reason::Fenced | Reason::AuthTokenMissing | Reason::Internal)
    }
}

/// Why a pod could not be polled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodClientError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    Long,
    #[error("the answer is not the report of a data pod: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Polls data pods. Connections are not kept: there may be more pods than files that a process may open.
#[derive(Clone)]
pub(crate) struct PodClient {
    http: reqwest::Client,
}

impl PodClient {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Self { http })
    }

    /// The report of the pod at `address` and `port`.
    pub(crate) async fn fetch(&self, address: &str, port: u16) -> Result<Process, PodClientError> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let mut answer = self.http.get(format!("http://{host}:{port}/v1/process")).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await? {
            if body.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(PodClientError::Long);
            }
            body.extend_from_slice(&part);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_release_is_read_as_far_as_it_is_known() {
        let text =
            r#"{"version": "9", "phase": "dreaming", "news": {}, "problems": [{"reason": "New", "message": "m"}]}"#;
        let process: Process = serde_json::from_str(text).unwrap();
        assert_eq!((process.phase, process.caught_up), (Phase::Starting, false));
        assert_eq!(process.problems[0].reason(), Reason::Internal);
    }

    #[test]
    fn the_first_answer_of_a_process_knows_next_to_nothing() {
        let text = r#"{"version":"0.1.0","kind":"indexer","phase":"starting","identity":null,"generation":null,"epoch":0,
            "manifest":0,"horizon":null,"cursor":null,"lagSeconds":0,"pendingEntries":0,"entries":0,"caughtUp":false,
            "probed":false,"adoptedFrom":null,"writer":null,"problems":[]}"#;
        let process: Process = serde_json::from_str(text).unwrap();
        assert_eq!((process.phase, process.identity), (Phase::Starting, None));
    }

    #[test]
    fn the_answer_of_the_contract_is_read() {
        let text = r#"{"version":"0.1.0","kind":"indexer","phase":"writing","identity":"u","generation":"g1","epoch":3,
            "manifest":17,"horizon":"2026-11-21T10:00:00Z","cursor":null,"lagSeconds":0,"pendingEntries":0,"entries":1204,
            "caughtUp":true,"probed":true,"adoptedFrom":null,"writer":null,
            "problems":[{"reason":"BucketMissing","place":"log","message":"no bucket"}]}"#;
        let process: Process = serde_json::from_str(text).unwrap();
        assert_eq!((process.phase, process.epoch, process.entries), (Phase::Writing, Some(3), Some(1204)));
        assert!(process.problems[0].is_storage() && process.horizon.is_some());
    }
}
