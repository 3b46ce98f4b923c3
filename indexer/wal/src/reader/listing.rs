//! Listing entries in token order: one listing for a short range, slices of time side by side for a long one.
//!
//! The first [`SAMPLE`] entries tell how dense the log is. What remains is cut into slices that are expected to hold
//! [`SLICE`] entries each; a slice that turns out denser is read on lazily where its first [`MOST_HELD`] entries end, so
//! that memory stays bounded. The width of the next slices follows what the last ones held.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt as _, Stream, StreamExt as _, future,
    stream::{self, BoxStream},
};
use sha2::{Digest as _, Sha256};

use super::Listed;
use crate::{ObjectInfo, Second, Store, StoreError, Token};

/// How many entries are read before a range is cut.
const SAMPLE: usize = 2000;
/// How many entries a slice should hold.
const SLICE: u64 = 4000;
/// How many entries of one slice are held in memory.
const MOST_HELD: usize = 20_000;
/// A range that is shorter than this is not cut.
const SHORTEST: Duration = Duration::from_mins(1);
/// Sorts after everything in `.tidemark/` and before every token.
const BEFORE_TOKENS: &str = ".tidemark0";

type Items = BoxStream<'static, Result<Listed, StoreError>>;

/// The keys of a log that are no tokens, as far as listings met them.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    digests: BTreeSet<[u8; 8]>,
    example: Option<String>,
}

impl Strangers {
    /// Most strangers that are told apart.
    const MOST: usize = 100_000;

    pub(super) fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).digests.len() as u64
    }

    pub(super) fn example(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).example.clone()
    }

    fn note(&self, key: &str) {
        let mut digest = [0; 8];
        digest.copy_from_slice(&Sha256::digest(key)[..8]);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.digests.len() < Self::MOST {
            known.digests.insert(digest);
            known.example.get_or_insert_with(|| key.chars().take(200).collect());
        }
    }
}

/// One range of one log to be listed.
#[derive(Clone)]
pub(super) struct Listing {
    store: Store,
    /// The key after which the range starts.
    after: String,
    from: Second,
    to: Second,
    strangers: Arc<Strangers>,
}

impl Listing {
    pub(super) fn new(store: &Store, from: Second, to: Second, strangers: Arc<Strangers>) -> Self {
        Self { store: store.clone(), after: key_before(from), from, to, strangers }
    }

    /// The entries in token order, with at most `side_by_side` listings at once. Ends after the first error.
    pub(super) fn stream(self, side_by_side: usize) -> impl Stream<Item = Result<Listed, StoreError>> + Send + 'static {
        if self.from >= self.to {
            return stream::empty().boxed();
        }
        let whole = self.clone().plain();
        // A folder reads all names for every listing, so that slices of one cost more than the whole.
        let paged = !matches!(self.store.url().scheme(), "file" | "memory");
        if !paged || side_by_side < 2 || self.to.since(self.from) < SHORTEST {
            return until_error(whole).boxed();
        }
        let sampled = gather(whole, SAMPLE).map(move |sample| self.after_sample(sample, side_by_side));
        until_error(sampled.into_stream().flatten()).boxed()
    }

    /// What follows once the sample is known.
    fn after_sample(self, sample: Gathered, side_by_side: usize) -> Items {
        let (Some(rest), Some(Ok(first)), Some(Ok(last))) = (sample.rest, sample.items.first(), sample.items.last())
        else {
            return stream::iter(sample.items).boxed();
        };
        let (start, reached) = (first.token.second(), last.token);
        let width = reached.second().since(start).as_secs().max(1) * SLICE / SAMPLE as u64;
        let items = stream::iter(sample.items);
        if self.to.since(reached.second()) < SHORTEST {
            return items.chain(rest).boxed();
        }
        drop(rest);
        items.chain(self.slices(reached, width).buffered(side_by_side).flatten()).boxed()
    }

    /// The slices after `reached`, each as a future of its entries.
    fn slices(self, reached: Token, width: u64) -> impl Stream<Item = impl Future<Output = Items> + Send> + Send {
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
    async fn read(self, step: u64, width: Arc<AtomicU64>) -> Items {
        let gathered = gather(self.plain(), MOST_HELD).await;
        let held = gathered.items.len() as u64;
        let fitting = step.saturating_mul(SLICE) / held.max(1);
        width.store(fitting.clamp(step / 4, step.saturating_mul(4)).max(1), Ordering::Relaxed);
        let rest = gathered.rest.unwrap_or_else(|| stream::empty().boxed());
        stream::iter(gathered.items).chain(rest).boxed()
    }

    /// The range by one listing.
    fn plain(self) -> Items {
        let Self { store, after, to, strangers, .. } = self;
        let end = (to <= Second::KSUID_END).then(|| Token::first_of(to).to_string());
        store
            .list("", Some(&after))
            .take_while(move |info| {
                let inside = |info: &ObjectInfo| end.as_ref().is_none_or(|end| info.key < *end);
                future::ready(info.as_ref().map_or(true, inside))
            })
            .filter_map(move |info| future::ready(info.map(|info| read_key(&info, &strangers)).transpose()))
            .boxed()
    }
}

/// The greatest key that sorts before every token of second `at` and after every token before it.
fn key_before(at: Second) -> String {
    if at <= Second::KSUID_EPOCH {
        return BEFORE_TOKENS.to_owned();
    }
    if at > Second::KSUID_END {
        return Token::from_bytes([u8::MAX; Token::BYTES]).to_string();
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

fn read_key(info: &ObjectInfo, strangers: &Strangers) -> Option<Listed> {
    if info.key.starts_with(".tidemark/") {
        return None;
    }
    let Ok(token) = info.key.parse() else {
        strangers.note(&info.key);
        return None;
    };
    Some(Listed { token, time: info.time, size: info.size })
}

/// The first items of a listing, and the rest where there is one.
struct Gathered {
    items: Vec<Result<Listed, StoreError>>,
    rest: Option<Items>,
}

async fn gather(mut listing: Items, most: usize) -> Gathered {
    let mut items = Vec::new();
    while items.len() < most {
        match listing.next().await {
            Some(item) => {
                let failed = item.is_err();
                items.push(item);
                if failed {
                    return Gathered { items, rest: None };
                }
            }
            None => return Gathered { items, rest: None },
        }
    }
    Gathered { items, rest: Some(listing) }
}

/// Ends after the first error, so that what follows it cannot be taken for the next entries.
fn until_error<S>(items: S) -> impl Stream<Item = Result<Listed, StoreError>> + Send
where
    S: Stream<Item = Result<Listed, StoreError>> + Send,
{
    items.scan(false, |failed, item| {
        let goes_on = !*failed;
        *failed = item.is_err();
        future::ready(goes_on.then_some(item))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_key_before_a_second_parts_it_from_the_one_before(unix in 1_400_000_001u64..=1_400_000_000 + u64::from(u32::MAX), random: [u8; 16]) {
            let at = Second::from_unix(unix);
            let key = key_before(at);
            prop_assert!(key < Token::from_parts(at, random).to_string());
            prop_assert!(key >= Token::from_parts(Second::from_unix(unix - 1), random).to_string());
        }
    }

    #[test]
    fn the_first_second_starts_after_our_own_objects() {
        let key = key_before(Second::KSUID_EPOCH);
        assert!(key.as_str() > ".tidemark/zzz" && key.as_str() < "000000000000000000000000000");
    }
}
