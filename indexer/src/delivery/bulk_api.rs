//! The bulk API of Elasticsearch, `OpenSearch` and Quickwit: a document an operation, judged item by item.
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
        judge(batch, &body)
    }
}

#[async_trait]
impl Destination for BulkDestination {
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        self.request(batch).await.unwrap_or_else(|answer| answer)
    }
}

/// What the `body` of a bulk API's answer says of the records of a batch.
pub(super) fn judge(batch: &[DeliveryRecord], body: &[u8]) -> Result<BatchAnswer, BatchAnswer> {
    let read: BulkResponse =
        serde_json::from_slice(body).map_err(|error| failed(format!("the answer is none of a bulk API: {error}")))?;
    verdicts(batch, &read).map_err(failed)
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

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tidemark_catalog::ConsumerPosition;
    use tidemark_wal::Token;

    use super::*;

    fn record(seq: u64) -> DeliveryRecord {
        DeliveryRecord {
            position: ConsumerPosition { generation: "g1".parse().unwrap(), seq },
            token: Token::from_bytes([7; 20]),
            op: u32::try_from(seq).unwrap(),
            time: jiff::Timestamp::UNIX_EPOCH,
            entity: None,
            json: format!("{{\"seq\":{seq}}}").into(),
        }
    }

    fn item(seq: u64, status: u16, kind: Option<&str>) -> Value {
        let error = kind.map(|kind| json!({"type": kind, "reason": "r"}));
        json!({"index": {"_id": record(seq).operation_id(), "status": status, "error": error}})
    }

    fn judged(items: &[Value], sent: u64) -> Result<BatchAnswer, String> {
        let answer: BulkResponse = serde_json::from_value(json!({"errors": true, "items": items})).unwrap();
        verdicts(&(1..=sent).map(record).collect::<Vec<_>>(), &answer)
    }

    /// The first item whose verdict is not what it should be.
    fn first_wrong_verdict() -> Option<String> {
        let cases = [
            (201, None, "delivered"),
            (200, None, "delivered"),
            (409, Some("version_conflict_engine_exception"), "delivered"),
            (429, Some("es_rejected_execution_exception"), "retry"),
            (503, Some("unavailable_shards_exception"), "retry"),
            (403, Some("cluster_block_exception"), "retry"),
            (404, Some("index_not_found_exception"), "retry"),
            (400, Some("index_closed_exception"), "retry"),
            (400, Some("mapper_parsing_exception"), "rejected"),
            (400, Some("document_parsing_exception"), "rejected"),
            (400, Some("illegal_argument_exception"), "rejected"),
            (200, Some("something"), "retry"),
            (301, None, "retry"),
        ];
        let items = cases.iter().zip(1..).map(|((status, kind, _), seq)| item(seq, *status, *kind)).collect::<Vec<_>>();
        let BatchAnswer::Answered(verdicts) = judged(&items, cases.len() as u64).unwrap() else { panic!() };
        let found = verdicts.iter().map(|verdict| match verdict {
            RecordVerdict::Delivered => "delivered",
            RecordVerdict::Retry { .. } => "retry",
            RecordVerdict::Rejected { .. } => "rejected",
        });
        let wrong = cases.iter().zip(found).find(|((_, _, expected), found)| expected != found);
        wrong.map(|((status, kind, _), found)| format!("{status} {kind:?} is {found}"))
    }

    #[test]
    fn each_item_has_a_verdict_of_its_own() {
        assert_eq!(first_wrong_verdict(), None);
    }

    #[test]
    fn an_answer_that_counts_for_all_items_is_found() {
        let _planted = mutants::plant("PartialFailureIsSuccess");
        assert_eq!(first_wrong_verdict().unwrap(), "429 Some(\"es_rejected_execution_exception\") is delivered");
    }

    #[test]
    fn an_answer_that_is_not_about_these_records_counts_for_none() {
        assert!(judged(&[item(1, 201, None)], 2).unwrap_err().contains("2 items were sent and 1"));
        assert!(judged(&[item(2, 201, None), item(1, 201, None)], 2).unwrap_err().contains("in the place of"));
        for text in ["{}", "[]", "{\"items\":[{\"create\":{}}]}", "{\"items\":[{\"index\":{\"_id\":\"a\"}}]}"] {
            assert!(serde_json::from_str::<BulkResponse>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_document_has_the_operations_id_and_the_seq_as_its_version() {
        let options = HttpDestinationOptions {
            url: "https://search.example.org/base/".parse().unwrap(),
            timeout: std::time::Duration::from_secs(1),
            authorization: None,
            authorities: None,
            allow_http: false,
            allow_link_local: false,
        };
        let bulk = BulkDestination::new(options, "orders".to_owned()).unwrap();
        assert_eq!(bulk.bulk.path(), "/base/_bulk");
        let body = bulk.body(&[record(3)]);
        let (action, document) = body.trim_end().split_once('\n').unwrap();
        let action: Value = serde_json::from_str(action).unwrap();
        let expected =
            json!({"_index": "orders", "_id": record(3).operation_id(), "version": 3, "version_type": "external_gte"});
        assert_eq!((action["index"].clone(), document), (expected, "{\"seq\":3}"));
    }
}
