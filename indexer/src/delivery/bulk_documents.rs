//! The documents of an index behind a bulk API, read back by scroll.

use std::{io, path::Path};

use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use url::Url;

use super::{
    canonical_json::DocumentDigest,
    destination::BatchAnswer,
    document_comparison::DocumentComparison,
    http_client::{DestinationClient, HttpDestinationOptions, InvalidDestination, read_within, refusal, send},
};

/// How many documents an answer has; fewer where so many are too large.
const PAGE_SIZES: [usize; 4] = [500, 50, 5, 1];
/// The largest answer that is read.
const MAX_PAGE_BYTES: usize = 64 << 20;
/// How long the server keeps its place for the next request.
const KEEP_ALIVE: &str = "5m";

/// Reads the documents of one index.
#[derive(Debug)]
pub struct BulkDocuments {
    client: DestinationClient,
    index: String,
    max_page_bytes: usize,
}

/// Why the documents cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// The server does not give them.
    #[error(
        "the documents of \"{index}\" cannot be read: {why}; nothing is known of them; mend that, and verify again"
    )]
    Unread {
        /// The index.
        index: String,
        /// Why.
        why: String,
    },
    /// There is no room for what is compared.
    #[error(
        "the temporary files of the comparison cannot be used: {0}; nothing is known of the documents; free some space, and verify again"
    )]
    Disk(#[from] io::Error),
}

#[derive(Deserialize)]
struct RefreshAnswer {
    #[serde(rename = "_shards")]
    shards: ShardCounts,
}

#[derive(Deserialize)]
struct ScrollPage<'a> {
    #[serde(rename = "_scroll_id")]
    scroll_id: String,
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: ShardCounts,
    #[serde(borrow)]
    hits: ScrollHits<'a>,
}

#[derive(Deserialize)]
struct ShardCounts {
    failed: u64,
}

#[derive(Deserialize)]
struct ScrollHits<'a> {
    #[serde(borrow)]
    hits: Vec<ScrollHit<'a>>,
}

#[derive(Deserialize)]
struct ScrollHit<'a> {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_version")]
    version: u64,
    #[serde(borrow, rename = "_source")]
    source: &'a RawValue,
}

/// What became of a request for documents.
enum PageEnd {
    /// There may be more, behind this id.
    More(String),
    /// That were all.
    Last(String),
    /// The answer is too large.
    TooLarge,
}

impl BulkDocuments {
    /// Those of the index `index` below the URL of `options`.
    pub fn new(options: HttpDestinationOptions, index: String) -> Result<Self, InvalidDestination> {
        Ok(Self { client: DestinationClient::new(options)?, index, max_page_bytes: MAX_PAGE_BYTES })
    }

    /// Reads all documents that the server has taken so far. `folder` is for temporary files.
    pub(crate) async fn read(&self, folder: &Path) -> Result<DocumentComparison, DocumentsError> {
        self.refresh().await?;
        for size in PAGE_SIZES {
            let mut comparison = DocumentComparison::new(folder)?;
            if self.scroll(size, &mut comparison).await? {
                return Ok(comparison);
            }
        }
        Err(self.unread(format!("one document alone has more than {} bytes", self.max_page_bytes)))
    }

    /// Without it what was taken last would seem lost.
    async fn refresh(&self) -> Result<(), DocumentsError> {
        let request = self.request(Method::POST, &[&self.index, "_refresh"])?;
        let body = self.answer(request).await?.unwrap_or_default();
        let answer: RefreshAnswer = serde_json::from_slice(&body)
            .map_err(|error| self.unread(format!("the answer is none of a refresh: {error}")))?;
        if answer.shards.failed > 0 {
            let count = answer.shards.failed;
            return Err(self.unread(format!("{count} shards are not refreshed, and may not show what they hold")));
        }
        Ok(())
    }

    /// Reads `size` documents at a time. Gives whether none of the answers was too large.
    async fn scroll(&self, size: usize, comparison: &mut DocumentComparison) -> Result<bool, DocumentsError> {
        let mut url = self.url(&[&self.index, "_search"]);
        // Without the parts that cannot be read it would be no answer.
        url.query_pairs_mut().append_pair("scroll", KEEP_ALIVE).append_pair("allow_partial_search_results", "false");
        let first = json!({"size": size, "version": true, "sort": ["_doc"]});
        let mut request =
            self.client.request(Method::POST, url).map_err(|answer| self.unread(words_of(answer)))?.json(&first);
        loop {
            match self.page(request, comparison).await? {
                PageEnd::TooLarge => return Ok(false),
                PageEnd::Last(id) => {
                    self.end(&id).await;
                    return Ok(true);
                }
                PageEnd::More(id) => {
                    let next = json!({"scroll": KEEP_ALIVE, "scroll_id": id});
                    request = self.request(Method::POST, &["_search", "scroll"])?.json(&next);
                }
            }
        }
    }

