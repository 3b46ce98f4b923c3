//! The steps from one manifest to the next, as pure functions: state in, state out, or refused.

use tidemark_store::InvariantViolation;

use super::state::{
    CompactionResult, GenerationEnd, IndexTotals, LeaseHolder, Manifest, PublishRequest, SegmentMeta, SidecarMeta,
};
use crate::{
    error::TransactionRejected,
    identity::{LogClaim, LogId},
    mutants,
    names::Generation,
};

impl Manifest {
    /// `holder` becomes the writer in the next epoch, provided that the epoch is still the one that it `saw`.
    ///
    /// `hasty` says that the take-over follows shortly after the one before.
    pub fn take_over(&self, saw: u64, holder: LeaseHolder, hasty: bool) -> Result<Self, TransactionRejected> {
        self.open(saw)?;
        let mut next = self.clone();
        next.epoch = self
            .epoch
            .checked_add(1)
            .ok_or_else(|| InvariantViolation { invariant: "there is a next epoch", found: self.epoch.to_string() })?;
        next.hasty_takeovers = if hasty { self.hasty_takeovers.saturating_add(1) } else { 0 };
        next.holder = Some(holder);
        Ok(next)
    }

    /// The writer of `epoch` goes on in the next epoch. What it uploaded and did not publish can never be published afterwards.
    pub fn raise_epoch(&self, epoch: u64) -> Result<Self, TransactionRejected> {
        self.open(epoch)?;
        let holder = self.holder.clone().map(|holder| LeaseHolder { since: None, ..holder });
        let holder = holder.ok_or(TransactionRejected::Fenced { epoch, by: self.epoch })?;
        self.take_over(epoch, holder, false)
    }

    /// The generation, of the index at `index`, holds the records of the log of `claim`. Refused if it holds another log's, or
    /// if it was written before and does not say whose.
    pub fn with_claim(mut self, index: &str, claim: &LogClaim) -> Result<Self, TransactionRejected> {
        let fresh = self.claim.is_none() && self.epoch <= 1;
        if !fresh {
            self.require_log(index, Some(&claim.log))?;
        }
        self.claim = Some(claim.clone());
        Ok(self)
    }

    /// Refused unless the generation, of the index at `index`, holds the records of the log `id`.
    pub(crate) fn require_log(&self, index: &str, id: Option<&LogId>) -> Result<(), TransactionRejected> {
        let url = index.to_owned();
        match &self.claim {
            _ if mutants::is_same_log(self.belongs_to_log(id)) => Ok(()),
            None => Err(TransactionRejected::Unclaimed { url }),
            Some(LogClaim { url: log, owner, .. }) => {
                Err(TransactionRejected::OfAnotherLog { url, log: log.clone(), owner: owner.to_string() })
            }
        }
    }

    /// The writer of `epoch` releases the index, so that any candidate may take it over at once.
    pub fn release(&self, epoch: u64) -> Result<Self, TransactionRejected> {
        self.open(epoch)?;
        Ok(Self { holder: None, hasty_takeovers: 0, ..self.clone() })
    }

    /// The writer of `epoch` publishes.
    pub fn publish(&self, epoch: u64, publication: &PublishRequest) -> Result<Self, TransactionRejected> {
        self.open(epoch)?;
        self.continues(publication)?;
        let mut next = self.clone();
        next.hasty_takeovers = 0;
        next.horizon = self.horizon.max(publication.horizon);
        next.cursor = publication.to;
        next.next_seq = publication.first_seq.saturating_add(publication.records);
        next.segments.extend_from_slice(&publication.segments);
        next.sidecars.extend_from_slice(&publication.sidecars);
        Ok(next.summed())
    }

    /// The writer of `epoch` replaces objects by others with the same records, seqs and marks.
    pub fn adopt(&self, epoch: u64, compaction: &CompactionResult) -> Result<Self, TransactionRejected> {
        self.open(epoch)?;
        let mut next = self.clone();
        let segments = take(&mut next.segments, &compaction.removes, |segment| &segment.key)?;
        let sidecars = take(&mut next.sidecars, &compaction.removes_sidecars, |sidecar| &sidecar.key)?;
        same_records(&segments, &compaction.adds)?;
        same_marks(&sidecars, &compaction.adds_sidecars)?;
        next.segments.extend_from_slice(&compaction.adds);
        next.segments.sort_by_key(|segment| segment.seq.start);
        next.sidecars.extend_from_slice(&compaction.adds_sidecars);
        Ok(next.summed())
    }

