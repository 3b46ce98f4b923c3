//! Whatever others write must not bring a parser down: payloads, tokens, paths, descriptors, manifests, queries and the
//! other parameters of a search are fed with damaged examples.
//!
//! A plain run feeds a fixed number from a fixed seed; `make fuzz` sets `FUZZ_SECONDS` and feeds new ones for so long.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures::FutureExt;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tidemark_catalog::{CatalogError, Generation, IndexId, Manifest};
use tidemark_store::{AppendOnlyChain, Entropy, Store};
use tidemark_tests::IndexPipeline;
use tidemark_wal::{Token, parse_datamon_path, parse_payload, read_descriptor};
use tokio::time::Instant;

const TOKEN: &str = "0ujtsYcgvSTl8PAuAdqWYSMnLOv";

/// Pieces that formats give a meaning to, or that trip those who index bytes.
const PIECES: [&[u8]; 40] = [
    b"",
    b"\0",
    b"\xff",
    b"\xc3",
    "é".as_bytes(),
    "\u{10fffd}".as_bytes(),
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"-",
    b"--",
    b":",
    b": ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"'",
    b"\\",
    b"/",
    b"//",
    b"../",
    b"&a",
    b"*a",
    b"!!binary ",
    b"|",
    b">",
    b"#",
    b"~",
    b"^",
    b"*",
    b"?",
    b"(",
    b")",
    b"1e999",
    b"-9223372036854775809",
    b" AND ",
    b"null",
];

/// Damages one of `seeds`, again and again.
struct DamagedInputs {
    random: StdRng,
    seeds: Vec<Vec<u8>>,
    left: RunLimit,
}

enum RunLimit {
    Cases(u32),
    Until(Instant),
}

impl DamagedInputs {
    fn of(seeds: &[&[u8]], cases: u32) -> Self {
        let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
        let (random, left) = match seconds {
            Some(seconds) => {
                let seed = u64::from_le_bytes(Entropy::from_os().bytes());
                (StdRng::seed_from_u64(seed), RunLimit::Until(Instant::now() + Duration::from_secs(seconds)))
            }
            None => (StdRng::seed_from_u64(1), RunLimit::Cases(cases)),
        };
        Self { random, seeds: seeds.iter().map(|seed| seed.to_vec()).collect(), left }
    }

    fn position(&mut self, length: usize) -> usize {
        self.random.random_range(0..=length)
    }

    fn piece(&mut self) -> Vec<u8> {
        let piece = PIECES[self.random.random_range(0..PIECES.len())];
        let times = if self.random.random_ratio(1, 50) { 5000 } else { self.random.random_range(1..4) };
        piece.repeat(times)
    }

    fn damage(&mut self, input: &mut Vec<u8>) {
        let (from, to) = (self.position(input.len()), self.position(input.len()));
        let (from, to) = (from.min(to), from.max(to));
        match self.random.random_range(0..6) {
            0 => input.truncate(to),
            1 => drop(input.drain(from..to)),
            2 => drop(input.splice(from..to.min(from + 4), self.piece())),
            3 => drop(input.splice(from..from, self.piece())),
            4 => {
                let copy = input[from..to].to_vec();
                input.splice(to..to, copy);
            }
            _ => {
                if let Some(byte) = input.get_mut(from) {
                    *byte = self.random.next_u32().to_le_bytes()[0];
                }
            }
        }
    }
}

impl Iterator for DamagedInputs {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        match &mut self.left {
            RunLimit::Cases(0) => return None,
            RunLimit::Cases(left) => *left -= 1,
            RunLimit::Until(end) if Instant::now() >= *end => return None,
            RunLimit::Until(_) => {}
        }
        let at = self.random.random_range(0..self.seeds.len());
        let mut input = self.seeds[at].clone();
        for _ in 0..self.random.random_range(1..6) {
            self.damage(&mut input);
        }
        Some(input)
    }
}

/// Feeds all inputs to `parser`, and shows the one that brings it down.
fn feed(inputs: DamagedInputs, parser: impl Fn(&[u8])) {
    for input in inputs {
        let survived = catch_unwind(AssertUnwindSafe(|| parser(&input))).is_ok();
        assert!(survived, "the parser panicked on b\"{}\"", input.escape_ascii());
    }
}

fn seeds() -> [Vec<u8>; 7] {
    let digest = "ab".repeat(32);
    [
        b"bundles/repo/1INzQ5TV4vAAfU2PbRFgPfnzEwR/bundle.yaml\n".to_vec(),
        format!("token: {TOKEN}\npayload: labels/repo/v1/label.yaml\n").into_bytes(),
        format!("token: {TOKEN}\npayload: '{{\"command\": \"run\", \"args\": [1, 2.5, null]}}'\n").into_bytes(),
        format!(
            r#"{{"tidemark":1,"writer":"w","idempotencyKey":"k","lock":{{"name":"l","grant":7}},"attributes":{{"a":[1]}},
            "ops":[{{"kind":"bundle","descriptor":"bundles/r/b/bundle.yaml","digest":"{digest}"}},
            {{"kind":"label","descriptor":"labels/r/v1/label.yaml","value":"b"}},{{"attributes":{{"x":true}}}}]}}"#
        )
        .into_bytes(),
        b"leafSize: 2097152\nid: b\nmessage: m\nparents: [a]\ntimestamp: 2019-03-12T22:10:24.159Z\ncontributors:\n- name: n\n  email: e@x\ncount: 3\nversion: 4\n".to_vec(),
        b"name: r\ndescription: d\ntimestamp: 2019-03-12T22:10:24Z\ncontributor: {name: n, email: e}\n".to_vec(),
        b"diamonds/repo/1INzQ5TV4vAAfU2PbRFgPfnzEwR/splits/s/split-done.yaml".to_vec(),
    ]
}

