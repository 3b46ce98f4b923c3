//! The steps from one manifest to the next, as pure functions: state in, state out, or refused.

use tidemark_store::InvariantViolation;

use super::state::{
    CompactionResult, EndReason, GenerationEnd, IndexTotals, LeaseHolder, Manifest, PublishRequest, SegmentMeta,
    SidecarMeta,
};
use crate::{
    error::TransactionRejected,
    identity::{LogClaim, LogIdentity},
    mutants,
};

impl Manifest {
    /// `holder` becomes the writer in the next epoch, provided that the epoch is still the one that it `saw`.
    ///
    /// `hasty` says that the take-over follows shortly after the one before.
    pub fn take_over(&self, saw: u64, holder: LeaseHolder, hasty: bool) -> Result<Self, TransactionRejected> {
        self.check_epoch(saw)?;
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
        self.check_epoch(epoch)?;
        let holder = self.holder.clone().map(|holder| LeaseHolder { since: None, ..holder });
        let holder = holder.ok_or(TransactionRejected::Fenced { epoch, by: self.epoch })?;
        self.take_over(epoch, holder, false)
    }

    /// The generation, of the index at `index`, holds the records of `log`, for which the writer makes `claim`. Refused if it holds
    /// another log's, if that log was elsewhere, or if it was written before and does not say whose.
    pub fn with_claim(mut self, index: &str, log: &LogIdentity, claim: &LogClaim) -> Result<Self, TransactionRejected> {
        let fresh = self.claim.is_none() && self.epoch <= 1;
        if !fresh {
            self.require_log(index, log)?;
        }
        self.claim = Some(claim.clone());
        Ok(self)
    }

    /// Refused unless the generation, of the index at `index`, holds the records of `log`, and claims it where it is.
    pub fn require_log(&self, index: &str, log: &LogIdentity) -> Result<(), TransactionRejected> {
        mutants::log_refusal(self.refusal_of_log(index, log)).map_or(Ok(()), Err)
    }

    fn refusal_of_log(&self, index: &str, log: &LogIdentity) -> Option<TransactionRejected> {
        let url = index.to_owned();
        let same = self.belongs_to_log(log.id.as_ref());
        match &self.claim {
            Some(claim) if same && !log.is_at(claim) => {
                Some(TransactionRejected::LogMoved { url, log: log.url.clone(), claimed: claim.url.clone() })
            }
            _ if same => None,
            None => Some(TransactionRejected::Unclaimed { url }),
            Some(LogClaim { url: log, owner, .. }) => {
                Some(TransactionRejected::OfAnotherLog { url, log: log.clone(), owner: owner.to_string() })
            }
        }
    }

