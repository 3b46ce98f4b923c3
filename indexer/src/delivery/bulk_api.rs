//! The bulk API of Elasticsearch, OpenSearch and Quickwit: a document an operation, judged item by item.
//!
//! The id of a document is the operation's, and its version the record's seq, compared by the destination (`external_gte`): a record that
//! is delivered again changes nothing, and an older one never overwrites the correction that came after it.

use async_trait::async_trait;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{
    destination::{BatchAnswer, Destination, RecordVerdict},
    http_client::{DestinationClient, HttpDestinationOptions, InvalidDestination, failed, read_body, refusal, send},
    mutants,
    record::DeliveryRecord,
};

/// The largest answer that is read: an item takes about 200 bytes, and an error of one some more.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// The parts of an answer that are read.
const FILTER: &str = "errors,items.*._id,items.*.status,items.*.error.type,items.*.error.reason";
/// Errors of status 400 that are not of the document: its index cannot take any.
const ERRORS_OF_THE_INDEX: [&str; 5] = [
    "index_closed_exception",
    "invalid_index_name_exception",
    "cluster_block_exception",
    "validation_exception",
    "illegal_state_exception",
];

/// An index behind a bulk API.
#[derive(Debug)]
pub struct BulkDestination {
    client: DestinationClient,
    index: String,
    bulk: Url,
}

#[derive(Deserialize)]
struct BulkResponse {
    items: Vec<BulkItem>,
}

/// An item, under the name of its action.
#[derive(Deserialize)]
struct BulkItem {
    index: BulkItemResult,
}

#[derive(Deserialize)]
struct BulkItemResult {
    #[serde(rename = "_id")]
    id: String,
    status: u16,
    error: Option<BulkItemError>,
}

#[derive(Default, Deserialize)]
struct BulkItemError {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    reason: String,
}

impl BulkDestination {
    /// The index `index` below the URL of `options`.
    pub fn new(options: HttpDestinationOptions, index: String) -> Result<Self, InvalidDestination> {
        let client = DestinationClient::new(options)?;
        let mut bulk = client.url().clone();
        if let Ok(mut path) = bulk.path_segments_mut() {
            path.pop_if_empty().push("_bulk");
        }
        bulk.query_pairs_mut().append_pair("filter_path", FILTER);
        Ok(Self { client, index, bulk })
    }

    fn body(&self, batch: &[DeliveryRecord]) -> String {
        let mut body = String::new();
        for record in batch {
            let (id, version) = (record.operation_id(), record.seq());
            let action =
                json!({"index": {"_index": self.index, "_id": id, "version": version, "version_type": "external_gte"}});
            body.push_str(&action.to_string());
            body.push('\n');
            body.push_str(&record.json);
            body.push('\n');
        }
        body
    }

    async fn request(&self, batch: &[DeliveryRecord]) -> Result<BatchAnswer, BatchAnswer> {
        let request = self.client.post(self.bulk.clone())?.header(CONTENT_TYPE, "application/x-ndjson");
        let answer = send(request.body(self.body(batch))).await?;
        if !answer.status().is_success() {
            return Ok(refusal(answer).await);
        }
        let body = read_body(answer, MAX_ANSWER_BYTES).await?;
        let read: BulkResponse = serde_json::from_slice(&body)
            .map_err(|error| failed(format!("the answer is none of a bulk API: {error}")))?;
        verdicts(batch, &read).map_err(failed)
    }
}

#[async_trait]
impl Destination for BulkDestination {
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        self.request(batch).await.unwrap_or_else(|answer| answer)
    }
}

/// The verdict of each record; an error if the answer is not about these.
fn verdicts(batch: &[DeliveryRecord], answer: &BulkResponse) -> Result<BatchAnswer, String> {
    if !mutants::counts_each_item() {
        return Ok(BatchAnswer::Answered(vec![RecordVerdict::Delivered; batch.len()]));
    }
    let (sent, answered) = (batch.len(), answer.items.len());
    if sent != answered {
        return Err(format!("{sent} items were sent and {answered} are answered"));
    }
    let mut verdicts = Vec::with_capacity(batch.len());
    for (record, BulkItem { index: item }) in batch.iter().zip(&answer.items) {
        let id = record.operation_id();
        if item.id != id {
            return Err(format!("item \"{}\" is answered in the place of \"{id}\"", item.id));
        }
        verdicts.push(verdict(item));
    }
    Ok(BatchAnswer::Answered(verdicts))
}

fn verdict(item: &BulkItemResult) -> RecordVerdict {
    let none = BulkItemError::default();
    let BulkItemError { kind, reason } = item.error.as_ref().unwrap_or(&none);
    let why = format!("item \"{}\" is answered {}: {kind}: {reason}", item.id, item.status);
    match item.status {
        200..=299 if item.error.is_none() => RecordVerdict::Delivered,
        // Something newer of the operation is there.
        409 => RecordVerdict::Delivered,
        400 if !ERRORS_OF_THE_INDEX.contains(&kind.as_str()) => RecordVerdict::Rejected { why },
        413 => RecordVerdict::Rejected { why },
        _ => RecordVerdict::Retry { why },
    }
}
