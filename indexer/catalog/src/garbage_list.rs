//! The objects that hold candidates for deletion: each says which objects of one generation one pass found to be garbage. The
//! state of the collectors' chain names them.

use std::{collections::BTreeMap, iter};

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidemark_store::{Create, Entropy, ObjectInfo, Store, StoreError, StoreSecond, UserMetadata};

use crate::{
    error::CatalogError,
    list_header::{UnreadableList, after_header, header_line},
    names::{Generation, ObjectKind, ObjectName, generation_of_list},
};

/// How many objects one list names at most.
pub const MAX_LIST_CANDIDATES: u64 = 20_000;
/// The largest list that is read: a line has 62 bytes.
const MAX_LIST_BYTES: u64 = 2 << 20;
/// The version of the format that this release writes, and the highest that it reads.
const LIST_FORMAT: u32 = 1;

/// An object that names objects which may be deleted after the grace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GarbageList {
    /// How many objects it names.
    pub keys: u64,
    /// Its bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub checksum: String,
    /// Store time of the record that first named it, absent in that record itself, whose own store time it is. A list that takes
    /// the place of others has the latest date of those.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<StoreSecond>,
}

/// The name of an object within its generation, in 32 bytes: a collector holds many. They sort as keys do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GarbageKey {
    kind: ObjectKind,
    pub(crate) epoch: u64,
    nonce: [u8; 16],
}

impl GarbageKey {
    /// `None` if the nonce is not one.
    pub(crate) fn of(name: &ObjectName) -> Option<Self> {
        let mut nonce = [0; 16];
        hex::decode_to_slice(&name.nonce, &mut nonce).ok()?;
        Some(Self { kind: name.kind, epoch: name.epoch, nonce })
    }

    /// The key below the index's URL.
    pub(crate) fn in_generation(&self, generation: &Generation) -> String {
        let Self { kind, epoch, nonce } = *self;
        ObjectName { generation: generation.clone(), kind, epoch, nonce: hex::encode(nonce) }.to_string()
    }
}

/// The bytes of a list: the header, then a key a line, in order, without the generation.
fn encode(nonce: &str, generation: &Generation, keys: &[GarbageKey]) -> serde_json::Result<Bytes> {
    let mut bytes = header_line(LIST_FORMAT, LIST_FORMAT, nonce)?;
    let prefix = format!("{generation}/").len();
    for key in keys {
        bytes.extend(key.in_generation(generation).bytes().skip(prefix));
        bytes.push(b'\n');
    }
    Ok(bytes.into())
}

fn decode(bytes: &[u8], generation: &Generation) -> Result<Vec<GarbageKey>, UnreadableList> {
    let damaged = |why: &str| UnreadableList::Damaged(why.to_owned());
    let text = str::from_utf8(after_header(bytes, LIST_FORMAT)?).map_err(|_| damaged("it is not text"))?;
    let read = |line: &str| {
        let name = format!("{generation}/{line}").parse::<ObjectName>().ok();
        name.and_then(|name| GarbageKey::of(&name)).ok_or_else(|| damaged("a line is no key"))
    };
    let keys: Vec<_> = text.lines().map(read).collect::<Result<_, _>>()?;
    if keys.is_sorted_by(|one, next| one < next) { Ok(keys) } else { Err(damaged("its keys do not ascend")) }
}

/// The folder of one log's lists. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GarbageListFolder {
    store: Store,
    entropy: Entropy,
}

impl GarbageListFolder {
    /// The lists in the folder that is the root of `store`. Touches nothing.
    pub(crate) fn new(store: Store, entropy: Entropy) -> Self {
        Self { store, entropy }
    }

