//! The token that requests must bear, where a file of it is named.
//!
//! The authorization is all or nothing. The file is read again when it changes, so that a token is rotated without a
//! restart; while it is missing or unusable nobody is let in, and `/v1/process` says why.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::problem::Problem;
use crate::process::Process;
use tidemark_crds::Reason;
use tidemark_ingest::FailureCause;

/// How often the file is looked at, at most.
const PERIOD: Duration = Duration::from_secs(1);
/// The shortest token, in characters: shorter ones can be guessed.
const SHORTEST: usize = 16;
/// What `/v1/process` keeps the problem under.
const READING: &str = "reading the token";
/// What is open to everybody: probes, figures, and what the operator polls.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/v1/process"];
/// What a browser asks its user for.
const CHALLENGE: &str = "Basic realm=\"tidemark\", charset=\"UTF-8\"";

/// The file of the token, and what it holds. Clones share it.
#[derive(Clone)]
pub(super) struct Auth(Arc<Shared>);

struct Shared {
    file: PathBuf,
    process: Process,
    known: Mutex<Option<Known>>,
}

struct Known {
    looked: Instant,
    token: Option<[u8; 32]>,
}

impl Auth {
    pub(super) fn new(file: PathBuf, process: Process) -> Self {
        let auth = Self(Arc::new(Shared { file, process, known: Mutex::default() }));
        // What is wrong with the file shows before anybody asks.
        auth.token();
        auth
    }

    /// The digest of the token; `None` while the file has none that can be used.
    fn token(&self) -> Option<[u8; 32]> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.looked.elapsed() < PERIOD) {
            return known.token;
        }
        let token = match self.read() {
            Ok(token) => {
                self.0.process.works(READING);
                Some(digest(token.as_bytes()))
            }
            Err(why) => {
                let message = token_file_message(&self.0.file, &why);
                self.0.process.reported(READING, FailureCause::of(Reason::AuthTokenMissing), message);
                None
            }
        };
        *known = Some(Known { looked: Instant::now(), token });
        token
    }

    fn read(&self) -> Result<String, String> {
        let text = std::fs::read_to_string(&self.0.file).map_err(|error| error.to_string())?;
        let token = text.trim();
        match token.chars().count() {
            0 => Err("it is empty".to_owned()),
            length if length < SHORTEST => Err(format!("its token is too short, it has {length} characters")),
            _ => Ok(token.to_owned()),
        }
    }

    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token() else { return false };
        headers.get(header::AUTHORIZATION).and_then(offered).is_some_and(|offered| same(&digest(&offered), &token))
    }
}

/// Lets a request through that bears the token, or that needs none.
pub(super) async fn require(State(auth): State<Auth>, request: Request, next: Next) -> Response {
    // Looked at for every request, so that what is wrong shows and goes whoever asks.
    let let_in = auth.lets_in(request.headers());
    if let_in || OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let mut response = Problem::unauthorized().into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    response
}

/// The token that a header offers: of `Bearer`, or the password of `Basic` with any user.
fn offered(header: &HeaderValue) -> Option<Vec<u8>> {
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
    one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// What is told of a token file that is of no use.
pub(crate) fn token_file_message(file: &Path, why: &str) -> String {
    let file = file.display();
    format!(
        "the token file \"{file}\" cannot be used: {why}; every request is refused; put a token of {SHORTEST} characters or \
         more there (key \"token\" of the Secret)"
    )
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

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
        let process = Process::indexer(watch::channel(IngestStatus::default()).1, None);
        let auth = Auth::new(file.clone(), process.clone());
        let told = || process.answer().problems.first().map(|problem| problem.message.clone());
        let bearer = |token: &str| auth.lets_in(&headers(&format!("Bearer {token}")));
        assert!(!bearer(TOKEN) && told().is_some_and(|told| told.contains("No such file")));
        for (text, why) in [("", "empty"), (" \n", "empty"), ("short", "5 characters")] {
            std::fs::write(&file, text).unwrap();
            tokio::time::advance(PERIOD).await;
            assert!(!bearer(text.trim()) && told().is_some_and(|told| told.contains(why)), "{text:?}");
        }
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        tokio::time::advance(PERIOD).await;
        assert!(bearer(TOKEN) && told().is_none());
        std::fs::write(&file, TOKEN.to_uppercase()).unwrap();
        tokio::time::advance(PERIOD).await;
        assert!(!bearer(TOKEN) && bearer(&TOKEN.to_uppercase()));
    }

    #[test]
    fn the_token_is_a_bearers_or_anybodys_password() {
        let of = |value: &str| offered(&HeaderValue::from_str(value).unwrap());
        assert_eq!(of("bearer t"), Some(b"t".to_vec()));
        assert_eq!(of(&format!("Basic {}", STANDARD.encode("me:t:t"))), Some(b"t:t".to_vec()));
        for value in ["t", "Digest t", "Basic ?", &format!("Basic {}", STANDARD.encode("t"))] {
            assert_eq!(of(value), None, "{value}");
        }
        assert!(same(&digest(b"t"), &digest(b"t")) && !same(&digest(b"t"), &digest(b"u")));
    }
}