    async fn page(
        &self,
        request: RequestBuilder,
        comparison: &mut DocumentComparison,
    ) -> Result<PageEnd, DocumentsError> {
        let Some(body) = self.answer(request).await? else { return Ok(PageEnd::TooLarge) };
        let page: ScrollPage = serde_json::from_slice(&body)
            .map_err(|error| self.unread(format!("the answer is none of a scroll with whole documents: {error}")))?;
        if page.timed_out || page.shards.failed > 0 {
            return Err(self.unread(format!("{} shards do not answer", page.shards.failed)));
        }
        for hit in &page.hits.hits {
            let text = hit.source.get();
            let digest = DocumentDigest::of_change(text).unwrap_or_else(|error| {
                tracing::warn!(document = hit.id, %error, "a document cannot be read; it counts as altered");
                DocumentDigest::of_unread(text)
            });
            comparison.add_document(&hit.id, hit.version, digest)?;
        }
        Ok(if page.hits.hits.is_empty() { PageEnd::Last(page.scroll_id) } else { PageEnd::More(page.scroll_id) })
    }

    /// Frees what the server keeps for a scroll. It ends by itself too.
    async fn end(&self, scroll: &str) {
        let Ok(request) = self.request(Method::DELETE, &["_search", "scroll"]) else { return };
        if let Err(error) = self.answer(request.json(&json!({"scroll_id": scroll}))).await {
            tracing::debug!(%error, "the scroll was not ended; the server ends it in some minutes");
        }
    }