    /// Creates a list of `keys`, which ascend. Named by a nonce: a name that was deleted is never used again.
    pub(crate) async fn create(
        &self,
        generation: &Generation,
        keys: &[GarbageKey],
    ) -> Result<(String, GarbageList), CatalogError> {
        let nonce = self.entropy.nonce();
        let name = format!("{generation}/{nonce}");
        let corrupt = |why: String| CatalogError::Corrupt { key: self.store.url_of(&name), why };
        let body = encode(&nonce, generation, keys).map_err(|error| corrupt(error.to_string()))?;
        let checksum = hex::encode(Sha256::digest(&body));
        let list = GarbageList { keys: keys.len() as u64, size: body.len() as u64, checksum, since: None };
        match self.store.create_resolved(&name, body, &UserMetadata::new()).await {
            Create::Committed => Ok((name, list)),
            Create::Lost => Err(corrupt("another object has its name".to_owned())),
            // Whatever lands is named by no record: a later pass deletes it.
            Create::Unknown(error) => Err(error.into()),
        }
    }

    /// What a list names. `None` if it is gone, damaged, or refused by the store, which may be for good: what it held begins its
    /// grace again, which deletes nothing too early.
    pub(crate) async fn read(&self, name: &str, list: &GarbageList) -> Result<Option<Vec<GarbageKey>>, CatalogError> {
        let Some(generation) = generation_of_list(name) else { return Ok(None) };
        let keys = match self.store.get(name, list.size.min(MAX_LIST_BYTES)).await {
            Ok(object) => object
                .and_then(|object| object.body)
                .filter(|body| hex::encode(Sha256::digest(body)) == list.checksum)
                .ok_or_else(|| UnreadableList::Damaged("it is gone, or is not what was written".to_owned()))
                .and_then(|body| decode(&body, &generation)),
            Err(refusal @ (StoreError::Denied { .. } | StoreError::Refused { .. })) => {
                Err(UnreadableList::Damaged(refusal.to_string()))
            }
            Err(error) => return Err(error.into()),
        };
        match keys {
            Ok(keys) => Ok(Some(keys)),
            Err(newer @ UnreadableList::Newer { .. }) => Err(newer.into_error(self.store.url_of(name))),
            Err(UnreadableList::Damaged(why)) => {
                let list = self.store.url_of(name);
                tracing::warn!(
                    list,
                    why,
                    "a list of garbage is lost; what it named is deleted a day later; nothing is to be done"
                );
                Ok(None)
            }
        }
    }

    /// Deletes lists that no record names, nor ever will. A failure fails nothing: a later pass finds them.
    pub(crate) async fn delete(&self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        if let Err(error) = self.store.delete(names).await {
            tracing::warn!(%error, "a list of garbage was not deleted; it takes room, nothing names it; a later pass tries again");
        }
    }

    /// Deletes the lists that a pass left behind which ended before its record: those that were written up to `until`, a whole grace
    /// before a pass's first record, where `named` is what that record names.
    ///
    /// Only the pass that created a list ever names it. One that is so old is of an earlier pass, which is fenced: if it is not named
    /// by now, it never will be. A younger one may be of a later pass, and waits.
    pub(crate) async fn delete_orphans(
        &self,
        named: &BTreeMap<String, GarbageList>,
        until: StoreSecond,
    ) -> Result<(), CatalogError> {
        let is_orphan = |object: &ObjectInfo| {
            generation_of_list(&object.key).is_some() && !named.contains_key(&object.key) && object.time <= until
        };
        let mut orphans = Vec::new();
        let mut listed = self.store.list("", None);
        while let Some(object) = listed.try_next().await? {
            orphans.extend(iter::once(object).filter(is_orphan).map(|object| object.key));
        }
        self.delete(&orphans).await;
        Ok(())
    }

