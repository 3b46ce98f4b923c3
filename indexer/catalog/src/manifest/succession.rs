//! The steps by which one generation takes the place of another one, and by which a generation ends, as pure functions.

use tidemark_store::{InvariantViolation, StoreSecond};

use super::{
    state::{CopyRequest, EndReason, GenerationEnd, IndexTotals, Manifest},
    transactions::settle,
};
use crate::{error::TransactionRejected, mutants, names::Generation};

impl Manifest {
    /// The writer of `epoch` adds what it copied to a generation that is being built.
    pub fn copy(&self, epoch: u64, copied: &CopyRequest) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        if self.building.is_none() {
            return Err(TransactionRejected::NotBuilding { generation: self.generation.clone() });
        }
        self.with_copied(copied)
    }

    /// The writer of `epoch` adds to a restored generation what was recorded after the time that it was restored to, all in one: it takes
    /// publications from now on. `task` is the name of the task that does so, if it has one.
    pub fn promote(&self, epoch: u64, copied: &CopyRequest, task: Option<&str>) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        if self.until.is_none() {
            return Err(TransactionRejected::NotRestored { generation: self.generation.clone() });
        }
        let promoted = self.with_copied(&CopyRequest { until: None, ..copied.clone() })?;
        Ok(Self { promoted_by: task.map(str::to_owned), ..promoted })
    }

    /// What the generation would be with `copied`: a draft of what is not published yet.
    pub fn draft(&self, copied: &CopyRequest) -> Result<Self, TransactionRejected> {
        self.with_copied(copied)
    }

    /// The maker of `epoch` is done: the generation is the index.
    pub fn finish(&self, epoch: u64) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        Ok(self.clone().built())
    }

    /// The writer of `epoch` ends the generation in favour of `successor`, whose manifest must record the same.
    pub fn close(&self, epoch: u64, successor: &Self) -> Result<Self, TransactionRejected> {
        self.check_successor(epoch, successor)?;
        let (ours, theirs) = (&self.totals, &successor.totals);
        let of_records = |of: &IndexTotals| (of.records, of.counts, of.digest);
        let of_corrected = |of: &IndexTotals| (of.corrected_counts, of.corrected_digest);
        for (what, same) in [
            ("cursor", successor.cursor == self.cursor),
            ("next seq", successor.next_seq == self.next_seq),
            ("set digest", of_records(theirs) == of_records(ours) && of_corrected(theirs) == of_corrected(ours)),
            ("time that it was restored to", successor.until == self.until),
        ] {
            mutants::is_same_index(same).then_some(()).ok_or_else(|| not_a_successor(successor, what))?;
        }
        Ok(self.ended(Some(successor.generation.clone()), EndReason::Reindex))
    }

    /// The writer of `epoch` ends the generation in favour of `successor`, which was restored to the second `to`.
    pub fn close_for_restore(
        &self,
        epoch: u64,
        successor: &Self,
        to: StoreSecond,
    ) -> Result<Self, TransactionRejected> {
        self.check_successor(epoch, successor)?;
        if successor.until != Some(to) {
            return Err(not_a_successor(successor, "time that it was restored to"));
        }
        Ok(self.ended(Some(successor.generation.clone()), EndReason::Restore { to }))
    }

    /// The writer of `epoch` gives up the generation, which was being built and never opened.
    pub fn abandon(&self, epoch: u64) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        Ok(self.ended(None, EndReason::Abandoned))
    }

    /// The writer of `epoch` ends the index for good: it holds nothing any more, so that all its objects may be deleted.
    pub fn purge(&self, epoch: u64) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        let ended = Self {
            id: self.id.clone(),
            claim: self.claim.clone(),
            epoch: self.epoch,
            horizon: self.horizon,
            cursor: self.cursor,
            audited: self.audited,
            next_seq: self.next_seq,
            closed: Some(GenerationEnd { generation: None, by: EndReason::Purge }),
            ext: self.ext.clone(),
            ..Self::new(self.generation.clone())
        };
        Ok(ended)
    }

    /// Refused unless `successor` is another generation of the same log that is not closed.
    fn check_successor(&self, epoch: u64, successor: &Self) -> Result<(), TransactionRejected> {
        self.check_epoch(epoch)?;
        let log = |manifest: &Self| manifest.claim.as_ref().map(|claim| claim.log.clone());
        for (what, sound) in [
            ("state (it is closed)", successor.closed.is_none()),
            ("generation (it is this one)", successor.generation != self.generation),
            ("log", log(successor) == log(self)),
            ("index id", successor.id == self.id),
        ] {
            sound.then_some(()).ok_or_else(|| not_a_successor(successor, what))?;
        }
        Ok(())
    }

    fn ended(&self, generation: Option<Generation>, by: EndReason) -> Self {
        Self { holder: None, closed: Some(GenerationEnd { generation, by }), ..self.clone() }
    }

    /// With `copied`, which continues the seqs.
    fn with_copied(&self, copied: &CopyRequest) -> Result<Self, TransactionRejected> {
        let CopyRequest { first_seq, records, segments, sidecars, settled, cursor, horizon, audited, until } = copied;
        if *first_seq != self.next_seq {
            return Err(TransactionRejected::SeqNotContiguous { first: *first_seq, next: self.next_seq });
        }
        let held: u64 = segments.iter().map(|segment| segment.documents).fold(0, u64::saturating_add);
        InvariantViolation::unless(held == *records, "the records of a copy are those of its segments", || {
            format!("{records} records, {held} in segments")
        })?;
        let mut next = self.clone();
        next.next_seq = first_seq.saturating_add(*records);
        next.segments.extend_from_slice(segments);
        next.sidecars.extend_from_slice(sidecars);
        settle(&mut next.segments, settled)?;
        (next.cursor, next.horizon, next.audited) = (*cursor, *horizon, *audited);
        next.until = *until;
        Ok(next.summed())
    }
}

fn not_a_successor(successor: &Manifest, what: &str) -> TransactionRejected {
    TransactionRejected::NotASuccessor { successor: successor.generation.clone(), what: what.to_owned() }
}
