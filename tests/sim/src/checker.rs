//! Checks the invariants against every event of the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{FIRST_SEQ, Manifest, SetDigest, SetElement};
use tidemark_ingest::OperationRecord;
use tidemark_ingest::engine::RecordMarks;
use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, Observation, Outcome, Token};

use crate::{
    chain_record::{boundary_number, manifest_number, record_state},
    expectation_fold::{NewestCommits, newest_commits},
    model::{LOCKS, LOG, LogModel, META},
    refusals::StoreRefusals,
    simulated_store::{StoreChange, StoreEvent},
};

/// The bucket of the index.
pub(crate) const INDEX: &str = "index";
/// How long a holder must have sent no heartbeat before another takes over, milliseconds. The protocol says 60 s of the
/// candidate's clock, over reads at most 15 s apart.
const MIN_SILENCE: u64 = 59_000;

/// An append that was acknowledged to its writer.
#[derive(Clone, Debug)]
pub struct AppendAcknowledgement {
    /// Writer's name.
    pub writer: String,
    /// Idempotency key.
    pub key: String,
    /// The acknowledged token.
    pub token: Token,
}

/// A record of the index with the digest of its content.
#[derive(Clone, Debug)]
struct IndexedRecord {
    record: OperationRecord,
    digest: String,
}

#[derive(Deserialize)]
struct StoredMarks {
    corrected: Vec<u64>,
    outdated: Vec<u64>,
}

/// Observes every event, and reports the first violation of an invariant that it causes.
pub struct InvariantChecker {
    /// The model of the log.
    pub model: LogModel,
    /// All acknowledged appends.
    pub acknowledged: Vec<AppendAcknowledgement>,
    segments: BTreeMap<String, Arc<Vec<IndexedRecord>>>,
    sidecars: BTreeMap<String, Arc<StoredMarks>>,
    manifests: BTreeMap<u64, Manifest>,
    /// Hash of the content of each seq. It never changes, whatever is compacted.
    contents: BTreeMap<u64, String>,
    /// The outcome of each operation in the newest manifest, with its seq.
    recorded_outcomes: BTreeMap<(Token, u32), (u64, Outcome)>,
    /// True times of each holder's heartbeats.
    heartbeats: BTreeMap<String, Vec<u64>>,
    /// True time at which the current epoch began.
    epoch_began: u64,
    retired: BTreeSet<String>,
    boundary: u64,
    refusals: StoreRefusals,
    /// The entries that were ever recorded as unreadable.
    ever_unreadable: BTreeSet<Token>,
    /// The newest commits that the latest manifest has.
    newest: NewestCommits,
    /// Whether the index is that of the real engine, of which only manifests can be read before the end.
    pub real_engine: bool,
    /// Whether objects become visible within `V`, as the store promises. If not, only promises to writers are checked.
    pub visibility_bounded: bool,
    /// Rare things that happened.
    pub marks: BTreeSet<String>,
}

impl InvariantChecker {
    /// The checker of an empty log in a store with these refusals.
    pub fn new(refusals: StoreRefusals) -> Self {
        Self {
            refusals,
            ever_unreadable: BTreeSet::new(),
            newest: NewestCommits::new(),
            model: LogModel::new(),
            acknowledged: Vec::new(),
            segments: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            manifests: BTreeMap::new(),
            contents: BTreeMap::new(),
            recorded_outcomes: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            epoch_began: 0,
            retired: BTreeSet::new(),
            boundary: 0,
            visibility_bounded: true,
            real_engine: false,
            marks: BTreeSet::new(),
        }
    }

    /// The newest manifest and its number.
    pub fn latest(&self) -> Option<(u64, &Manifest)> {
        self.manifests.last_key_value().map(|(number, manifest)| (*number, manifest))
    }