#[test]
fn payloads() {
    let seeds = seeds();
    let token = TOKEN.parse().expect("an example token");
    feed(DamagedInputs::of(&seeds.each_ref().map(Vec::as_slice), 20_000), |body| drop(parse_payload(token, body)));
}

#[test]
fn tokens() {
    feed(DamagedInputs::of(&[TOKEN.as_bytes(), b"aWgEPTl1tmebfsQzFP4bxwgy80V"], 50_000), |text| {
        let text = String::from_utf8_lossy(text);
        if let Ok(token) = text.parse::<Token>() {
            assert_eq!(token.to_string(), text, "a token has one text");
        }
    });
}

#[test]
fn paths_and_descriptors() {
    let seeds = seeds();
    let paths: Vec<_> =
        ["repos/r/repo.yaml", "bundles/r/b/bundle.yaml", "labels/r/l/label.yaml", "contexts/c/context.yaml"]
            .map(|path| parse_datamon_path(path).expect("an example path"))
            .to_vec();
    feed(DamagedInputs::of(&seeds.each_ref().map(Vec::as_slice), 20_000), |body| {
        let _ = parse_datamon_path(&String::from_utf8_lossy(body));
        for place in &paths {
            let _ = read_descriptor(place, body);
        }
    });
}

#[tokio::test]
async fn manifests() {
    let (store, generation) = (Store::memory(), Generation::first());
    let chain = AppendOnlyChain::<Manifest>::new(store.clone(), Entropy::seeded(1));
    let manifest = Manifest::new(generation).of_index(IndexId("0123456789abcdef".repeat(2)));
    let slot = chain.append(None, |_| Ok(Some(manifest.clone()))).await.expect("it is appended");
    let key = format!("{:020}", slot.number);
    let whole = store.get(&key, 1 << 20).await.expect("the store answers").expect("it is there");
    let whole = whole.body.expect("it is small");
    for input in DamagedInputs::of(&[&whole], 5000) {
        store.put(&key, input.clone().into()).await.expect("it is written");
        let read = AssertUnwindSafe(chain.latest()).catch_unwind().await;
        let shown = input.escape_ascii();
        match read.unwrap_or_else(|_| panic!("reading a manifest panicked on b\"{shown}\"")) {
            Ok(Some(read)) => assert_eq!(read.state, manifest, "b\"{shown}\" was read as another manifest"),
            Ok(None) => panic!("b\"{shown}\" was taken for an empty chain"),
            Err(error @ (CatalogError::Corrupt { .. } | CatalogError::NewerFormat { .. })) => {
                assert!(error.to_string().contains(&key), "\"{error}\" does not name the record");
            }
            Err(other) => panic!("{other:?} for b\"{shown}\""),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches() {
    let mut pipeline = IndexPipeline::new().await;
    let token = pipeline.bundle(pipeline.ago(60), "b", "the quick brown fox");
    pipeline.bundle(pipeline.ago(50), "c", "jumps over the lazy dog");
    pipeline.start();
    pipeline.recorded(&[token]).await;
    let url = pipeline.serve().await;
    let client = reqwest::Client::new();
    let first: serde_json::Value = get(&client, &url, &[("size", "1"), ("kind", "bundle")]).await.1;
    let cursor = first["next"].as_str().expect("there is more").to_owned();
    let queries: [&[u8]; 6] = [
        b"quick AND (fox OR dog~1) NOT lazy",
        b"message:\"brown fox\"~2 repo:repo^2 kind:bundle",
        b"time:[2020-01-01T00:00:00Z TO *] AND size:>10",
        b"payload.a.b:1 contributor:\"n <e@x>\" +fox -dog",
        b"message:/qu.*k/ OR message:qu*",
        b"token:0ujtsYcgvSTl8PAuAdqWYSMnLOv",
    ];
    for name in ["q", "cursor", "from", "sort", "facets", "histogram_by", "size", "outcome", "kind", "min_token"] {
        let seeds =
            [&queries[..], &[cursor.as_bytes(), b"newest", b"20", b"kind,repo", b"2026-01-01", b"committed"]].concat();
        for input in DamagedInputs::of(&seeds, if name == "q" { 600 } else { 60 }).filter(|input| input.len() < 6000) {
            let text = String::from_utf8_lossy(&input);
            let (status, body) = get(&client, &url, &[(name, &text), ("wait", "0")]).await;
            let expected = [200, 400, 404, 408, 410, 414, 503, 504].contains(&status);
            assert!(expected, "{status} for {name}={text:?}: {body}");
            if status == 400 {
                assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{name}={text:?}: {body}");
            }
        }
    }
    pipeline.stop().await;
}

async fn get(client: &reqwest::Client, url: &str, query: &[(&str, &str)]) -> (u16, serde_json::Value) {
    let answer = client.get(format!("{url}/v1/search")).query(query).send().await.expect("the server answers");
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}
