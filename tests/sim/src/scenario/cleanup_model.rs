//! What must hold of the log's floor and of every entry that is deleted, checked against every event without the code under test.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tidemark_catalog::{CleanupPlan, CleanupState, LogCursor, RootState};
use tidemark_wal::{Token, guarded_token};
use tokio::sync::Notify;

use super::{
    archive_ledger::ArchiveLedger,
    long_run::{INDEX, LOG},
};
use crate::{
    chain_record::record_state,
    simulated_store::{StoreChange, StoreEvent, StoredObject},
};

#[derive(Debug, Default)]
pub(super) struct CleanupModel {
    /// The root as it is, and the number of its record: the first one that was written in each slot counts.
    root: (u64, RootState),
    /// Everything that was planned, by the number of the plan's record.
    plans: BTreeMap<u64, CleanupPlan>,
    /// Where indexes stand that may register, by name.
    pub(super) cursors: BTreeMap<String, LogCursor>,
    /// Resolves when a plan is recorded.
    pub(super) on_plan: Arc<Notify>,
    /// The entries that were deleted: when, true time in milliseconds, and by which process.
    gone: BTreeMap<Token, (u64, String)>,
    /// When a clean-up ended last, true time in milliseconds.
    pub(super) last_end: Option<u64>,
    pub(super) marks: BTreeSet<&'static str>,
}

impl CleanupModel {
    /// Checks an event in any bucket. `ledger` has followed it.
    pub(super) fn observe(&mut self, event: &StoreEvent, ledger: &ArchiveLedger) -> Result<(), String> {
        let key = event.key.as_str();
        match (event.bucket.as_str(), event.change) {
            (LOG, StoreChange::Created) if key.starts_with(".tidemark/root/") => self.root_changed(event, ledger),
            (LOG, StoreChange::Deleted) if !key.starts_with(".tidemark/") => {
                let deleted = key.parse().map_err(|_| "which is no entry".to_owned());
                let checked = deleted.and_then(|token| self.check_deletion(token, event, ledger));
                checked.map_err(|why| format!("{} deleted \"{key}\" of the log, {why}", event.by))
            }
            (LOG, StoreChange::Deleted) => match guarded_token(key) {
                Some(token) => self.guard_deleted(token, event),
                None => Ok(()),
            },
            (INDEX, StoreChange::Created) if key.starts_with("cleanup/") => self.planned(event, ledger),
            _ => Ok(()),
        }
    }

    fn planned(&mut self, event: &StoreEvent, ledger: &ArchiveLedger) -> Result<(), String> {
        let Some(number) = number_of(&event.key) else { return Ok(()) };
        if self.plans.last_key_value().is_some_and(|(latest, _)| number <= *latest) {
            return Ok(());
        }
        let state: CleanupState = record_state(&event.object.body).map_err(|error| error.to_string())?;
        let Some(plan) = state.plan else { return Ok(()) };
        let by = &event.by;
        let proven = ledger.proven();
        if plan.to > proven {
            return Err(format!(
                "{by} plans up to {}, and verified snapshots have the archive up to {proven}",
                plan.to
            ));
        }
        if ledger.table_end(plan.extent.version).is_none_or(|end| end < plan.floor) {
            return Err(format!("{by} plans on version {} of the archive: {plan:?}", plan.extent.version));
        }
        self.plans.insert(number, plan);
        self.on_plan.notify_waiters();
        Ok(())
    }

