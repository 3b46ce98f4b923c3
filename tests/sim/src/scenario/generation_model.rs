//! The model of an index over its generations: what each manifest holds, and which generation is the index, from every event.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use tidemark_catalog::{EndReason, FIRST_SEQ, Manifest, ObjectName, PinRegister, SNAPSHOT_OWNER};
use tidemark_ingest::{OperationRecord, model_engine::parse_records};
use tidemark_store::StoreSecond;
use tidemark_wal::{LogParameters, Outcome, Token};

use super::{
    archive_ledger::{ArchiveGrowth, ArchiveLedger},
    long_run::parameters,
};
use crate::{
    chain_record::record_state,
    simulated_store::{StoreChange, StoreEvent, StoredObject},
};

#[derive(Default, Deserialize)]
struct StoredMarks {
    corrected: Vec<u64>,
    outdated: Vec<u64>,
}

/// All that the index holds: records by seq, and marks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IndexContent {
    records: BTreeMap<u64, Arc<OperationRecord>>,
    corrected: BTreeSet<u64>,
    outdated: BTreeSet<u64>,
}

impl IndexContent {
    /// Every operation as it stands.
    fn standing(&self) -> BTreeMap<(Token, u32), &Arc<OperationRecord>> {
        let standing = self.records.values().filter(|record| !self.corrected.contains(&record.seq));
        standing.map(|record| ((record.token, record.op), record)).collect()
    }

    /// The marks of outdated commits are those that a naive fold gives.
    fn check_current(&self) -> Result<(), String> {
        let committed = || {
            let standing = self.records.values().filter(|record| !self.corrected.contains(&record.seq));
            standing.filter_map(|record| record.entity_commit())
        };
        let mut newest = BTreeMap::new();
        for (entity, commit) in committed() {
            let known = newest.entry(entity).or_insert(commit);
            *known = commit.max(*known);
        }
        match committed().find(|(entity, commit)| self.outdated.contains(&commit.seq) == (newest[entity] == *commit)) {
            Some((entity, commit)) => Err(format!("whether seq {} of \"{entity}\" is outdated is wrong", commit.seq)),
            None => Ok(()),
        }
    }
}

/// The latest manifest of one generation.
#[derive(Clone, Debug)]
struct GenerationHead {
    number: u64,
    manifest: Manifest,
    content: Arc<IndexContent>,
}

/// A manifest: its generation, and its number in that.
pub(super) type ManifestPlace = (u64, u64);

/// What something was restored from, as far as that decides what it may lack.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceAge {
    /// What lies below it was settled: by the audit of the source, or by the archive that is read beside it.
    pub(super) audited: StoreSecond,
    /// The manifest of the snapshot; `None`: the archive alone.
    pub(super) manifest: Option<ManifestPlace>,
    /// Whether some of it comes from the archive, which passes over what could not be read.
    pub(super) reads_archive: bool,
    /// How long the audit of its log looks: what came to a second after the last look is decided only where the log is read once more.
    pub(super) audit_window: Duration,
}

/// A generation that could not be read whole.
#[derive(Clone, Copy, Debug)]
struct ObjectAbsence {
    /// The generation whose object was lost while it was the index.
    generation: u64,
    /// When it was put back, true time in milliseconds; `None`: it is lost.
    until: Option<u64>,
}

/// What is known of the index.
#[derive(Debug, Default)]
pub(super) struct GenerationModel {
    heads: BTreeMap<u64, GenerationHead>,
    segments: BTreeMap<String, Vec<Arc<OperationRecord>>>,
    sidecars: BTreeMap<String, (BTreeSet<u64>, BTreeSet<u64>)>,
    lists: BTreeMap<String, BTreeSet<String>>,
    /// The number of the latest record of pins, and the lists of those that count.
    pins: (u64, BTreeSet<String>),
    deleted: BTreeSet<String>,
    /// Objects that are lost for a while, and the generations that could not be read meanwhile.
    lost: BTreeSet<String>,
    absences: Vec<ObjectAbsence>,
    /// When each task began, true time in milliseconds: it may find what it restores from long before it makes a generation.
    begun: BTreeMap<String, u64>,
    /// The generation that is the index.
    open: Option<u64>,
    /// What was decided of each operation, by any generation that was the index: it is never forgotten.
    decided: BTreeMap<(Token, u32), Arc<OperationRecord>>,
    /// What operations were before they were corrected.
    uncorrected: BTreeMap<(Token, u32), Arc<OperationRecord>>,
    /// The manifest in which the index had the correction of each of them first. Whatever is younger has it.
    corrections: BTreeMap<(Token, u32), ManifestPlace>,
    /// Operations of which a restore did not find the correction, since the generation that had it was damaged.
    set_back: BTreeSet<(Token, u32)>,
    /// The same, and those that were corrected once more since: a snapshot may have them as they were meanwhile.
    ever_set_back: BTreeSet<(Token, u32)>,
    /// How long the audit of the log looks, where that is known.
    pub(super) audit_window: Option<Duration>,
    /// The archive.
    pub(super) ledger: ArchiveLedger,
    pub(super) marks: BTreeSet<&'static str>,
}

impl GenerationModel {
    /// The latest manifest of the open generation.
    pub(super) fn open(&self) -> Option<&Manifest> {
        Some(&self.heads.get(&self.open?)?.manifest)
    }

