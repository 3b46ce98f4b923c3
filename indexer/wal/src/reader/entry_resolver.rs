//! What an entry announces, with the descriptors that it names and the outcome.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use tokio::sync::Semaphore;

use super::{
    descriptor_lookup::{DescriptorLookup, DescriptorQuery, DescriptorReader, EntryMemory, MAX_ENTRY_CONTENT_BYTES},
    file_lists::FileListReader,
    guard_reader::{GuardLookup, GuardReader},
    label_resolver::LabelResolver,
    log_floor::LogFloorSource,
    memory_budget::MemoryShare,
    resolved_entry::{ResolvedEntry, ResolvedOperation, malformed, unreadable},
};
use crate::{
    datamon::{DatamonPath, parse_datamon_path},
    footprint::{parsing_bytes, value_bytes},
    outcome::{EntryGuard, Evidence, Observation, OutcomeDecision, decide_outcome},
    parameters::ParameterSchedule,
    payload::{EntryIntent, IntentOperation, PayloadFormat, parse_payload},
    token::Token,
};
use tidemark_store::{StoreError, StoreSecond, StoredObject};

/// How many descriptors of one entry are read at once.
const MAX_CONCURRENT_GETS: usize = 8;
/// What an operation takes besides the payload: as it is announced, found and resolved, with its texts.
const OPERATION_BYTES: u64 =
    (2 * size_of::<IntentOperation>() + size_of::<DescriptorLookup>() + size_of::<ResolvedOperation>() + 256) as u64;

/// Resolves entries that were read.
#[derive(Clone, Debug)]
pub(super) struct EntryResolver {
    descriptors: DescriptorReader,
    labels: LabelResolver,
    file_lists: FileListReader,
    guards: GuardReader,
    reads_file_names: bool,
}

impl EntryResolver {
    /// One that reads no names of files.
    pub(super) fn new(
        descriptors: DescriptorReader,
        labels: LabelResolver,
        file_lists: FileListReader,
        guards: GuardReader,
    ) -> Self {
        Self { descriptors, labels, file_lists, guards, reads_file_names: false }
    }

    pub(super) fn with_file_names(self, wanted: bool) -> Self {
        Self { reads_file_names: wanted, ..self }
    }

    pub(super) fn with_floor(self, floor: Arc<dyn LogFloorSource>) -> Self {
        Self { labels: self.labels.with_floor(floor), ..self }
    }