    /// The floor is at or below what every index keeps when it is raised, and below where an index stands that registers.
    fn root_changed(&mut self, event: &StoreEvent, ledger: &ArchiveLedger) -> Result<(), String> {
        let Some(number) = number_of(&event.key).filter(|number| *number > self.root.0) else { return Ok(()) };
        let root: RootState = record_state(&event.object.body).map_err(|error| error.to_string())?;
        let (by, before) = (&event.by, &self.root.1);
        let floor = |root: &RootState| root.floor.as_ref().map(|floor| floor.second).unwrap_or_default();
        if floor(&root) < floor(before) {
            return Err(format!("{by} lowered the floor from {} to {}", floor(before), floor(&root)));
        }
        if let Some(raised) = root.floor.as_ref().filter(|_| floor(&root) > floor(before)) {
            if let Some((name, known)) = root.indexes.iter().find(|(_, known)| known.keeps < raised.second) {
                return Err(format!(
                    "{by} raised the floor to {} beside \"{name}\", which keeps {}",
                    raised.second, known.keeps
                ));
            }
            if ledger.table_end(raised.extent.version).is_none_or(|end| end < raised.second) {
                return Err(format!("{by} raised the floor beyond the archive: {raised:?}"));
            }
            self.marks.insert("the floor was raised");
        }
        for name in root.indexes.keys().filter(|name| !before.indexes.contains_key(*name)) {
            let Some(cursor) = self.cursors.get(name) else { continue };
            if *cursor < floor(&root) {
                return Err(format!("\"{name}\" registered at {cursor}, below the floor {}", floor(&root)));
            }
            self.marks.insert("an index registered meanwhile");
        }
        self.root = (number, root);
        Ok(())
    }

    /// An entry goes only if the floor was raised above it, a plan that names it is recorded, a verified snapshot vouches for the archive, and
    /// the archive that the floor names has the very bytes that are deleted.
    fn check_deletion(&mut self, token: Token, event: &StoreEvent, ledger: &ArchiveLedger) -> Result<(), String> {
        let body = &event.object.body;
        let Some(floor) = self.root.1.floor.as_ref().filter(|floor| floor.second.covers(token)) else {
            return Err(format!("which is not below the floor {:?}", self.root.1.floor));
        };
        if !self.plans.values().any(|plan| plan.to.covers(token)) {
            return Err("which no recorded plan names".to_owned());
        }
        if !ledger.proven().covers(token) {
            return Err("for which no verified snapshot vouches".to_owned());
        }
        match ledger.body(token) {
            Some((version, archived)) if archived == body && *version <= floor.extent.version => {
                self.marks.insert("an entry was deleted");
                self.gone.insert(token, (event.at, event.by.clone()));
                Ok(())
            }
            Some((version, archived)) => Err(format!(
                "of which the archive has {:?} from version {version} on; the floor names {:?}",
                String::from_utf8_lossy(archived),
                floor.extent
            )),
            None => Err("of which the archive has no bytes".to_owned()),
        }
    }
}

impl CleanupModel {
    /// A guard goes only after its entry.
    fn guard_deleted(&mut self, token: Token, event: &StoreEvent) -> Result<(), String> {
        let Some((_, by)) = self.gone.get(&token) else {
            return Err(format!("{} deleted the guard of {token}, which is not gone", event.by));
        };
        let is_own = *by == event.by;
        self.marks.insert(if is_own {
            "a guard was deleted"
        } else {
            "a guard that another clean-up left was deleted"
        });
        Ok(())
    }

    /// The guards of entries below `to` that were gone before the time `since`, among the `objects` of the log.
    pub(super) fn guards_left(
        &self,
        to: LogCursor,
        since: u64,
        objects: &BTreeMap<String, StoredObject>,
    ) -> Vec<Token> {
        let guarded = objects.keys().filter_map(|key| guarded_token(key));
        let is_left = |token: &Token| to.covers(*token) && self.gone.get(token).is_some_and(|(at, _)| *at < since);
        guarded.filter(is_left).collect()
    }
}

/// The entries below `to` that are still among the `objects` of the log although the archive has them.
pub(super) fn left_below(
    to: LogCursor,
    objects: &BTreeMap<String, StoredObject>,
    ledger: &ArchiveLedger,
) -> Vec<Token> {
    let is_archived =
        |token: Token, object: &StoredObject| ledger.body(token).is_some_and(|(_, body)| *body == object.body);
    let entries = objects.iter().filter_map(|(key, object)| Some((key.parse::<Token>().ok()?, object)));
    let left = entries.filter(|(token, object)| to.covers(*token) && is_archived(*token, object));
    left.map(|(token, _)| token).collect()
}

/// The number of a record of a chain; none of a boundary.
fn number_of(key: &str) -> Option<u64> {
    let (folder, number) = key.rsplit_once('/')?;
    number.parse().ok().filter(|_| !folder.ends_with("/boundary"))
}
