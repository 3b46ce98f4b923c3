//! A store whose certificate is of an authority of its own, as in many companies, and which gets another one.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use tidemark_store::{Create, Store, StoreAccess, StoreEnvironment, StoreSettings, UserMetadata};
use tidemark_tests::{MinioServer, controller::eventually, issue_certificate};

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_authority_reaches_an_open_store_and_no_other_one_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder is made");
    issue_certificate(folder.path(), Ipv4Addr::LOCALHOST.into()).expect("it is written");
    let server = MinioServer::start_with_tls(folder.path()).await.expect("minio starts");
    server.create_bucket("wal").await.expect("it is created");
    let mounted = tempfile::tempdir().expect("a folder is made");
    let trusted = mounted.path().join("ca.crt");
    let trust = |from: &Path| std::fs::copy(from.join("ca.crt"), &trusted).expect("it is written");
    trust(folder.path());
    let settings = StoreSettings { ca_file: Some(trusted.clone()), ..StoreSettings::default() };
    let environment: StoreEnvironment = server.environment().into_iter().collect();
    let url = "s3://wal/orders".parse().expect("it is one");
    let store = Store::open_as(&url, &StoreAccess::new(&settings, environment)).expect("it opens");
    let mut tries = 0;
    let mut writes = async || {
        tries += 1;
        let created = store.create(&format!("key-{tries}"), "body".into(), &UserMetadata::default()).await;
        // A client of signed URLs trusts whom the store's own client does.
        let head = store.client().expect("it is made").head(format!("{}/minio/health/live", server.endpoint()));
        let live = head.timeout(Duration::from_secs(5)).send().await.is_ok();
        (matches!(created, Create::Committed), live)
    };
    assert_eq!(writes().await, (true, true));

    // The pods trust another authority first, then the server gets a certificate of it.
    let next = tempfile::tempdir().expect("a folder is made");
    issue_certificate(next.path(), Ipv4Addr::LOCALHOST.into()).expect("it is written");
    trust(next.path());
    eventually("the old authority is trusted no more", async || Ok((writes().await == (false, false)).then_some(())))
        .await
        .expect("the file is read again");
    for file in ["private.key", "public.crt"] {
        std::fs::copy(next.path().join(file), folder.path().join(file)).expect("it is written");
    }
    eventually("the store is used with its new certificate", async || {
        Ok((writes().await == (true, true)).then_some(()))
    })
    .await
    .expect("without a restart");
}