    /// How many operations were decided.
    pub(super) fn decided(&self) -> usize {
        self.decided.len()
    }

    /// The token of one of the decided operations.
    pub(super) fn token(&self, number: u64) -> Option<Token> {
        nth_of(self.decided.keys().map(|(token, _)| *token), number)
    }

    /// The token of one of the operations of these seconds that were decided and read.
    pub(super) fn token_within(&self, seconds: &RangeInclusive<StoreSecond>, number: u64) -> Option<Token> {
        let is_read = |record: &Arc<OperationRecord>| record.decision.outcome != Outcome::Unreadable;
        let within = self.decided.iter().filter(|((token, _), _)| seconds.contains(&token.second()));
        nth_of(within.filter(|(_, record)| is_read(record)).map(|((token, _), _)| *token), number)
    }

    /// An object of the open generation is lost.
    pub(super) fn lose(&mut self, key: String) {
        self.absences.extend(self.open.map(|generation| ObjectAbsence { generation, until: None }));
        self.lost.insert(key);
    }

    /// All lost objects are back, `at` a true time in milliseconds.
    pub(super) fn put_back(&mut self, at: u64) {
        self.lost.clear();
        for absence in &mut self.absences {
            absence.until.get_or_insert(at);
        }
    }

    /// A task begins, or goes on, `at` a true time in milliseconds.
    pub(super) fn begin_task(&mut self, task: &str, at: u64) {
        self.begun.entry(task.to_owned()).or_insert(at);
    }

    /// Whether an object of `replaced` was lost at any time since the maker of `successor` began: only then may that not have found what was
    /// recorded last. A restored generation ends before those that it and its predecessors replaced: of these, too. What reaches further than it
    /// is restored from their pins, and from older snapshots where those are damaged.
    fn was_damaged_for(&self, successor: &Manifest, replaced: &Manifest) -> bool {
        // A generation says what its task does, too: "restore to the latest time", and the name.
        let is_made_by = |task: &str| successor.building.as_ref().is_some_and(|making| making.ends_with(task));
        let begun = self.begun.iter().filter(|(task, _)| is_made_by(task)).map(|(_, since)| since).min();
        let Some(since) = begun else { return false };
        let overlaps = |absence: &ObjectAbsence| absence.until.is_none_or(|until| *since <= until);
        let (latest, is_restored) = (replaced.generation.number(), replaced.until.is_some());
        let is_read = |of: u64| of == latest || is_restored && of < latest;
        self.absences.iter().any(|absence| is_read(absence.generation) && overlaps(absence))
    }

    /// Whether `manifest`, which follows `before`, promotes the index, and an object of a generation before it was lost at any time since its
    /// task began: only then may it have taken what was recorded last from an older one.
    fn promotes_beside_damage(&self, before: Option<&Manifest>, manifest: &Manifest) -> bool {
        let is_promoted = manifest.until.is_none() && before.is_some_and(|before| before.until.is_some());
        let begun = manifest.promoted_by.as_ref().and_then(|task| self.begun.get(task));
        let Some(since) = begun.filter(|_| is_promoted) else { return false };
        let mut earlier = self.absences.iter().filter(|absence| absence.generation < manifest.generation.number());
        earlier.any(|absence| absence.until.is_none_or(|until| *since <= until))
    }

    /// Whether an object was lost at any time since then, true time in milliseconds.
    pub(super) fn was_damaged_since(&self, since: u64) -> bool {
        self.absences.iter().any(|absence| absence.until.is_none_or(|until| since <= until))
    }

