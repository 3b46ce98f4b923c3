//! Pins that become snapshots, and the snapshots that have served their time.

use std::{collections::BTreeSet, num::NonZeroUsize, time::Duration};

use tidemark_catalog::{
    ArchiveExtent, CatalogError, GARBAGE_GRACE, IndexPin, LogCursor, Manifest, PinChain, SNAPSHOT_OWNER, SnapshotProof,
    SnapshotRetention, TransactionRejected,
};
use tidemark_store::{Entropy, StoreSecond};
use tokio::time::timeout;

use super::{
    garbage::{IndexFixture, crashes, lists, steps},
    support::{CallFault, StoreCall, strike_each_call},
};

impl IndexFixture {
    /// What is proven of the manifest that `pin` holds.
    async fn proof(&self, pin: &IndexPin) -> SnapshotProof {
        let manifest = self.pins().read_list(pin).await.unwrap();
        let extent = ArchiveExtent { version: 1, hash: "a".repeat(64), end: LogCursor(manifest.audited) };
        SnapshotProof::of(&manifest, Some(extent))
    }

    /// A verified snapshot, and the store time of its record.
    async fn snapshot(&mut self) -> (String, StoreSecond) {
        self.publish().await;
        let (name, pin) = self.pins().pin_dated(&self.chain()).await.unwrap();
        let proof = self.proof(&pin).await;
        let (_, now) = self.pins().verify(&name, &pin.list, &proof).await.unwrap();
        (name, now)
    }

    async fn names(&self) -> BTreeSet<String> {
        self.pins().register().await.unwrap().pins.into_keys().collect()
    }
}

fn retention(keep_last: usize, now: StoreSecond) -> SnapshotRetention {
    let (keep_last, floor) = (NonZeroUsize::new(keep_last), LogCursor::default());
    SnapshotRetention { keep_last, floor, now, replaced: BTreeSet::new(), copy_of: None }
}

fn is_refused<T>(result: &Result<T, CatalogError>) -> bool {
    matches!(result, Err(CatalogError::Rejected(TransactionRejected::Pin { .. })))
}

/// Whether another attempt may not be refused.
fn may_pass<T>(result: &Result<T, CatalogError>) -> bool {
    matches!(result, Err(CatalogError::Rejected(TransactionRejected::PinChanged { .. })))
}

#[tokio::test(start_paused = true)]
async fn a_pin_becomes_a_snapshot_once_and_stays_one() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let (name, pin) = ground.pins().pin_dated(&ground.chain()).await.unwrap();
    let proof = ground.proof(&pin).await;
    let (pins, other) = (ground.pins(), format!("{}0", pin.list));
    assert!(may_pass(&pins.verify(&name, &other, &proof).await), "another list");
    assert!(may_pass(&pins.verify("unknown", &pin.list, &proof).await));
    assert!(may_pass(&pins.renew(&name, &other).await), "another list");
    ground.wait(Duration::from_mins(1)).await;
    let (verified, now) = pins.verify(&name, &pin.list, &proof).await.unwrap();
    let first = verified.verified.clone().unwrap();
    assert_eq!((first.time, &first.archive), (Some(now), &proof.archive));
    // Whatever another process says of it.
    let differing = SnapshotProof { bytes: proof.bytes + 1, ..proof.clone() };
    let (again, _) = pins.verify(&name, &pin.list, &differing).await.unwrap();
    assert_eq!(again, verified);
    pins.renew(&name, &pin.list).await.unwrap();
    assert_eq!(pins.register().await.unwrap().pins[&name], verified);
    assert_eq!(pins.register().await.unwrap().snapshots().len(), 1);
}

/// One process finds an object damaged that another one has read: what that one has verified stays.
#[tokio::test(start_paused = true)]
async fn a_verified_snapshot_is_dropped_by_the_retention_alone() {
    let mut ground = IndexFixture::new().await;
    let (name, now) = ground.snapshot().await;
    let (pins, list) = (ground.pins(), ground.pins().register().await.unwrap().pins[&name].list.clone());
    assert!(is_refused(&pins.drop_pin(&name, SNAPSHOT_OWNER, &list).await));
    assert!(is_refused(&pins.unpin(&name, SNAPSHOT_OWNER).await));
    assert_eq!((ground.names().await, lists(&ground).await), ([name.clone()].into(), 1));
    ground.snapshot().await;
    assert_eq!(pins.drop_expired(&retention(1, now)).await.unwrap(), [name]);
}

