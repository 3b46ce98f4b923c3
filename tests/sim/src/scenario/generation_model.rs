//! The model of an index over its generations: what each manifest holds, and which generation is the index, from every event.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tidemark_catalog::{EndReason, FIRST_SEQ, Manifest, ObjectName, PinRegister, SNAPSHOT_OWNER};
use tidemark_ingest::OperationRecord;
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};

use super::archive_ledger::{ArchiveGrowth, ArchiveLedger};
use crate::{
    chain_record::record_state,
    simulated_store::{StoreChange, StoreEvent},
};

#[derive(Default, Deserialize)]
struct StoredMarks {
    corrected: Vec<u64>,
    outdated: Vec<u64>,
}

/// All that the index holds: records by seq, and marks.
#[derive(Clone, Debug, Default, PartialEq)]
struct IndexContent {
    records: BTreeMap<u64, OperationRecord>,
    corrected: BTreeSet<u64>,
    outdated: BTreeSet<u64>,
}

impl IndexContent {
    /// Every operation as it stands, without the seq of its record.
    fn standing(&self) -> BTreeMap<(Token, u32), OperationRecord> {
        let standing = self.records.values().filter(|record| !self.corrected.contains(&record.seq));
        standing.map(|record| ((record.token, record.op), OperationRecord { seq: 0, ..record.clone() })).collect()
    }

    /// The marks of outdated commits are those that a naive fold gives.
    fn check_current(&self) -> Result<(), String> {
        let committed = || {
            let standing = self.records.values().filter(|record| !self.corrected.contains(&record.seq));
            standing.filter_map(OperationRecord::entity_commit)
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
    content: IndexContent,
}

/// What is known of the index.
#[derive(Debug, Default)]
pub(super) struct GenerationModel {
    heads: BTreeMap<u64, GenerationHead>,
    segments: BTreeMap<String, BTreeMap<u64, OperationRecord>>,
    sidecars: BTreeMap<String, (BTreeSet<u64>, BTreeSet<u64>)>,
    lists: BTreeMap<String, BTreeSet<String>>,
    /// The number of the latest record of pins, and the lists of those that count.
    pins: (u64, BTreeSet<String>),
    deleted: BTreeSet<String>,
    /// Objects that are lost for a while, and the generations that ever named one.
    lost: BTreeSet<String>,
    damaged: BTreeSet<u64>,
    /// The generation that is the index.
    open: Option<u64>,
    /// What was decided of each operation, by any generation that was the index: it is never forgotten.
    decided: BTreeMap<(Token, u32), OperationRecord>,
    /// What operations were before they were corrected.
    uncorrected: BTreeMap<(Token, u32), OperationRecord>,
    /// Operations of which a restore did not find the correction, since the generation that had it was damaged.
    set_back: BTreeSet<(Token, u32)>,
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
        let at = usize::try_from(number).ok()?.checked_rem(self.decided.len())?;
        self.decided.keys().nth(at).map(|(token, _)| *token)
    }

    /// An object of the open generation is lost.
    pub(super) fn lose(&mut self, key: String) {
        self.damaged.extend(self.open);
        self.lost.insert(key);
    }

    /// All lost objects are back.
    pub(super) fn put_back(&mut self) {
        self.lost.clear();
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
        if key.contains("/segment/") {
            let lines = event.object.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let parsed = lines.map(|line| {
                let record: OperationRecord = serde_json::from_slice(line)?;
                Ok::<_, serde_json::Error>((record.seq, record))
            });
            // What a writer loses on its way is no segment.
            if let Ok(records) = parsed.collect() {
                self.segments.insert(key.to_owned(), records);
            }
        } else if key.contains("/sidecar/") {
            let StoredMarks { corrected, outdated } =
                serde_json::from_slice(&event.object.body).map_err(|error| format!("\"{key}\": {error}"))?;
            self.sidecars.insert(key.to_owned(), (corrected.into_iter().collect(), outdated.into_iter().collect()));
        }
        Ok(())
    }

    fn observe_manifest(&mut self, generation: u64, number: u64, event: &StoreEvent) -> Result<(), String> {
        let before = self.heads.get(&generation).cloned();
        if before.as_ref().is_some_and(|before| number <= before.number) {
            return Ok(());
        }
        let manifest: Manifest =
            record_state(&event.object.body).map_err(|error| format!("g{generation}, manifest {number}: {error}"))?;
        let wrong = |what: String| Err(format!("g{generation}, manifest {number} by {}: {what}", event.by));
        if before.as_ref().is_some_and(|before| before.manifest.closed.is_some()) {
            return wrong("follows the closing record".to_owned());
        }
        if self.open.is_none() && manifest.building.is_none() {
            self.open = Some(generation);
        }
        let is_open = self.open == Some(generation);
        if !is_open && manifest.building.is_none() {
            return wrong(format!("is no generation that is being built, and the index is g{:?}", self.open));
        }
        let content = self.content_of(&manifest)?;
        if let Some(before) = &before {
            grows(&before.content, &content).or_else(wrong)?;
        }
        if is_open && manifest.closed.is_none() {
            self.check_open(&manifest, &content, None).or_else(wrong)?;
        }
        let end = manifest.closed.clone();
        self.heads.insert(generation, GenerationHead { number, manifest, content: content.clone() });
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
            EndReason::Reindex if head.manifest.cursor == closed.cursor && head.content == *content => {
                self.marks.insert("the index switched");
            }
            _ => {
                return Err(format!(
                    "closes by {by:?} in favour of g{successor}, which has {records} of {of} records, or other marks"
                ));
            }
        }
        self.open = Some(successor);
        self.check_open(&head.manifest, &head.content, Some(before))
    }