    /// Paths of descriptors whose operation is recorded as committed.
    pub fn decided_paths(&self) -> Vec<String> {
        let committed = self.recorded_outcomes.iter().filter(|(_, (_, outcome))| *outcome == Outcome::Committed);
        let op = |(token, op): &(Token, u32)| {
            let intent = self.model.entries.get(token)?.intent.as_ref().ok()?;
            intent.ops.get(*op as usize)?.descriptor.clone()
        };
        // An audit must still find the descriptor of an operation whose recorded outcome is outdated.
        let settled = |token: &Token| match self.recorded_outcomes.get(&(*token, 0)).map(|(_, outcome)| *outcome) {
            None | Some(Outcome::Unreadable) => false,
            Some(Outcome::Aborted) => self.model.outcome(*token) == Some(Outcome::Aborted),
            Some(_) => true,
        };
        let all_decided = |path: &String| self.model.naming(path).iter().all(settled);
        committed.filter_map(|(place, _)| op(place)).filter(all_decided).collect()
    }

    /// What the newest manifest has for the first operation of the entry.
    pub(crate) fn recorded_outcome(&self, token: Token) -> Option<Outcome> {
        self.recorded_outcomes.get(&(token, 0)).map(|(_, outcome)| *outcome)
    }

    /// Manifest `number`.
    pub fn manifest(&self, number: u64) -> Option<&Manifest> {
        self.manifests.get(&number)
    }

    /// Adds the records of a segment that only the real engine can read.
    pub fn add_segment(&mut self, key: &str, records: Vec<OperationRecord>) {
        let indexed = records.into_iter().map(|record| {
            let digest = hex::encode(Sha256::digest(serde_json::to_vec(&record).unwrap_or_default()));
            IndexedRecord { record, digest }
        });
        self.segments.insert(key.to_owned(), Arc::new(indexed.collect()));
    }

    /// Adds the marks of a sidecar that only the real engine can read.
    pub fn add_sidecar(&mut self, key: &str, marks: &RecordMarks) {
        let (corrected, outdated) = (marks.corrected.iter().collect(), marks.outdated.iter().collect());
        self.sidecars.insert(key.to_owned(), Arc::new(StoredMarks { corrected, outdated }));
    }