    /// Checks an event in the index's bucket.
    pub(super) fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        let key = event.key.as_str();
        if let Some(growth) = self.ledger.observe(event)? {
            self.check_archived(growth)?;
        }
        if event.change == StoreChange::Deleted {
            return self.observe_deletion(event);
        }
        if let Some((generation, number)) = manifest_place(key) {
            return self.observe_manifest(generation, number, event);
        }
        if let Some((_, name)) = key.strip_prefix("snapshots/").and_then(|rest| rest.split_once('/')) {
            return match name.parse() {
                Ok(number) => self.observe_pins(number, event),
                Err(_) if name.starts_with("list/") => self.observe_list(event),
                Err(_) => Ok(()),
            };
        }
        self.remember(key, &event.object.body)
    }

    /// What an object of a manifest holds, for later.
    fn remember(&mut self, key: &str, body: &Bytes) -> Result<(), String> {
        if key.contains("/segment/") {
            // What a writer loses on its way is no segment.
            if let Ok(records) = parse_records(body) {
                self.segments.insert(key.to_owned(), records.iter().cloned().map(Arc::new).collect());
            }
        } else if key.contains("/sidecar/") {
            let StoredMarks { corrected, outdated } =
                serde_json::from_slice(body).map_err(|error| format!("\"{key}\": {error}"))?;
            self.sidecars.insert(key.to_owned(), (corrected.into_iter().collect(), outdated.into_iter().collect()));
        }
        Ok(())
    }

    fn observe_manifest(&mut self, generation: u64, number: u64, event: &StoreEvent) -> Result<(), String> {
        let before = self.heads.get(&generation);
        if before.is_some_and(|before| number <= before.number) {
            return Ok(());
        }
        let manifest: Manifest =
            record_state(&event.object.body).map_err(|error| format!("g{generation}, manifest {number}: {error}"))?;
        let wrong = |what: String| Err(format!("g{generation}, manifest {number} by {}: {what}", event.by));
        if before.is_some_and(|before| before.manifest.closed.is_some()) {
            return wrong("follows the closing record".to_owned());
        }
        let replaces_damage = self.promotes_beside_damage(before.map(|before| &before.manifest), &manifest);
        if self.open.is_none() && manifest.building.is_none() {
            self.open = Some(generation);
        }
        if let Some(task) = manifest.building.as_deref() {
            self.begin_task(task, event.at);
        }
        let is_open = self.open == Some(generation);
        if !is_open && manifest.building.is_none() {
            return wrong(format!("is no generation that is being built, and the index is g{:?}", self.open));
        }
        let content = Arc::new(self.content_of(&manifest)?);
        if let Some(before) = self.heads.get(&generation) {
            grows(&before.content, &content).or_else(wrong)?;
        }
        let head = GenerationHead { number, manifest, content: Arc::clone(&content) };
        if is_open && head.manifest.closed.is_none() {
            self.check_open(&head, replaces_damage).or_else(wrong)?;
        }
        let end = head.manifest.closed.clone();
        self.heads.insert(generation, head);
        match end {
            Some(end) if end.by == EndReason::Abandoned && is_open => wrong("gives up the index".to_owned()),
            Some(end) if end.by == EndReason::Abandoned => {
                self.marks.insert("a generation was given up");
                Ok(())
            }
            Some(end) => {
                let successor = end.generation.map_or(0, |successor| successor.number());
                self.switch(generation, successor, end.by, &content).or_else(wrong)
            }
            None => Ok(()),
        }
    }

    /// The index is `successor` from now on.
    fn switch(&mut self, before: u64, successor: u64, by: EndReason, content: &IndexContent) -> Result<(), String> {
        let Some(head) = self.heads.get(&successor).cloned() else {
            return Err(format!("closes in favour of g{successor}, which does not exist"));
        };
        if head.manifest.closed.is_some() {
            return Err(format!("closes in favour of g{successor}, which is closed"));
        }
        let closed = &self.heads[&before].manifest;
        let (records, of) = (head.content.records.len(), content.records.len());
        match by {
            EndReason::Restore { to } if head.manifest.until == Some(to) => {
                let is_damaged = closed.objects().any(|key| self.lost.contains(key));
                self.marks.insert(if is_damaged { "a damaged index was restored" } else { "the index was restored" });
            }
            EndReason::Reindex if head.manifest.cursor == closed.cursor && *head.content == *content => {
                self.marks.insert("the index switched");
            }
            _ => {
                return Err(format!(
                    "closes by {by:?} in favour of g{successor}, which has {records} of {of} records, or other marks"
                ));
            }
        }
        let replaces_damage = self.was_damaged_for(&head.manifest, closed);
        self.open = Some(successor);
        self.check_open(&head, replaces_damage)
    }

    /// What the index holds is what was decided: nothing else, nothing less, up to its cursor or the time that it was restored to.
    ///
    /// One that was made or promoted while what it takes the place of was damaged (`replaces_damage`) may lack a correction of what the audit
    /// still looks at.
    fn check_open(&mut self, head: &GenerationHead, replaces_damage: bool) -> Result<(), String> {
        let GenerationHead { number, manifest, content } = head;
        let here = (manifest.generation.number(), *number);
        let standing = content.standing();
        for (place, record) in &standing {
            let Some(before) = self.decided.get_mut(place) else {
                if record.decision.outcome == Outcome::Unreadable {
                    self.marks.insert("an entry was judged unreadable");
                }
                self.decided.insert(*place, Arc::clone(record));
                continue;
            };
            if is_same(before, record) {
                // The next comparison is one of pointers.
                before.clone_from(record);
                if self.set_back.remove(place) {
                    self.corrections.insert(*place, here);
                }
                continue;
            }
            let (was, is) = (before.decision.outcome, record.decision.outcome);
            let is_set_back = self.uncorrected.get(place).is_some_and(|earlier| is_same(earlier, record))
                && (self.set_back.contains(place) || replaces_damage && place.0.second() >= manifest.audited);
            if is_set_back {
                self.set_back.insert(*place);
                self.ever_set_back.insert(*place);
                self.corrections.remove(place);
                self.marks.insert("a correction was lost with the generation that had it");
            } else if was == Outcome::Unreadable && is == Outcome::Unreadable
                || manifest.until.is_none() && is_correction(was, is)
            {
                self.marks.insert("an outcome was corrected");
                self.uncorrected.insert(*place, std::mem::replace(before, Arc::clone(record)));
                self.corrections.insert(*place, here);
            } else {
                return Err(format!("{} op {} was decided as {was:?} and is {is:?}", place.0, place.1));
            }
        }
        let end = manifest.until.map_or(manifest.cursor.second(), StoreSecond::next);
        // What is restored to a token has a part of that token's second.
        let last = standing.keys().next_back().map(|(token, _)| *token);
        let is_cut_off = |token: Token| {
            let until = manifest.until.filter(|until| manifest.cursor.second() <= *until);
            until == Some(token.second()) && Some(token) > last
        };
        // Who lists the log for an archive records it, and who restores a snapshot does not. Within a generation nothing goes.
        let need_not_be_there =
            |record: &OperationRecord| self.audit_window.is_some_and(|window| came_after_last_look(record, window));
        let mut wanted = self.decided.iter().filter(|((token, _), _)| token.second() < end && !is_cut_off(*token));
        let lacking = wanted.find(|(place, record)| !standing.contains_key(*place) && !need_not_be_there(record));
        if let Some(((token, op), record)) = lacking {
            let (outcome, entry, audited) = (record.decision.outcome, record.decision.entry_time, manifest.audited);
            return Err(format!(
                "{token} op {op}, whose entry is of {entry}, was decided as {outcome:?}, and the index up to {end}, audited up to {audited}, does not \
                 have it"
            ));
        }
        if let Some((token, op)) = standing.keys().find(|(token, _)| token.second() >= end) {
            return Err(format!("{token} op {op} is in the index, which reaches up to {end}"));
        }
        content.check_current()
    }

    /// The latest manifest of an index that has a bucket of its own, and what it holds, from all objects of the bucket.
    pub(super) fn read_index(objects: &BTreeMap<String, StoredObject>) -> Result<(Manifest, IndexContent), String> {
        let mut read = Self::default();
        for (key, object) in objects {
            read.remember(key, &object.body)?;
        }
        let latest = objects.keys().filter_map(|key| Some((manifest_place(key)?, key))).max();
        let (_, key) = latest.ok_or_else(|| "there is no manifest".to_owned())?;
        let manifest = record_state(&objects[key].body).map_err(|error| format!("\"{key}\": {error}"))?;
        let content = read.content_of(&manifest)?;
        Ok((manifest, content))
    }

    /// What was restored to an index of its own is what was decided: every operation that is `wanted`, and nothing else. It may be as it was
    /// before a correction where its source is older than that and was not settled there, and lack what came too late to be sealed, or after the
    /// last look at its second, which no clean-up takes from the log; what could
    /// not be read may be decided whenever it can be, in seconds that are settled too. Where the archive is read, entries of the log that no
    /// index has are there as unreadable ones.
    pub(super) fn check_restored(
        &mut self,
        content: &IndexContent,
        source: SourceAge,
        wanted: impl Fn(Token) -> bool,
    ) -> Result<(), String> {
        let SourceAge { audited, reads_archive, audit_window, .. } = source;
        let standing = content.standing();
        for (place, record) in &standing {
            let is = record.decision.outcome;
            if !wanted(place.0) {
                return Err(format!("{} op {} is restored, and comes later", place.0, place.1));
            }
            let is_passed_over = reads_archive && is == Outcome::Unreadable && place.0.second() < audited;
            let was = match self.decided.get(place) {
                Some(decided) if is_same(decided, record) => continue,
                // The archive has nothing of it: the log says that it is there.
                _ if is_passed_over && self.was_unreadable(place) => continue,
                None if is_passed_over => continue,
                was => was.map(|decided| decided.decision.outcome),
            };
            let is_open = place.0.second() >= audited || is == Outcome::Unreadable;
            let is_excused = self.is_older(source, place) && is_open
                || self.ever_set_back.contains(place) && (reads_archive || self.is_older(source, place));
            if self.uncorrected.get(place).is_none_or(|earlier| !is_same(earlier, record)) || !is_excused {
                return Err(format!("{} op {} was decided as {was:?} and is restored as {is:?}", place.0, place.1));
            }
            if is == Outcome::Unreadable && place.0.second() < audited {
                self.marks.insert("a snapshot that is older than a correction was restored");
            }
        }
        let mut decided = self.decided.iter().filter(|((token, _), _)| wanted(*token));
        let may_lack = |record: &OperationRecord| {
            record.token.second() >= audited && came_late(record) || came_after_last_look(record, audit_window)
        };
        if let Some(((token, op), _)) =
            decided.find(|(place, record)| !standing.contains_key(*place) && !may_lack(record))
        {
            return Err(format!("{token} op {op} was decided, and is not restored"));
        }
        content.check_current()
    }

    /// Whether the source was made before the index had the correction of this operation.
    fn is_older(&self, source: SourceAge, place: &(Token, u32)) -> bool {
        let known = source.manifest.zip(self.corrections.get(place));
        known.is_none_or(|(made, corrected)| made < *corrected)
    }

    /// Whether the entry of this operation was judged without being read.
    fn was_unreadable(&self, place: &(Token, u32)) -> bool {
        let known = [self.decided.get(place), self.uncorrected.get(place)];
        known.into_iter().flatten().any(|record| record.decision.outcome == Outcome::Unreadable)
    }

    fn content_of(&self, manifest: &Manifest) -> Result<IndexContent, String> {
        let mut content = IndexContent::default();
        if let Some(gone) = manifest.objects().find(|key| self.deleted.contains(*key)) {
            return Err(format!("a manifest of {} names \"{gone}\", which was deleted", manifest.generation));
        }
        for segment in &manifest.segments {
            let records =
                self.segments.get(&segment.key).ok_or_else(|| format!("\"{}\" was never written", segment.key))?;
            content.records.extend(records.iter().map(|record| (record.seq, Arc::clone(record))));
        }
        for sidecar in &manifest.sidecars {
            let (corrected, outdated) =
                self.sidecars.get(&sidecar.key).ok_or_else(|| format!("\"{}\" was never written", sidecar.key))?;
            content.corrected.extend(corrected);
            content.outdated.extend(outdated);
        }
        if !content.records.keys().copied().eq(FIRST_SEQ..manifest.next_seq) {
            return Err(format!("the seqs of {} are not dense below {}", manifest.generation, manifest.next_seq));
        }
        Ok(content)
    }

    /// What is archived is what was decided: each operation of its seconds, whichever generation was the index meanwhile.
    fn check_archived(&mut self, growth: ArchiveGrowth) -> Result<(), String> {
        let ArchiveGrowth { from, to, records } = growth;
        for (place, record) in &records {
            let is_among = |known: &BTreeMap<_, Arc<OperationRecord>>| {
                known.get(place).is_some_and(|known| is_equal_but_for_seq(known, record))
            };
            let is_known = is_among(&self.decided) || self.set_back.contains(place) && is_among(&self.uncorrected);
            if !is_known {
                let decided = self.decided.get(place);
                return Err(format!("{} op {} is archived as {record:?} and decided as {decided:?}", place.0, place.1));
            }
        }
        let seconds = from.second()..to.second();
        let wanted = self.decided.iter().filter(|((token, _), _)| seconds.contains(&token.second()));
        for ((token, op), record) in wanted.filter(|(place, _)| !records.contains_key(*place)) {
            // What cannot be read may still be decided: it is archived then.
            if record.decision.outcome != Outcome::Unreadable {
                return Err(format!("{token} op {op} is not in the archive, which reaches {to}"));
            }
            self.marks.insert("an unreadable entry was passed over");
        }
        self.marks.insert("the archive was extended");
        Ok(())
    }

    fn observe_list(&mut self, event: &StoreEvent) -> Result<(), String> {
        let manifest: Manifest = record_state(&event.object.body).map_err(|error| error.to_string())?;
        self.lists.insert(event.key.clone(), manifest.objects().map(str::to_owned).collect());
        Ok(())
    }

    fn observe_pins(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        if number <= self.pins.0 {
            return Ok(());
        }
        let register: PinRegister = record_state(&event.object.body).map_err(|error| error.to_string())?;
        let verified = register.pins.values().filter(|pin| pin.owner == SNAPSHOT_OWNER);
        verified.filter_map(|pin| pin.verified.as_ref()).for_each(|proof| self.ledger.vouch(proof));
        let counting = register.pins.into_values().filter(|pin| pin.confirmed);
        self.pins = (number, counting.map(|pin| pin.list).collect());
        Ok(())
    }

    fn observe_deletion(&mut self, event: &StoreEvent) -> Result<(), String> {
        let key = &event.key;
        if key.parse::<ObjectName>().is_err() {
            return Ok(());
        }
        let open = self.heads.values().filter(|head| head.manifest.closed.is_none());
        if let Some(head) = open.into_iter().find(|head| head.manifest.objects().any(|named| named == key)) {
            return Err(format!("{} deleted \"{key}\", which {} names", event.by, head.manifest.generation));
        }
        if let Some(list) = self.pins.1.iter().find(|list| self.lists.get(*list).is_some_and(|held| held.contains(key)))
        {
            return Err(format!("{} deleted \"{key}\", which the pin with \"{list}\" holds", event.by));
        }
        self.deleted.insert(key.clone());
        self.marks.insert("garbage was deleted");
        Ok(())
    }
}

