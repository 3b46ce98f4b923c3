//! Listing entries in token order: one listing for a short range, slices of time side by side for a long one.
//!
//! The first [`SAMPLE_ENTRIES`] entries tell how dense the log is. What remains is cut into slices that are expected to
//! hold [`TARGET_SLICE_ENTRIES`] entries each. A slice that turns out denser is read lazily from where its first
//! [`MAX_HELD_ENTRIES`] entries end, so that memory stays bounded. The width of the next slices follows what the last ones
//! held.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt as _, Stream, StreamExt as _, future,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::token::Token;
use tidemark_store::{ObjectInfo, Store, StoreError, StoreSecond};

/// How many entries are read before a range is cut.
const SAMPLE_ENTRIES: usize = 2000;
/// How many entries a slice should hold.
const TARGET_SLICE_ENTRIES: u64 = 4000;
/// How many entries of one slice are held in memory.
const MAX_HELD_ENTRIES: usize = 20_000;
/// A range that is shorter than this is not cut.
const MIN_SLICED_RANGE: Duration = Duration::from_mins(1);
/// Sorts after everything in `.tidemark/` and before every token.
pub(super) const BEFORE_TOKENS: &str = ".tidemark0";

/// An entry that a listing showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its token.
    pub token: Token,
    /// Its store time.
    pub time: StoreSecond,
    /// Size of its body in bytes.
    pub size: u64,
}

type EntryItems = BoxStream<'static, Result<ListedEntry, StoreError>>;

/// The keys of a log that are not tokens, as far as listings met them: the first bytes of their digests. Those that sort after
/// every token are counted by one listing only.
#[derive(Debug, Default)]
pub(super) struct UnrecognizedKeys {
    met: Mutex<BTreeSet<[u8; 8]>>,
    /// The first of them.
    names: Mutex<Vec<String>>,
    /// Whether a listing has gone on beyond the tokens.
    went_beyond: AtomicBool,
}

impl UnrecognizedKeys {
    /// Most keys that are counted apart.
    const MAX: usize = 100_000;
    /// How many of them are remembered by their names.
    const MAX_NAMES: usize = 20;
    /// How many keys the one listing reads beyond the tokens.
    const MAX_BEYOND: u64 = 10_000;

    pub(super) fn count(&self) -> u64 {
        self.met.lock().len() as u64
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.lock().clone()
    }

    /// How many keys beyond the tokens the caller's listing may read: none after the first call.
    fn claim_beyond(&self) -> u64 {
        if self.went_beyond.swap(true, Ordering::Relaxed) { 0 } else { Self::MAX_BEYOND }
    }

    fn record(&self, key: &str) {
        let mut digest = [0; 8];
        digest.copy_from_slice(&Sha256::digest(key)[..8]);
        let mut known = self.met.lock();
        if known.len() < Self::MAX && known.insert(digest) && known.len() <= Self::MAX_NAMES {
            self.names.lock().push(key.to_owned());
        }
    }
}

/// One range of one log to be listed.
#[derive(Clone)]
pub(super) struct RangeListing {
    store: Store,
    /// The key after which the range starts.
    after: String,
    from: StoreSecond,
    to: StoreSecond,
    unrecognized: Arc<UnrecognizedKeys>,
}

impl RangeListing {
    pub(super) fn new(store: &Store, from: StoreSecond, to: StoreSecond, unrecognized: Arc<UnrecognizedKeys>) -> Self {
        Self { store: store.clone(), after: key_before(from), from, to, unrecognized }
    }

    /// What of the range comes after `token`.
    pub(super) fn after(self, token: Token) -> Self {
        Self { after: token.to_string(), from: token.second(), ..self }
    }

