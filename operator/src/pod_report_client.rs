//! Fetches what a data pod reports about itself: `GET /v1/process`, whose contract is [`PodReport`].

use std::time::Duration;

use tidemark_crds::PodReport;

/// How long a pod may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer that is read, in bytes.
/// Something else than our pod may answer: all polls at once take 8 MiB at most.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Why a pod could not be polled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodReportClientError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    Long,
    #[error("the answer is not the report of a data pod: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Polls data pods. Connections are not kept: there may be more pods than files that a process may open.
#[derive(Clone)]
pub(crate) struct PodReportClient {
    http: reqwest::Client,
}

impl PodReportClient {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        // Only the pod itself is asked: not through the environment's proxy, and not where an answer redirects to.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Self { http })
    }

    /// The report of the pod at `address` and `port`.
    pub(crate) async fn fetch(&self, address: &str, port: u16) -> Result<PodReport, PodReportClientError> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let mut answer = self.http.get(format!("http://{host}:{port}/v1/process")).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await? {
            if body.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(PodReportClientError::Long);
            }
            body.extend_from_slice(&part);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_crds::{PodPhase, Reason, StoreRole};

    use super::*;

    #[test]
    fn an_answer_of_another_release_is_read_as_far_as_it_is_known() {
        let text = r#"{"version": "9", "phase": "dreaming", "kind": "archiver", "news": {}, "problems": [{"reason": "New", "role": "archive", "message": "m"}]}"#;
        let process: PodReport = serde_json::from_str(text).unwrap();
        assert_eq!((process.phase, process.caught_up), (PodPhase::Starting, false));
        assert_eq!((process.problems[0].reason, process.problems[0].role), (Reason::Internal, None));
    }

    #[test]
    fn the_first_answer_of_a_process_knows_next_to_nothing() {
        let text = r#"{"version":"0.1.0","kind":"indexer","phase":"starting","identity":null,"generation":null,"epoch":0,
            "manifest":0,"horizon":null,"cursor":null,"lagSeconds":0,"pendingEntries":0,"entries":0,"caughtUp":false,
            "probed":false,"adoptedFrom":null,"writer":null,"problems":[]}"#;
        let process: PodReport = serde_json::from_str(text).unwrap();
        assert_eq!((process.phase, process.identity), (PodPhase::Starting, None));
    }

    #[test]
    fn the_answer_of_the_contract_is_read() {
        let text = r#"{"version":"0.1.0","kind":"indexer","phase":"writing","identity":"u","generation":"g1","epoch":3,
            "manifest":17,"horizon":"2026-11-21T10:00:00Z","cursor":null,"lagSeconds":0,"pendingEntries":0,"entries":1204,
            "caughtUp":true,"probed":true,"adoptedFrom":null,"writer":null,
            "problems":[{"reason":"BucketMissing","role":"log","message":"no bucket"}]}"#;
        let process: PodReport = serde_json::from_str(text).unwrap();
        assert_eq!((process.phase, process.epoch, process.entries), (PodPhase::Writing, 3, 1204));
        assert!(process.problems[0].is_storage() && process.horizon.is_some());
        assert_eq!(process.problems[0].role, Some(StoreRole::Log));
    }
}