/// A list whose bytes are not those that were written is never taken for what the pin holds, whatever it says.
#[tokio::test(start_paused = true)]
async fn a_list_that_was_changed_is_damaged() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let pin = ground.pins().pin(&ground.chain(), "daily", SNAPSHOT_OWNER).await.unwrap();
    let held = ground.pins().read_list(&pin).await.unwrap();
    let body = ground.index().get(&pin.list, 1 << 20).await.unwrap().unwrap().body.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let horizon = format!(r#""horizon":{}"#, held.horizon.unix());
    assert!(text.contains(&horizon), "{text}");
    let later = text.replace(&horizon, &format!(r#""horizon":{}"#, held.horizon.unix() + 1));
    ground.index().put(&pin.list, later.into()).await.unwrap();
    let damaged = ground.pins().read_list(&pin).await.unwrap_err();
    assert!(matches!(&damaged, CatalogError::Corrupt { why, .. } if why.contains("SHA-256")), "{damaged}");
    ground.index().put(&pin.list, body).await.unwrap();
    assert_eq!(ground.pins().read_list(&pin).await.unwrap(), held);
}

/// The process ends between the pin and its confirmation, so that the index may have dropped what it holds.
#[tokio::test(start_paused = true)]
async fn a_pin_that_does_not_count_is_never_verified() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let (pins, chain) = (ground.pins(), ground.chain());
    // After the list and the pin comes the confirmation.
    ground.stage.disturb(StoreCall::Put, "snapshots/", 2, 1, CallFault::EndBefore);
    let ended = timeout(Duration::from_secs(100), pins.pin(&chain, "daily", SNAPSHOT_OWNER)).await;
    assert!(ended.is_err());
    ground.stage.peace();
    let pin = pins.register().await.unwrap().pins["daily"].clone();
    assert!(!pin.confirmed);
    let proof = ground.proof(&pin).await;
    assert!(may_pass(&pins.verify("daily", &pin.list, &proof).await));
}

/// The index has dropped a snapshot while it was copied, and has made another one of its name.
#[tokio::test(start_paused = true)]
async fn of_two_copiers_of_one_name_the_second_one_may_try_again_once_the_first_has_ended() {
    let mut ground = IndexFixture::new().await;
    let pins = ground.pins();
    let log = pins.register().await.unwrap().log;
    let copies = PinChain::open(&ground.index().below("copies"), &log, Entropy::seeded(5));
    let none = BTreeSet::new();
    let pinned = async |ground: &mut IndexFixture| {
        ground.publish().await;
        let pin = pins.pin(&ground.chain(), "daily", SNAPSHOT_OWNER).await.unwrap();
        (pins.read_list(&pin).await.unwrap(), pin)
    };
    let (held, first) = pinned(&mut ground).await;
    let begun = copies.import("daily", &pins, &first, &held, &none).await.unwrap();
    pins.unpin("daily", SNAPSHOT_OWNER).await.unwrap();
    assert!(may_pass(&pins.unpin("daily", SNAPSHOT_OWNER).await), "it is gone");
    let (held, second) = pinned(&mut ground).await;
    assert!(may_pass(&copies.import("daily", &pins, &second, &held, &none).await));
    copies.drop_pin("daily", SNAPSHOT_OWNER, &begun.list).await.unwrap();
    let copied = copies.import("daily", &pins, &second, &held, &none).await.unwrap();
    assert_eq!(copied.manifest, second.manifest);
    let proof = ground.proof(&second).await;
    copies.verify("daily", &copied.list, &proof).await.unwrap();
    // The name is taken by now.
    pins.unpin("daily", SNAPSHOT_OWNER).await.unwrap();
    let (held, third) = pinned(&mut ground).await;
    assert!(is_refused(&copies.import("daily", &pins, &third, &held, &none).await));
    pins.unpin("daily", SNAPSHOT_OWNER).await.unwrap();
    assert!(may_pass(&copies.import("weekly", &pins, &third, &held, &none).await), "it is gone at its source");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_holds_more_than_is_frozen_is_a_bug() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let (name, pin) = ground.pins().pin_dated(&ground.chain()).await.unwrap();
    let proof = ground.proof(&pin).await;
    let beyond = SnapshotProof { cursor: LogCursor(proof.horizon.next()), ..proof };
    let refused = ground.pins().verify(&name, &pin.list, &beyond).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Invariant(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_one_second_have_names_of_their_own() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let (one, other, chain) = (ground.pins(), ground.pins(), ground.chain());
    let (one, other) = tokio::join!(one.pin_dated(&chain), other.pin_dated(&chain));
    let (one, other) = (one.unwrap().0, other.unwrap().0);
    assert_ne!(one, other);
    for name in [&one, &other] {
        assert!(name.starts_with("snapshot-2023-11-1") && name.len() <= 63, "{name}");
    }
    assert_eq!(lists(&ground).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_while_it_verifies_leaves_a_pin_or_a_snapshot() {
    let calls = strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let (name, pin) = ground.pins().pin_dated(&ground.chain()).await.unwrap();
        let (proof, pins) = (ground.proof(&pin).await, ground.pins());
        let whole = crashes(&ground.stage, step, end, pins.verify(&name, &pin.list, &proof)).await.is_some();
        let left = pins.register().await.unwrap().pins[&name].clone();
        assert_eq!(IndexPin { verified: None, ..left.clone() }, pin, "step {step}");
        let (verified, _) = ground.pins().verify(&name, &pin.list, &proof).await.unwrap();
        assert!(left.verified.is_none() || left == verified, "step {step}");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 3, "{calls} calls only");
}

/// What is dropped takes its list along; what stays holds its objects, whatever the index has dropped.
#[tokio::test(start_paused = true)]
async fn snapshots_that_have_served_their_time_go_after_a_crash_at_any_step() {
    let calls = strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        let (first, _) = ground.snapshot().await;
        ground.wait(Duration::from_mins(1)).await;
        let (second, now) = ground.snapshot().await;
        let dropped = ground.compact().await;
        ground.raise_epoch().await;
        let (pins, rule) = (ground.pins(), retention(1, now));
        let whole = crashes(&ground.stage, step, end, pins.drop_expired(&rule)).await.is_some();
        assert!(ground.names().await.contains(&second), "step {step}");
        let again = ground.pins().drop_expired(&rule).await.unwrap();
        assert!(again.is_empty() || again == [first], "step {step}");
        assert_eq!(ground.names().await, [second].into(), "step {step}");
        // A crash between the record and the list leaves a list that nothing names.
        assert!(lists(&ground).await <= 2, "step {step}");
        ground.collect_all().await;
        assert!(ground.has(&dropped).await, "step {step}: the second snapshot holds it");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 3, "{calls} calls only");
}

#[tokio::test(start_paused = true)]
async fn a_half_made_snapshot_goes_a_day_after_its_maker_was_seen_last() {
    let mut ground = IndexFixture::new().await;
    let pins = ground.pins();
    ground.publish().await;
    let (left, _) = pins.pin_dated(&ground.chain()).await.unwrap();
    ground.wait(Duration::from_mins(1)).await;
    let (under_way, pin) = pins.pin_dated(&ground.chain()).await.unwrap();
    ground.wait(GARBAGE_GRACE).await;
    pins.renew(&under_way, &pin.list).await.unwrap();
    ground.wait(Duration::from_mins(1)).await;
    let (finished, now) = ground.snapshot().await;
    assert_eq!(pins.drop_expired(&retention(1, now)).await.unwrap(), [left]);
    assert_eq!(ground.names().await, [under_way.clone(), finished].into());
    // Its maker goes on.
    let proof = ground.proof(&pin).await;
    pins.verify(&under_way, &pin.list, &proof).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_pin_of_a_closing_manifest_is_needed_until_the_next_generation_has_caught_up() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.pins().pin(&ground.chain(), "before-g2", "reindex").await.unwrap();
    ground.rebuild_up_to(2).await;
    let open = ground.chain_of(2).latest().await.unwrap().unwrap().state;
    let closing = ground.pins().register().await.unwrap().pins["before-g2"].clone();
    let held = ground.pins().read_list(&closing).await.unwrap();
    let pins = ground.pins();
    let behind = Manifest { cursor: LogCursor::default(), ..open.clone() };
    let ahead = Manifest { cursor: held.cursor, ..open.clone() };
    let restored = Manifest { until: Some(held.cursor.second()), ..ahead.clone() };
    assert_eq!(pins.replaced_lists(&restored).await.unwrap(), Vec::<String>::new(), "it is not promoted");
    if behind.cursor < held.cursor {
        assert_eq!(pins.replaced_lists(&behind).await.unwrap(), Vec::<String>::new());
    }
    assert_eq!(pins.replaced_lists(&ahead).await.unwrap(), [closing.list]);
}
