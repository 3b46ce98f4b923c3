//! Rows as a batch of columns.

use std::{borrow::Cow, sync::Arc};

use arrow_array::{
    ArrayRef, BinaryArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use serde::Serialize;
use serde_json::Value;
use tidemark_ingest::OperationRecord;
use tidemark_store::StoreSecond;
use tidemark_wal::Evidence;

use crate::{
    columns::ARROW_SCHEMA,
    error::{ArchiveError, RowRejected},
    row::ArchiveRow,
};

/// The microseconds of a second.
const MICROS: u64 = 1_000_000;

/// The columns of `rows`, in the order of the schema.
pub(crate) fn encode_rows(rows: &[ArchiveRow]) -> Result<RecordBatch, ArchiveError> {
    let columns = RowEncoder(rows);
    let columns = vec![
        columns.text(|row| Some(row.record.token.to_string().into())),
        Arc::new(columns.numbers(|record| i32::try_from(record.op).ok())?.into_iter().collect::<Int32Array>()),
        columns.times(|record| Some(record.token.second()))?,
        columns.text(|row| Some(row.generation.to_string().into())),
        columns.longs(|record| record.seq)?,
        columns.text(|row| Some(row.record.kind.as_str().into())),
        columns.text(|row| Some(row.record.decision.outcome.as_str().into())),
        columns.text(|row| row.record.decision.evidence.map(Evidence::as_str).map(Cow::from)),
        columns.times(|record| Some(record.decision.entry_time))?,
        columns.times(|record| record.decision.completed)?,
        columns.json(|record| Some(&record.decision.observations).filter(|found| !found.is_empty()))?,
        columns.name(|record| &record.entity),
        columns.name(|record| &record.repo),
        columns.name(|record| &record.bundle),
        columns.name(|record| &record.label),
        columns.name(|record| &record.context),
        columns.name(|record| &record.diamond),
        columns.name(|record| &record.split),
        columns.name(|record| &record.path),
        columns.name(|record| &record.message),
        columns.json(|record| Some(&record.contributors).filter(|found| !found.is_empty()))?,
        columns.text(|row| row.record.client_time.map(|time| time.to_string().into())),
        columns.unsigned(|record| record.leaf_size)?,
        columns.unsigned(|record| record.count)?,
        columns.name(|record| &record.writer),
        columns.name(|record| &record.idempotency_key),
        columns.name(|record| &record.reason),
        columns.name(|record| &record.text),
        columns.value(|record| &record.payload),
        columns.value(|record| &record.descriptor),
        columns.json(|record| record.files.as_ref())?,
        columns.longs(|record| record.size)?,
        columns.text(|row| row.record.body.digest().map(|digest| digest.to_string().into())),
        columns.bytes(|row| row.record.body.bytes()),
        columns.bytes(ArchiveRow::descriptor_bytes),
        columns.json(|record| record.decision.guard.as_ref())?,
        columns.json(|record| record.expectation.as_ref())?,
    ];
    RecordBatch::try_new(Arc::clone(&ARROW_SCHEMA), columns).map_err(|error| ArchiveError::codec("encode rows", &error))
}

/// What makes a column of each row's value.
struct RowEncoder<'a>(&'a [ArchiveRow]);

impl<'a> RowEncoder<'a> {
    fn text(&self, value: impl Fn(&'a ArchiveRow) -> Option<Cow<'a, str>>) -> ArrayRef {
        Arc::new(self.0.iter().map(value).collect::<StringArray>())
    }

    fn name(&self, value: impl Fn(&'a OperationRecord) -> &'a Option<String>) -> ArrayRef {
        self.text(|row| value(&row.record).as_deref().map(Cow::from))
    }

    /// A value as JSON; nothing for `null`.
    fn value(&self, value: impl Fn(&'a OperationRecord) -> &'a Value) -> ArrayRef {
        self.text(|row| Some(value(&row.record)).filter(|value| !value.is_null()).map(|value| value.to_string().into()))
    }

    fn json<T: Serialize + 'a>(
        &self,
        value: impl Fn(&'a OperationRecord) -> Option<&'a T>,
    ) -> Result<ArrayRef, ArchiveError> {
        let texts = self.0.iter().map(|row| value(&row.record).map(serde_json::to_string).transpose());
        let texts: Result<StringArray, _> = texts.collect();
        Ok(Arc::new(texts.map_err(|error| ArchiveError::codec("write JSON", &error))?))
    }

    fn bytes(&self, value: impl Fn(&'a ArchiveRow) -> Option<&'a [u8]>) -> ArrayRef {
        Arc::new(self.0.iter().map(value).collect::<BinaryArray>())
    }

    fn longs(&self, value: impl Fn(&OperationRecord) -> u64) -> Result<ArrayRef, ArchiveError> {
        let longs = self.numbers(|record| i64::try_from(value(record)).ok())?;
        Ok(Arc::new(longs.into_iter().collect::<Int64Array>()))
    }

    fn times(&self, value: impl Fn(&OperationRecord) -> Option<StoreSecond>) -> Result<ArrayRef, ArchiveError> {
        let micros =
            |second: StoreSecond| second.unix().checked_mul(MICROS).and_then(|micros| i64::try_from(micros).ok());
        let times = self.numbers(|record| value(record).map_or(Some(None), |second| micros(second).map(Some)))?;
        let times: TimestampMicrosecondArray = times.into_iter().collect();
        Ok(Arc::new(times.with_timezone("UTC")))
    }

    fn unsigned(&self, value: impl Fn(&OperationRecord) -> Option<u64>) -> Result<ArrayRef, ArchiveError> {
        let numbers: Decimal128Array = self.0.iter().map(|row| value(&row.record).map(i128::from)).collect();
        let numbers = numbers.with_precision_and_scale(20, 0);
        Ok(Arc::new(numbers.map_err(|error| ArchiveError::codec("encode rows", &error))?))
    }

    /// Numbers, each of which must fit its column.
    fn numbers<T>(&self, number: impl Fn(&OperationRecord) -> Option<T>) -> Result<Vec<T>, RowRejected> {
        let fitted = self.0.iter().map(|row| {
            let OperationRecord { token, op, .. } = row.record;
            number(&row.record).ok_or(RowRejected::Unfit { token, op, why: "a number is too large for its column" })
        });
        fitted.collect()
    }
}