    /// Checks an event.
    pub fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        if event.key.contains(".tidemark/clock/") {
            // Candidates read the clock objects in the log's store.
            if event.bucket == LOG && event.change != StoreChange::Deleted {
                self.heartbeats.entry(event.key.clone()).or_default().push(event.at);
            }
            return Ok(());
        }
        if event.bucket == INDEX {
            return self.observe_index(event);
        }
        if event.bucket == LOG && event.change == StoreChange::Deleted {
            // Heartbeats, and slots that are trimmed.
            if event.key.starts_with(LOCKS) {
                return Ok(());
            }
            return Err(format!("\"{}\" of the log was deleted by {}", event.key, event.by));
        }
        for token in self.model.observe(event)? {
            self.check_frozen(token, event)?;
        }
        Ok(())
    }

    /// Invariants 2 and 3: nothing that makes an operation committed becomes visible below the cursor.
    fn check_frozen(&mut self, token: Token, event: &StoreEvent) -> Result<(), String> {
        let Some((number, manifest)) = self.latest() else { return Ok(()) };
        if self.real_engine || !self.visibility_bounded || !manifest.cursor.covers(token) {
            return Ok(());
        }
        let outcome = self.model.outcome(token);
        let (horizon, cursor) = (manifest.horizon, manifest.cursor);
        self.marks.insert(format!("below the cursor: {outcome:?}"));
        let recorded =
            self.recorded_outcomes.range((token, 0)..=(token, u32::MAX)).next().map(|(_, (_, outcome))| *outcome);
        let counts = matches!(
            recorded,
            Some(Outcome::Committed | Outcome::Duplicate | Outcome::Conflicted | Outcome::Unreadable)
        );
        if outcome == Some(Outcome::Committed) && !counts {
            return Err(format!(
                "the horizon was wrong: \"{}\" was written and commits {token} (second {}), which manifest {number} has below its \
                 cursor {} and horizon {} as {recorded:?}",
                event.key,
                token.second().unix(),
                cursor.second().unix(),
                horizon.unix()
            ));
        }
        Ok(())
    }

    fn observe_index(&mut self, event: &StoreEvent) -> Result<(), String> {
        if event.change == StoreChange::Deleted {
            return self.check_deletion(event);
        }
        if let Some(number) = boundary_number(&event.key) {
            self.boundary = self.boundary.max(number);
            return Ok(());
        }
        if event.change == StoreChange::Replaced && event.key.contains("/manifest/") {
            return Err(format!("\"{}\" was overwritten by {}", event.key, event.by));
        }
        let of_manifest = manifest_number(&event.key).is_some();
        if self.real_engine && !of_manifest {
            return Ok(());
        }
        if event.key.contains("/segment/") {
            self.segments.insert(event.key.clone(), Arc::new(parse_records(&event.key, &event.object.body)?));
        } else if event.key.contains("/sidecar/") {
            let marks =
                serde_json::from_slice(&event.object.body).map_err(|error| format!("\"{}\": {error}", event.key))?;
            self.sidecars.insert(event.key.clone(), Arc::new(marks));
        } else if let Some(number) = manifest_number(&event.key) {
            return self.observe_manifest(number, event);
        }
        Ok(())
    }

    /// Only the trimmer and the appender delete, and only at or below the boundary.
    fn check_deletion(&self, event: &StoreEvent) -> Result<(), String> {
        let trimmed = manifest_number(&event.key).is_some_and(|number| number <= self.boundary);
        // A boundary says nothing once there is a higher one.
        let passed = boundary_number(&event.key).is_some_and(|number| number < self.boundary);
        if (trimmed || passed) && (event.by.starts_with("trimmer") || event.by.starts_with("indexer")) {
            return Ok(());
        }
        Err(format!("\"{}\" of the index was deleted by {}", event.key, event.by))
    }

    fn observe_manifest(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        let manifest: Manifest =
            record_state(&event.object.body).map_err(|error| format!("manifest {number}: {error}"))?;
        let named = |what: String| format!("manifest {number} by {}: {what}", event.by);
        if number <= self.boundary {
            self.marks.insert("a slot below the boundary was written".to_owned());
            return Ok(());
        }
        if let Some((before, last)) = self.latest() {
            if number != before + 1 {
                return Err(named(format!("follows manifest {before}")));
            }
            check_order(last, &manifest).map_err(named)?;
            self.check_floor(last, &manifest).map_err(named)?;
            let last = last.clone();
            self.check_takeover(&last, &manifest, &event.by, event.at).map_err(named)?;
            self.check_retired(&last, &manifest).map_err(named)?;
        }
        if !self.real_engine {
            self.check_manifest(&manifest, &event.by).map_err(named)?;
        }
        self.manifests.insert(number, manifest);
        Ok(())
    }

    /// What lies below the log's floor may be gone, so that an index whose cursor is below it does not move.
    fn check_floor(&self, before: &Manifest, after: &Manifest) -> Result<(), String> {
        match self.model.floor {
            Some(floor) if before.cursor < floor && after.cursor > before.cursor => {
                Err(format!("moves the cursor from {}, which is below the log's floor {floor}", before.cursor))
            }
            _ => Ok(()),
        }
    }

    /// Invariant 5: no candidate takes over from a holder that sends heartbeats.
    fn check_takeover(&mut self, before: &Manifest, after: &Manifest, by: &str, at: u64) -> Result<(), String> {
        if after.epoch == before.epoch {
            return check_publisher(before, by);
        }
        let began = std::mem::replace(&mut self.epoch_began, at);
        let (Some(was), Some(is)) = (&before.holder, &after.holder) else { return Ok(()) };
        let silent = self.longest_silence(&was.heartbeat, began, at);
        if was.identity != is.identity && silent < MIN_SILENCE {
            return Err(format!(
                "{:?} took over from {:?}, who was never without a heartbeat for more than {silent} ms",
                is.identity, was.identity
            ));
        }
        if was.identity != is.identity {
            self.marks.insert("a candidate took over from a silent holder".to_owned());
        }
        Ok(())
    }

    /// The longest time without a heartbeat between `from` and `to`, milliseconds.
    fn longest_silence(&self, heartbeat: &str, from: u64, to: u64) -> u64 {
        let beats = self.heartbeats.iter().filter(|(key, _)| key.ends_with(heartbeat)).flat_map(|(_, beats)| beats);
        let mut beats: Vec<u64> = beats.copied().filter(|at| (from..=to).contains(at)).chain([from, to]).collect();
        beats.sort_unstable();
        beats.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// A manifest never names an object again that an earlier one dropped.
    fn check_retired(&mut self, before: &Manifest, after: &Manifest) -> Result<(), String> {
        let now: BTreeSet<&str> = after.objects().collect();
        let gone: Vec<String> = before.objects().filter(|key| !now.contains(key)).map(ToOwned::to_owned).collect();
        self.retired.extend(gone);
        match now.iter().find(|key| self.retired.contains(**key)) {
            Some(key) => Err(format!("names \"{key}\" again, which an earlier manifest dropped")),
            None => Ok(()),
        }
    }

    /// Invariants 3, 10 and 11, checked on one manifest that `by` published.
    fn check_manifest(&mut self, manifest: &Manifest, by: &str) -> Result<(), String> {
        let held = self.segments_of(manifest)?;
        let mut records: BTreeMap<u64, &IndexedRecord> = BTreeMap::new();
        for (segment, held) in manifest.segments.iter().zip(&held) {
            for indexed in held.iter() {
                if !segment.seq.contains(&indexed.record.seq) {
                    return Err(format!("\"{}\" holds seq {} outside its range", segment.key, indexed.record.seq));
                }
                if records.insert(indexed.record.seq, indexed).is_some() {
                    return Err(format!("seq {} is there twice", indexed.record.seq));
                }
            }
        }
        if let Some(gap) = (FIRST_SEQ..manifest.next_seq).find(|seq| !records.contains_key(seq)) {
            return Err(format!("seq {gap} is missing below {}", manifest.next_seq));
        }
        if records.len() as u64 != manifest.next_seq - FIRST_SEQ {
            return Err("there are seqs beyond the next one".to_owned());
        }
        self.check_seqs(&records)?;
        let (corrected, outdated) = self.marks_of(manifest)?;
        let mut visible: BTreeMap<(Token, u32), &OperationRecord> = BTreeMap::new();
        for record in records.values().map(|indexed| &indexed.record).filter(|record| !corrected.contains(&record.seq))
        {
            if let Some(other) = visible.insert((record.token, record.op), record) {
                return Err(format!(
                    "{} op {} is visible twice: seq {} {:?} and seq {} {:?}",
                    record.token, record.op, other.seq, other.decision.outcome, record.seq, record.decision.outcome
                ));
            }
        }
        if let Some(lost) =
            records.values().find(|indexed| !visible.contains_key(&(indexed.record.token, indexed.record.op)))
        {
            return Err(format!("{} op {} is not visible at all", lost.record.token, lost.record.op));
        }
        self.newest = newest_commits(records.values().map(|indexed| &indexed.record))?;
        self.check_set_digest(manifest, records.values().map(|indexed| &indexed.record))?;
        self.check_unread(&visible, by)?;
        self.check_outcomes(manifest, &visible)?;
        self.check_audited(manifest)?;
        check_current(&visible, &outdated)?;
        self.check_acknowledgements(manifest, &visible)
    }

    fn segments_of(&self, manifest: &Manifest) -> Result<Vec<Arc<Vec<IndexedRecord>>>, String> {
        let one = |key: &String| self.segments.get(key).cloned().ok_or_else(|| format!("\"{key}\" was never written"));
        manifest.segments.iter().map(|segment| one(&segment.key)).collect()
    }

    /// The record of a seq never changes, whatever is compacted.
    fn check_seqs(&mut self, records: &BTreeMap<u64, &IndexedRecord>) -> Result<(), String> {
        for (seq, indexed) in records {
            let before = self.contents.entry(*seq).or_insert_with(|| indexed.digest.clone());
            if *before != indexed.digest {
                return Err(format!("seq {seq} ({}) is another record than before", indexed.record.token));
            }
        }
        Ok(())
    }

    fn marks_of(&self, manifest: &Manifest) -> Result<(BTreeSet<u64>, BTreeSet<u64>), String> {
        let (mut corrected, mut outdated) = (BTreeSet::new(), BTreeSet::new());
        for sidecar in &manifest.sidecars {
            let marks =
                self.sidecars.get(&sidecar.key).ok_or_else(|| format!("\"{}\" was never written", sidecar.key))?;
            corrected.extend(marks.corrected.iter().copied());
            outdated.extend(marks.outdated.iter().copied());
        }
        Ok((corrected, outdated))
    }

    /// What `by` judged without reading it was refused for good, while it read later objects of the same bucket.
    fn check_unread(&mut self, visible: &BTreeMap<(Token, u32), &OperationRecord>, by: &str) -> Result<(), String> {
        if !self.refusals.is_armed() {
            return Ok(());
        }
        for ((token, op), record) in visible {
            let before = self.recorded_outcomes.get(&(*token, *op)).filter(|(seq, _)| *seq == record.seq);
            if before.is_some() {
                continue;
            }
            let wrong = |what: &str, why: String| format!("{token} op {op} was decided without reading {what}: {why}");
            if record.decision.outcome == Outcome::Unreadable {
                let (key, second) = (token.to_string(), record.decision.entry_time.unix());
                let judged = self.refusals.check_judgement(by, LOG, &key, second);
                judged.map_err(|why| wrong("its entry", why))?;
                self.ever_unreadable.insert(*token);
                self.marks.insert(format!("unreadable: {}", self.refusals.kind(LOG, &key)));
            }
            let unread = |seen: &&Observation| seen.digest.is_empty() && seen.evidence != Some(Evidence::Inferred);
            for seen in record.decision.observations.iter().filter(unread) {
                let judged = self.refusals.check_judgement(by, META, &seen.key, seen.time.unix());
                judged.map_err(|why| wrong(&seen.key, why))?;
                self.marks.insert("a descriptor counted by its attributes".to_owned());
            }
        }
        Ok(())
    }

    /// Whether both outcomes are right because of an entry that was unreadable: when it can be read, its key has another
    /// commit, so that of the operations with this key exactly one counts at a time, whichever it is.
    fn is_contested(&self, place: (Token, u32), visible: &BTreeMap<(Token, u32), &OperationRecord>) -> bool {
        let same_key = self.model.same_key(place);
        let is_committed = |place: &&(Token, u32)| visible.get(*place).is_some_and(|record| record.is_committed());
        let committed: Vec<_> = same_key.iter().filter(is_committed).map(|(token, _)| *token).collect();
        let tokens: BTreeSet<Token> = committed.iter().copied().collect();
        tokens.len() == committed.len()
            && self.model.count_once(&tokens)
            && same_key.iter().any(|(token, _)| self.ever_unreadable.contains(token))
    }

    /// Whether both outcomes of an operation with an expectation are right because of an entry that was unreadable: it is decided later, and what
    /// is the newest commit of the entity meanwhile is another one. `check_manifest` has judged it by what was decided before.
    fn may_conflict_otherwise(&self, (token, _): (Token, u32), recorded: Outcome, real: Outcome) -> bool {
        let expects = |token: Token| {
            let entry = self.model.entries.get(&token).and_then(|entry| entry.intent.as_ref().ok());
            entry.is_some_and(|intent| intent.expect.is_some())
        };
        let is_decided_by_others =
            |outcome| matches!(outcome, Outcome::Committed | Outcome::Duplicate | Outcome::Conflicted);
        expects(token)
            && is_decided_by_others(recorded)
            && is_decided_by_others(real)
            && self.ever_unreadable.iter().any(|unread| expects(*unread))
    }

    /// The newest commit of an entity that the latest manifest has.
    pub(crate) fn newest_commit(&self, entity: &str) -> Option<Token> {
        self.newest.get(entity).map(|(_, token, _)| *token)
    }

    /// Checks that an append whose expectation is undecided is complete in time in the model.
    pub(crate) fn leave_undecided(&mut self, writer: &str, token: Token) -> Result<(), String> {
        match self.model.outcome(token) {
            Some(Outcome::Committed) => Ok(()),
            outcome => Err(format!("{writer} was told that {token} is complete in time, and it is {outcome:?}")),
        }
    }

    /// The index has all operations below the cursor and no other, each with its outcome in the model.
    fn check_outcomes(
        &mut self,
        manifest: &Manifest,
        visible: &BTreeMap<(Token, u32), &OperationRecord>,
    ) -> Result<(), String> {
        if !self.visibility_bounded {
            self.recorded_outcomes =
                visible.iter().map(|(place, record)| (*place, (record.seq, record.decision.outcome))).collect();
            return Ok(());
        }
        let expected = self.model.outcomes(manifest.cursor.second());
        let mut recorded = BTreeMap::new();
        for ((token, op), record) in visible {
            let (outcome, place) = (record.decision.outcome, (*token, *op));
            let Some(real) = expected.get(&place) else {
                return Err(format!(
                    "{token} op {op} is indexed although it is not below the cursor, or does not exist"
                ));
            };
            let swapped = matches!(
                (outcome, real),
                (Outcome::Committed, Outcome::Duplicate) | (Outcome::Duplicate, Outcome::Committed)
            );
            // Whether it may be unreadable was checked when it was published.
            let allowed = outcome == Outcome::Unreadable
                || is_allowed(outcome, *real)
                || swapped && self.is_contested(place, visible)
                || self.may_conflict_otherwise(place, outcome, *real);
            if !allowed {
                return Err(format!("{token} op {op} is {outcome:?} in the index and {real:?} in the model"));
            }
            let before = self.recorded_outcomes.get(&(*token, *op)).map(|(_, outcome)| *outcome);
            let settled = |before: Outcome| !matches!(before, Outcome::Aborted | Outcome::Unreadable);
            if before.is_some_and(|before| before != outcome && settled(before)) {
                return Err(format!("{token} op {op} was {before:?} and is {outcome:?} now"));
            }
            self.check_label(record, before)?;
            if before.is_some_and(|before| before != outcome) {
                self.marks.insert(format!("corrected to {outcome:?}"));
            }
            self.marks.insert(format!("indexed {outcome:?}"));
            if record.is_committed() && record.expectation.is_some() {
                self.marks.insert("an expectation held".to_owned());
            }
            recorded.insert((*token, *op), (record.seq, outcome));
        }
        for (place, real) in expected.iter().filter(|(place, _)| !recorded.contains_key(*place)) {
            let (token, op) = place;
            // An unreadable entry is one record.
            if recorded.get(&(*token, 0)).is_some_and(|(_, outcome)| *outcome == Outcome::Unreadable) {
                continue;
            }
            if matches!(real, Outcome::Committed | Outcome::Duplicate | Outcome::Conflicted) {
                return Err(format!("{token} op {op} is {real:?} and below the cursor, but not in the index"));
            }
            if self.recorded_outcomes.contains_key(place) || recorded.contains_key(&(*token, 0)) {
                return Err(format!("{token} op {op} is missing, or is not in the index any more"));
            }
        }
        self.recorded_outcomes = recorded;
        Ok(())
    }

    /// What a label holds is the value of one entry, and one that was aborted stays so.
    fn check_label(&self, record: &OperationRecord, before: Option<Outcome>) -> Result<(), String> {
        let (token, decision) = (record.token, &record.decision);
        if self.model.moved_label(token).is_none() || decision.outcome != Outcome::Committed {
            return Ok(());
        }
        if before == Some(Outcome::Aborted) {
            return Err(format!("{token}, a label's move, was aborted and is committed now"));
        }
        let later = decision.observations.iter().find_map(|seen| self.model.later_move(token, seen.time));
        later.map_or(Ok(()), |later| Err(format!("{token} has the value of a label that {later} may have written")))
    }

    /// The set digest of the totals is that of the records, with the bodies that were written to the log.
    fn check_set_digest<'a>(
        &self,
        manifest: &Manifest,
        records: impl Iterator<Item = &'a OperationRecord>,
    ) -> Result<(), String> {
        let written = |record: &OperationRecord| {
            let entry = self.model.entries.get(&record.token).map(|entry| entry.body);
            let body = entry.filter(|_| record.decision.outcome != Outcome::Unreadable);
            SetDigest::of(&SetElement { body, ..record.set_element() })
        };
        let sum: SetDigest = records.map(written).sum();
        if sum == manifest.totals.digest {
            return Ok(());
        }
        Err(format!("its set digest is {}, that of its records {sum}", manifest.totals.digest))
    }

    /// What lies below the second that the audit has come to has its last outcome, unless it cannot be read.
    fn check_audited(&mut self, manifest: &Manifest) -> Result<(), String> {
        if !self.visibility_bounded {
            return Ok(());
        }
        for ((token, op), real) in self.model.outcomes(manifest.audited) {
            let recorded = |op| self.recorded_outcomes.get(&(token, op)).map(|(_, outcome)| *outcome);
            let missed = matches!(real, Outcome::Late | Outcome::Fenced)
                && matches!(recorded(op), None | Some(Outcome::Aborted));
            if missed && recorded(0) != Some(Outcome::Unreadable) {
                return Err(format!(
                    "{token} op {op} is {:?} in the index and {real:?} in the model, although it is audited up to {}",
                    recorded(op),
                    manifest.audited
                ));
            }
            self.marks.insert("an audit came to its end".to_owned());
        }
        Ok(())
    }

    /// Invariants 9 and 11: an acknowledged append is committed exactly once.
    fn check_acknowledgements(
        &self,
        manifest: &Manifest,
        visible: &BTreeMap<(Token, u32), &OperationRecord>,
    ) -> Result<(), String> {
        let unreadable = |ack: &&AppendAcknowledgement| {
            visible.get(&(ack.token, 0)).is_some_and(|record| record.decision.outcome == Outcome::Unreadable)
        };
        for ack in self.acknowledged.iter().filter(|ack| manifest.cursor.covers(ack.token) && !unreadable(ack)) {
            check_counted_once(&self.model, ack, visible)?;
        }
        Ok(())
    }

    /// Checks that an acknowledged append is committed in the model.
    pub fn acknowledge(&mut self, ack: AppendAcknowledgement) -> Result<(), String> {
        let times = self.model.times_committed(&ack.writer, &ack.key);
        let receipt = format!("{} got a receipt for {} (key \"{}\")", ack.writer, ack.token, ack.key);
        self.acknowledged.push(ack);
        if times == 0 { Err(format!("{receipt}, but it is not committed")) } else { Ok(()) }
    }

    /// Checks the index after the recovery: no operation is missing, and the cursor follows the horizon.
    pub fn check_final_state(&mut self, horizon: StoreSecond) -> Result<(), String> {
        let Some((number, manifest)) = self.latest() else {
            // An index that is to be registered before it is written is refused first, at cursor 0.
            if self.model.floor.is_some_and(|floor| tidemark_catalog::LogCursor::default() < floor) {
                self.marks.insert("an index below the floor was refused".to_owned());
                return Ok(());
            }
            return Err("there is no index".to_owned());
        };
        let manifest = manifest.clone();
        self.check_manifest(&manifest, "no writer")?;
        if !self.visibility_bounded {
            return Ok(());
        }
        if self.model.floor.is_some_and(|floor| manifest.cursor < floor) {
            self.marks.insert("an index below the floor was refused".to_owned());
            return Ok(());
        }
        // An idle indexer publishes a new horizon once a minute, a busy one at once.
        let (idle, busy) = (Duration::from_secs(90), Duration::from_secs(20));
        if manifest.cursor.second().after(idle) < horizon {
            return Err(format!(
                "no progress: the cursor of manifest {number} is {} and the horizon {horizon}",
                manifest.cursor
            ));
        }
        let sealed = manifest.cursor.second().max(horizon.before(busy));
        for ((token, op), real) in self.model.outcomes(sealed) {
            let recorded = self.recorded_outcomes.get(&(token, op)).map(|(_, outcome)| *outcome);
            let contested = recorded.is_some()
                && self
                    .ever_unreadable
                    .iter()
                    .any(|unread| self.model.same_key((token, op)).iter().any(|(same, _)| same == unread));
            if contested && matches!(recorded, Some(Outcome::Committed | Outcome::Duplicate)) {
                // `check_manifest` has counted its commits.
                continue;
            }
            if recorded.is_some_and(|recorded| self.may_conflict_otherwise((token, op), recorded, real)) {
                continue;
            }
            // An audit may find an operation after the audit window or not, but only with that outcome.
            let unfound = matches!((recorded, real), (None | Some(Outcome::Aborted), Outcome::Expired));
            let allowed = recorded.is_some_and(|recorded| is_allowed(recorded, real));
            if recorded != Some(real) && !unfound && !(real == Outcome::Unknown && allowed) {
                return Err(format!(
                    "at the end {token} op {op} is {recorded:?} in the index and {real:?} in the model: no audit found it"
                ));
            }
        }
        Ok(())
    }
}