    /// The body of a successful answer; `None` if it is too large.
    async fn answer(&self, request: RequestBuilder) -> Result<Option<Vec<u8>>, DocumentsError> {
        let read = async {
            let answer = send(request).await?;
            if !answer.status().is_success() {
                return Err(refusal(answer).await);
            }
            read_within(answer, self.max_page_bytes).await
        };
        read.await.map_err(|answer| self.unread(words_of(answer)))
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, DocumentsError> {
        self.client.request(method, self.url(path)).map_err(|answer| self.unread(words_of(answer)))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.client.url().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn unread(&self, why: String) -> DocumentsError {
        DocumentsError::Unread { index: self.index.clone(), why }
    }
}

/// What an answer says that is no success.
fn words_of(answer: BatchAnswer) -> String {
    match answer {
        BatchAnswer::Failed { why, .. } | BatchAnswer::Refused { why } | BatchAnswer::Ended { why } => why,
        BatchAnswer::Answered(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, extract::State, routing::post};
    use parking_lot::Mutex;
    use serde_json::Value;
    use tidemark_wal::Token;

    use super::*;
    use crate::delivery::document_comparison::ExpectedRecords;

    /// Fifty documents of about 100 bytes, in pages as they are asked for.
    #[derive(Default)]
    struct ScrollPages {
        left: Vec<Value>,
        size: usize,
        sizes: Vec<usize>,
    }

    type SharedPages = Arc<Mutex<ScrollPages>>;

    fn page(pages: &mut ScrollPages) -> Json<Value> {
        let count = pages.size.min(pages.left.len());
        let hits: Vec<_> = pages.left.drain(..count).collect();
        Json(json!({"_scroll_id": "s", "timed_out": false, "_shards": {"failed": 0}, "hits": {"hits": hits}}))
    }

    async fn first(State(pages): State<SharedPages>, Json(wanted): Json<Value>) -> Json<Value> {
        let mut pages = pages.lock();
        let document =
            |number| json!({"_id": format!("d{number}"), "_version": 1, "_source": {"text": "x".repeat(60)}});
        pages.left = (0..50).map(document).collect();
        pages.size = usize::try_from(wanted["size"].as_u64().unwrap()).unwrap();
        let size = pages.size;
        pages.sizes.push(size);
        page(&mut pages)
    }

    async fn next(State(pages): State<SharedPages>) -> Json<Value> {
        page(&mut pages.lock())
    }

    /// What a server answers to a refresh, of whose two shards so many fail.
    fn refreshed(failed: u64) -> String {
        json!({"_shards": {"total": 2, "successful": 2 - failed, "failed": failed}}).to_string()
    }

    /// What is read of a server with these routes, where an answer may have so many bytes.
    async fn read_from(routes: Router, max_page_bytes: usize) -> Result<DocumentComparison, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        let options = HttpDestinationOptions {
            url,
            timeout: std::time::Duration::from_secs(30),
            authorization: None,
            authorities: None,
            allow_http: false,
            allow_link_local: false,
        };
        let documents = BulkDocuments { max_page_bytes, ..BulkDocuments::new(options, "orders".to_owned()).unwrap() };
        let folder = tempfile::tempdir().unwrap();
        let compared = documents.read(folder.path()).await.map_err(|error| error.to_string());
        server.abort();
        compared
    }

    /// How many documents are read where an answer may have so many bytes, and which sizes were asked for.
    async fn read(max_page_bytes: usize) -> (Result<u64, String>, Vec<usize>) {
        let pages = SharedPages::default();
        let routes = Router::new()
            .route("/orders/_refresh", post(|| async { refreshed(0) }))
            .route("/orders/_search", post(first))
            .route("/_search/scroll", post(next).delete(|| async { "{}" }))
            .with_state(Arc::clone(&pages));
        let compared = read_from(routes, max_page_bytes).await;
        let counts = compared.map(|compared| compared.finish(&ExpectedRecords::default(), &mut |_| ()).unwrap());
        let sizes = pages.lock().sizes.clone();
        (counts.map(|counts| counts.documents), sizes)
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_asked_for_again_in_smaller_pages() {
        assert_eq!(read(1 << 20).await, (Ok(50), vec![500]));
        assert_eq!(read(2000).await, (Ok(50), vec![500, 50, 5]));
        let (refused, sizes) = read(100).await;
        assert!(refused.is_err_and(|why| why.contains("one document alone has more than 100 bytes")));
        assert_eq!(sizes, [500, 50, 5, 1]);
    }

    /// A server of one page with these hits.
    fn one_page(refresh: String, hits: &str) -> Router {
        let page = |hits: &str| {
            format!(r#"{{"_scroll_id":"s","timed_out":false,"_shards":{{"failed":0}},"hits":{{"hits":[{hits}]}}}}"#)
        };
        let (first, last) = (page(hits), page(""));
        Router::new()
            .route("/orders/_refresh", post(|| async { refresh }))
            .route("/orders/_search", post(|| async { first }))
            .route("/_search/scroll", post(|| async { last }).delete(|| async { "{}" }))
    }

    #[tokio::test]
    async fn a_refresh_that_fails_on_a_shard_is_no_refresh() {
        assert!(read_from(one_page(refreshed(0), ""), 1 << 20).await.is_ok());
        let why = read_from(one_page(refreshed(1), ""), 1 << 20).await.err().unwrap_or_default();
        assert!(why.contains("1 shards are not refreshed"), "{why}");
        let why = read_from(one_page("{}".to_owned(), ""), 1 << 20).await.err().unwrap_or_default();
        assert!(why.contains("the answer is none of a refresh"), "{why}");
    }

    #[tokio::test]
    async fn a_document_that_cannot_be_read_is_altered_and_the_others_are_compared() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let sources = ["{\"seq\":1}", "{\"a\":1e999}", r#"{"a":"\ud800"}"#, &deep];
        let token = |at: u8| Token::from_bytes([at; Token::BYTES]);
        let hits = (1..)
            .zip(sources)
            .map(|(at, source)| format!(r#"{{"_id":"{}-0","_version":{at},"_source":{source}}}"#, token(at)));
        let hits = hits.collect::<Vec<_>>().join(",");
        let mut compared =
            read_from(one_page(refreshed(0), &hits), 1 << 20).await.unwrap_or_else(|why| panic!("{why}"));
        for at in 1..=4 {
            let digest = DocumentDigest::of_change(&json!({"seq": at}).to_string()).unwrap();
            compared.add_record(&token(at), 0, u64::from(at), digest).unwrap();
        }
        let expected = ExpectedRecords { acknowledged: 4, ..ExpectedRecords::default() };
        let counts = compared.finish(&expected, &mut |_| ()).unwrap();
        assert_eq!((counts.documents, counts.altered, counts.faults()), (4, 3, 3));
    }
}