    /// The entries in token order, with at most `side_by_side` listings at once. Ends after the first error.
    pub(super) fn stream(
        self,
        side_by_side: usize,
    ) -> impl Stream<Item = Result<ListedEntry, StoreError>> + Send + 'static {
        if self.from >= self.to {
            return stream::empty().boxed();
        }
        let whole = self.clone().plain();
        // A folder reads all names for every listing, so that slices of one cost more than the whole.
        let paged = !matches!(self.store.url().scheme(), "file" | "memory");
        if !paged || side_by_side < 2 || self.to.since(self.from) < MIN_SLICED_RANGE {
            return until_error(whole).boxed();
        }
        let sampled = gather(whole, SAMPLE_ENTRIES).map(move |sample| self.after_sample(sample, side_by_side));
        until_error(sampled.into_stream().flatten()).boxed()
    }

    /// What follows once the sample is known.
    fn after_sample(self, sample: ListingPrefix, side_by_side: usize) -> EntryItems {
        let (Some(rest), Some(Ok(first)), Some(Ok(last))) = (sample.rest, sample.items.first(), sample.items.last())
        else {
            return stream::iter(sample.items).boxed();
        };
        let (start, reached) = (first.token.second(), last.token);
        let width = reached.second().since(start).as_secs().max(1) * TARGET_SLICE_ENTRIES / SAMPLE_ENTRIES as u64;
        let items = stream::iter(sample.items);
        if self.to.since(reached.second()) < MIN_SLICED_RANGE {
            return items.chain(rest).boxed();
        }
        drop(rest);
        items.chain(self.slices(reached, width).buffered(side_by_side).flatten()).boxed()
    }

    /// The slices after `reached`, each as a future of its entries.
    fn slices(self, reached: Token, width: u64) -> impl Stream<Item = impl Future<Output = EntryItems> + Send> + Send {
        let width = Arc::new(AtomicU64::new(width));
        let start = (reached.to_string(), reached.second());
        stream::unfold(start, move |(after, from)| {
            let step = width.load(Ordering::Relaxed).max(1);
            let to = from.next().after(Duration::from_secs(step)).min(self.to);
            let slice = Self { after, from, to, ..self.clone() };
            let width = width.clone();
            let work = (from < self.to).then(|| (slice.read(step, width), (key_before(to), to)));
            future::ready(work)
        })
    }

    /// Reads a slice, and lets the width of the next ones follow from what it held.
    async fn read(self, step: u64, width: Arc<AtomicU64>) -> EntryItems {
        let gathered = gather(self.plain(), MAX_HELD_ENTRIES).await;
        let held = gathered.items.len() as u64;
        let fitting = step.saturating_mul(TARGET_SLICE_ENTRIES) / held.max(1);
        width.store(fitting.clamp(step / 4, step.saturating_mul(4)).max(1), Ordering::Relaxed);
        let rest = gathered.rest.unwrap_or_else(|| stream::empty().boxed());
        stream::iter(gathered.items).chain(rest).boxed()
    }

    /// The range by one listing.
    fn plain(self) -> EntryItems {
        let Self { store, after, to, unrecognized, .. } = self;
        let to_the_end = to > StoreSecond::KSUID_END;
        // The greatest token is the last key that counts. What sorts after it may be all other folders of the bucket.
        let end = if to_the_end { format!("{}\0", greatest_token()) } else { Token::first_of(to).to_string() };
        let (mut beyond, strangers) = (None, unrecognized.clone());
        let mut inside = move |info: &ObjectInfo| {
            if info.key < end {
                return true;
            }
            let left = beyond.get_or_insert_with(|| if to_the_end { strangers.claim_beyond() } else { 0 });
            let goes_on = *left > 0;
            *left = left.saturating_sub(1);
            goes_on
        };
        store
            .list("", Some(&after))
            .take_while(move |info| future::ready(info.as_ref().map_or(true, &mut inside)))
            .filter_map(move |info| future::ready(info.map(|info| read_key(&info, &unrecognized)).transpose()))
            .boxed()
    }
}

/// The greatest key that sorts before every token of second `at` and after every token before it.
fn key_before(at: StoreSecond) -> String {
    if at <= StoreSecond::KSUID_EPOCH {
        return BEFORE_TOKENS.to_owned();
    }
    if at > StoreSecond::KSUID_END {
        return greatest_token().to_string();
    }
    let mut bytes = *Token::first_of(at).as_bytes();
    for byte in bytes.iter_mut().rev() {
        let borrow = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrow {
            break;
        }
    }
    Token::from_bytes(bytes).to_string()
}

