//! Appends while the S3 server in this process fails, answers late, or loses its answers.

use std::time::Duration;

use tidemark_store::put_signed;
use tidemark_tests::{
    S3Server, TestStore,
    faults::{FaultRule, InjectedFault, StoreOperation},
    stores::StoreBackend,
};
use tidemark_wal::{AppendError, Outcome};
use tokio::time::timeout;

use crate::append::{bundle, draft, entries, label, writer};

const MAX_WAIT: Duration = Duration::from_mins(3);

fn server(at: &TestStore) -> &S3Server {
    match &at.on {
        StoreBackend::S3(server) => server,
        _ => unreachable!("the test starts the S3 server"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_up_completer_is_refused_by_the_store() {
    let at = TestStore::s3();
    let writer = writer(&at, "w").await;
    let begun = writer.begin(draft([bundle("b")])).await.expect("the entry is written");
    server(&at).clock().advance(Duration::from_secs(602));
    let signed = begun.uploads[0].signed.as_ref().expect("S3 signs");
    let answer = put_signed(&reqwest::Client::new(), signed, begun.uploads[0].body.clone()).await.expect("it answers");
    assert_eq!(answer.status, 403);
    assert_eq!(entries(&at).await[0].ops[0].decision.outcome, Outcome::Aborted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_are_resolved() {
    for fault in [InjectedFault::FailAfter, InjectedFault::DropAfter, InjectedFault::Drop, InjectedFault::Unavailable] {
        let at = TestStore::s3();
        let writer = writer(&at, "w").await;
        for key in ["/log/", "bundle.yaml", "/done/r/best/"] {
            server(&at).inject(FaultRule::always(fault).on(StoreOperation::Put).key(key).times(1));
        }
        let receipt = writer.append(draft([bundle("b"), label("b")])).await.expect("it is acknowledged");
        let found = entries(&at).await;
        assert_eq!((found.len(), found[0].token, receipt.attempts), (1, receipt.token, 1), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_seen_too_late_is_not_acknowledged() {
    let at = TestStore::s3();
    let writer = writer(&at, "w").await;
    // Everything is there in time, but the store answers the read-back long after.
    let waiting = server(&at).inject(FaultRule::always(InjectedFault::Unavailable).on(StoreOperation::Get));
    let append = writer.append(draft([bundle("b")]));
    let pass = async {
        while server(&at).body("bucket", "metadata/bundles/r/b/bundle.yaml").is_none() {
            tokio::task::yield_now().await;
        }
        server(&at).clock().advance(Duration::from_mins(12));
        server(&at).lift(waiting);
    };
    let both = async { tokio::join!(append, pass) };
    let (refused, ()) = timeout(MAX_WAIT, both).await.expect("the descriptor is written");
    let Err(AppendError::Unproven { outcome, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(outcome, Some(Outcome::Committed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_takes_two_requests_an_entry() {
    let at = TestStore::s3();
    let writer = writer(&at, "w").await;
    for id in 0..300 {
        writer.append(draft([bundle(&id.to_string())])).await.expect("it is acknowledged");
    }
    server(&at).reset_counts();
    assert_eq!(entries(&at).await.len(), 300);
    assert!(server(&at).requests() <= 601, "{:?}", server(&at).counts());
}
