//! Finding the descriptors that an entry names, and the evidence that they belong to it.

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{
    descriptor_object::{DescriptorObject, OP_FIELD, TOKEN_FIELD},
    memory_budget::MemoryShare,
    object_reader::{FIRST_READ_BYTES, ObjectReader, ReadObject},
    refusals::ReadTarget,
};
use crate::{
    datamon::{DatamonDescriptor, DatamonPath, read_descriptor},
    footprint::{parsing_bytes, value_bytes},
    log::Log,
    malformed::MalformedInput,
    marker::marker_key,
    outcome::{Evidence, Observation, is_in_time_for},
    parameters::{LogParameters, ParameterSchedule},
    payload::IntentOperation,
    token::Token,
};
use tidemark_store::{Store, StoreError, StoreSecond, StoredObject};

/// Largest descriptor in bytes whose content is kept. Of a larger one, the digest is: it is read piece by piece.
pub(super) const MAX_KEPT_DESCRIPTOR_BYTES: u64 = 256 * 1024;
/// How much memory the contents of the descriptors of one entry take. Those that would take more, by the order of the
/// operations, are kept as digests only, however small they are.
pub(super) const MAX_ENTRY_CONTENT_BYTES: u64 = 8 << 20;
/// What is held of a descriptor that is read piece by piece.
const PIECE_BYTES: u64 = 128 * 1024;

/// What was found for one operation.
#[derive(Default)]
pub(super) struct DescriptorLookup {
    pub(super) observation: Option<Observation>,
    /// The store's clock in the answer that showed it, where it said.
    pub(super) answered: Option<StoreSecond>,
    pub(super) descriptor: Option<Result<DatamonDescriptor, MalformedInput>>,
    /// The bytes that it was read from.
    pub(super) body: Option<Bytes>,
}

/// The operation that a descriptor is wanted for.
#[derive(Clone, Copy)]
pub(super) struct DescriptorQuery<'a> {
    pub(super) token: Token,
    pub(super) op: u32,
    pub(super) operation: &'a IntentOperation,
    pub(super) path: &'a DatamonPath,
    pub(super) parameters: &'a LogParameters,
    pub(super) schedule: &'a ParameterSchedule,
    pub(super) entry_time: StoreSecond,
}

/// Where the descriptors of one entry take memory, and whose turn it is to be parsed.
#[derive(Clone, Copy)]
pub(super) struct EntryMemory<'a> {
    pub(super) share: &'a MemoryShare,
    /// Parsing takes many times what it results in, so that one descriptor is parsed at a time.
    pub(super) parsing: &'a Semaphore,
}

/// Reads descriptors.
#[derive(Clone, Debug)]
pub(super) struct DescriptorReader {
    log: Log,
    objects: ObjectReader,
}

impl DescriptorReader {
    pub(super) fn new(log: &Log, objects: &ObjectReader) -> Self {
        Self { log: log.clone(), objects: objects.clone() }
    }

    /// Looks for the descriptor where it is likely, then in the other stores; one that counts ends the search.
    pub(super) async fn find(
        &self,
        wanted: DescriptorQuery<'_>,
        memory: EntryMemory<'_>,
    ) -> Result<DescriptorLookup, StoreError> {
        let mut lookup = DescriptorLookup::default();
        let Some(path) = &wanted.operation.descriptor else {
            return Ok(lookup);
        };
        let marker = marker_of(&wanted);
        let key = marker.as_ref().unwrap_or(path);
        let limit = wanted.parameters.max_descriptor_size;
        for store in self.log.likely(wanted.path) {
            let Some(mut found) = self.read_descriptor(store, key, limit, memory.share).await? else { continue };
            let seen = observe(&wanted, marker.is_some(), key, &mut found);
            let counts = seen.evidence.is_some() && is_in_time_for(wanted.parameters, wanted.token, &seen);
            let charged = found.charged;
            if counts || lookup.observation.is_none() {
                lookup.answered = found.object.answered;
                (lookup.descriptor, lookup.body) = (None, None);
                if counts {
                    self.keep(&mut lookup, &wanted, found, memory).await;
                }
                lookup.observation = Some(seen);
            }
            memory.share.release(charged);
            if counts {
                break;
            }
        }
        Ok(lookup)
    }

    /// Keeps the content of `found`, which is this operation's.
    pub(super) async fn keep(
        &self,
        lookup: &mut DescriptorLookup,
        wanted: &DescriptorQuery<'_>,
        found: DescriptorObject,
        memory: EntryMemory<'_>,
    ) {
        lookup.body.clone_from(&found.object.body);
        lookup.descriptor = Some(self.read_content(wanted, found, memory).await);
        if lookup.is_too_large() {
            memory.share.release(lookup.content_bytes());
            lookup.forget_content();
        }
        memory.share.charge(lookup.body_bytes()).await;
    }

