//! A log of synthetic bundles, the same for the same number: what benchmarks read and search.

use std::time::Duration;

use bytes::Bytes;
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

const SUBJECTS: [&str; 16] = [
    "horizon",
    "clock",
    "manifest",
    "segment",
    "watermark",
    "bucket",
    "writer",
    "reader",
    "token",
    "snapshot",
    "cursor",
    "descriptor",
    "label",
    "audit",
    "epoch",
    "compaction",
];
const VERBS: [&str; 12] = [
    "moves", "seals", "reads", "writes", "merges", "lists", "proves", "rejects", "follows", "retries", "keeps", "finds",
];
const OBJECTS: [&str; 14] = [
    "the ledger of orders",
    "weather readings",
    "daily prices",
    "the second half",
    "customer records",
    "raw images",
    "sensor frames",
    "training data",
    "the archive",
    "invoices",
    "payments of march",
    "genome reads",
    "maps",
    "nothing",
];

/// Bundle number `n` of a log.
#[derive(Clone, Copy, Debug)]
pub struct SampleBundle {
    /// Its number.
    pub n: u64,
    /// Its entry's second and store time, and its descriptor's store time.
    pub at: StoreSecond,
}

/// A log of them, whose objects are made when they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct SampleLog {
    count: u64,
    a_second: u64,
    last: StoreSecond,
}

impl SampleLog {
    /// `count` bundles, `a_second` of them in each second, the last of them at `last`.
    pub fn new(count: u64, a_second: u64, last: StoreSecond) -> Self {
        Self { count, a_second, last }
    }

    /// The bundles by number; their tokens ascend.
    pub fn bundles(self) -> impl Iterator<Item = SampleBundle> {
        (0..self.count).map(move |n| self.bundle(n))
    }

    /// The bundles whose tokens come after `key`, all if it is no token.
    pub fn after(self, key: &str) -> impl Iterator<Item = SampleBundle> {
        let numbers = 0..self.count;
        // The first number whose token is larger.
        let (mut low, mut high) = (numbers.start, numbers.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.bundle(middle).token().to_string().as_str() <= key { low = middle + 1 } else { high = middle }
        }
        (low..numbers.end).map(move |n| self.bundle(n))
    }

    /// The bundle of an entry's token.
    pub fn with_token(self, token: &str) -> Option<SampleBundle> {
        let token: Token = token.parse().ok()?;
        let n = u64::from_be_bytes(token.as_bytes().get(4..12)?.try_into().ok()?);
        self.numbered(n).filter(|bundle| bundle.token() == token)
    }

    /// The bundle of a descriptor's key.
    pub fn with_path(self, path: &str) -> Option<SampleBundle> {
        let id = path.strip_suffix("/bundle.yaml")?;
        let n = u64::from_str_radix(id.get(id.len().checked_sub(8)?..)?, 16).ok()?;
        self.numbered(n).filter(|bundle| bundle.path() == path)
    }

    fn numbered(self, n: u64) -> Option<SampleBundle> {
        (n < self.count).then(|| self.bundle(n))
    }

    fn bundle(self, n: u64) -> SampleBundle {
        SampleBundle { n, at: self.last.before(Duration::from_secs((self.count - 1 - n) / self.a_second)) }
    }
}

impl SampleBundle {
    /// The entry's token: sorts by number within a second.
    pub fn token(&self) -> Token {
        let mut random = [0; 16];
        random[..8].copy_from_slice(&self.n.to_be_bytes());
        random[8..].copy_from_slice(&mix(self.n).to_be_bytes());
        Token::from_parts(self.at, random)
    }

    /// The descriptor's key in the metadata bucket.
    pub fn path(&self) -> String {
        format!("bundles/repo-{}/{:016x}{:08x}/bundle.yaml", mix(self.n) % 50, mix(self.n + 1), self.n)
    }

    /// The entry: a bare descriptor path.
    pub fn entry(&self) -> Bytes {
        Bytes::from(self.path())
    }

    /// What the bundle says of itself.
    pub fn message(&self) -> String {
        let pick =
            |words: &[&'static str], salt| words[usize::try_from(mix(self.n ^ salt) % words.len() as u64).unwrap_or(0)];
        format!(
            "{} {} {} for ticket {} in batch {}",
            pick(&SUBJECTS, 1 << 40),
            pick(&VERBS, 2 << 40),
            pick(&OBJECTS, 3 << 40),
            mix(self.n) % 9000,
            self.n / 1000
        )
    }

    /// The descriptor, with Datamon's fields.
    pub fn descriptor(&self) -> Bytes {
        let id = self.path();
        let id = id.rsplit('/').nth(1).unwrap_or_default();
        let who = mix(self.n ^ (7 << 40)) % 200;
        Bytes::from(format!(
            "leafSize: 2097152\nid: {id}\nmessage: {}\nparents: []\ntimestamp: {}\ncontributors:\n- name: Person {who}\n  email: p{who}@example.org\ncount: {}\nversion: 4\ndeduplication: blake\n",
            self.message(),
            self.at,
            self.n % 17,
        ))
    }
}

/// `SplitMix64`: the same number gives the same digits everywhere.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_finds_its_bundles_by_token_and_by_path() {
        let log = SampleLog::new(1000, 7, StoreSecond::from_unix(1_700_000_000));
        let tokens: Vec<String> = log.bundles().map(|bundle| bundle.token().to_string()).collect();
        assert!(tokens.is_sorted());
        assert_eq!(log.after("").count(), 1000);
        assert_eq!(log.after(&tokens[417]).next().map(|bundle| bundle.n), Some(418));
        assert_eq!(log.after(&tokens[999]).count(), 0);
        let bundle = log.with_token(&tokens[417]).expect("it is one of its own");
        assert_eq!(bundle.n, 417);
        assert_eq!(log.with_path(&bundle.path()).map(|found| found.n), Some(417));
        assert!(log.with_path("bundles/repo-1/x/bundle.yaml").is_none() && log.with_token("x").is_none());
        let other = SampleLog::new(2000, 7, StoreSecond::from_unix(1_600_000_000)).bundle(5);
        assert!(log.with_token(&other.token().to_string()).is_none());
    }
}
