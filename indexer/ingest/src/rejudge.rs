//! A planted fault: a rebuild that decides outcomes again instead of taking the recorded ones.

use tidemark_catalog::SegmentMeta;
use tidemark_wal::{ListedEntry, LogReader, ParameterSchedule};

use crate::{
    engine::{EngineError, IndexEngine, PackedSegment},
    horizon::SealedHorizon,
    record::OperationRecord,
};

/// What the fault needs to do wrong.
#[derive(Clone, Debug)]
pub(crate) struct Rejudge {
    reader: LogReader,
    schedule: Option<ParameterSchedule>,
}

impl Rejudge {
    pub(crate) fn new(reader: &LogReader, sealed: Option<&SealedHorizon>) -> Self {
        Self { reader: reader.clone(), schedule: sealed.map(|sealed| sealed.schedule.clone()) }
    }

    /// The records of `inputs` with outcomes as the store shows them now.
    pub(crate) async fn rebuild(
        &self,
        inputs: &[SegmentMeta],
        engine: &dyn IndexEngine,
    ) -> Result<PackedSegment, EngineError> {
        let mut builder = engine.builder()?;
        for segment in inputs {
            for mut record in engine.records(segment, segment.seq.clone()).await? {
                self.decide_again(&mut record).await;
                builder.add(vec![record]).await?;
            }
        }
        builder.finish().await
    }

    async fn decide_again(&self, record: &mut OperationRecord) {
        let Some(schedule) = &self.schedule else { return };
        let listed = ListedEntry { token: record.token, time: record.decision.entry_time, size: record.size };
        let Ok(resolved) = self.reader.fetch(&listed, schedule).await else { return };
        if let Some(op) = resolved.ops.get(record.op as usize) {
            record.decision = op.decision.clone();
        }
    }
}
