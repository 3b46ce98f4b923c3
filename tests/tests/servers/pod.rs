//! Data pods tell what is wrong with the world outside, wait, and recover in the same process.

mod data_pod;

use std::{net::Ipv4Addr, path::Path, time::Duration};

use data_pod::{ID, PodSettings, SECRET};
use tidemark_tests::{
    MinioServer, S3Server,
    faults::{FaultRule, InjectedFault, StoreOperation},
    issue_certificate,
    s3::{ACCESS_KEY, SECRET_KEY},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_cause_is_reported_and_goes_when_it_is_mended_without_a_restart() {
    let server = S3Server::start().expect("the server starts");
    let settings = PodSettings::of(&server.endpoint());
    let pod = settings.start("index").await;
    assert_eq!((pod.status("/healthz").await, pod.status("/readyz").await), (200, 200));
    let message = pod.until_problem("CredentialsMissing", Some("log")).await;
    // The operator believes no report of another process: both roles bear their name before they have opened anything.
    pod.until("its name is known", |process| process["identity"] == "pod-1").await;
    let search = settings.start("serve").await;
    search.until("its name is known", |process| process["identity"] == "pod-1" && process["kind"] == "search").await;
    drop(search);
    assert!(message.contains(ID) && message.contains("Secret"), "{message}");
    settings.credential(ID, ACCESS_KEY);
    settings.credential(SECRET, "wrong");
    pod.until_problem("AccessDenied", Some("log")).await;
    settings.credential(SECRET, SECRET_KEY);
    for (bucket, place) in [("log", "log"), ("meta", "metadata"), ("vmeta", "metadata")] {
        let message = pod.until_problem("BucketMissing", Some(place)).await;
        assert!(message.contains("create the bucket"), "{message}");
        server.create_bucket(bucket);
    }
    pod.until_problem("BucketMissing", Some("index")).await;
    let read_only = server.inject(FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::Put).key("index/"));
    server.create_bucket("index");
    pod.until_problem("ReadOnly", Some("index")).await;
    server.lift(read_only);
    let process = pod.until_well("writing").await;
    assert_eq!((&process["probed"], &process["kind"]), (&true.into(), &"indexer".into()), "{process}");
    assert_eq!((&process["identity"], &process["writer"]), (&"pod-1".into(), &"pod-1".into()), "{process}");
    pod.until("it has caught up", |process| process["caughtUp"] == true).await;
    // What breaks while it works shows, and goes.
    server.hide_bucket("log");
    pod.until_problem("BucketMissing", Some("log")).await;
    server.restore_bucket("log");
    pod.until_well("writing").await;
    let faults: [(InjectedFault, &str); 2] =
        [(InjectedFault::Forbidden, "AccessDenied"), (InjectedFault::Unavailable, "Unreachable")];
    for (fault, reason) in faults {
        let broken = server.inject(FaultRule::always(fault).key("log"));
        pod.until_problem(reason, Some("log")).await;
        assert_eq!(pod.status("/readyz").await, 200, "readiness is the process's own");
        server.lift(broken);
        pod.until_well("writing").await;
    }
    assert_eq!(pod.status("/v1/search").await, 404, "an indexer serves no search");
    assert_eq!(pod.status("/v1/status").await, 200);
    assert!(pod.program.stop().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_rotated_while_indexer_and_search_run() {
    let server = S3Server::start().expect("the server starts");
    let settings = PodSettings::ready(&server);
    let (indexer, search) = (settings.start("index").await, settings.start("serve").await);
    indexer.until_well("writing").await;
    search.until_well("serving").await;
    server.set_keys("second", "second-secret");
    indexer.until_problem("AccessDenied", Some("log")).await;
    search.until_problem("AccessDenied", Some("index")).await;
    assert_eq!(search.status("/v1/search").await, 200, "search serves what it has");
    settings.credential(ID, "second");
    settings.credential(SECRET, "second-secret");
    indexer.until_well("writing").await;
    search.until_well("serving").await;
}

/// A mounted ConfigMap that changes, and a store with a certificate of the new authority after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_rotated_while_indexer_and_search_run() {
    let [folder, next, mounted] = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    for folder in [&folder, &next] {
        issue_certificate(folder.path(), Ipv4Addr::LOCALHOST.into()).expect("it is written");
    }
    let minio = MinioServer::start_with_tls(folder.path()).await.expect("minio starts");
    for bucket in ["log", "meta", "vmeta", "index"] {
        minio.create_bucket(bucket).await.expect("it is created");
    }
    let trusted = mounted.path().join("ca.crt");
    let trust = |from: &Path| std::fs::copy(from.join("ca.crt"), &trusted).expect("it is written");
    // The wrong one first, as in the first hour.
    trust(next.path());
    let settings = PodSettings::of(minio.endpoint()).with_authority(&trusted);
    let keys = minio.environment();
    settings.credential(ID, &keys[ID]);
    settings.credential(SECRET, &keys[SECRET]);
    let (indexer, search) = (settings.start("index").await, settings.start("serve").await);
    indexer.until_problem("Unreachable", Some("log")).await;
    search.until_problem("Unreachable", Some("log")).await;
    trust(folder.path());
    indexer.until_well("writing").await;
    search.until_well("serving").await;
    trust(next.path());
    indexer.until_problem("Unreachable", Some("log")).await;
    search.until_problem("Unreachable", Some("index")).await;
    for file in ["private.key", "public.crt"] {
        std::fs::copy(next.path().join(file), folder.path().join(file)).expect("it is written");
    }
    indexer.until_well("writing").await;
    search.until_well("serving").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_store_is_waited_for() {
    let minio = MinioServer::start().await.expect("minio starts");
    let settings = PodSettings::of(minio.endpoint());
    let pod = settings.start("index").await;
    let search = settings.start("serve").await;
    let keys = minio.environment();
    settings.credential(ID, &keys[ID]);
    pod.until_problem("CredentialsMissing", Some("log")).await;
    settings.credential(SECRET, "a-secret-that-is-wrong");
    pod.until_problem("AccessDenied", Some("log")).await;
    search.until_problem("AccessDenied", Some("log")).await;
    assert_eq!(search.status("/readyz").await, 503);
    settings.credential(SECRET, &keys[SECRET]);
    pod.until_problem("BucketMissing", Some("log")).await;
    for bucket in ["log", "meta", "vmeta", "index"] {
        minio.create_bucket(bucket).await.expect("it is created");
    }
    pod.until_well("writing").await;
    search.until_well("serving").await;
    assert_eq!(search.status("/readyz").await, 200);
    drop(minio);
    pod.until_problem("Unreachable", Some("log")).await;
    search.until_problem("Unreachable", Some("index")).await;
    assert_eq!(search.status("/v1/search").await, 200, "search serves what it has");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_another_owner_is_left_alone_until_it_is_adopted() {
    let server = S3Server::start().expect("the server starts");
    let first = PodSettings::ready(&server).start("index").await;
    first.until_well("writing").await;
    let other = || {
        let settings = PodSettings::ready(&server).with("IDENTITY", Some("pod-2"));
        settings.with("OWNER", Some("k8s:cluster/data/invoices/uid-2"))
    };
    let refused = other();
    let second = refused.start("index").await;
    let message = second.until_problem("OwnedByAnother", Some("index")).await;
    assert!(message.contains("data/orders") && message.contains("adoptOwner: \"uid-1\""), "{message}");
    drop(second);
    let adopting = other().with("ADOPT_OWNER", Some("uid-1"));
    let second = adopting.start("index").await;
    let process = second.until_well("standby").await;
    assert_eq!((&process["adoptedFrom"], &process["writer"]), (&"uid-1".into(), &"pod-1".into()), "{process}");
    assert_eq!(second.status("/readyz").await, 200, "a standby is ready");
    assert!(first.program.stop().await.expect("it stops").success());
    second.until_well("writing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_was_made_again_says_from_whom_it_has_its_index_and_a_restart_says_nothing() {
    let server = S3Server::start().expect("the server starts");
    for (uid, from) in [("uid-1", None), ("uid-1", None), ("uid-2", Some("uid-1")), ("uid-2", None)] {
        let owner = format!("k8s:cluster/data/orders/{uid}");
        let settings = PodSettings::ready(&server).with("OWNER", Some(&owner));
        let pod = settings.start("index").await;
        let process = pod.until_well("writing").await;
        assert_eq!(process["adoptedFrom"].as_str(), from, "{uid}: {process}");
        assert!(pod.program.stop().await.expect("it stops").success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_another_log_is_left_alone_and_cannot_be_adopted() {
    let server = S3Server::start().expect("the server starts");
    let settings = PodSettings::ready(&server);
    let first = settings.start("index").await;
    first.until_well("writing").await;
    let before = || {
        let keys = server.keys("index").into_iter();
        keys.filter(|key| !key.contains("/manifest/")).collect::<Vec<_>>()
    };
    let index = before();
    // The same resource, which names its own UID to adopt from: everything is right but the log.
    let other = PodSettings::ready(&server).with("LOG", Some("s3://log/invoices")).with("IDENTITY", Some("pod-2"));
    let other = other.with("ADOPT_OWNER", Some("uid-1"));
    let second = other.start("index").await;
    for pod in [&second, &other.start("serve").await] {
        let message = pod.until_problem("OwnedByAnother", Some("index")).await;
        for part in ["s3://log/orders", "data/orders", "choose another prefix"] {
            assert!(message.contains(part), "{message}");
        }
    }
    assert_eq!(second.status("/healthz").await, 200, "it waits");
    let log = server.keys("log").into_iter().filter(|key| key.starts_with("invoices")).collect::<Vec<_>>();
    assert_eq!((log, before()), (Vec::new(), index), "it wrote something");
    let root = server.body("log", "orders/.tidemark/root/00000000000000000001").expect("the root's first record");
    assert!(String::from_utf8_lossy(&root).contains("\"id\""));
    assert_eq!(first.until_well("writing").await["writer"], "pod-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexer_waits_for_the_logs_parameters_and_goes_on_with_them_where_its_own_differ() {
    let server = S3Server::start().expect("the server starts");
    let missing = PodSettings::ready(&server).with("EXPIRY", None);
    let pod = missing.start("index").await;
    pod.until_problem("ExpiryMissing", Some("log")).await;
    let settings = PodSettings::ready(&server);
    settings.run(&["log", "set"]).await;
    pod.until_well("writing").await;
    assert!(pod.program.stop().await.expect("it stops").success());
    let differs = PodSettings::ready(&server).with("EXPIRY", Some("2s"));
    let pod = differs.start("index").await;
    let message = pod.until_problem("ParametersDiffer", None).await;
    assert!(message.contains("2s") && message.contains("tidemark log set"), "{message}");
    let goes_on = |process: &serde_json::Value| process["phase"] == "writing" && process["caughtUp"] == true;
    pod.until("it indexes by the recorded ones", goes_on).await;
    differs.run(&["log", "set"]).await;
    pod.until_well("writing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ignores_preconditions_is_unfit() {
    let server = S3Server::start().expect("the server starts");
    server.ignore_preconditions();
    let settings = PodSettings::ready(&server);
    let pod = settings.start("index").await;
    let message = pod.until_problem("StoreUnsupported", Some("log")).await;
    assert!(message.contains("second create") && message.contains("tidemark check"), "{message}");
    assert_eq!(pod.status("/healthz").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn search_wants_the_token_that_the_file_holds_now() {
    let server = S3Server::start().expect("the server starts");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let settings = PodSettings::ready(&server).with("AUTH_TOKEN_FILE", file.to_str());
    let indexer = settings.start("index").await;
    let search = settings.start("serve").await;
    search.until_problem("AuthTokenMissing", Some("auth")).await;
    for path in ["/healthz", "/metrics", "/v1/process"] {
        assert_eq!(search.status(path).await, 200, "{path} is open");
    }
    std::fs::write(&file, "too short").expect("it is written");
    let is_short = |process: &serde_json::Value| process.to_string().contains("9 characters");
    search.until("a short token is refused", |process| is_short(process)).await;
    indexer.until_well("writing").await;
    let client = reqwest::Client::new();
    let ask = async |path: &str, user: Option<&str>, token: &str| {
        let request = client.get(format!("{}{path}", search.program.url()));
        let request = match user {
            Some(user) => request.basic_auth(user, Some(token)),
            None => request.bearer_auth(token),
        };
        request.send().await.expect("it answers")
    };
    for token in ["the-first-token-of-two", "the-second-token-of-two"] {
        std::fs::write(&file, token).expect("it is written");
        search.until_well("serving").await;
        let give_up = tokio::time::Instant::now() + Duration::from_mins(1);
        while ask("/v1/search", None, token).await.status() != 200 {
            assert!(tokio::time::Instant::now() < give_up, "the token is not taken");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(ask("/", Some("anybody"), token).await.status(), 200);
        assert_eq!(ask("/v1/search", None, "the-wrong-token-of-all").await.status(), 401);
    }
    let refused = reqwest::get(format!("{}/v1/search", search.program.url())).await.expect("it answers");
    assert_eq!(refused.status(), 401);
    assert!(refused.headers()["www-authenticate"].to_str().is_ok_and(|challenge| challenge.starts_with("Basic")));
    assert!(refused.headers()["content-type"].to_str().is_ok_and(|media| media == "application/problem+json"));
    assert_eq!(search.status("/v1/nothing").await, 401, "nobody learns what there is");
}