/// Sorts after every other token.
fn greatest_token() -> Token {
    Token::from_bytes([u8::MAX; Token::BYTES])
}

fn read_key(info: &ObjectInfo, unrecognized: &UnrecognizedKeys) -> Option<ListedEntry> {
    if info.key.starts_with(".tidemark/") {
        return None;
    }
    let Ok(token) = info.key.parse() else {
        unrecognized.record(&info.key);
        return None;
    };
    Some(ListedEntry { token, time: info.time, size: info.size })
}

/// The first items of a listing, and the rest where there is one.
struct ListingPrefix {
    items: Vec<Result<ListedEntry, StoreError>>,
    rest: Option<EntryItems>,
}

async fn gather(mut listing: EntryItems, most: usize) -> ListingPrefix {
    let mut items = Vec::new();
    while items.len() < most {
        match listing.next().await {
            Some(item) => {
                let failed = item.is_err();
                items.push(item);
                if failed {
                    return ListingPrefix { items, rest: None };
                }
            }
            None => return ListingPrefix { items, rest: None },
        }
    }
    ListingPrefix { items, rest: Some(listing) }
}

/// Ends after the first error, so that what follows it cannot be taken for the next entries.
fn until_error<S>(items: S) -> impl Stream<Item = Result<ListedEntry, StoreError>> + Send
where
    S: Stream<Item = Result<ListedEntry, StoreError>> + Send,
{
    items.scan(false, |failed, item| {
        let goes_on = !*failed;
        *failed = item.is_err();
        future::ready(goes_on.then_some(item))
    })
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use object_store::{ObjectStoreExt as _, PutPayload, memory::InMemory, path::Path};
    use proptest::prelude::*;
    use url::Url;

    use super::*;
    use tidemark_store::Entropy;

    const START: u64 = 1_700_000_000;

    /// A bucket that is listed in slices, with entries at these seconds after [`START`], and with unrecognized.
    async fn bucket(offsets: impl IntoIterator<Item = u64>) -> (Store, Vec<Token>) {
        let inner = InMemory::new();
        let entropy = Entropy::seeded(1);
        let mut tokens: Vec<Token> =
            offsets.into_iter().map(|at| Token::new(StoreSecond::from_unix(START + at), &entropy)).collect();
        tokens.sort();
        let unrecognized = [".tidemark/root/1", ".tidemark/clock/x", "2stranger", "2Y/deeper", "zzz"];
        for key in tokens.iter().map(Token::to_string).chain(unrecognized.map(str::to_owned)) {
            inner.put(&Path::parse(format!("log/{key}")).unwrap(), PutPayload::from_static(b"body")).await.unwrap();
        }
        (Store::over(Arc::new(inner), Url::parse("s3://bucket/log").unwrap()), tokens)
    }

    async fn listed(store: &Store, from: u64, to: u64, side_by_side: usize) -> Vec<Token> {
        let (from, to) = (StoreSecond::from_unix(from), StoreSecond::from_unix(to));
        let listing = RangeListing::new(store, from, to, Arc::default());
        let entries: Vec<ListedEntry> = listing.stream(side_by_side).try_collect().await.unwrap();
        entries.iter().map(|entry| entry.token).collect()
    }

    #[tokio::test]
    async fn slices_give_what_one_listing_gives() {
        // Dense, then silent for a month, then a burst in one second that is more than a slice should hold.
        let dense = (0..6000).map(|n| n / 3);
        let sparse = (0..50).map(|n| 3_000_000 + n * 90_000);
        let burst = std::iter::repeat_n(9_000_000, 5000);
        let (store, tokens) = bucket(dense.chain(sparse).chain(burst).chain(9_000_001..9_000_400)).await;
        for (from, to) in
            [(0, START + 10_000_000), (START + 7, START + 9_000_000), (START + 9_000_000, START + 9_000_001)]
        {
            let expected: Vec<Token> =
                tokens.iter().copied().filter(|token| (from..to).contains(&token.second().unix())).collect();
            for side_by_side in [1, 8] {
                assert_eq!(listed(&store, from, to, side_by_side).await, expected, "{from} to {to}, {side_by_side}");
            }
        }
    }

    #[tokio::test]
    async fn strangers_are_counted_once_and_our_own_objects_never() {
        let (store, _) = bucket([5, 6]).await;
        let unrecognized: Arc<UnrecognizedKeys> = Arc::default();
        for _ in 0..2 {
            let all = RangeListing::new(
                &store,
                StoreSecond::default(),
                StoreSecond::from_unix(u64::MAX),
                unrecognized.clone(),
            );
            assert_eq!(all.stream(8).try_collect::<Vec<_>>().await.unwrap().len(), 2);
        }
        assert_eq!(unrecognized.count(), 3);
    }

    /// Only the first listing to the end goes through what sorts after the tokens.
    #[tokio::test]
    async fn a_listing_to_the_end_ends_with_the_tokens() {
        let inner = Arc::new(InMemory::new());
        let put = async |key: &str| {
            inner.put(&Path::parse(format!("log/{key}")).unwrap(), PutPayload::from_static(b"body")).await.unwrap();
        };
        let greatest = greatest_token();
        for key in [&greatest.to_string(), "aXstranger", "bundles/1", "repos/2"] {
            put(key).await;
        }
        let store = Store::over(inner.clone(), Url::parse("s3://bucket/log").unwrap());
        let unrecognized: Arc<UnrecognizedKeys> = Arc::default();
        for (stranger, from) in [("bundles/3", 0), ("zzz", START), ("zzzz", 1_400_000_000 + u64::from(u32::MAX))] {
            let (from, to) = (StoreSecond::from_unix(from), StoreSecond::KSUID_END.next());
            let all = RangeListing::new(&store, from, to, unrecognized.clone()).stream(8);
            let entries: Vec<ListedEntry> = all.try_collect().await.unwrap();
            assert_eq!(entries.iter().map(|entry| entry.token).collect::<Vec<_>>(), [greatest]);
            assert_eq!(unrecognized.count(), 3);
            put(stranger).await;
        }
    }

    #[tokio::test]
    async fn a_token_of_the_future_waits_for_its_range() {
        let (store, tokens) = bucket([0, 2_000_000_000]).await;
        assert_eq!(listed(&store, 0, START + 1_000_000, 8).await, tokens[..1]);
        assert_eq!(listed(&store, START + 1, START + 2_000_000_001, 8).await, tokens[1..]);
    }

    #[tokio::test]
    async fn nothing_follows_an_error() {
        let failed = || StoreError::Failed { url: String::new(), key: String::new(), why: String::new() };
        let items = stream::iter([Err(failed()), Err(failed())]);
        assert_eq!(until_error(items).count().await, 1);
    }

    proptest! {
        #[test]
        fn the_key_before_a_second_parts_it_from_the_one_before(unix in 1_400_000_001u64..=1_400_000_000 + u64::from(u32::MAX), random: [u8; 16]) {
            let at = StoreSecond::from_unix(unix);
            let key = key_before(at);
            prop_assert!(key < Token::from_parts(at, random).to_string());
            prop_assert!(key >= Token::from_parts(StoreSecond::from_unix(unix - 1), random).to_string());
        }

        #[test]
        fn any_range_is_listed_in_full(offsets in proptest::collection::vec(0u64..500, 0..60), from in 0u64..520, span in 0u64..520) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (store, tokens) = bucket(offsets).await;
                let range = START + from..START + from + span;
                let expected: Vec<Token> = tokens.into_iter().filter(|token| range.contains(&token.second().unix())).collect();
                let found = listed(&store, range.start, range.end, 8).await;
                prop_assert_eq!(found, expected);
                Ok(())
            })?;
        }
    }

    #[test]
    fn the_first_second_starts_after_our_own_objects() {
        let key = key_before(StoreSecond::KSUID_EPOCH);
        assert!(key.as_str() > ".tidemark/zzz" && key.as_str() < "000000000000000000000000000");
    }
}