/// The item with this number, counted in a circle; `None` if there is no item.
fn nth_of<T>(mut items: impl Iterator<Item = T> + Clone, number: u64) -> Option<T> {
    let at = usize::try_from(number).ok()?.checked_rem(items.clone().count())?;
    items.nth(at)
}

/// Whether the audit may turn one outcome into the other. What cannot be read may also be judged once more: an archive passes over it, so
/// that what is restored from one has judged it again.
fn is_correction(was: Outcome, is: Outcome) -> bool {
    was == Outcome::Unreadable || was == Outcome::Aborted && matches!(is, Outcome::Late | Outcome::Expired)
}

/// Whether the entry of an operation came too late to be there when its second was sealed: the audit may have found it.
fn came_late(record: &OperationRecord) -> bool {
    record.decision.entry_time.since(record.token.second()) > parameters().commit_bound()
}

/// Whether the entry came after the audit's last look at its second, in a log with this window: no index has to have it, and an archive that is
/// past it never takes it. A restore from the archive alone lists the log, and records it.
fn came_after_last_look(record: &OperationRecord, audit_window: Duration) -> bool {
    let parameters = LogParameters { audit_window, ..parameters() };
    parameters.is_past_audit(record.token.second(), record.decision.entry_time)
}

/// Whether both say the same of an operation.
fn is_same(one: &Arc<OperationRecord>, other: &Arc<OperationRecord>) -> bool {
    Arc::ptr_eq(one, other) || is_equal_but_for_seq(one, other)
}

