//! Inspecting: every record of a chain is read, whatever is wrong with one of them. Nothing is written.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    error::ChainError,
    names::{BOUNDARY_FOLDER, ChainObjectName},
    protocol::{AppendOnlyChain, ChainRecord, SlotObject},
    record,
    state::ChainState,
};
use crate::errors::StoreError;

/// Records that are read at once.
const MAX_CONCURRENT_READS: usize = 8;
/// How often an inspection starts again because trimming overtook it.
const MAX_INSPECTIONS: u32 = 4;
/// How many faults are kept; the others are counted.
const MAX_KEPT_FAULTS: usize = 100;

/// What an inspection of a chain found.
#[derive(Debug)]
pub struct ChainInspection<S: ChainState> {
    /// The trim boundary.
    pub boundary: u64,
    /// How many records there are above the boundary.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The highest format that a record names. One above [`ChainState::FORMAT`] was written by a newer release.
    pub format: u32,
    /// The latest record; `None` of an empty chain, and where it is damaged.
    pub latest: Option<ChainRecord<S>>,
    /// What is wrong, each with the object at fault: [`ChainError::Corrupt`], [`ChainError::NewerFormat`] or
    /// [`ChainError::NewerWriter`]. The first hundred.
    pub faults: Vec<ChainError<S::Rejection>>,
    /// How many faults there are.
    pub fault_count: u64,
}

/// What is known of the records that were read so far.
struct ChainWalk<S: ChainState> {
    records: u64,
    bytes: u64,
    format: u32,
    /// The hash that the next record must name; `None` where the record before is not known.
    before: Option<String>,
    latest: Option<ChainRecord<S>>,
    /// Each with the number of the record that must be trimmed for it to be none.
    faults: Vec<(u64, ChainError<S::Rejection>)>,
    /// Beyond those that are kept.
    further_faults: u64,
}

impl<S: ChainState> AppendOnlyChain<S> {
    /// Reads every record above the boundary: whether none is missing, each is what its own checksum says, and each names the hash of
    /// the one before. Other processes may append and trim meanwhile.
    ///
    /// One byte of the newest record alone can change unnoticed: its nonce, which nothing names before the next record does.
    ///
    /// # Errors
    ///
    /// [`ChainError::Store`] if the store fails, and [`ChainError::Conflicts`] if trimming overtook it again and again.
    pub async fn inspect(&self) -> Result<ChainInspection<S>, ChainError<S::Rejection>> {
        for _ in 0..MAX_INSPECTIONS {
            let boundary = self.boundary().await?;
            let slots = self.slots_above(boundary).await?;
            let mut walk = ChainWalk::new(boundary);
            let mut read = stream::iter(slots.clone())
                .map(|number| async move { self.fetch(number).await.map(|object| (number, object)) })
                .buffered(MAX_CONCURRENT_READS);
            while let Some((number, object)) = read.try_next().await? {
                walk.add(self, number, object);
            }
            drop(read);
            let now = self.boundary().await?;
            match slots.last() {
                // Everything that was listed was trimmed meanwhile.
                Some(last) if *last <= now => {}
                None if now != boundary => {}
                last => {
                    if last.is_none() && boundary > 0 {
                        walk.fault(boundary + 1, self.missing_record(boundary));
                    }
                    return Ok(walk.finish(now));
                }
            }
        }
        Err(ChainError::Conflicts { chain: self.store().url().to_string(), attempts: MAX_INSPECTIONS })
    }

    /// The numbers of the records that a listing shows above the boundary, and the first one of each gap between them: a listing may miss
    /// what is created while it goes on.
    async fn slots_above(&self, boundary: u64) -> Result<Vec<u64>, StoreError> {
        let (mut slots, mut next) = (Vec::new(), boundary.saturating_add(1));
        let mut listing = self.store().list("", None);
        while let Some(object) = listing.try_next().await? {
            // Digits sort before the folder of the boundaries; what sorts after them is not the chain's.
            if object.key.as_str() >= BOUNDARY_FOLDER {
                break;
            }
            let Some(ChainObjectName::Record(number)) = ChainObjectName::parse(&object.key) else { continue };
            if number < next {
                continue;
            }
            if number > next {
                slots.push(next);
            }
            slots.push(number);
            next = number.saturating_add(1);
        }
        Ok(slots)
    }
}

