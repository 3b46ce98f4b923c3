//! A webhook: batches of `CloudEvents` 1.0, signed.
//!
//! An event's `source` and `id` tell a record from every other one, so that one that comes again is recognised. Any answer of 200 to 299
//! takes the whole batch, whatever its body says.

use std::path::PathBuf;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use reqwest::{
    RequestBuilder,
    header::{CONTENT_TYPE, HeaderName},
};
use serde::Serialize;
use serde_json::value::RawValue;
use tidemark_catalog::LogId;
use tidemark_store::StoreClock;

use super::{
    destination::{BatchAnswer, Destination, RecordVerdict},
    http_client::{DestinationClient, HttpDestinationOptions, InvalidDestination, failed, refusal, send},
    record::DeliveryRecord,
};

/// The media type of a batch of events.
const CLOUDEVENTS_BATCH: &str = "application/cloudevents-batch+json";
/// The type of each event.
const EVENT_TYPE: &str = "dev.tidemark.change";
/// The header with the signature.
const SIGNATURE: HeaderName = HeaderName::from_static("tidemark-signature");

/// A webhook.
pub struct WebhookDestination {
    client: DestinationClient,
    source: String,
    secret: Option<PathBuf>,
    clock: StoreClock,
}

/// An event. The names are those of the specification; `sequence` and `partitionkey` are documented extensions of it.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: jiff::Timestamp,
    datacontenttype: &'static str,
    sequence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitionkey: Option<&'a str>,
    data: &'a RawValue,
}

impl WebhookDestination {
    /// The webhook at the URL of `options`, for records of the log `log`. Requests are signed with the secret in the file, if one is named,
    /// at the second that `clock` estimates.
    pub fn new(
        options: HttpDestinationOptions,
        log: &LogId,
        secret: Option<PathBuf>,
        clock: StoreClock,
    ) -> Result<Self, InvalidDestination> {
        let source = format!("urn:tidemark:log:{log}");
        Ok(Self { client: DestinationClient::new(options)?, source, secret, clock })
    }

    async fn request(&self, batch: &[DeliveryRecord]) -> Result<BatchAnswer, BatchAnswer> {
        let body =
            events(&self.source, batch).map_err(|error| failed(format!("an event cannot be written: {error}")))?;
        let request = self.client.post(self.client.url().clone())?.header(CONTENT_TYPE, CLOUDEVENTS_BATCH);
        let request = self.sign(request, &body)?;
        let answer = send(request.body(body)).await?;
        if !answer.status().is_success() {
            return Ok(refusal(answer).await);
        }
        Ok(BatchAnswer::Answered(vec![RecordVerdict::Delivered; batch.len()]))
    }

    fn sign(&self, request: RequestBuilder, body: &str) -> Result<RequestBuilder, BatchAnswer> {
        let Some(path) = &self.secret else { return Ok(request) };
        let unusable = |why: String| failed(format!("\"{}\" cannot be used as a secret: {why}", path.display()));
        let secret = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let secret = secret.trim_ascii();
        if secret.is_empty() {
            return Err(unusable("it is empty".to_owned()));
        }
        let now = self.clock.rough_estimate().ok_or_else(|| failed("the store's clock was not read yet".to_owned()))?;
        Ok(request.header(SIGNATURE, signature(secret, now.unix(), body)))
    }
}

#[async_trait]
impl Destination for WebhookDestination {
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        self.request(batch).await.unwrap_or_else(|answer| answer)
    }
}

/// The body of a request.
fn events(source: &str, batch: &[DeliveryRecord]) -> serde_json::Result<String> {
    let events: serde_json::Result<Vec<_>> = batch.iter().map(|record| event(source, record)).collect();
    serde_json::to_string(&events?)
}

fn event<'a>(source: &'a str, record: &'a DeliveryRecord) -> serde_json::Result<CloudEvent<'a>> {
    Ok(CloudEvent {
        specversion: "1.0",
        id: format!("{}-{}", record.operation_id(), record.seq()),
        source,
        kind: EVENT_TYPE,
        subject: record.entity.as_deref(),
        time: record.time,
        datacontenttype: "application/json",
        // As text these sort as the numbers do.
        sequence: format!("{:020}", record.seq()),
        partitionkey: record.entity.as_deref(),
        data: serde_json::from_str(&record.json)?,
    })
}

/// `t=SECOND,v1=HEX`: HMAC-SHA256 over the second, a dot and the body.
fn signature(secret: &[u8], second: u64, body: &str) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(format!("{second}.").as_bytes());
    context.update(body.as_bytes());
    format!("t={second},v1={}", hex::encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemark_catalog::ConsumerPosition;
    use tidemark_wal::Token;

    use super::*;

    #[test]
    fn an_event_names_its_record_and_holds_the_change() {
        let token = Token::from_bytes([7; 20]);
        let record = DeliveryRecord {
            position: ConsumerPosition { generation: "g1".parse().unwrap(), seq: 12 },
            token,
            op: 1,
            time: "2026-11-20T10:00:00Z".parse().unwrap(),
            entity: Some("label/models/latest".to_owned()),
            json: "{\"seq\":12}".into(),
        };
        let body = events("urn:tidemark:log:a", std::slice::from_ref(&record)).unwrap();
        let expected = json!([{
            "specversion": "1.0", "id": format!("{token}-1-12"), "source": "urn:tidemark:log:a", "type": "dev.tidemark.change",
            "subject": "label/models/latest", "time": "2026-11-20T10:00:00Z", "datacontenttype": "application/json",
            "sequence": "00000000000000000012", "partitionkey": "label/models/latest", "data": {"seq": 12},
        }]);
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
    }

    #[test]
    fn a_signature_is_that_of_any_other_implementation() {
        // printf '1700000000.[]' | openssl dgst -sha256 -hmac secret
        let expected = "t=1700000000,v1=74f76d8933679a54d6be8c7560a5233b124658241ca5a3b0f09af80d3ea60d78";
        assert_eq!(signature(b"secret", 1_700_000_000, "[]"), expected);
    }
}
