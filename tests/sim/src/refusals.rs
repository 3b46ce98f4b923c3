//! Objects that the store refuses to give for good, a key that is disabled for a while, and who was refused what.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

use crate::model::{LOG, META, VMETA};

/// How many objects one process may judge without reading them: the rule says within an hour, and no run is longer.
const MAX_JUDGED: usize = 100;

/// How an object is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// Its body is in an archive: GET is refused, HEAD is not.
    Archived,
    /// A policy denies GET and HEAD; only a listing shows it.
    Denied,
    /// The store gives it, and the indexer that reads it panics.
    Panics,
    /// The store gives it, and does not delete it.
    Undeletable,
}

/// What is refused to all indexers while their key is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisabledKey {
    /// Every GET and HEAD of an entry or descriptor.
    Bodies,
    /// Every call on the log and its metadata buckets.
    Everything,
}

/// What the store answers to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallVerdict {
    Allowed,
    Refused,
    Panics,
}

/// The refusals of one simulated store. Cheap to clone; clones share one state.
#[derive(Clone, Default)]
pub struct StoreRefusals(Arc<Mutex<RefusalLedger>>);

#[derive(Default)]
struct RefusalLedger {
    /// Refused objects by bucket and key: how, and from which true time on.
    objects: BTreeMap<(String, String), (RefusalKind, u64)>,
    /// Whether the store gives all of them again.
    lifted: bool,
    disabled: Option<DisabledKey>,
    /// Whether anything was ever refused. Until then reads are not recorded.
    armed: bool,
    /// By process, bucket and key: the true time of the first refusal since the object was last read.
    refused: BTreeMap<(String, String, String), u64>,
    /// By process and bucket: true time and store second of what was read.
    reads: BTreeMap<(String, String), Vec<(u64, u64)>>,
    /// What each process judged without reading it.
    judged: BTreeMap<String, usize>,
}

impl StoreRefusals {
    fn ledger(&self) -> MutexGuard<'_, RefusalLedger> {
        self.0.lock()
    }

    /// Refuses the object from true time `from` on.
    pub(crate) fn refuse(&self, bucket: &str, key: &str, kind: RefusalKind, from: u64) {
        let mut ledger = self.ledger();
        ledger.armed = true;
        ledger.objects.insert((bucket.to_owned(), key.to_owned()), (kind, from));
    }

    /// Disables the indexers' key, or enables it again.
    pub(crate) fn set_disabled(&self, disabled: Option<DisabledKey>) {
        let mut ledger = self.ledger();
        ledger.armed = true;
        ledger.disabled = disabled;
    }

    /// Gives every object again.
    pub(crate) fn lift(&self) {
        let mut ledger = self.ledger();
        (ledger.lifted, ledger.disabled) = (true, None);
    }

    /// Whether anything was ever refused.
    pub(crate) fn is_armed(&self) -> bool {
        self.ledger().armed
    }

    /// How the object is refused, as text.
    pub(crate) fn kind(&self, bucket: &str, key: &str) -> String {
        let ledger = self.ledger();
        ledger
            .objects
            .get(&(bucket.to_owned(), key.to_owned()))
            .map_or_else(String::new, |(kind, _)| format!("{kind:?}"))
    }

    /// Whether the store takes a call of `process` that is not about one object's body.
    pub(crate) fn admits_call(&self, process: &str, bucket: &str) -> bool {
        let disabled = self.ledger().disabled;
        !(disabled == Some(DisabledKey::Everything) && is_indexer(process) && is_of_log(bucket))
    }

    /// The answer to a GET, or a HEAD if `head`, that takes effect at true time `at`.
    pub(crate) fn answer(&self, process: &str, bucket: &str, key: &str, head: bool, at: u64) -> CallVerdict {
        let mut ledger = self.ledger();
        if !ledger.armed || !is_of_log(bucket) || key.starts_with(".tidemark/") {
            return CallVerdict::Allowed;
        }
        let own =
            ledger.objects.get(&(bucket.to_owned(), key.to_owned())).filter(|(_, from)| *from <= at && !ledger.lifted);
        let verdict = match own {
            _ if ledger.disabled.is_some() && is_indexer(process) => CallVerdict::Refused,
            Some((RefusalKind::Denied, _)) => CallVerdict::Refused,
            Some((RefusalKind::Archived, _)) if !head => CallVerdict::Refused,
            Some((RefusalKind::Panics, _)) if !head && is_indexer(process) => CallVerdict::Panics,
            _ => CallVerdict::Allowed,
        };
        if verdict != CallVerdict::Allowed {
            ledger.refused.entry((process.to_owned(), bucket.to_owned(), key.to_owned())).or_insert(at);
        }
        verdict
    }

    /// Whether the store does not delete the object at true time `at`.
    pub(crate) fn refuses_deletion(&self, bucket: &str, key: &str, at: u64) -> bool {
        let refused = self.ledger().objects.get(&(bucket.to_owned(), key.to_owned())).copied();
        refused.is_some_and(|(kind, from)| kind == RefusalKind::Undeletable && from <= at)
    }

    /// `process` read an object with store time `stamp`, milliseconds, at true time `at`.
    pub(crate) fn record_read(&self, process: &str, bucket: &str, key: &str, stamp: u64, at: u64) {
        let mut ledger = self.ledger();
        if !ledger.armed || !is_of_log(bucket) {
            return;
        }
        ledger.refused.remove(&(process.to_owned(), bucket.to_owned(), key.to_owned()));
        ledger.reads.entry((process.to_owned(), bucket.to_owned())).or_default().push((at, stamp / 1000));
    }

    /// Checks that `process` was right to judge the object of store second `second` without reading it: the store refuses
    /// this object for good, and gave `process` another one of the same bucket that is not older since it first refused it.
    pub(crate) fn check_judgement(&self, process: &str, bucket: &str, key: &str, second: u64) -> Result<(), String> {
        let mut ledger = self.ledger();
        let place = (bucket.to_owned(), key.to_owned());
        if !ledger.objects.contains_key(&place) {
            return Err("the store gives it, or refuses everything".to_owned());
        }
        let Some(since) = ledger.refused.get(&(process.to_owned(), place.0.clone(), place.1)).copied() else {
            return Err("the process was never refused it".to_owned());
        };
        let reads = ledger.reads.get(&(process.to_owned(), place.0)).map_or(&[][..], Vec::as_slice);
        if !reads.iter().any(|(at, read)| *at >= since && *read >= second) {
            return Err(format!(
                "of the {} objects that the process read, none is not older and was read since",
                reads.len()
            ));
        }
        let judged = ledger.judged.entry(process.to_owned()).or_default();
        *judged += 1;
        if *judged > MAX_JUDGED {
            return Err(format!("it is number {judged} within the hour"));
        }
        Ok(())
    }
}

fn is_indexer(process: &str) -> bool {
    process.starts_with("indexer")
}

fn is_of_log(bucket: &str) -> bool {
    [LOG, META, VMETA].contains(&bucket)
}