fn check_counted_once(
    model: &LogModel,
    ack: &AppendAcknowledgement,
    visible: &BTreeMap<(Token, u32), &OperationRecord>,
) -> Result<(), String> {
    let ours = |record: &&&OperationRecord| {
        record.idempotency_key.as_deref() == Some(&ack.key) && record.writer.as_deref() == Some(&ack.writer)
    };
    let committed: BTreeSet<Token> =
        visible.values().filter(ours).filter(|record| record.is_committed()).map(|record| record.token).collect();
    let counts = |other: &Token| model.retains_key(ack.token.min(*other), ack.token.max(*other));
    if model.count_once(&committed) && committed.iter().any(counts) {
        return Ok(());
    }
    let all: Vec<_> =
        visible.values().filter(ours).map(|record| (record.token, record.op, record.decision.outcome)).collect();
    Err(format!(
        "the append of {} with key \"{}\" was acknowledged as {} and is committed {} times: {all:?}",
        ack.writer,
        ack.key,
        ack.token,
        committed.len()
    ))
}

/// The holder published the manifest.
fn check_publisher(manifest: &Manifest, by: &str) -> Result<(), String> {
    let Some(holder) = &manifest.holder else {
        return Err("was published while no writer held the index".to_owned());
    };
    let name = holder.identity.0.as_str();
    if by == name || by.strip_prefix(name).is_some_and(|restart| restart.starts_with('.')) {
        return Ok(());
    }
    Err(format!("was published by {by} while {name} held the index"))
}