    /// What the index holds is what was decided: nothing else, nothing less, up to its cursor or the time that it was restored to.
    ///
    /// One that has taken the place of the generation `replaced`, which was damaged, may lack a correction of what the audit still looks at.
    fn check_open(&mut self, manifest: &Manifest, content: &IndexContent, replaced: Option<u64>) -> Result<(), String> {
        let standing = content.standing();
        let replaces_damage = replaced.is_some_and(|replaced| self.damaged.contains(&replaced));
        for (place, record) in &standing {
            let Some(before) = self.decided.get(place) else {
                self.decided.insert(*place, record.clone());
                continue;
            };
            if before == record {
                self.set_back.remove(place);
                continue;
            }
            let (was, is) = (before.decision.outcome, record.decision.outcome);
            let is_set_back = self.uncorrected.get(place) == Some(record)
                && (self.set_back.contains(place) || replaces_damage && place.0.second() >= manifest.audited);
            if is_set_back {
                self.set_back.insert(*place);
                self.marks.insert("a correction was lost with the generation that had it");
            } else if manifest.until.is_none() && (was, is) == (Outcome::Aborted, Outcome::Late) {
                self.uncorrected.insert(*place, before.clone());
                self.decided.insert(*place, record.clone());
            } else {
                return Err(format!("{} op {} was decided as {was:?} and is {is:?}", place.0, place.1));
            }
        }
        let end = manifest.until.map_or(manifest.cursor.second(), StoreSecond::next);
        let mut wanted = self.decided.keys().filter(|(token, _)| token.second() < end);
        if let Some((token, op)) = wanted.find(|place| !standing.contains_key(*place)) {
            return Err(format!("{token} op {op} was decided, and the index up to {end} does not have it"));
        }
        if let Some((token, op)) = standing.keys().find(|(token, _)| token.second() >= end) {
            return Err(format!("{token} op {op} is in the index, which reaches up to {end}"));
        }
        content.check_current()
    }

    fn content_of(&self, manifest: &Manifest) -> Result<IndexContent, String> {
        let mut content = IndexContent::default();
        if let Some(gone) = manifest.objects().find(|key| self.deleted.contains(*key)) {
            return Err(format!("a manifest of {} names \"{gone}\", which was deleted", manifest.generation));
        }
        for segment in &manifest.segments {
            let records =
                self.segments.get(&segment.key).ok_or_else(|| format!("\"{}\" was never written", segment.key))?;
            content.records.extend(records.iter().map(|(seq, record)| (*seq, record.clone())));
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
            let record = OperationRecord { seq: 0, ..record.clone() };
            let is_decided = self.decided.get(place) == Some(&record)
                || self.set_back.contains(place) && self.uncorrected.get(place) == Some(&record);
            if !is_decided {
                let decided = self.decided.get(place);
                return Err(format!("{} op {} is archived as {record:?} and decided as {decided:?}", place.0, place.1));
            }
        }
        let seconds = from.second()..to.second();
        let mut wanted = self.decided.keys().filter(|(token, _)| seconds.contains(&token.second()));
        if let Some((token, op)) = wanted.find(|place| !records.contains_key(*place)) {
            return Err(format!("{token} op {op} is not in the archive, which reaches {to}"));
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

/// Nothing of `before` is lost in `after`.
fn grows(before: &IndexContent, after: &IndexContent) -> Result<(), String> {
    if let Some((seq, _)) = before.records.iter().find(|(seq, record)| after.records.get(seq) != Some(record)) {
        return Err(format!("seq {seq} is gone, or another record than before"));
    }
    if !before.corrected.is_subset(&after.corrected) || !before.outdated.is_subset(&after.outdated) {
        return Err("a mark is gone".to_owned());
    }
    Ok(())
}

/// The generation and the number of a manifest.
fn manifest_place(key: &str) -> Option<(u64, u64)> {
    let (generation, number) = key.split_once("/manifest/")?;
    Some((generation.strip_prefix('g')?.parse().ok()?, number.parse().ok()?))
}
