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

impl SampleBundle {
    /// `count` bundles, `a_second` of them in each second, the last of them `ago` before `now`.
    pub fn run(count: u64, a_second: u64, now: StoreSecond, ago: Duration) -> impl Iterator<Item = Self> {
        let last = now.before(ago);
        (0..count).map(move |n| Self { n, at: last.before(Duration::from_secs((count - 1 - n) / a_second)) })
    }

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
