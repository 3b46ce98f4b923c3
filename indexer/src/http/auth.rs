//! The token that requests must bear, where a token file is configured.
//!
//! The authorization is all or nothing. The file is read again when it changes, so that a token is rotated without a
//! restart; while it is missing or unusable every request is refused, and `/v1/process` reports why.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::problem::HttpProblem;
use crate::pod_status::PodStatus;
use tidemark_crds::Reason;
use tidemark_ingest::{FailureCause, ToCause};

/// How often the file is read, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest token, in characters: shorter ones can be guessed.
const MIN_TOKEN_CHARS: usize = 16;
/// The operation that `/v1/process` names.
const READING: &str = "reading the token";
/// Paths that need no token: probes, metrics, and what the operator polls.
pub(super) const OPEN_PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/v1/process"];
/// What a browser asks its user for.
const CHALLENGE: &str = "Basic realm=\"tidemark\", charset=\"UTF-8\"";

/// The file of the token, and what it holds. Clones share it.
#[derive(Clone)]
pub(super) struct TokenAuth(Arc<AuthInner>);

struct AuthInner {
    file: PathBuf,
    pod: PodStatus,
    known: Mutex<KnownToken>,
}

/// What the file held when it was read last.
#[derive(Default)]
struct KnownToken {
    /// When the last read began; `None` before the first one.
    read: Option<Instant>,
    /// The number of the last read that began.
    begun: u64,
    /// The number of the read that `token` is of.
    of_read: u64,
    /// The digest of the token; `None` while the file has none that can be used.
    token: Option<[u8; 32]>,
}

impl TokenAuth {
    pub(super) fn new(file: PathBuf, pod: PodStatus) -> Self {
        let auth = Self(Arc::new(AuthInner { file, pod, known: Mutex::default() }));
        // A problem with the file is reported before the first request.
        auth.token();
        auth
    }

    /// The digest of the token; `None` while the file has none that can be used.
    fn token(&self) -> Option<[u8; 32]> {
        let number = {
            let mut known = self.0.known.lock();
            if known.read.is_some_and(|read| read.elapsed() < CHECK_INTERVAL) {
                return known.token;
            }
            // Other requests go by what is known while this one reads the file.
            known.read = Some(Instant::now());
            known.begun += 1;
            known.begun
        };
        let read = self.read();
        let mut known = self.0.known.lock();
        // A read that began later has seen what the file holds since: a slow one does not bring the token before a rotation back.
        if number > known.of_read {
            known.of_read = number;
            known.token = read.as_ref().ok().map(|token| digest(token.as_bytes()));
            match read {
                Ok(_) => self.0.pod.clear_problem(READING),
                Err(error) => self.0.pod.set_problem(READING, error.to_cause(), error.to_string()),
            }
        }
        known.token
    }

    fn read(&self) -> Result<String, TokenFileError> {
        let file = &self.0.file;
        let missing = |why: String| TokenFileError::Missing { file: file.clone(), why };
        let text = std::fs::read_to_string(file).map_err(|error| missing(error.to_string()))?;
        let token = text.trim();
        match token.chars().count() {
            0 => Err(missing("it is empty".to_owned())),
            chars if chars < MIN_TOKEN_CHARS => Err(TokenFileError::TooShort { file: file.clone(), chars }),
            _ => Ok(token.to_owned()),
        }
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token() else { return false };
        headers
            .get(header::AUTHORIZATION)
            .and_then(offered_token)
            .is_some_and(|offered| same(&digest(&offered), &token))
    }
}

/// Lets a request through that bears the token, or that needs none.
pub(super) async fn require_token(State(auth): State<TokenAuth>, request: Request, next: Next) -> Response {
    // Checked with every request, also an open one: the operator's polls alone keep the reported problem up to date.
    let authorized = auth.is_authorized(request.headers());
    if authorized || OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let mut response = HttpProblem::unauthorized().into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    response
}

/// The token that a header offers: of `Bearer`, or the password of `Basic` with any user.
fn offered_token(header: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_vec());
    }
    let pair = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest.trim()).ok())??;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Whether the digests are the same, in a time that does not tell where they differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.ct_eq(other).into()
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenFileError {
    /// There is no token.
    #[error(
        "the token file \"{file}\" holds no token: {why}; every request is refused; put a token of {MIN_TOKEN_CHARS} characters or \
         more there (key \"token\" of the Secret)", file = file.display()
    )]
    Missing {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The token can be guessed.
    #[error(
        "the token in \"{file}\" is too short, it has {chars} characters; every request is refused; use a token of {MIN_TOKEN_CHARS} characters \
         or more (key \"token\" of the Secret)", file = file.display()
    )]
    TooShort {
        /// The file.
        file: PathBuf,
        /// How many it has.
        chars: usize,
    },
}

