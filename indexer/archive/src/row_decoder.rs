//! Rows from a batch of columns.

use std::{fmt::Display, str::FromStr};

use arrow_array::{
    Array, BinaryArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use serde::{
    Deserialize as _,
    de::{DeserializeOwned, IntoDeserializer as _, value},
};
use tidemark_catalog::{BodyDigest, SetElement};
use tidemark_ingest::{EntryBody, ObjectBytes, OperationRecord};
use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, Outcome, OutcomeDecision, Token};

use crate::row::{ArchiveRow, MAX_RECORD_DESCRIPTOR_BYTES};

/// The columns of a batch, whose rows are read one by one. Every error says which column is wrong.
pub(crate) struct RowDecoder<'a>(&'a RecordBatch);

/// What the digest and the counts of the table say of a row.
pub(crate) struct RowSummary {
    pub(crate) element: SetElement,
    /// Whether the body, if it stands in the row, is of the digest that the row gives.
    pub(crate) body_fits: bool,
}

impl<'a> RowDecoder<'a> {
    pub(crate) fn new(batch: &'a RecordBatch) -> Self {
        Self(batch)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.num_rows()
    }

    /// The token of the row at `index`; its other columns are not read.
    pub(crate) fn token(&self, index: usize) -> Result<Token, String> {
        CellReader { batch: self.0, index }.parsed("token")
    }

    /// The row at `index` as it was archived.
    pub(crate) fn row(&self, index: usize) -> Result<ArchiveRow, String> {
        let of = CellReader { batch: self.0, index };
        let SetElement { token, op, outcome, evidence, body: digest } = self.element(index)?;
        let body = match (of.bytes("entry_bytes")?, digest) {
            (Some(bytes), _) => EntryBody::of(bytes),
            (None, Some(digest)) => EntryBody::Digest(digest),
            (None, None) => EntryBody::Unread,
        };
        let (descriptor_body, large_descriptor) = match of.bytes("descriptor_bytes")? {
            Some(bytes) if bytes.len() > MAX_RECORD_DESCRIPTOR_BYTES => (None, Some(bytes)),
            bytes => (bytes.map(ObjectBytes), None),
        };
        let body_stands = body.bytes().is_some();
        let mut record = OperationRecord {
            seq: of.count("seq")?,
            token,
            op,
            kind: of.parsed("kind")?,
            decision: OutcomeDecision {
                outcome,
                evidence,
                entry_time: of.time("entry_time")?.ok_or("\"entry_time\" is absent")?,
                completed: of.time("completed_time")?,
                observations: of.json("observations")?.unwrap_or_default(),
                guard: of.json("guard")?,
            },
            entity: of.name("entity")?,
            repo: of.name("repo")?,
            bundle: of.name("bundle")?,
            label: of.name("label")?,
            context: of.name("context")?,
            diamond: of.name("diamond")?,
            split: of.name("split")?,
            path: of.name("path")?,
            message: of.name("message")?,
            contributors: of.json("contributors")?.unwrap_or_default(),
            client_time: of.text("client_time")?.map(|text| parsed("client_time", text)).transpose()?,
            size: of.count("size")?,
            files: of.json("files")?,
            leaf_size: of.unsigned("leaf_size")?,
            count: of.unsigned("count")?,
            writer: of.name("writer")?,
            idempotency_key: of.name("idempotency_key")?,
            expectation: of.json("expectation")?,
            reason: of.name("reason")?,
            // These follow from the bytes where the bytes stand.
            text: if body_stands { None } else { of.name("text")? },
            payload: if body_stands { None } else { of.json("payload")? }.unwrap_or_default(),
            descriptor: if descriptor_body.is_some() { None } else { of.json("descriptor")? }.unwrap_or_default(),
            body,
            descriptor_body,
            // The archive has it.
            was_unreadable: false,
        };
        record.parse_bytes();
        Ok(ArchiveRow { generation: of.parsed("generation")?, record, large_descriptor })
    }