    /// The writer of `epoch` releases the index, so that any candidate may take it over at once.
    pub fn release(&self, epoch: u64) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        Ok(Self { holder: None, hasty_takeovers: 0, ..self.clone() })
    }

    /// The writer of `epoch` publishes.
    pub fn publish(&self, epoch: u64, publication: &PublishRequest) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        self.continues(publication)?;
        let mut next = self.clone();
        next.hasty_takeovers = 0;
        next.horizon = self.horizon.max(publication.horizon);
        next.cursor = publication.to;
        next.audited = self.audited.max(publication.audited);
        next.next_seq = publication.first_seq.saturating_add(publication.records);
        next.segments.extend_from_slice(&publication.segments);
        next.sidecars.extend_from_slice(&publication.sidecars);
        settle(&mut next.segments, &publication.settled)?;
        Ok(next.summed())
    }

    /// The writer of `epoch` replaces objects by others with the same records, seqs and marks.
    pub fn adopt(&self, epoch: u64, compaction: &CompactionResult) -> Result<Self, TransactionRejected> {
        self.check_epoch(epoch)?;
        let mut next = self.clone();
        let segments = take(&mut next.segments, &compaction.removes, |segment| &segment.key)?;
        let sidecars = take(&mut next.sidecars, &compaction.removes_sidecars, |sidecar| &sidecar.key)?;
        same_records(&segments, &compaction.adds)?;
        same_marks(&sidecars, &compaction.adds_sidecars)?;
        for added in &compaction.adds {
            next.segments.push(SegmentMeta { unsettled: unsettled_now(added, &segments)?, ..added.clone() });
        }
        next.segments.sort_by_key(|segment| segment.seq.start);
        next.sidecars.extend_from_slice(&compaction.adds_sidecars);
        next.sidecars.sort_by_key(|sidecar| sidecar.causes.start);
        Ok(next.summed())
    }

    /// Refused unless `epoch` is the one in force and the generation is not closed.
    pub(crate) fn check_epoch(&self, epoch: u64) -> Result<(), TransactionRejected> {
        if self.epoch != epoch {
            return Err(TransactionRejected::Fenced { epoch, by: self.epoch });
        }
        self.not_closed()
    }

    pub(crate) fn not_closed(&self) -> Result<(), TransactionRejected> {
        let generation = self.generation.clone();
        match &self.closed {
            None => Ok(()),
            Some(GenerationEnd { generation: Some(successor), .. }) => {
                Err(TransactionRejected::Closed { successor: successor.clone() })
            }
            Some(GenerationEnd { by: EndReason::Abandoned, .. }) => Err(TransactionRejected::Abandoned { generation }),
            Some(_) => Err(TransactionRejected::Purged { generation }),
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
        InvariantViolation::unless(held == records, "a publication's records are those of its segments", || {
            format!("{records} records, {held} in segments")
        })?;
        let causes = first_seq..first_seq.saturating_add(records);
        let foreign = publication.sidecars.iter().find(|sidecar| sidecar.causes != causes);
        Ok(InvariantViolation::unless(foreign.is_none(), "a publication's marks are caused by its records", || {
            format!("{foreign:?} of records {causes:?}")
        })?)
    }

    pub(super) fn summed(mut self) -> Self {
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

/// Counts the records with these seqs, which corrections replace, out of what is unsettled in their segments.
pub(super) fn settle(segments: &mut [SegmentMeta], seqs: &[u64]) -> Result<(), InvariantViolation> {
    for seq in seqs {
        let at = segments.partition_point(|segment| segment.seq.end <= *seq);
        let segment = segments.get_mut(at).filter(|segment| segment.seq.contains(seq));
        let left = segment.and_then(|segment| Some((segment.unsettled.checked_sub(1)?, segment)));
        let (left, segment) = left.ok_or_else(|| InvariantViolation {
            invariant: "only unsettled records are settled",
            found: format!("seq {seq}"),
        })?;
        segment.unsettled = left;
    }
    Ok(())
}

/// How many records of `added` are unsettled by now: corrections may have been published since its inputs were read.
fn unsettled_now(added: &SegmentMeta, removed: &[SegmentMeta]) -> Result<u64, InvariantViolation> {
    let inputs = removed.iter().filter(|input| input.seq.start < added.seq.end && added.seq.start < input.seq.end);
    inputs.into_iter().try_fold(0, |unsettled, input| {
        let whole = added.seq.start <= input.seq.start && input.seq.end <= added.seq.end;
        InvariantViolation::unless(whole, "a compaction does not cut a segment", || {
            format!("{:?} of {:?} in {:?}", input.key, input.seq, added.seq)
        })?;
        Ok(input.unsettled.saturating_add(unsettled))
    })
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
        && outdated(added) == outdated(removed);
    InvariantViolation::unless(same, "a compaction keeps every mark", || format!("{added:?} instead of {removed:?}"))?;
    let (before, after) = (causes(removed), causes(added));
    InvariantViolation::unless(before == after, "a compaction keeps what caused the marks", || {
        format!("{after:?} instead of {before:?}")
    })
}

/// From the first to the last seq that caused marks of `sidecars`.
fn causes(sidecars: &[SidecarMeta]) -> Option<(u64, u64)> {
    let first = sidecars.iter().map(|sidecar| sidecar.causes.start).min()?;
    Some((first, sidecars.iter().map(|sidecar| sidecar.causes.end).max()?))
}