impl ToCause for TokenFileError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Missing { .. } => FailureCause::of(Reason::AuthTokenMissing),
            Self::TooShort { .. } => FailureCause::of(Reason::AuthTokenTooShort),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use tokio::{runtime::Handle, sync::watch};

    use super::*;
    use tidemark_ingest::IngestStatus;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(value: &str) -> HeaderMap {
        [(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_missing_too_short_there_and_rotated_in_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let pod = PodStatus::indexer(watch::channel(IngestStatus::default()).1, None);
        let auth = TokenAuth::new(file.clone(), pod.clone());
        let told = || pod.report().problems.first().map(|problem| problem.message.clone());
        let reason = || pod.report().problems.first().map(|problem| problem.reason);
        let bearer = |token: &str| auth.is_authorized(&headers(&format!("Bearer {token}")));
        assert!(!bearer(TOKEN) && told().is_some_and(|told| told.contains("No such file")));
        assert_eq!(reason(), Some(Reason::AuthTokenMissing));
        for (text, why) in [("", "empty"), (" \n", "empty"), ("short", "5 characters")] {
            std::fs::write(&file, text).unwrap();
            tokio::time::advance(CHECK_INTERVAL).await;
            assert!(!bearer(text.trim()) && told().is_some_and(|told| told.contains(why)), "{text:?}");
        }
        assert_eq!(reason(), Some(Reason::AuthTokenTooShort));
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        tokio::time::advance(CHECK_INTERVAL).await;
        assert!(bearer(TOKEN) && told().is_none());
        std::fs::write(&file, TOKEN.to_uppercase()).unwrap();
        tokio::time::advance(CHECK_INTERVAL).await;
        assert!(!bearer(TOKEN) && bearer(&TOKEN.to_uppercase()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_while_another_one_reads_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, TOKEN).unwrap();
        let pod = PodStatus::indexer(watch::channel(IngestStatus::default()).1, None);
        let auth = TokenAuth::new(file.clone(), pod);
        // A pipe: opening it waits for the other end.
        std::fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        tokio::time::advance(CHECK_INTERVAL).await;
        let asked = |answers: mpsc::Sender<_>| {
            let (auth, runtime) = (auth.clone(), Handle::current());
            thread::spawn(move || {
                let _clock = runtime.enter();
                answers.send(auth.token())
            })
        };
        let ((first, answer), (second, other)) = (mpsc::channel(), mpsc::channel());
        asked(first);
        let mut pipe = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        asked(second);
        let known = other.recv_timeout(Duration::from_mins(1));
        std::io::Write::write_all(&mut pipe, TOKEN.to_uppercase().as_bytes()).unwrap();
        drop(pipe);
        assert_eq!(known, Ok(Some(digest(TOKEN.as_bytes()))));
        assert_eq!(answer.recv(), Ok(Some(digest(TOKEN.to_uppercase().as_bytes()))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_ends_after_a_later_one_brings_no_old_token_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, TOKEN).unwrap();
        let pod = PodStatus::indexer(watch::channel(IngestStatus::default()).1, None);
        let auth = TokenAuth::new(file.clone(), pod.clone());
        // The slow reader has a pipe open whose other end is still written to.
        std::fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        tokio::time::advance(CHECK_INTERVAL).await;
        let (auth_of_slow, runtime) = (auth.clone(), Handle::current());
        let slow = thread::spawn(move || {
            let _clock = runtime.enter();
            auth_of_slow.token()
        });
        let mut pipe = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        // The file is rotated as a volume of Kubernetes is: another one takes its name.
        let rotated = digest(TOKEN.to_uppercase().as_bytes());
        std::fs::write(folder.path().join("next"), TOKEN.to_uppercase()).unwrap();
        std::fs::rename(folder.path().join("next"), &file).unwrap();
        tokio::time::advance(CHECK_INTERVAL).await;
        assert_eq!(auth.token(), Some(rotated));
        // The slow one fails, or would give the token before: neither counts any more.
        std::io::Write::write_all(&mut pipe, b"short").unwrap();
        drop(pipe);
        assert_eq!(slow.join().unwrap(), Some(rotated));
        assert_eq!(auth.token(), Some(rotated));
        assert!(pod.report().problems.is_empty());
    }

    #[test]
    fn the_token_is_a_bearers_or_anybodys_password() {
        let of = |value: &str| offered_token(&HeaderValue::from_str(value).unwrap());
        assert_eq!(of("bearer t"), Some(b"t".to_vec()));
        assert_eq!(of(&format!("Basic {}", STANDARD.encode("me:t:t"))), Some(b"t:t".to_vec()));
        for value in ["t", "Digest t", "Basic ?", &format!("Basic {}", STANDARD.encode("t"))] {
            assert_eq!(of(value), None, "{value}");
        }
        assert!(same(&digest(b"t"), &digest(b"t")) && !same(&digest(b"t"), &digest(b"u")));
    }
}