/// Invariant 2: a manifest never goes back behind the one before.
fn check_order(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let back = |what: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
        Err(format!("its {what} went back from {was} to {is}"))
    };
    if after.epoch < before.epoch {
        return back("epoch", &before.epoch, &after.epoch);
    }
    if after.horizon < before.horizon {
        return back("horizon", &before.horizon, &after.horizon);
    }
    if after.cursor < before.cursor {
        return back("cursor", &before.cursor, &after.cursor);
    }
    if after.audited < before.audited {
        return back("audit", &before.audited, &after.audited);
    }
    if after.next_seq < before.next_seq {
        return back("next seq", &before.next_seq, &after.next_seq);
    }
    if after.cursor.second() > after.horizon {
        return Err(format!("its cursor {} is beyond its horizon {}", after.cursor, after.horizon));
    }
    Ok(())
}

/// Whether the index may have the outcome `recorded` while it is `real`: an audit may not have found a late descriptor yet.
fn is_allowed(recorded: Outcome, real: Outcome) -> bool {
    match real {
        // Which of them it is depends on when the label was read.
        Outcome::Unknown => matches!(recorded, Outcome::Committed | Outcome::Aborted | Outcome::Unknown),
        Outcome::Late | Outcome::Expired | Outcome::Fenced => recorded == real || recorded == Outcome::Aborted,
        _ => recorded == real,
    }
}