    /// Reads the descriptor under `key`, of a large one the digest only, of one above `limit` nothing; `None` where there is
    /// none.
    pub(super) async fn read_descriptor(
        &self,
        store: &Store,
        key: &str,
        limit: u64,
        memory: &MemoryShare,
    ) -> Result<Option<DescriptorObject>, StoreError> {
        let kept = limit.min(MAX_KEPT_DESCRIPTOR_BYTES);
        memory.charge(FIRST_READ_BYTES).await;
        let name = ReadTarget::deciding(key);
        let (mut read, mut charged) = self.objects.read(store, name, 0, kept, memory).await?;
        let mut digest = None;
        if let ReadObject::Read(object) = &read
            && object.body.is_none()
        {
            memory.charge(PIECE_BYTES).await;
            charged += PIECE_BYTES;
            let before = self.objects.refusals().reads();
            let (object, of_body) = match store.get_digest(key, limit).await {
                Ok(Some((object, digest))) => (Ok(Some(object)), digest),
                Ok(None) => (Ok(None), None),
                Err(error) => (Err(error), None),
            };
            (read, digest) = (self.objects.judged(store, name, before, object).await?, of_body);
        }
        let found = DescriptorObject::of(read, digest, charged);
        if found.is_none() {
            memory.release(charged);
        }
        Ok(found)
    }

    /// What the descriptor says, or why that is not known.
    async fn read_content(
        &self,
        wanted: &DescriptorQuery<'_>,
        found: DescriptorObject,
        memory: EntryMemory<'_>,
    ) -> Result<DatamonDescriptor, MalformedInput> {
        if let Some(why) = found.refused {
            return Err(why);
        }
        let Some(body) = found.object.body else {
            let (size, limit) = (found.object.info.size, wanted.parameters.max_descriptor_size);
            return Err(MalformedInput::new(if size > limit {
                format!("{size} bytes, more than the limit of {limit} bytes; not read")
            } else {
                format!("{size} bytes, more than {MAX_KEPT_DESCRIPTOR_BYTES}; only its digest is kept")
            }));
        };
        // Nobody closes the semaphore.
        let _turn = memory.parsing.acquire().await;
        let estimate = parsing_bytes(&body);
        memory.share.charge(estimate).await;
        let read = read_descriptor(wanted.path, &body);
        memory.share.settle(estimate, read.as_ref().map_or(0, content_bytes)).await;
        read
    }
}

impl DescriptorLookup {
    /// Keeps the content while there is `room` for it among those of its entry.
    pub(super) fn keep_content(&mut self, room: &mut u64, memory: &MemoryShare) {
        let bytes = self.kept_bytes();
        if let Some(left) = room.checked_sub(bytes) {
            *room = left;
        } else {
            self.forget_content();
            memory.release(bytes);
        }
    }

    fn forget_content(&mut self) {
        self.descriptor = Some(Err(too_large_to_keep()));
        self.body = None;
    }

    fn is_too_large(&self) -> bool {
        self.content_bytes() > MAX_ENTRY_CONTENT_BYTES
    }

    /// What is charged for the content that it has.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.content_bytes() + self.body_bytes()
    }

    /// What the parsed content takes.
    fn content_bytes(&self) -> u64 {
        self.descriptor.as_ref().and_then(|read| read.as_ref().ok()).map_or(0, content_bytes)
    }

    fn body_bytes(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.len() as u64)
    }
}

fn too_large_to_keep() -> MalformedInput {
    MalformedInput::new(format!(
        "the descriptors of its entry take more than {MAX_ENTRY_CONTENT_BYTES} bytes of memory; only its digest is kept"
    ))
}

/// What a descriptor takes: the whole, and its fields apart.
fn content_bytes(descriptor: &DatamonDescriptor) -> u64 {
    2 * value_bytes(&descriptor.raw) + size_of::<DatamonDescriptor>() as u64
}

/// A label of a JSON intent completes by a marker, since its own key is overwritten.
fn marker_of(wanted: &DescriptorQuery<'_>) -> Option<String> {
    match wanted.path {
        DatamonPath::Label { repo, label } => Some(marker_key(repo, label, wanted.token, wanted.op)),
        _ => None,
    }
}

fn observe(wanted: &DescriptorQuery<'_>, marker: bool, key: &str, found: &mut DescriptorObject) -> Observation {
    let (digest, object) = (found.digest.take(), &found.object);
    let evidence = match digest.as_deref() {
        _ if marker => Some(Evidence::Bound),
        digest => on_immutable(wanted, digest, object),
    };
    Observation { key: key.to_owned(), time: object.info.time, digest: digest.unwrap_or_default(), evidence }
}

/// Whether the object's metadata names this operation; `None` where it names none.
pub(super) fn names_us(wanted: &DescriptorQuery<'_>, object: &StoredObject) -> Option<bool> {
    let token = object.metadata.get(TOKEN_FIELD)?;
    let op = object.metadata.get(OP_FIELD);
    Some(*token == wanted.token.to_string() && op.is_none_or(|op| *op == wanted.op.to_string()))
}

/// Whether the body is the one whose digest the intent names; `None` where it names none, or the body was not read.
fn fits(wanted: &DescriptorQuery<'_>, digest: Option<&str>) -> Option<bool> {
    Some(wanted.operation.digest.as_deref()? == digest?)
}

/// A descriptor is written once: any sign that it belongs to another operation is right.
fn on_immutable(wanted: &DescriptorQuery<'_>, digest: Option<&str>, object: &StoredObject) -> Option<Evidence> {
    let named = names_us(wanted, object);
    let fits = fits(wanted, digest);
    if named == Some(false) || fits == Some(false) {
        return None;
    }
    let by_key = object.info.key.contains(&wanted.token.to_string());
    let bound = named == Some(true) || fits == Some(true) || by_key;
    Some(if bound { Evidence::Bound } else { Evidence::Timed })
}
