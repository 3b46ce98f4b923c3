//! What must hold of every manifest, and of every step from one to the next. Checked before each write.

use std::collections::BTreeSet;

use tidemark_store::planted::{Fault, planted};

use super::{Manifest, Segment, Sidecar, Totals, keys};
use crate::{Broken, FIRST_SEQ, ObjectKind, ObjectName};

/// What must hold of one manifest.
pub(super) fn sound(state: &Manifest) -> Result<(), Broken> {
    Broken::unless(state.cursor.second() <= state.horizon, "the cursor stays at or below the horizon", || {
        format!("cursor {} above horizon {}", state.cursor, state.horizon)
    })?;
    if state.is_purged() {
        return holds_nothing(state);
    }
    seqs_are_dense(&state.segments, state.next_seq)?;
    state.segments.iter().try_for_each(segment_is_sound)?;
    state.sidecars.iter().try_for_each(sidecar_is_sound)?;
    totals_add_up(state)?;
    names_are_unique(state)
}

/// What must hold of the step from `before` to `after`.
pub(super) fn follows(before: &Manifest, after: &Manifest) -> Result<(), Broken> {
    Broken::unless(before.closed.is_none(), "nothing follows the closing record", || "a further record".to_owned())?;
    Broken::unless(before.generation == after.generation, "a chain has one generation", || {
        format!("\"{}\" after \"{}\"", after.generation, before.generation)
    })?;
    let log = |manifest: &Manifest| manifest.claim.as_ref().map(|claim| claim.log.clone());
    let same = log(before).is_none() || log(before) == log(after) || planted(Fault::OtherLogAdmitted);
    Broken::unless(same, "an index holds the records of one log", || {
        format!("{:?} after {:?}", after.claim, before.claim)
    })?;
    never_back("the epoch", &before.epoch, &after.epoch)?;
    never_back("the horizon", &before.horizon, &after.horizon)?;
    never_back("the cursor", &before.cursor, &after.cursor)?;
    never_back("the next seq", &before.next_seq, &after.next_seq)?;
    if after.is_purged() {
        return Ok(());
    }
    added_objects_are_fresh(before, after)?;
    pins_are_copies(before, after)?;
    dropped_objects_are_remembered(before, after)
}

/// What was purged names no object: whoever deletes need not look for what this record may still want.
fn holds_nothing(state: &Manifest) -> Result<(), Broken> {
    let named = state.objects().chain(state.pinned()).next();
    let empty = named.is_none() && state.tombstones.is_empty() && state.holder.is_none();
    Broken::unless(empty && state.totals == Totals::default(), "what was purged holds nothing", || {
        format!("{named:?}, {} tombstones, {:?}", state.tombstones.len(), state.holder)
    })
}

fn never_back<T: PartialOrd + std::fmt::Debug>(what: &'static str, before: &T, after: &T) -> Result<(), Broken> {
    Broken::unless(before <= after, "nothing goes back", || format!("{what} from {before:?} to {after:?}"))
}

fn seqs_are_dense(segments: &[Segment], next_seq: u64) -> Result<(), Broken> {
    const RULE: &str = "the segments hold every seq once, in order";
    let mut next = FIRST_SEQ;
    for Segment { key, seq, .. } in segments {
        Broken::unless(seq.start == next && seq.end > seq.start, RULE, || {
            format!("\"{key}\" holds {seq:?} where {next} is due")
        })?;
        next = seq.end;
    }
    Broken::unless(next == next_seq, RULE, || format!("they end at {next}, the next seq is {next_seq}"))
}

fn segment_is_sound(segment: &Segment) -> Result<(), Broken> {
    let Segment { key, seq, counts, documents, first, last, .. } = segment;
    let held = seq.end.saturating_sub(seq.start);
    Broken::unless(
        *documents == held && counts.total() == held,
        "a segment's counts are those of its records",
        || format!("\"{key}\" has {documents} documents, {} counted, {held} seqs", counts.total()),
    )?;
    Broken::unless(first <= last, "a segment's first token is not after its last", || {
        format!("\"{key}\": {first:?}, {last:?}")
    })
}

