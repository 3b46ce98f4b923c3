//! What must hold of every manifest, and of every step from one to the next. Checked before each write.

use std::collections::BTreeSet;

use tidemark_store::{ChainState, InvariantViolation, StateExtensions, StoreSecond};

use super::state::{EndReason, FIRST_SEQ, GenerationEnd, IndexTotals, Manifest, SegmentMeta, SidecarMeta, keys};
use crate::{
    error::TransactionRejected,
    names::{ObjectKind, ObjectName},
};

impl ChainState for Manifest {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        if let Some(holder) = &mut self.holder {
            holder.since.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        check_state(self)
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        check_transition(before, self)
    }
}

/// What must hold of one manifest.
fn check_state(state: &Manifest) -> Result<(), InvariantViolation> {
    InvariantViolation::unless(
        state.cursor.second() <= state.horizon,
        "the cursor stays at or below the horizon",
        || format!("cursor {} above horizon {}", state.cursor, state.horizon),
    )?;
    InvariantViolation::unless(
        state.audited <= state.cursor.second(),
        "the audit stays at or below the cursor",
        || format!("audited {} above cursor {}", state.audited, state.cursor),
    )?;
    end_is_sound(state)?;
    if state.is_purged() {
        return holds_nothing(state);
    }
    seqs_are_dense(&state.segments, state.next_seq)?;
    state.segments.iter().try_for_each(check_segment)?;
    state.sidecars.iter().try_for_each(check_sidecar)?;
    causes_ascend(&state.sidecars, state.next_seq)?;
    totals_add_up(state)?;
    names_are_unique(state)
}

/// What must hold of the step from `before` to `after`.
fn check_transition(before: &Manifest, after: &Manifest) -> Result<(), InvariantViolation> {
    InvariantViolation::unless(before.closed.is_none(), "nothing follows the closing record", || {
        "a further record".to_owned()
    })?;
    InvariantViolation::unless(before.generation == after.generation, "a chain has one generation", || {
        format!("\"{}\" after \"{}\"", after.generation, before.generation)
    })?;
    let of_task = |manifest: &Manifest| (manifest.building.clone(), manifest.replaces.clone());
    let same = of_task(after) == (None, None) || of_task(after) == of_task(before);
    InvariantViolation::unless(same, "the first record says who builds the generation", || {
        format!("{:?} after {:?}", of_task(after), of_task(before))
    })?;
    let log = |manifest: &Manifest| manifest.claim.as_ref().map(|claim| claim.log.clone());
    let same = log(before).is_none() || log(before) == log(after);
    InvariantViolation::unless(same, "an index holds the records of one log", || {
        format!("{:?} after {:?}", after.claim, before.claim)
    })?;
    let same = before.id.is_none() || before.id == after.id;
    InvariantViolation::unless(same, "the id of an index never changes", || {
        format!("{:?} after {:?}", after.id, before.id)
    })?;
    never_back("the epoch", &before.epoch, &after.epoch)?;
    never_back("the horizon", &before.horizon, &after.horizon)?;
    never_back("the cursor", &before.cursor, &after.cursor)?;
    never_back("the audit", &before.audited, &after.audited)?;
    never_back("the next seq", &before.next_seq, &after.next_seq)?;
    if after.is_purged() {
        return Ok(());
    }
    added_objects_are_fresh(before, after)
}

/// A generation is replaced by a later one; one that was purged or given up by none, and only one that is being built is given
/// up.
fn end_is_sound(state: &Manifest) -> Result<(), InvariantViolation> {
    let Some(GenerationEnd { generation, by }) = &state.closed else { return Ok(()) };
    let is_later = generation.as_ref().is_some_and(|successor| *successor > state.generation);
    let sound = match by {
        EndReason::Reindex | EndReason::Restore { .. } => is_later,
        EndReason::Purge => generation.is_none(),
        EndReason::Abandoned => generation.is_none() && state.building.is_some(),
    };
    InvariantViolation::unless(sound, "the end of a generation names what follows", || format!("{:?}", state.closed))
}

/// A purged manifest names no object, so a deletion need not ask which objects it still needs.
fn holds_nothing(state: &Manifest) -> Result<(), InvariantViolation> {
    let named = state.objects().next();
    let empty = named.is_none() && state.holder.is_none() && state.totals == IndexTotals::default();
    InvariantViolation::unless(empty, "what was purged holds nothing", || format!("{named:?}, {:?}", state.holder))
}

fn never_back<T: PartialOrd + std::fmt::Debug>(
    what: &'static str,
    before: &T,
    after: &T,
) -> Result<(), InvariantViolation> {
    InvariantViolation::unless(before <= after, "nothing goes back", || format!("{what} from {before:?} to {after:?}"))
}