/// The operations marked as outdated are those that a naive fold of all committed operations gives.
fn check_current(visible: &BTreeMap<(Token, u32), &OperationRecord>, outdated: &BTreeSet<u64>) -> Result<(), String> {
    let mut newest: BTreeMap<&str, &OperationRecord> = BTreeMap::new();
    let order = |record: &OperationRecord| (record.decision.completed, record.token, record.op);
    let committed = || visible.values().filter(|record| record.is_committed());
    for record in committed() {
        if let Some(entity) = &record.entity {
            let slot = newest.entry(entity).or_insert(record);
            if order(record) > order(slot) {
                *slot = record;
            }
        }
    }
    for record in committed() {
        let Some(entity) = &record.entity else { continue };
        let real = newest.get(entity.as_str()).is_some_and(|newest| newest.seq == record.seq);
        if real == outdated.contains(&record.seq) {
            return Err(format!(
                "seq {} ({} op {}) of \"{entity}\" is {}current",
                record.seq,
                record.token,
                record.op,
                if real { "marked as outdated although it is " } else { "not marked as outdated although it is not " }
            ));
        }
    }
    Ok(())
}

fn parse_records(key: &str, body: &[u8]) -> Result<Vec<IndexedRecord>, String> {
    body.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let record = serde_json::from_slice(line).map_err(|error| format!("\"{key}\": {error}"))?;
            let digest = hex::encode(Sha256::digest(line));
            Ok(IndexedRecord { record, digest })
        })
        .collect()
}