impl<S: ChainState> ChainWalk<S> {
    fn new(boundary: u64) -> Self {
        // Nothing is known of the record at the boundary, which may be gone.
        let before = (boundary == 0).then(record::no_hash);
        Self { records: 0, bytes: 0, format: 0, before, latest: None, faults: Vec::new(), further_faults: 0 }
    }

    fn fault(&mut self, number: u64, error: ChainError<S::Rejection>) {
        if self.faults.len() < MAX_KEPT_FAULTS {
            self.faults.push((number, error));
        } else {
            self.further_faults += 1;
        }
    }

    /// Takes in the next record, or that it is absent.
    fn add(&mut self, chain: &AppendOnlyChain<S>, number: u64, object: Option<SlotObject>) {
        self.latest = None;
        let before = self.before.take();
        let Some(object) = object else {
            let why = "it is missing although later ones are there".to_owned();
            return self.fault(number, chain.corrupt(number, why));
        };
        let body = object.body.clone().unwrap_or_default();
        self.records += 1;
        self.bytes += body.len() as u64;
        let (record, previous) = match chain.decode_linked(object) {
            Ok(decoded) => decoded,
            Err(error) => return self.fault(number, error),
        };
        if before.is_some_and(|before| before != previous) {
            let before = number.saturating_sub(1);
            let why = format!("it does not follow record {before}: one of the two was changed");
            // Nothing is wrong once that one is trimmed: a process that slept may have created it again, which counts for nothing.
            self.fault(before.max(1), chain.corrupt(number, why));
        }
        if let Some(versions) = record::versions(&body) {
            self.format = self.format.max(versions.format);
            if versions.writes > S::FORMAT {
                let key = chain.record_url(number);
                self.fault(number, ChainError::NewerWriter { key, needed: versions.writes, known: S::FORMAT });
            } else if versions.format <= S::FORMAT && versions != record.state.versions() {
                let why = "its header names other versions than its state has".to_owned();
                self.fault(number, chain.corrupt(number, why));
            }
        }
        self.before = Some(record.hash.clone());
        self.latest = Some(record);
    }

    /// What was found, given the boundary as it is now: what lies at or below it was trimmed meanwhile.
    fn finish(self, boundary: u64) -> ChainInspection<S> {
        let Self { records, bytes, format, before: _, latest, faults, further_faults } = self;
        let faults: Vec<_> =
            faults.into_iter().filter(|(number, _)| *number > boundary).map(|(_, fault)| fault).collect();
        let fault_count = faults.len() as u64 + further_faults;
        ChainInspection { boundary, records, bytes, format, latest, faults, fault_count }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{names::record_key, testing::AscendingNumbers},
        *,
    };
    use crate::{entropy::Entropy, store::Store};

    async fn chain_of(records: u64) -> AppendOnlyChain<AscendingNumbers> {
        let chain = AppendOnlyChain::<AscendingNumbers>::new(Store::memory(), Entropy::seeded(1));
        for number in 1..=records {
            let next = move |_: Option<&AscendingNumbers>| Ok(Some(AscendingNumbers((1..=number).collect())));
            chain.append(None, next).await.unwrap();
        }
        chain
    }

    /// The keys of the objects at fault.
    async fn faults(chain: &AppendOnlyChain<AscendingNumbers>) -> Vec<String> {
        let inspection = chain.inspect().await.unwrap();
        let key = |fault: &ChainError<_>| match fault {
            ChainError::Corrupt { key, .. }
            | ChainError::NewerFormat { key, .. }
            | ChainError::NewerWriter { key, .. } => key.rsplit('/').next().unwrap_or_default().to_owned(),
            other => panic!("{other}"),
        };
        inspection.faults.iter().map(key).collect()
    }

    #[tokio::test]
    async fn a_sound_chain_has_no_fault_wherever_it_begins() {
        assert_eq!(chain_of(0).await.inspect().await.unwrap().records, 0);
        let chain = chain_of(5).await;
        let inspection = chain.inspect().await.unwrap();
        assert_eq!((inspection.records, inspection.fault_count, inspection.format), (5, 0, 1));
        assert_eq!(inspection.latest, chain.latest().await.unwrap());
        chain.set_boundary(2).await.unwrap();
        chain.store().delete(&[record_key(1), record_key(2)]).await.unwrap();
        let inspection = chain.inspect().await.unwrap();
        assert_eq!((inspection.boundary, inspection.records, inspection.fault_count), (2, 3, 0));
    }