fn seqs_are_dense(segments: &[SegmentMeta], next_seq: u64) -> Result<(), InvariantViolation> {
    const RULE: &str = "the segments hold every seq once, in order";
    let mut next = FIRST_SEQ;
    for SegmentMeta { key, seq, .. } in segments {
        InvariantViolation::unless(seq.start == next && seq.end > seq.start, RULE, || {
            format!("\"{key}\" holds {seq:?} where {next} is due")
        })?;
        next = seq.end;
    }
    InvariantViolation::unless(next == next_seq, RULE, || format!("they end at {next}, the next seq is {next_seq}"))
}

fn check_segment(segment: &SegmentMeta) -> Result<(), InvariantViolation> {
    let SegmentMeta { key, seq, format, counts, documents, first, last, entry_times, .. } = segment;
    let held = seq.end.saturating_sub(seq.start);
    InvariantViolation::unless(
        *documents == held && counts.total() == held,
        "a segment's counts are those of its records",
        || format!("\"{key}\" has {documents} documents, {} counted, {held} seqs", counts.total()),
    )?;
    InvariantViolation::unless(*format > 0, "a segment has a format", || format!("\"{key}\" has format 0"))?;
    InvariantViolation::unless(entry_times.start < entry_times.end, "a segment's entries have store times", || {
        format!("\"{key}\": {entry_times:?}")
    })?;
    InvariantViolation::unless(first <= last, "a segment's first token is not after its last", || {
        format!("\"{key}\": {first:?}, {last:?}")
    })
}

fn check_sidecar(sidecar: &SidecarMeta) -> Result<(), InvariantViolation> {
    let SidecarMeta { key, corrected, counts, .. } = sidecar;
    InvariantViolation::unless(
        *corrected == counts.total(),
        "a sidecar's counts are those of the corrected records",
        || format!("\"{key}\" has {corrected}, {} counted", counts.total()),
    )
}

fn causes_ascend(sidecars: &[SidecarMeta], next_seq: u64) -> Result<(), InvariantViolation> {
    let mut next = FIRST_SEQ;
    for SidecarMeta { key, causes, .. } in sidecars {
        let ascend = causes.start >= next && causes.start < causes.end && causes.end <= next_seq;
        InvariantViolation::unless(ascend, "the causes of the sidecars ascend without overlap", || {
            format!("\"{key}\" has {causes:?}, those before it end at {next}, the next seq is {next_seq}")
        })?;
        next = causes.end;
    }
    Ok(())
}

fn totals_add_up(state: &Manifest) -> Result<(), InvariantViolation> {
    let sums = IndexTotals::of(&state.segments, &state.sidecars);
    InvariantViolation::unless(state.totals == sums, "the totals are the sums", || {
        format!("{:?} for {sums:?}", state.totals)
    })?;
    let (all, corrected) = (sums.counts, sums.corrected_counts);
    InvariantViolation::unless(all.without(&corrected).plus(&corrected) == all, "only records are corrected", || {
        format!("{corrected:?} of {all:?}")
    })?;
    let unsettled = state.segments.iter().map(|segment| segment.unsettled).fold(0, u64::saturating_add);
    let standing = sums.standing().unsettled();
    InvariantViolation::unless(unsettled == standing, "the segments say how many records are unsettled", || {
        format!("{unsettled} in the segments, {standing} of the totals")
    })
}

fn names_are_unique(state: &Manifest) -> Result<(), InvariantViolation> {
    let mut seen = BTreeSet::new();
    for key in state.objects() {
        InvariantViolation::unless(seen.insert(key), "an object is named once", || {
            format!("\"{key}\" is named twice")
        })?;
    }
    Ok(())
}

/// The name of every added object has this generation, its kind, and an epoch that is not lower than the state's.
fn added_objects_are_fresh(before: &Manifest, after: &Manifest) -> Result<(), InvariantViolation> {
    let known: BTreeSet<_> = before.objects().collect();
    let segments = keys(&after.segments, &[]).map(|key| (key, ObjectKind::Segment));
    let sidecars = keys(&[], &after.sidecars).map(|key| (key, ObjectKind::Sidecar));
    for (key, kind) in segments.chain(sidecars).filter(|(key, _)| !known.contains(key)) {
        is_fresh(before, after, key, kind)?;
    }
    Ok(())
}

fn is_fresh(before: &Manifest, after: &Manifest, key: &str, kind: ObjectKind) -> Result<(), InvariantViolation> {
    let name = key.parse::<ObjectName>().map_err(|error| InvariantViolation {
        invariant: "an added object's name tells generation, kind and epoch",
        found: error.to_string(),
    })?;
    let of_this_index = name.generation == after.generation && name.kind == kind;
    InvariantViolation::unless(of_this_index, "an added object was made for its place", || {
        format!("\"{key}\" as {}", kind.as_str())
    })?;
    let in_force = name.epoch >= before.epoch;
    InvariantViolation::unless(in_force, "an added object's epoch is not lower than the index's", || {
        format!("\"{key}\" in epoch {}", before.epoch)
    })?;
    InvariantViolation::unless(name.epoch <= after.epoch, "an added object's epoch is one that was reached", || {
        format!("\"{key}\" in epoch {}", after.epoch)
    })
}