    /// Deletes the lists of the generations up to `last`, which were purged. Gives how many. A pass that comes later drops them from
    /// the state; one that is under way may leave some, which a later pass finds.
    pub(crate) async fn purge(&self, last: &Generation) -> Result<u64, CatalogError> {
        let is_purged = |key: &String| generation_of_list(key).is_some_and(|generation| generation <= *last);
        let keys: Vec<_> = self.store.list("", None).map_ok(|object| object.key).try_collect().await?;
        let lists: Vec<_> = keys.into_iter().filter(is_purged).collect();
        self.store.delete(&lists).await?;
        Ok(lists.len() as u64)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Key number `number`: a higher one sorts later.
    pub(crate) fn key(epoch: u64, number: u64) -> GarbageKey {
        GarbageKey { kind: ObjectKind::Segment, epoch, nonce: u128::from(number).to_be_bytes() }
    }

    #[tokio::test]
    async fn a_list_reads_as_it_was_written_and_what_is_not_is_none() {
        let store = Store::memory();
        let folder = GarbageListFolder::new(store.clone(), Entropy::seeded(1));
        let keys = [key(1, 7), key(1, 8), GarbageKey { kind: ObjectKind::Sidecar, epoch: 0, nonce: [0xab; 16] }];
        let (name, list) = folder.create(&Generation::first(), &keys).await.unwrap();
        assert_eq!(folder.read(&name, &list).await.unwrap().unwrap(), keys);
        assert_eq!(generation_of_list(&name), Some(Generation::first()));
        let written = store.get(&name, 1000).await.unwrap().unwrap().body.unwrap();
        assert_eq!(list.size, written.len() as u64);
        store.put(&name, [&written[..], b"x"].concat().into()).await.unwrap();
        assert_eq!(folder.read(&name, &list).await.unwrap(), None);
        store.delete(std::slice::from_ref(&name)).await.unwrap();
        assert_eq!(folder.read(&name, &list).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_list_of_a_newer_release_is_refused_by_name() {
        let store = Store::memory();
        let folder = GarbageListFolder::new(store.clone(), Entropy::seeded(1));
        let body = "{\"format\":3,\"reads\":2,\"nonce\":\"\",\"new\":true}\n";
        let name = format!("g1/{}", "a".repeat(32));
        store.put(&name, body.into()).await.unwrap();
        let checksum = hex::encode(Sha256::digest(body));
        let list = GarbageList { keys: 1, size: body.len() as u64, checksum, since: None };
        let error = folder.read(&name, &list).await.unwrap_err();
        assert!(matches!(&error, CatalogError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    }

    #[test]
    fn the_largest_list_is_read() {
        let generation: Generation = format!("g{}", u64::MAX).parse().unwrap();
        let keys: Vec<_> = (0..MAX_LIST_CANDIDATES).map(|number| key(u64::MAX, number)).collect();
        let bytes = encode(&"f".repeat(32), &generation, &keys).unwrap();
        assert!(bytes.len() as u64 <= MAX_LIST_BYTES, "{}", bytes.len());
        assert_eq!(decode(&bytes, &generation).unwrap(), keys);
    }

    /// The bytes of format 1.
    #[test]
    fn list_1() {
        let bytes = encode(&"a".repeat(32), &Generation::first(), &[key(1, 1), key(2, 9)]).unwrap();
        let file = include_bytes!("../tests/formats/garbage-list-1.txt");
        assert_eq!(bytes, file.as_slice(), "lists are written differently: a new layout is due");
        assert_eq!(decode(file, &Generation::first()).unwrap(), [key(1, 1), key(2, 9)]);
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_text_does(one: (bool, u64, [u8; 16]), other: (bool, u64, [u8; 16])) {
            let [one, other] = [one, other].map(|(segment, epoch, nonce)| GarbageKey {
                kind: if segment { ObjectKind::Segment } else { ObjectKind::Sidecar },
                epoch,
                nonce,
            });
            let text = |key: &GarbageKey| key.in_generation(&Generation::first());
            prop_assert_eq!(one.cmp(&other), text(&one).cmp(&text(&other)));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(header in any::<bool>(), bytes: Vec<u8>) {
            let header: &[u8] = if header { b"{\"format\":1,\"reads\":1,\"nonce\":\"\"}\n" } else { b"" };
            let _ = decode(&[header, &bytes].concat(), &Generation::first());
        }
    }
}
