//! Makers of a generation that are suspended for longer than a day, while another process gives their generation up.

use std::pin::Pin;

use tidemark_catalog::EndReason;
use tidemark_ingest::{IngestError, RestoreTarget, SwitchReport, reindex, restore, snapshot::SnapshotRequest};
use tokio::{
    runtime::{Builder, Runtime},
    time::{advance, timeout},
};

use crate::{
    MINUTE,
    generations::{give_up_silent, history_second, with_history},
    world::{IngestWorld, restore_request, small_batches},
};

/// A process that makes a generation.
type Maker<'a> = Pin<Box<dyn Future<Output = Result<SwitchReport, IngestError>> + 'a>>;

/// A machine: its processes and their clock stand still while it does not run.
fn machine() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Processes of `make` end, each at a later request, until they have begun `g2`, or have copied all of it.
async fn die_until(world: &IngestWorld, make: impl AsyncFn() -> Result<SwitchReport, IngestError>, is_copied: bool) {
    for requests in 5.. {
        world.bucket.die_at(Some(world.bucket.requests() + requests));
        assert!(timeout(3 * MINUTE, make()).await.is_err(), "it comes to its end with {requests} requests");
        world.bucket.die_at(None);
        if world.manifest_of("g2").await.is_some_and(|made| made.until.is_some() || !is_copied) {
            return;
        }
    }
}

/// The maker takes the role of `g2` on a machine of its own, which is suspended then, for two days in which `g2` is given up. Gives how it
/// ends.
fn sleeps_while_given_up(running: &Runtime, world: &IngestWorld, mut maker: Maker<'_>) -> IngestError {
    let suspended = machine();
    let wake = || {
        let now = running.block_on(async { world.bucket.now() });
        suspended.block_on(async { advance(now.since(world.bucket.now())).await });
    };
    let epoch = || running.block_on(world.manifest_of("g2")).unwrap().epoch;
    let before = epoch();
    wake();
    // It waits until the process before it is silent, and has read all but what it holds back.
    suspended.block_on(async { timeout(MINUTE / 2, &mut maker).await.unwrap_err() });
    world.bucket.hold(Some("/snapshots/"));
    suspended.block_on(async { timeout(5 * MINUTE, &mut maker).await.unwrap_err() });
    world.bucket.hold(None);
    assert_eq!(epoch(), before + 1, "it has the role");
    running.block_on(world.pass(2880 * MINUTE));
    assert_eq!(running.block_on(Box::pin(give_up_silent(world))), ["g2"]);
    wake();
    suspended.block_on(maker).unwrap_err()
}

/// What it had begun with goes with its generation. Without it, records were taken for those of the archive, and another horizon than theirs
/// for a fault of the program.
#[test]
fn a_restore_that_was_given_up_while_it_slept_learns_that_and_is_begun_again() {
    let running = machine();
    let world = running.block_on(with_history(small_batches()));
    let to = RestoreTarget::Time(history_second(750));
    let (pins, archive_end) = running.block_on(async {
        world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
        let pins = world.pins().await;
        die_until(&world, async || world.restore(Some("r"), &to).await, true).await;
        (pins, world.archive_end().await)
    });
    assert!(archive_end.second() < running.block_on(world.manifest_of("g2")).unwrap().horizon);
    let (task, archive, request) =
        (world.generation_task(Some("r")), running.block_on(world.archive()), restore_request(&to));
    let refused = sleeps_while_given_up(&running, &world, Box::pin(restore(&task, &archive, &request)));
    assert!(refused.to_string().contains("was overtaken by epoch"), "{refused}");
    running.block_on(async {
        assert_eq!(world.pins().await, pins);
        assert_eq!(world.restore(Some("r"), &to).await.unwrap().generation.to_string(), "g3");
        assert_eq!(world.manifest_of("g2").await.unwrap().closed.unwrap().by, EndReason::Abandoned);
    });
}

#[test]
fn a_maker_that_was_given_up_before_it_pinned_its_source_leaves_no_pin() {
    let running = machine();
    let to = RestoreTarget::Time(history_second(750));
    let world = running.block_on(with_history(small_batches()));
    running.block_on(die_until(&world, async || world.restore(Some("r"), &to).await, false));
    let (task, archive, request) =
        (world.generation_task(Some("r")), running.block_on(world.archive()), restore_request(&to));
    let refused = sleeps_while_given_up(&running, &world, Box::pin(restore(&task, &archive, &request)));
    assert_eq!(running.block_on(world.pins()), [""; 0], "{refused}");

    let world = running.block_on(with_history(small_batches()));
    running.block_on(die_until(&world, async || reindex(&world.generation_task(Some("t"))).await, false));
    let task = world.generation_task(Some("t"));
    let refused = sleeps_while_given_up(&running, &world, Box::pin(reindex(&task)));
    assert_eq!(running.block_on(world.pins()), [""; 0], "{refused}");
}