    pub(super) async fn resolve(
        &self,
        token: Token,
        entry: StoredObject,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<ResolvedEntry, StoreError> {
        let (entry_time, body) = (entry.info.time, entry.body.unwrap_or_default());
        let size = body.len() as u64;
        // Twice: an intent has its attributes apart, and in the whole.
        let estimate = 2 * parsing_bytes(&body);
        memory.charge(estimate).await;
        let intent = parse_payload(token, &body);
        let parsed = intent.as_ref().map_or(0, intent_bytes);
        memory.settle(estimate, parsed).await;
        let intent = match intent {
            Ok(intent) => intent,
            Err(reason) => return Ok(malformed(token, entry_time, size, Some(body), reason)),
        };
        let guard = match &intent.lock {
            None => None,
            Some(lock) => Some(match self.guards.find(token, lock, memory).await? {
                GuardLookup::Absent => None,
                GuardLookup::Found(guard, answered) => Some((guard, answered)),
                // Without it nothing can be said of the entry.
                GuardLookup::Refused(why) => return Ok(unreadable(token, &entry.info, why)),
            }),
        };
        let (seen, guard_answered) = match &guard {
            None => (EntryGuard::Unguarded, None),
            Some(found) => {
                let seen = found.as_ref().map(|(guard, _)| guard);
                (EntryGuard::Guarded(seen), found.as_ref().map(|(_, answered)| *answered))
            }
        };
        let (ops, answered) = self.resolve_ops(token, entry_time, &intent, seen, schedule, memory).await?;
        let answered = latest([entry.answered].into_iter().chain(guard_answered).chain(answered));
        Ok(ResolvedEntry { token, entry_time, size, body: Some(body), intent: Ok(intent), answered, ops })
    }

    async fn resolve_ops(
        &self,
        token: Token,
        entry_time: StoreSecond,
        intent: &EntryIntent,
        guard: EntryGuard<'_>,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<(Vec<ResolvedOperation>, Vec<Option<StoreSecond>>), StoreError> {
        let parameters = schedule.at(token.second());
        let parsing = Semaphore::new(1);
        let memory = EntryMemory { share: memory, parsing: &parsing };
        let paths: Vec<DatamonPath> = intent.ops.iter().map(path_of).collect();
        // Boxed, and collected before they are run: as closures of a stream the compiler cannot prove that they may move
        // between threads.
        let finds: Vec<BoxFuture<'_, Result<DescriptorLookup, StoreError>>> = (0..)
            .zip(intent.ops.iter().zip(&paths))
            .map(|(op, (operation, path))| {
                let wanted = DescriptorQuery { token, op, operation, path, parameters, schedule, entry_time };
                match path {
                    DatamonPath::Label { .. } if intent.format != PayloadFormat::Intent => {
                        self.labels.find(wanted, memory).boxed()
                    }
                    _ => self.descriptors.find(wanted, memory).boxed(),
                }
            })
            .collect();
        let (mut found, mut room) = (Vec::with_capacity(finds.len()), MAX_ENTRY_CONTENT_BYTES);
        let mut finds = stream::iter(finds).buffered(MAX_CONCURRENT_GETS);
        while let Some(mut lookup) = finds.try_next().await? {
            lookup.keep_content(&mut room, memory.share);
            found.push(lookup);
        }
        drop(finds);
        let named = |(operation, found): (&IntentOperation, &DescriptorLookup)| {
            operation.descriptor.as_ref().map(|_| found.observation.clone())
        };
        let seen: Vec<Option<Observation>> = intent.ops.iter().zip(&found).filter_map(named).collect();
        let group = decide_outcome(parameters, token, entry_time, seen.len(), &seen, guard);
        let answered = found.iter().filter(|found| found.observation.is_some()).map(|found| found.answered).collect();
        let parts = intent.ops.iter().zip(paths).zip(found);
        let ops = parts.map(|((operation, path), found)| resolved_operation(&group, operation, path, found));
        let mut ops: Vec<_> = ops.collect();
        if self.reads_file_names {
            self.file_lists.add_file_names(&mut ops, memory.share).await?;
        }
        Ok((ops, answered))
    }
}

/// What an intent takes with its operations, those that are resolved included.
fn intent_bytes(intent: &EntryIntent) -> u64 {
    2 * value_bytes(&intent.raw) + intent.ops.len() as u64 * OPERATION_BYTES
}

fn path_of(operation: &IntentOperation) -> DatamonPath {
    let named = operation.descriptor.as_deref().map(parse_datamon_path);
    named.and_then(Result::ok).unwrap_or(DatamonPath::Other)
}

/// One operation's part of what was decided for the group.
fn resolved_operation(
    group: &OutcomeDecision,
    operation: &IntentOperation,
    path: DatamonPath,
    found: DescriptorLookup,
) -> ResolvedOperation {
    let own = found.observation.as_ref().and_then(|observation| observation.evidence);
    let own = own.max(group.guard.as_ref().map(|_| Evidence::Bound));
    let (descriptor, unreadable) = match found.descriptor {
        Some(Ok(descriptor)) => (Some(descriptor), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    ResolvedOperation {
        operation: operation.clone(),
        path,
        decision: OutcomeDecision {
            evidence: group.evidence.and(own),
            observations: found.observation.into_iter().collect(),
            ..group.clone()
        },
        descriptor,
        descriptor_body: found.body,
        files: None,
        unreadable,
    }
}

/// The latest of the times, if all are there.
fn latest(times: impl Iterator<Item = Option<StoreSecond>>) -> Option<StoreSecond> {
    times.collect::<Option<Vec<_>>>()?.into_iter().max()
}