fn sidecar_is_sound(sidecar: &Sidecar) -> Result<(), Broken> {
    let Sidecar { key, superseded, counts, .. } = sidecar;
    Broken::unless(*superseded == counts.total(), "a sidecar's counts are those of the superseded records", || {
        format!("\"{key}\" has {superseded}, {} counted", counts.total())
    })
}

fn totals_add_up(state: &Manifest) -> Result<(), Broken> {
    let sums = Totals::of(&state.segments, &state.sidecars);
    Broken::unless(state.totals == sums, "the totals are the sums", || format!("{:?} for {sums:?}", state.totals))?;
    let (all, superseded) = (sums.counts, sums.superseded_counts);
    Broken::unless(all.without(&superseded).plus(&superseded) == all, "only records are superseded", || {
        format!("{superseded:?} of {all:?}")
    })
}

fn names_are_unique(state: &Manifest) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    let tombstones = state.tombstones.iter().map(|tombstone| tombstone.key.as_str());
    for key in state.objects().chain(tombstones) {
        Broken::unless(seen.insert(key), "an object is named once, and never again after it was dropped", || {
            format!("\"{key}\" is named twice")
        })?;
    }
    Ok(())
}

/// Whoever adds an object: its name bears this generation, its kind, and an epoch that is not lower than the state's.
fn added_objects_are_fresh(before: &Manifest, after: &Manifest) -> Result<(), Broken> {
    let known: BTreeSet<_> = before.objects().collect();
    let pinned: BTreeSet<_> = before.pinned().collect();
    let segments = keys(&after.segments, &[]).map(|key| (key, ObjectKind::Segment));
    let sidecars = keys(&[], &after.sidecars).map(|key| (key, ObjectKind::Sidecar));
    for (key, kind) in segments.chain(sidecars).filter(|(key, _)| !known.contains(key)) {
        Broken::unless(!pinned.contains(key), "a dropped object never comes back", || {
            format!("\"{key}\" is pinned only")
        })?;
        is_fresh(before, after, key, kind)?;
    }
    Ok(())
}

/// A pin is a copy of the index's objects, or of another pin's: it brings back nothing that was dropped.
fn pins_are_copies(before: &Manifest, after: &Manifest) -> Result<(), Broken> {
    let held: BTreeSet<_> = before.objects().chain(before.pinned()).collect();
    let foreign = after.pinned().find(|key| !held.contains(key));
    Broken::unless(foreign.is_none(), "a pin holds what the index or a pin held", || format!("{foreign:?} is new"))
}

fn is_fresh(before: &Manifest, after: &Manifest, key: &str, kind: ObjectKind) -> Result<(), Broken> {
    let name = key.parse::<ObjectName>().map_err(|error| Broken {
        invariant: "an added object's name tells generation, kind and epoch",
        found: error.to_string(),
    })?;
    let of_this_index = name.generation == after.generation && name.kind == kind;
    Broken::unless(of_this_index, "an added object was made for its place", || {
        format!("\"{key}\" as {}", kind.as_str())
    })?;
    let in_force = name.epoch >= before.epoch || planted(Fault::FencedIngestPublishes);
    Broken::unless(in_force, "an added object's epoch is not lower than the index's", || {
        format!("\"{key}\" in epoch {}", before.epoch)
    })?;
    Broken::unless(name.epoch <= after.epoch, "an added object's epoch is one that was reached", || {
        format!("\"{key}\" in epoch {}", after.epoch)
    })
}

/// What is named no more, by the index or a pin, has a tombstone: nothing is forgotten before it is deleted.
fn dropped_objects_are_remembered(before: &Manifest, after: &Manifest) -> Result<(), Broken> {
    let kept: BTreeSet<_> = after.objects().chain(after.pinned()).collect();
    let buried: BTreeSet<_> = after.tombstones.iter().map(|tombstone| tombstone.key.as_str()).collect();
    for key in before.objects().chain(before.pinned()) {
        Broken::unless(kept.contains(key) || buried.contains(key), "a dropped object has a tombstone", || {
            format!("\"{key}\" has none")
        })?;
    }
    Ok(())
}