/// The seq is that of a generation, and so is whether its entry was judged without being read before it was decided.
fn is_equal_but_for_seq(one: &OperationRecord, other: &OperationRecord) -> bool {
    let OperationRecord { seq, was_unreadable, .. } = *other;
    one.seq == seq && one == other || OperationRecord { seq, was_unreadable, ..one.clone() } == *other
}

/// Nothing of `before` is lost in `after`.
fn grows(before: &IndexContent, after: &IndexContent) -> Result<(), String> {
    let is_kept = |seq: &u64, record: &Arc<OperationRecord>| {
        after.records.get(seq).is_some_and(|kept| Arc::ptr_eq(kept, record) || kept == record)
    };
    if let Some((seq, _)) = before.records.iter().find(|(seq, record)| !is_kept(seq, record)) {
        return Err(format!("seq {seq} is gone, or another record than before"));
    }
    if !before.corrected.is_subset(&after.corrected) || !before.outdated.is_subset(&after.outdated) {
        return Err("a mark is gone".to_owned());
    }
    Ok(())
}

/// The generation and the number of a manifest.
fn manifest_place(key: &str) -> Option<ManifestPlace> {
    let (generation, number) = key.split_once("/manifest/")?;
    Some((generation.strip_prefix('g')?.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark_catalog::LogCursor;

    use super::*;

    /// When the object is lost and put back, true time in milliseconds.
    const LOST: u64 = 1_000;
    const PUT_BACK: u64 = 2_000;

    fn second(second: u64) -> StoreSecond {
        StoreSecond::from_unix(1_800_000_000 + second)
    }

    fn record(seq: u64, at: u64, outcome: Outcome) -> OperationRecord {
        let (token, entry_time) = (Token::from_parts(second(at), [1; 16]), second(at));
        let record = json!({
            "seq": seq, "token": token, "op": 0, "kind": "entry", "size": 1,
            "decision": {"outcome": outcome, "entryTime": entry_time}, "entity": format!("entry/{at}"),
        });
        serde_json::from_value(record).unwrap()
    }

    fn content(records: impl IntoIterator<Item = OperationRecord>) -> IndexContent {
        IndexContent {
            records: records.into_iter().map(|record| (record.seq, Arc::new(record))).collect(),
            ..IndexContent::default()
        }
    }

    fn manifest(generation: u64, audited: u64) -> Manifest {
        let generation = format!("g{generation}").parse().unwrap();
        let (cursor, horizon, audited) = (LogCursor(second(10)), second(10), second(audited));
        Manifest { cursor, horizon, audited, next_seq: 3, ..Manifest::new(generation) }
    }

    /// Manifest `number` of `g1`, which was audited up to second 3.
    fn head(number: u64, content: IndexContent) -> GenerationHead {
        GenerationHead { number, manifest: manifest(1, 3), content: Arc::new(content) }
    }

    /// A snapshot of manifest 1, the first of all.
    fn snapshot(audited: u64) -> SourceAge {
        let audit_window = parameters().audit_window;
        SourceAge { audited: second(audited), manifest: Some((1, 1)), reads_archive: false, audit_window }
    }

    /// `g1` is the index: an operation was aborted and turned out to be late.
    fn corrected() -> GenerationModel {
        let mut model = GenerationModel { open: Some(1), ..GenerationModel::default() };
        for (number, outcome) in [(1, Outcome::Aborted), (2, Outcome::Late)] {
            let held = content([record(1, 5, outcome), record(2, 6, Outcome::Committed)]);
            model.check_open(&head(number, held), false).unwrap();
        }
        model.heads.insert(1, GenerationHead { number: 1, manifest: manifest(1, 3), content: Arc::default() });
        model
    }

    /// Switches to what a task has restored without the correction, that began at the time `begun`, and made its generation long after that.
    fn switch_without_correction(model: &mut GenerationModel, begun: u64) -> Result<(), String> {
        let until = second(9);
        let building = Some("restore to the latest time maker".to_owned());
        let restored = Manifest { until: Some(until), building, ..manifest(2, 3) };
        let held = content([record(1, 5, Outcome::Aborted), record(2, 6, Outcome::Committed)]);
        model.begin_task("maker", begun);
        model.begin_task("restore to the latest time maker", 2 * PUT_BACK);
        model.heads.insert(2, GenerationHead { number: 1, manifest: restored, content: Arc::new(held) });
        model.switch(1, 2, EndReason::Restore { to: until }, &IndexContent::default())
    }

    #[test]
    fn a_correction_may_be_lost_only_to_an_object_that_was_away_meanwhile() {
        let refused = switch_without_correction(&mut corrected(), LOST).unwrap_err();
        assert!(refused.contains("decided as Late and is Aborted"), "{refused}");
        for (begun, is_excused) in [(LOST - 1, true), (PUT_BACK, true), (PUT_BACK + 1, false)] {
            let mut model = corrected();
            model.lose("g1/segment/1".to_owned());
            model.put_back(PUT_BACK);
            let switched = switch_without_correction(&mut model, begun);
            assert_eq!(switched.is_ok(), is_excused, "begun at {begun}: {switched:?}");
        }
        let mut lost_still = corrected();
        lost_still.lose("g1/segment/1".to_owned());
        switch_without_correction(&mut lost_still, PUT_BACK + 1).unwrap();
        let mut of_another = corrected();
        of_another.absences.push(ObjectAbsence { generation: 7, until: None });
        switch_without_correction(&mut of_another, LOST).unwrap_err();
    }

    /// `g2` has the correction, and ends before what the damaged `g1` has: to the latest time an older snapshot of `g1` is restored.
    #[test]
    fn a_correction_may_be_lost_to_an_object_of_what_a_restored_generation_replaced() {
        let switch = |model: &mut GenerationModel, generation: u64, outcome| {
            let until = second(9);
            let building = Some(format!("restore to the latest time maker{generation}"));
            let restored = Manifest { until: Some(until), building, ..manifest(generation, 3) };
            let held = content([record(1, 5, outcome), record(2, 6, Outcome::Committed)]);
            model.begin_task(&format!("maker{generation}"), LOST);
            model.heads.insert(generation, GenerationHead { number: 1, manifest: restored, content: Arc::new(held) });
            model.switch(generation - 1, generation, EndReason::Restore { to: until }, &IndexContent::default())
        };
        for (is_lost, is_promoted, is_excused) in [(true, false, true), (false, false, false), (true, true, false)] {
            let mut model = corrected();
            if is_lost {
                model.lose("g1/segment/1".to_owned());
            }
            switch(&mut model, 2, Outcome::Late).unwrap();
            if is_promoted {
                model.heads.get_mut(&2).unwrap().manifest.until = None;
            }
            let switched = switch(&mut model, 3, Outcome::Aborted);
            assert_eq!(switched.is_ok(), is_excused, "lost: {is_lost}, promoted: {is_promoted}: {switched:?}");
        }
    }

    #[test]
    fn a_promotion_may_lack_a_correction_only_beside_an_object_that_was_away_meanwhile() {
        let restored = Manifest { until: Some(second(4)), ..manifest(2, 3) };
        let promoted = Manifest { promoted_by: Some("promoter".to_owned()), ..manifest(2, 3) };
        for (begun, is_excused) in [(PUT_BACK, true), (PUT_BACK + 1, false)] {
            let mut model = corrected();
            model.lose("g1/segment/1".to_owned());
            model.put_back(PUT_BACK);
            model.begin_task("promoter", begun);
            assert_eq!(model.promotes_beside_damage(Some(&restored), &promoted), is_excused, "begun at {begun}");
            assert!(!model.promotes_beside_damage(Some(&promoted), &promoted), "it was promoted before");
            model.absences.clear();
            model.absences.push(ObjectAbsence { generation: 2, until: None });
            assert!(!model.promotes_beside_damage(Some(&restored), &promoted), "of its own it copies nothing");
        }
        // Whatever was away: what the audit is through with stays as it was decided.
        let held = || content([record(1, 5, Outcome::Aborted), record(2, 6, Outcome::Committed)]);
        let promoted_head = |audited: u64| GenerationHead {
            number: 2,
            manifest: Manifest { audited: second(audited), ..promoted.clone() },
            content: Arc::new(held()),
        };
        corrected().check_open(&promoted_head(5), true).unwrap();
        corrected().check_open(&promoted_head(6), true).unwrap_err();
    }

    #[test]
    fn what_came_after_the_last_look_at_its_second_need_not_be_in_an_index() {
        let window = Duration::from_hours(3);
        let lacks = |lateness: Duration, audit_window| {
            let mut unread = record(3, 7, Outcome::Unreadable);
            unread.decision.entry_time = second(7).after(lateness);
            let held = |more: Option<OperationRecord>| {
                let records = [record(1, 5, Outcome::Late), record(2, 6, Outcome::Committed)];
                content(records.into_iter().chain(more))
            };
            let mut model = corrected();
            model.audit_window = audit_window;
            model.check_open(&head(3, held(Some(unread))), false).unwrap();
            model.check_open(&head(4, held(None)), false)
        };
        lacks(2 * window, Some(window)).unwrap();
        lacks(window / 2, Some(window)).unwrap_err();
        lacks(2 * window, None).unwrap_err();
    }

    #[test]
    fn a_restore_that_is_no_fold_of_what_was_decided_is_found() {
        let mut model = corrected();
        let up_to = |last: u64| move |token: Token| token.second() <= second(last);
        let mut check = |records: Vec<OperationRecord>, audited, last| {
            model.check_restored(&content(records), snapshot(audited), up_to(last))
        };
        let (late, committed) = (record(1, 5, Outcome::Late), record(2, 6, Outcome::Committed));
        check(vec![late.clone(), committed.clone()], 10, 6).unwrap();
        check(vec![late.clone()], 10, 5).unwrap();
        let aborted = record(1, 5, Outcome::Aborted);
        check(vec![aborted.clone()], 5, 5).unwrap();
        for (wrong, audited, last) in [
            (vec![aborted], 6, 5),
            (vec![late.clone()], 10, 6),
            (vec![late.clone(), committed.clone()], 10, 5),
            (vec![record(1, 5, Outcome::Malformed)], 0, 5),
            (vec![late.clone(), committed.clone(), record(3, 4, Outcome::Committed)], 0, 6),
        ] {
            check(wrong.clone(), audited, last).expect_err(&format!("{wrong:?}"));
        }
        let mut outdated = content([late, committed]);
        outdated.outdated.insert(2);
        model.check_restored(&outdated, snapshot(10), up_to(6)).unwrap_err();
    }

    #[test]
    fn only_a_source_that_was_not_settled_lacks_an_entry_that_came_late() {
        let bound = parameters().commit_bound().as_secs();
        let check = |lateness: u64, audited| {
            let mut late = record(3, 4, Outcome::Late);
            late.decision.entry_time = second(4 + lateness);
            let mut model = corrected();
            let (late, committed) = (vec![late], record(2, 6, Outcome::Committed));
            let held = content([record(1, 5, Outcome::Late), committed.clone()].into_iter().chain(late));
            model.check_open(&head(3, held), false).unwrap();
            let restored = content([record(1, 5, Outcome::Late), committed]);
            model.check_restored(&restored, snapshot(audited), |_| true)
        };
        check(bound + 1, 4).unwrap();
        check(parameters().audit_window.as_secs() + bound + 1, 5).unwrap();
        for (lateness, audited) in [(bound, 4), (bound + 1, 5), (0, 4)] {
            let refused = check(lateness, audited).unwrap_err();
            assert!(refused.contains("was decided, and is not restored"), "{lateness}, {audited}: {refused}");
        }
    }

    /// The logs of the product's own ingest have a shorter audit window than the documented one.
    #[test]
    fn what_came_after_the_last_look_of_its_own_log_may_be_missing() {
        let audit_window = Duration::from_hours(3);
        let check = |lateness: u64, source: SourceAge| {
            let mut expired = record(3, 4, Outcome::Expired);
            expired.decision.entry_time = second(4 + lateness);
            let held = |records: Vec<OperationRecord>| {
                content([record(1, 5, Outcome::Late), record(2, 6, Outcome::Committed)].into_iter().chain(records))
            };
            let mut model = corrected();
            model.check_open(&head(3, held(vec![expired])), false).unwrap();
            model.check_restored(&held(Vec::new()), source, |_| true)
        };
        let of_log = SourceAge { audit_window, ..snapshot(10) };
        let window = audit_window.as_secs();
        check(window + 1, of_log).unwrap();
        for (lateness, source) in [(window, of_log), (window + 1, snapshot(10))] {
            let refused = check(lateness, source).unwrap_err();
            assert!(refused.contains("was decided, and is not restored"), "{lateness}, {source:?}: {refused}");
        }
    }

    #[test]
    fn only_what_is_older_than_a_correction_is_restored_without_it() {
        let held =
            |outcome| content([record(1, 5, Outcome::Late), record(2, 6, Outcome::Committed), record(3, 4, outcome)]);
        let of = |manifest: u64, audited| SourceAge { manifest: Some((1, manifest)), ..snapshot(audited) };
        let mut model = corrected();
        for (number, outcome) in [(3, Outcome::Unreadable), (4, Outcome::Unreadable), (5, Outcome::Committed)] {
            model.check_open(&head(number, held(outcome)), false).unwrap();
        }
        for (made, audited) in [(3, 10), (4, 10), (4, 4)] {
            model.check_restored(&held(Outcome::Unreadable), of(made, audited), |_| true).unwrap();
        }
        assert!(model.marks.contains("a snapshot that is older than a correction was restored"));
        // A restore that drops the correction, also where its source has not settled it.
        for (made, audited) in [(5, 10), (6, 10), (5, 4)] {
            let refused = model.check_restored(&held(Outcome::Unreadable), of(made, audited), |_| true).unwrap_err();
            assert!(refused.contains("was decided as Some(Committed) and is restored as Unreadable"), "{refused}");
        }
        let aborted = || content([record(1, 5, Outcome::Aborted), record(2, 6, Outcome::Committed)]);
        let up_to_6 = |token: Token| token.second() != second(4);
        model.check_restored(&aborted(), of(1, 5), up_to_6).unwrap();
        model.check_restored(&aborted(), of(2, 5), up_to_6).unwrap_err();
        // In the generation that came next, too.
        let next = SourceAge { manifest: Some((2, 1)), ..snapshot(10) };
        model.check_restored(&held(Outcome::Unreadable), next, |_| true).unwrap_err();
    }

    #[test]
    fn a_correction_that_was_lost_may_be_missing_until_it_is_made_again() {
        let mut model = corrected();
        model.lose("g1/segment/1".to_owned());
        switch_without_correction(&mut model, LOST).unwrap();
        let held = |outcome| content([record(1, 5, outcome), record(2, 6, Outcome::Committed)]);
        let of = |manifest: u64| SourceAge { manifest: Some((2, manifest)), ..snapshot(10) };
        model.check_restored(&held(Outcome::Aborted), of(1), |_| true).unwrap();
        let again = GenerationHead { number: 2, manifest: manifest(2, 3), content: Arc::new(held(Outcome::Late)) };
        model.check_open(&again, false).unwrap();
        model.check_restored(&held(Outcome::Aborted), of(1), |_| true).unwrap();
        model.check_restored(&held(Outcome::Aborted), of(2), |_| true).unwrap_err();
    }

    #[test]
    fn only_an_archive_passes_entries_over_that_no_index_has() {
        let mut model = corrected();
        let held = content([record(1, 4, Outcome::Unreadable), record(2, 5, Outcome::Late)]);
        let up_to_5 = |token: Token| token.second() <= second(5);
        let archive = SourceAge { manifest: None, reads_archive: true, ..snapshot(10) };
        model.check_restored(&held, archive, up_to_5).unwrap();
        model.check_restored(&held, SourceAge { audited: second(4), ..archive }, up_to_5).unwrap_err();
        model.check_restored(&held, snapshot(10), up_to_5).unwrap_err();
    }
}
