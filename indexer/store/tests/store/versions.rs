//! Programs of different versions on one chain: what each reads, appends and keeps.

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidemark_store::{
    AppendOnlyChain, ChainError, ChainState, Entropy, InvariantViolation, RecordVersions, StateExtensions, Store,
    StoreSecond,
};

/// A state of the program of version `V`. Version 2 has given it a title, which version 1 does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionedLedger<const V: u32> {
    numbers: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(default, skip_serializing_if = "StateExtensions::is_empty")]
    ext: StateExtensions,
}

impl<const V: u32> ChainState for VersionedLedger<V> {
    type Rejection = std::convert::Infallible;

    const FORMAT: u32 = V;

    /// The title changes what the numbers mean: who does not know it may neither read nor append.
    fn versions(&self) -> RecordVersions {
        let least = if self.title.is_some() { 2 } else { 1 };
        RecordVersions { format: least, reads: least, writes: least }
    }

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, _: StoreSecond) {}

    fn check_state(&self) -> Result<(), InvariantViolation> {
        Ok(())
    }

    fn check_transition(&self, _: &Self) -> Result<(), InvariantViolation> {
        Ok(())
    }
}

fn chain<const V: u32>(store: &Store) -> AppendOnlyChain<VersionedLedger<V>> {
    AppendOnlyChain::new(store.clone(), Entropy::seeded(u64::from(V)))
}

async fn push<const V: u32>(
    chain: &AppendOnlyChain<VersionedLedger<V>>,
    number: u64,
) -> Result<(), ChainError<std::convert::Infallible>> {
    let pushed = chain.append(None, |state| {
        let mut next = state.cloned().unwrap_or_default();
        next.numbers.push(number);
        Ok(Some(next))
    });
    pushed.await.map(drop)
}

/// Record 1 as a program of a later version writes it.
async fn written_later(store: &Store, versions: RecordVersions, state: &str) {
    let RecordVersions { format, reads, writes } = versions;
    let checksum = hex::encode(Sha256::digest(state));
    let header = format!(
        r#"{{"format":{format},"reads":{reads},"writes":{writes},"number":1,"previous":"{}","nonce":"n","checksum":"{checksum}","signature":"later"}}"#,
        "0".repeat(64)
    );
    store.put(&format!("{:020}", 1), Bytes::from(format!("{header}\n{state}\n"))).await.unwrap();
}

async fn body(store: &Store, number: u64) -> String {
    let object = store.get(&format!("{number:020}"), 1 << 20).await.unwrap().unwrap();
    String::from_utf8(object.body.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn the_first_upgraded_program_locks_nobody_out() {
    let store = Store::memory();
    push(&chain::<1>(&store), 1).await.unwrap();
    push(&chain::<2>(&store), 2).await.unwrap();
    assert!(body(&store, 2).await.starts_with(r#"{"format":1,"reads":1,"writes":1,"#));
    push(&chain::<1>(&store), 3).await.unwrap();
    assert_eq!(chain::<2>(&store).latest().await.unwrap().unwrap().state.numbers, [1, 2, 3]);
}

#[tokio::test]
async fn what_only_a_later_version_expresses_is_refused_to_earlier_ones_until_it_is_gone() {
    let store = Store::memory();
    let later = chain::<2>(&store);
    let titled = |title: Option<&str>| {
        let title = title.map(str::to_owned);
        move |state: Option<&VersionedLedger<2>>| {
            Ok(Some(VersionedLedger { title: title.clone(), ..state.cloned().unwrap_or_default() }))
        }
    };
    later.append(None, titled(Some("t"))).await.unwrap();
    let refused = chain::<1>(&store).latest().await.unwrap_err();
    assert!(matches!(refused, ChainError::NewerFormat { found: 2, known: 1, .. }), "{refused}");
    later.append(None, titled(None)).await.unwrap();
    push(&chain::<1>(&store), 3).await.unwrap();
}

#[tokio::test]
async fn a_record_may_be_read_by_those_who_may_not_append() {
    let store = Store::memory();
    written_later(&store, RecordVersions { format: 7, reads: 1, writes: 3 }, r#"{"numbers":[1]}"#).await;
    let reader = chain::<2>(&store);
    let read = reader.latest().await.unwrap().unwrap();
    assert_eq!((read.state.numbers.as_slice(), read.writes), ([1].as_slice(), 3));
    let refused = push(&reader, 2).await.unwrap_err();
    assert!(matches!(refused, ChainError::NewerWriter { needed: 3, known: 2, .. }), "{refused}");
    // What changes nothing is no append.
    assert_eq!(reader.append(None, |_| Ok(None)).await.unwrap(), read);
    push(&chain::<3>(&store), 2).await.unwrap();
    assert_eq!(reader.latest().await.unwrap().unwrap().state.numbers, [1, 2]);
}

#[tokio::test]
async fn extensions_are_bounded_and_never_dropped() {
    let ext = |bytes: usize| format!(r#"{{"numbers":[],"ext":{{"note":"{}"}}}}"#, "x".repeat(bytes - 6));
    let store = Store::memory();
    written_later(&store, RecordVersions::FIRST, &ext(65_536)).await;
    let first = chain::<1>(&store);
    push(&first, 1).await.unwrap();
    let dropped = first.append(None, |_| Ok(Some(VersionedLedger::default()))).await.unwrap_err();
    assert!(matches!(&dropped, ChainError::Invariant(violation) if violation.invariant.contains("kept")), "{dropped}");
    let store = Store::memory();
    written_later(&store, RecordVersions::FIRST, &ext(65_537)).await;
    let damaged = chain::<1>(&store).latest().await.unwrap_err();
    assert!(matches!(&damaged, ChainError::Corrupt { why, .. } if why.contains("65537 bytes")), "{damaged}");
}

/// JSON values as no program of this version would write them.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("1.0e+05".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just("0.10".to_owned()),
        Just("\"\\u0041\\/\"".to_owned()),
        Just("{ \"b\" : [ ] ,\n\"a\":{\"b\":1,\"b\":2} }".to_owned()),
        any::<i64>().prop_map(|number| format!("[{number},  null]")),
        "[a-z ]{0,20}".prop_map(|text| format!("\"{text}\"")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_this_version_does_not_know_survives_any_number_of_appends_byte_for_byte(
        members in prop::collection::btree_map("[a-z.]{1,9}", values(), 1..6),
        appends in 1..6u64,
    ) {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let ext = format!("\"ext\":{{{}}}", members.join(","));
        let run = async {
            let store = Store::memory();
            let versions = RecordVersions { format: 9, reads: 1, writes: 1 };
            written_later(&store, versions, &format!("{{\"numbers\":[0],{ext}}}")).await;
            for number in 1..=appends {
                push(&chain::<1>(&store), number).await.unwrap();
                prop_assert!(body(&store, number + 1).await.contains(&ext));
            }
            let read = chain::<1>(&store).latest().await.unwrap().unwrap();
            prop_assert_eq!(read.state.numbers.len() as u64, appends + 1);
            Ok(())
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run)?;
    }
}
