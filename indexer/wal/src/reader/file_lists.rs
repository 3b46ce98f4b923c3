//! The names of the files of bundles, from the lists that Datamon keeps beside a bundle's descriptor.
//!
//! They decide nothing: an outcome rests on the descriptor alone. A list that is missing or not what it should be is said and not
//! waited for. One that the store does not give is tried again with its entry, and judged without being read by the rule for all
//! refused objects, so that a failure that passes loses no names.

use bytes::Bytes;
use tidemark_store::StoreError;

use super::{
    file_names::{FileNames, MAX_FILE_NAME_BYTES, no_room},
    memory_budget::MemoryShare,
    object_reader::{FIRST_READ_BYTES, ObjectReader, ReadObject},
    refusals::ReadTarget,
    resolved_entry::ResolvedOperation,
};
use crate::{
    datamon::{DatamonPath, read_file_list},
    footprint::{parsing_bytes, text_bytes},
    log::Log,
    malformed::MalformedInput,
    outcome::Outcome,
};

/// The largest list that is read, in bytes. Datamon's have 1000 names.
const MAX_FILE_LIST_BYTES: u64 = 2 << 20;

/// Reads the lists of files of bundles.
#[derive(Clone, Debug)]
pub(super) struct FileListReader {
    log: Log,
    objects: ObjectReader,
}

impl FileListReader {
    pub(super) fn new(log: &Log, objects: &ObjectReader) -> Self {
        Self { log: log.clone(), objects: objects.clone() }
    }

    /// Reads the names of the files of the bundles among the operations of one entry.
    pub(super) async fn add_file_names(
        &self,
        ops: &mut [ResolvedOperation],
        memory: &MemoryShare,
    ) -> Result<(), StoreError> {
        let mut room = MAX_FILE_NAME_BYTES;
        for op in ops {
            let exists = matches!(op.decision.outcome, Outcome::Committed | Outcome::Late);
            let lists = op.descriptor.as_ref().and_then(|descriptor| descriptor.count).unwrap_or_default();
            let (true, DatamonPath::Bundle { .. }, Some(descriptor)) = (exists, &op.path, &op.operation.descriptor)
            else {
                continue;
            };
            if lists > 0 {
                op.files = Some(self.read_lists(&op.path, descriptor, lists, &mut room, memory).await?);
            }
        }
        Ok(())
    }

    async fn read_lists(
        &self,
        path: &DatamonPath,
        descriptor: &str,
        lists: u64,
        room: &mut usize,
        memory: &MemoryShare,
    ) -> Result<FileNames, StoreError> {
        let (mut files, folder) = (FileNames::default(), descriptor.trim_end_matches("bundle.yaml"));
        for number in 0..lists {
            let key = format!("{folder}bundle-files-{number}.yaml");
            let read = if *room == 0 { Err(no_room()) } else { self.read_list(path, &key, memory).await? };
            let (charged, before) = (read.as_deref().map_or(0, names_bytes), files.memory_bytes());
            if let Err(why) = read.and_then(|names| files.extend(names, room)) {
                files.incomplete = Some(why);
            }
            memory.settle(charged, files.memory_bytes() - before).await;
            if files.incomplete.is_some() {
                break;
            }
        }
        files.names.shrink_to_fit();
        Ok(files)
    }

    /// The names in the list under `key`, or why there are none; [`names_bytes`] are charged for them. An error: try again.
    async fn read_list(
        &self,
        path: &DatamonPath,
        key: &str,
        memory: &MemoryShare,
    ) -> Result<Result<Vec<String>, String>, StoreError> {
        for store in self.log.likely(path) {
            memory.charge(FIRST_READ_BYTES).await;
            let name = ReadTarget::file_list(key);
            let (read, charged) = self.objects.read(store, name, 0, MAX_FILE_LIST_BYTES, memory).await?;
            let names = match read {
                ReadObject::Absent => None,
                ReadObject::Refused { why, .. } => Some(Err(why)),
                ReadObject::Read(object) => Some(match object.body {
                    Some(body) => parse_list(&body, memory).await,
                    None => Err(too_large(object.info.size)),
                }),
            };
            memory.release(charged);
            if let Some(names) = names {
                return Ok(names.map_err(|why| format!("\"{key}\": {why}")));
            }
        }
        Ok(Err(format!("\"{key}\" is missing")))
    }
}

fn too_large(size: u64) -> MalformedInput {
    MalformedInput::new(format!("{size} bytes, more than {MAX_FILE_LIST_BYTES}; not read"))
}

/// Parses a list; [`names_bytes`] are charged for what it results in.
async fn parse_list(body: &Bytes, memory: &MemoryShare) -> Result<Vec<String>, MalformedInput> {
    let estimate = parsing_bytes(body);
    memory.charge(estimate).await;
    let names = read_file_list(body);
    // Less than the estimate, so that names which are there never wait for memory.
    memory.settle(estimate, names.as_deref().map_or(0, names_bytes)).await;
    names
}

/// What names take while they are moved from one list, which may have twice the room that it needs, to another.
fn names_bytes(names: &[String]) -> u64 {
    (3 * size_of_val(names)) as u64 + names.iter().map(text_bytes).sum::<u64>()
}