    /// What the digest and the counts say of the row at `index`; its other columns are not read.
    pub(crate) fn summary(&self, index: usize) -> Result<RowSummary, String> {
        let element = self.element(index)?;
        let cell = CellReader { batch: self.0, index };
        let body_fits = match cell.cell::<BinaryArray>("entry_bytes")? {
            Some(bytes) => Some(BodyDigest::of(bytes.value(index))) == element.body,
            None => true,
        };
        Ok(RowSummary { element, body_fits })
    }

    fn element(&self, index: usize) -> Result<SetElement, String> {
        let of = CellReader { batch: self.0, index };
        let outcome = of.required("outcome")?;
        let outcome = Outcome::ALL.into_iter().find(|known| known.as_str() == outcome);
        let evidence = match of.text("evidence")? {
            Some(text) => Some(evidence(text).ok_or_else(|| format!("\"{text}\" is no evidence"))?),
            None => None,
        };
        let op = of.cell::<Int32Array>("op")?.ok_or("\"op\" is absent")?.value(index);
        Ok(SetElement {
            token: of.parsed::<Token>("token")?,
            op: u32::try_from(op).map_err(|error| error.to_string())?,
            outcome: outcome.ok_or("its outcome is unknown")?,
            evidence,
            body: of.text("entry_sha256")?.map(body_digest).transpose()?,
        })
    }
}

fn evidence(text: &str) -> Option<Evidence> {
    [Evidence::Bound, Evidence::Timed, Evidence::Inferred].into_iter().find(|known| known.as_str() == text)
}

fn body_digest(text: &str) -> Result<BodyDigest, String> {
    let text: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
    BodyDigest::deserialize(text).map_err(|error| error.to_string())
}

fn parsed<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("\"{name}\": {error}"))
}

/// One row's cells, by the name of the column.
struct CellReader<'a> {
    batch: &'a RecordBatch,
    index: usize,
}

impl<'a> CellReader<'a> {
    /// The column if the row has a value in it.
    fn cell<A: Array + 'static>(&self, name: &str) -> Result<Option<&'a A>, String> {
        let column = self.batch.column_by_name(name).ok_or_else(|| format!("there is no column \"{name}\""))?;
        let column = column.as_any().downcast_ref::<A>();
        let column = column.ok_or_else(|| format!("the column \"{name}\" is of another type"))?;
        Ok(column.is_valid(self.index).then_some(column))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        Ok(self.cell::<StringArray>(name)?.map(|column| column.value(self.index)))
    }

    fn required(&self, name: &str) -> Result<&'a str, String> {
        self.text(name)?.ok_or_else(|| format!("\"{name}\" is absent"))
    }

    fn name(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.text(name)?.map(str::to_owned))
    }

    fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, String> {
        parsed(name, self.required(name)?)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let value = self.text(name)?.map(serde_json::from_str).transpose();
        value.map_err(|error| format!("\"{name}\": {error}"))
    }

    fn bytes(&self, name: &str) -> Result<Option<Bytes>, String> {
        Ok(self.cell::<BinaryArray>(name)?.map(|column| Bytes::copy_from_slice(column.value(self.index))))
    }

    /// A number that is never negative.
    fn count(&self, name: &str) -> Result<u64, String> {
        let value = self.cell::<Int64Array>(name)?.ok_or_else(|| format!("\"{name}\" is absent"))?.value(self.index);
        u64::try_from(value).map_err(|error| format!("\"{name}\": {error}"))
    }

    fn unsigned(&self, name: &str) -> Result<Option<u64>, String> {
        let value = self.cell::<Decimal128Array>(name)?.map(|column| u64::try_from(column.value(self.index)));
        value.transpose().map_err(|error| format!("\"{name}\": {error}"))
    }

    fn time(&self, name: &str) -> Result<Option<StoreSecond>, String> {
        let Some(column) = self.cell::<TimestampMicrosecondArray>(name)? else { return Ok(None) };
        let micros = u64::try_from(column.value(self.index)).map_err(|error| format!("\"{name}\": {error}"))?;
        Ok(Some(StoreSecond::from_unix(micros / 1_000_000)))
    }
}