    #[tokio::test]
    async fn what_is_missing_is_named_and_the_rest_is_read_on() {
        let chain = chain_of(6).await;
        chain.store().delete(&[record_key(2), record_key(3), record_key(5)]).await.unwrap();
        assert_eq!(faults(&chain).await, [record_key(2), record_key(5)]);
        assert_eq!(chain.inspect().await.unwrap().latest.map(|record| record.number), Some(6));
        chain.set_boundary(5).await.unwrap();
        assert!(faults(&chain).await.is_empty());
        chain.store().delete(&[record_key(6)]).await.unwrap();
        assert_eq!(faults(&chain).await, [record_key(6)]);
    }

    #[tokio::test]
    async fn a_record_that_was_exchanged_does_not_follow_the_one_before() {
        let (chain, other) = (chain_of(4).await, chain_of(3).await);
        let forged = |_: Option<&AscendingNumbers>| Ok(Some(AscendingNumbers(vec![1, 2, 3, 7])));
        other.append(None, forged).await.unwrap();
        let body = other.store().get(&record_key(4), 1 << 20).await.unwrap().unwrap().body.unwrap();
        chain.store().put(&record_key(3), body.clone()).await.unwrap();
        assert_eq!(faults(&chain).await, [record_key(3)], "it says that it is another record");
        // A nonce is new each time, so that the third record of the other chain has another hash.
        let third = other.store().get(&record_key(3), 1 << 20).await.unwrap().unwrap().body.unwrap();
        let renamed = String::from_utf8(third.to_vec()).unwrap();
        let nonce = renamed.split("\"nonce\":\"").nth(1).unwrap()[..32].to_owned();
        let changed = renamed.replace(&nonce, &"0".repeat(32));
        chain.store().put(&record_key(3), changed.into()).await.unwrap();
        assert_eq!(faults(&chain).await, [record_key(4)]);
    }

    /// Trimming overtook the inspection, and a process that had slept created the record again that was deleted then.
    #[tokio::test]
    async fn a_record_that_was_created_again_below_the_boundary_is_no_fault_of_the_next_one() {
        let (chain, sleeper) = (chain_of(3).await, chain_of(1).await);
        let forged = |_: Option<&AscendingNumbers>| Ok(Some(AscendingNumbers(vec![1, 7])));
        sleeper.append(None, forged).await.unwrap();
        let body = sleeper.store().get(&record_key(2), 1 << 20).await.unwrap().unwrap().body.unwrap();
        chain.store().put(&record_key(2), body).await.unwrap();
        let walked = async |boundary: u64| {
            let mut walk = ChainWalk::new(1);
            for number in 2..=3 {
                walk.add(&chain, number, chain.fetch(number).await.unwrap());
            }
            walk.finish(boundary).faults.len()
        };
        assert_eq!((walked(1).await, walked(2).await), (1, 0));
    }

    #[tokio::test]
    async fn a_record_of_a_newer_release_is_named() {
        let chain = chain_of(2).await;
        let body = chain.store().get(&record_key(2), 1 << 20).await.unwrap().unwrap().body.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        for (field, found) in [("reads", "NewerFormat"), ("writes", "NewerWriter")] {
            let newer = body.replace(&format!("\"{field}\":1"), &format!("\"{field}\":2"));
            chain.store().put(&record_key(2), newer.into()).await.unwrap();
            let inspection = chain.inspect().await.unwrap();
            assert!(format!("{:?}", inspection.faults).contains(found), "{:?}", inspection.faults);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Any byte of any record but the nonce of the newest one. A higher format is no damage, and is told apart.
        #[test]
        fn every_changed_byte_is_found(number in 1u64..=4, at: prop::sample::Index, flip in 1u8..) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let chain = chain_of(4).await;
                let key = record_key(number);
                let mut body = chain.store().get(&key, 1 << 20).await.unwrap().unwrap().body.unwrap().to_vec();
                let at = at.index(body.len());
                let nonce = String::from_utf8_lossy(&body).find("\"nonce\":\"").unwrap() + 9;
                body[at] ^= flip;
                chain.store().put(&key, body.into()).await.unwrap();
                let inspection = chain.inspect().await.unwrap();
                let is_nonce = number == 4 && (nonce..nonce + 32).contains(&at);
                assert!(is_nonce || inspection.fault_count > 0 || inspection.format > 1, "byte {at} of {number}");
            });
        }
    }
}