    /// The writer of `epoch` ends the generation in favour of `successor`, whose manifest must record the same.
    pub fn close(&self, epoch: u64, successor: &Self) -> Result<Self, TransactionRejected> {
        self.open(epoch)?;
        let differs = |what: &str| TransactionRejected::NotASuccessor {
            successor: successor.generation.clone(),
            what: what.to_owned(),
        };
        if successor.generation == self.generation {
            return Err(differs("generation (it is this one)"));
        }
        let log = |manifest: &Self| manifest.claim.as_ref().map(|claim| claim.log.clone());
        for (what, same) in [
            ("log", log(successor) == log(self)),
            ("cursor", successor.cursor == self.cursor),
            ("next seq", successor.next_seq == self.next_seq),
            ("set digest", successor.totals.standing_digest() == self.totals.standing_digest()),
        ] {
            same.then_some(()).ok_or_else(|| differs(what))?;
        }
        Ok(self.closed_by(successor.generation.clone()))
    }

    fn closed_by(&self, successor: Generation) -> Self {
        Self { holder: None, closed: Some(GenerationEnd::Successor(successor)), ..self.clone() }
    }

    /// The writer of `epoch` ends the index for good: it holds nothing any more, so that all its objects may be deleted.
    pub fn purge(&self, epoch: u64) -> Result<Self, TransactionRejected> {
        self.open(epoch)?;
        let ended = Self {
            claim: self.claim.clone(),
            epoch: self.epoch,
            horizon: self.horizon,
            cursor: self.cursor,
            next_seq: self.next_seq,
            closed: Some(GenerationEnd::Purged),
            ..Self::new(self.generation.clone())
        };
        Ok(ended)
    }

    /// Whether the writer of `epoch` may write.
    fn open(&self, epoch: u64) -> Result<(), TransactionRejected> {
        if self.epoch != epoch {
            return Err(TransactionRejected::Fenced { epoch, by: self.epoch });
        }
        self.not_closed()
    }

    pub(crate) fn not_closed(&self) -> Result<(), TransactionRejected> {
        match &self.closed {
            Some(GenerationEnd::Successor(successor)) => {
                Err(TransactionRejected::Closed { successor: successor.clone() })
            }
            Some(GenerationEnd::Purged) => Err(TransactionRejected::Purged { generation: self.generation.clone() }),
            None => Ok(()),
        }
    }

    fn continues(&self, publication: &PublishRequest) -> Result<(), TransactionRejected> {
        let PublishRequest { from, to, horizon, first_seq, records, .. } = *publication;
        if let Some(until) = self.until {
            return Err(TransactionRejected::NotPromoted { until });
        }
        if from != self.cursor || to < from {
            return Err(TransactionRejected::NotContiguous { from, cursor: self.cursor });
        }
        let horizon = self.horizon.max(horizon);
        if to.second() > horizon {
            return Err(TransactionRejected::BeyondHorizon { to, horizon });
        }
        if first_seq != self.next_seq {
            return Err(TransactionRejected::SeqNotContiguous { first: first_seq, next: self.next_seq });
        }
        let held: u64 = publication.segments.iter().map(|segment| segment.documents).fold(0, u64::saturating_add);
        Ok(InvariantViolation::unless(held == records, "a publication's records are those of its segments", || {
            format!("{records} records, {held} in segments")
        })?)
    }

    fn summed(mut self) -> Self {
        self.totals = IndexTotals::of(&self.segments, &self.sidecars);
        self
    }
}

/// Takes the items with these keys out of `items`; refused unless each is there once.
fn take<T>(items: &mut Vec<T>, keys: &[String], key: impl Fn(&T) -> &String) -> Result<Vec<T>, TransactionRejected> {
    let mut taken = Vec::with_capacity(keys.len());
    for wanted in keys {
        let at = items.iter().position(|item| key(item) == wanted);
        let at = at.ok_or_else(|| TransactionRejected::NotReferenced { key: wanted.clone() })?;
        taken.push(items.remove(at));
    }
    Ok(taken)
}

fn same_records(removed: &[SegmentMeta], added: &[SegmentMeta]) -> Result<(), InvariantViolation> {
    let (before, after) = (IndexTotals::of(removed, &[]), IndexTotals::of(added, &[]));
    let same = before.records == after.records && before.counts == after.counts && before.digest == after.digest;
    InvariantViolation::unless(same, "a compaction keeps every record", || format!("{after:?} instead of {before:?}"))
}

fn same_marks(removed: &[SidecarMeta], added: &[SidecarMeta]) -> Result<(), InvariantViolation> {
    let (before, after) = (IndexTotals::of(&[], removed), IndexTotals::of(&[], added));
    let outdated = |sidecars: &[SidecarMeta]| sidecars.iter().map(|s| s.outdated).fold(0, u64::saturating_add);
    let same = before.corrected_counts == after.corrected_counts
        && before.corrected_digest == after.corrected_digest
        && outdated(added) <= outdated(removed)
        && (outdated(added) > 0) == (outdated(removed) > 0);
    InvariantViolation::unless(same, "a compaction keeps every mark", || format!("{added:?} instead of {removed:?}"))
}
