//! What is refused and in which words, and that everything that the schema admits is read.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};
use tidemark_crds::{CronSchedule, Reason, Wal};

use super::*;

fn spec() -> Value {
    json!({
        "storage": {"region": "r", "credentials": {"type": "Secret", "secretRef": {"name": "keys"}}},
        "log": {"url": "s3://wal/orders", "expiry": "1h30m"},
        "metadata": {"urls": ["s3://meta", "s3://vmeta"]},
        "index": {"url": "s3://idx/orders"},
    })
}

/// `spec` with the value at `pointer` replaced; null removes it.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = spec();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = parent.split('/').skip(1).fold(&mut spec, |at, name| &mut at[name]);
    match value {
        Value::Null => drop(parent.as_object_mut().unwrap().remove(field)),
        value => parent[field] = value,
    }
    spec
}

fn wal(spec: Value) -> Wal {
    let metadata = ObjectMeta {
        name: Some("orders".to_owned()),
        namespace: Some("data".to_owned()),
        uid: Some("u1".to_owned()),
        generation: Some(3),
        ..ObjectMeta::default()
    };
    Wal { metadata, spec: serde_json::from_value(spec).unwrap(), status: None }
}

fn refusals(spec: Value) -> Vec<(Reason, String)> {
    let refused = validate(&wal(spec), "c1").map(drop).unwrap_err();
    refused.into_iter().map(|refusal| (refusal.reason, refusal.message)).collect()
}

fn only_refusal(spec: Value) -> (Reason, String) {
    let refusals = refusals(spec);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    refusals.into_iter().next().unwrap()
}

#[test]
fn a_wal_is_read_into_what_works() {
    let wal = validate(&wal(spec()), "c1").unwrap();
    assert_eq!(wal.owner, "k8s:c1/data/orders/u1");
    assert_eq!(wal.log.expiry, Duration::from_mins(90));
    assert_eq!(wal.log.audit_window, Duration::from_hours(24));
    assert_eq!((wal.log.max_entry_bytes, wal.log.max_descriptor_bytes), (1 << 20, 16 << 20));
    assert_eq!(wal.log.clock_tolerance, Duration::from_secs(1));
    assert_eq!(wal.stores.log.1.access, ValidatedCredentials::Secret("keys".to_owned()));
    assert!(wal.stores.with_copy().iter().all(|(_, store)| store.folder == "storage"));
    assert_eq!((wal.search.replicas, wal.search.token_secret.as_deref()), (1, None));
    assert!(wal.indexer.compaction && !wal.indexer.suspended && !wal.purging);
    assert_eq!(wal.owner_reference.controller, Some(true));
}

#[test]
fn a_place_with_a_store_of_its_own_takes_it_whole() {
    let own = json!({"endpoint": "https://other", "account": "acct", "credentials": {"type": "WorkloadIdentity"}});
    let wal = validate(&wal(with("/index/storage", own)), "c1").unwrap();
    let (_, index) = &wal.stores.index;
    assert_eq!((index.folder, index.region.as_deref(), index.account.as_deref()), ("index", None, Some("acct")));
    assert_eq!(index.access, ValidatedCredentials::WorkloadIdentity);
    assert_eq!(wal.stores.log.1.folder, "storage");
}

#[test]
fn copies_of_snapshots_are_reached_by_a_store_of_their_own_or_by_the_common_one() {
    let copy = |more: Value| {
        let mut to = json!({"url": "gs://copies/a"});
        to.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with("/snapshots", json!({"copyTo": to}))
    };
    let common = validate(&wal(copy(json!({}))), "c1").unwrap().stores;
    let (url, store) = common.copy.clone().unwrap();
    assert_eq!((url.as_str(), store), ("gs://copies/a", common.log.1.clone()));
    assert_eq!(common.of_index().len(), 3, "pods that copy nothing do not have it");
    let own = json!({"storage": {"credentials": {"type": "Secret", "secretRef": {"name": "dr"}}}});
    let (_, store) = validate(&wal(copy(own)), "c1").unwrap().stores.copy.unwrap();
    assert_eq!((store.folder, store.access), ("copy", ValidatedCredentials::Secret("dr".to_owned())));
    let plain = json!({"storage": {"endpoint": "http://s3", "credentials": {"type": "WorkloadIdentity"}}});
    assert!(only_refusal(copy(plain)).1.starts_with("\"spec.snapshots.copyTo.storage.endpoint\" is plain http"));
    let mut separate = copy(json!({}));
    let storage = separate.as_object_mut().unwrap().remove("storage").unwrap();
    for place in ["log", "metadata", "index"] {
        separate[place]["storage"] = storage.clone();
    }
    assert!(only_refusal(separate).1.contains("nor \"spec.snapshots.copyTo.storage\" is there"));
    for (place, url) in [("log", spec()["log"]["url"].clone()), ("metadata", spec()["metadata"]["urls"][0].clone())] {
        let below = json!({"url": format!("{}/copies", url.as_str().unwrap())});
        let (_, message) = only_refusal(copy(below));
        assert!(message.contains(place) && message.contains("spec.snapshots.copyTo.url"), "{message}");
    }
}

#[test]
fn an_index_is_begun_with_what_lies_apart_from_it() {
    let begun = |url: &str| wal(with("/bootstrap", json!({"fromURL": url})));
    let apart = validate(&begun("gs://copies/a"), "c1").unwrap().indexer.bootstrap.unwrap();
    assert_eq!((apart.from_url.as_str(), apart.time), ("gs://copies/a", None));
    for (place, url) in [("log", spec()["log"]["url"].clone()), ("metadata", spec()["metadata"]["urls"][0].clone())] {
        let below = json!({"fromURL": format!("{}/old", url.as_str().unwrap())});
        let (_, message) = only_refusal(with("/bootstrap", below));
        assert!(message.contains(place) && message.contains("spec.bootstrap.fromURL"), "{message}");
    }
}

#[test]
fn each_bad_spec_is_refused_in_words() {
    let cases = [
        (with("/log/expiry", json!("soon")), "\"spec.log.expiry\": invalid time span \"soon\""),
        (with("/log/expiry", json!("0s")), "\"spec.log.expiry\" is \"0s\"; it is from 1s to 168h"),
        (with("/log/expiry", json!("169h")), "it is from 1s to 168h"),
        (with("/log/requestTimeout", json!("61m")), "it is from 0s to 1h"),
        (with("/log/maxEntrySize", json!("1Gi")), "it is from 1Ki to 64Mi"),
        (with("/log/maxEntrySize", json!("much")), "invalid size"),
        (with("/log/maxDescriptorSize", json!("1Gi")), "it is from 1Ki to 256Mi"),
        (with("/log/clockTolerance", json!("2m")), "it is from 0s to 1m"),
        // 90m, 60s and a second.
        (with("/log/idempotencyRetention", json!("90m")), "is \"90m\"; it is from 5461s to 87840h"),
        (with("/log/idempotencyRetention", json!("87841h")), "it is from 5461s to 87840h"),
        (with("/log/url", json!("ftp://x")), "it starts with s3://, gs:// or az://"),
        (with("/index/url", json!("s3://wal/orders/index")), "lie one below the other"),
        (with("/metadata/urls", json!(["s3://wal"])), "lie one below the other"),
        (with("/storage", Value::Null), "neither \"spec.storage\" nor \"spec.log.storage\" is there"),
        (with("/storage/endpoint", json!("http://s3")), "\"spec.storage.endpoint\" is plain http"),
        (with("/storage/credentials", json!({"type": "Secret"})), "of type Secret needs a secretRef"),
        (with("/search", json!({"auth": {"type": "Token"}})), "of type Token needs a secretRef"),
        (with("/search", json!({"service": {"type": "NodePort"}})), "needs \"spec.search.auth\" of type Token"),
        (with("/search", json!({"replicas": -1})), "0 turns search off"),
        (
            with("/search", json!({"cache": {"size": "1023Mi"}})),
            "\"spec.search.cache.size\": the size \"1023Mi\" is not from 1Gi",
        ),
        (with("/indexer", json!({"cache": {"size": "much"}})), "\"spec.indexer.cache.size\": invalid size \"much\""),
        (
            with("/indexer", json!({"resources": {"limits": {"ephemeral-storage": "2Gi"}}})),
            "of \"spec.indexer\" is \"2Gi\", less than \"spec.indexer.cache.size\"",
        ),
        (
            with(
                "/search",
                json!({"podTemplate": {"spec": {"containers": [{"resources": {"limits": {"ephemeral-storage": "8G"}}}]}}}),
            ),
            "of \"spec.search\" is \"8G\"",
        ),
        (with("/search", json!({"allowFrom": [{"ipBlock": {"cidr": "10.0.0.0"}}]})), "has \"10.0.0.0\"; write a range"),
        (with("/search", json!({"allowFrom": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]})), "has \"10.0.0.0/33\""),
        (
            with("/search", json!({"cors": {"allowOrigins": ["https://10.1"]}})),
            "has \"https://10.1\"; write a scheme and a host",
        ),
        (with("/search", json!({"cors": {"allowOrigins": ["https://a:99999"]}})), "has \"https://a:99999\""),
    ];
    for (spec, wanted) in cases {
        let refusals = refusals(spec);
        let said = refusals.iter().any(|(reason, message)| *reason == Reason::SpecInvalid && message.contains(wanted));
        assert!(said, "{wanted:?} is not in {refusals:?}");
    }
}

#[test]
fn a_limit_on_the_nodes_disk_needs_no_room_for_a_claimed_cache() {
    let limits = json!({"limits": {"ephemeral-storage": "1Gi"}});
    let claimed = json!({"resources": limits, "cache": {"volumeClaimTemplate": {}}});
    assert!(validate(&wal(with("/indexer", claimed)), "c1").is_ok());
    let enough = json!({"resources": limits, "cache": {"size": "1Gi"}});
    assert!(validate(&wal(with("/indexer", enough)), "c1").is_ok());
}

#[test]
fn a_url_beside_another_is_not_below_it() {
    assert!(validate(&wal(with("/index/url", json!("s3://wal/orders-index"))), "c1").is_ok());
}

#[test]
fn names_that_do_not_fit_are_refused() {
    for name in ["Orders", "1st", "a-", "", "a.b", &"a".repeat(41)] {
        let mut wal = wal(spec());
        wal.metadata.name = Some(name.to_owned());
        assert!(validate(&wal, "c1").is_err(), "{name}");
    }
}

#[test]
fn a_pod_template_asks_for_no_more_than_it_may() {
    let refused = |template: Value| only_refusal(with("/indexer", json!({"podTemplate": template})));
    let container = |container: Value| json!({"spec": {"containers": [container]}});
    let cases = [
        (json!({"spec": {"serviceAccountName": "admin"}}), "spec.serviceAccountName"),
        (json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork"),
        (json!({"spec": {"hostPID": true}}), "spec.hostPID"),
        (json!({"spec": {"securityContext": {"runAsUser": 0}}}), "spec.securityContext"),
        (json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "theirs"}}]}}), "spec.volumes"),
        (json!({"spec": {"initContainers": []}}), "spec.initContainers"),
        (json!({"spec": {"automountServiceAccountToken": true}}), "spec.automountServiceAccountToken"),
        (json!({"spec": {"terminationGracePeriodSeconds": 0}}), "spec.terminationGracePeriodSeconds"),
        (json!({"spec": {"tolerations": "all"}}), "spec.tolerations"),
        (json!({"metadata": {"name": "x"}}), "metadata.name"),
        (json!({"metadata": {"labels": {"tidemark.dev/wal": "other"}}}), "metadata.labels[tidemark.dev/wal]"),
        (json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}), "metadata.labels[app.kubernetes.io/name]"),
        (json!({"status": {}}), "status"),
        (container(json!({"image": "evil"})), "spec.containers[0].image"),
        (container(json!({"securityContext": {"privileged": true}})), "spec.containers[0].securityContext"),
        (container(json!({"envFrom": [{"secretRef": {"name": "x"}}]})), "spec.containers[0].envFrom"),
        (container(json!({"env": [{"name": "TIDEMARK_OWNER", "value": "x"}]})), "spec.containers[0].env[0].name"),
        (
            container(json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]})),
            "spec.containers[0].env[0].valueFrom",
        ),
        (
            container(json!({"env": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]})),
            "spec.containers[0].env[1]",
        ),
        (
            json!({"spec": {"imagePullSecrets": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}}),
            "spec.imagePullSecrets[2]",
        ),
        (
            json!({"spec": {"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
                {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
            ]}}),
            "spec.topologySpreadConstraints[1]",
        ),
    ];
    for (template, path) in cases {
        let (reason, message) = refused(template);
        assert_eq!(reason, Reason::PodTemplateRefused);
        assert!(message.starts_with(&format!("\"spec.indexer.podTemplate.{path}\" ")), "{path}: {message}");
    }
    let two = json!({"spec": {"containers": [{}, {}]}});
    assert!(refused(two).1.contains("more than one container"));
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let mut spec = with("/log/expiry", json!("0s"));
    spec["storage"]["endpoint"] = json!("http://s3");
    spec["search"] = json!({"podTemplate": {"spec": {"hostIPC": true}}});
    let reasons: Vec<_> = refusals(spec).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, [Reason::SpecInvalid, Reason::SpecInvalid, Reason::PodTemplateRefused]);
}

#[test]
fn only_a_deleted_wal_with_policy_purge_is_purging() {
    for (policy, deleted, purging) in [("Purge", true, true), ("Purge", false, false), ("Retain", true, false)] {
        let mut wal = wal(with("/deletionPolicy", json!(policy)));
        wal.metadata.deletion_timestamp = deleted.then_some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(validate(&wal, "c1").unwrap().purging, purging, "{policy} {deleted}");
    }
}

#[test]
fn schedules_are_read_as_the_spec_writes_them() {
    let read = |pointer: &str, value: Value| validate(&wal(with(pointer, value)), "c1").unwrap().schedules;
    let none = validate(&wal(spec()), "c1").unwrap().schedules;
    assert_eq!((none.snapshots, none.cleanup, none.verification, none.gc), (None, None, None, None));
    let hours = jiff::SignedDuration::from_hours;
    // Expiry, request timeout and visibility delay, audit window, and an hour.
    assert_eq!(none.settling, hours(1 + 24 + 1) + jiff::SignedDuration::from_secs(1800 + 60 + 10));
    let snapshots = read("/snapshots", json!({})).snapshots.unwrap();
    assert_eq!(snapshots.cron, CronSchedule::parse("0 3 * * *", "Etc/UTC").ok());
    assert_eq!(
        (snapshots.after_entries, snapshots.after_bytes, snapshots.after_age),
        (Some(1_000_000), Some(10 << 30), Some(hours(24)))
    );
    let unbounded = json!({"schedule": "", "afterEntries": 0, "afterSize": "0", "afterAge": "0s"});
    assert_eq!(read("/snapshots", unbounded).snapshots, Some(ValidatedSnapshots::default()));
    assert_eq!(read("/cleanup", json!({"enabled": false})).cleanup, None);
    let verification = read("/verify", json!({"schedule": "0 6 1 * *", "timeZone": "Asia/Tokyo", "drill": false}))
        .verification
        .unwrap();
    assert_eq!((verification.cron, verification.drill), (CronSchedule::parse("0 6 1 * *", "Asia/Tokyo").ok(), false));
    assert!(read("/verify", json!({"drill": true})).verification.unwrap().drill);
    assert_eq!(read("/gc", json!({})).gc, CronSchedule::parse("0 2 * * 6", "Etc/UTC").ok());
    assert_eq!(read("/gc", json!({"schedule": ""})).gc, None);
    let mut cleaned = with("/snapshots", json!({}));
    cleaned["cleanup"] = json!({"enabled": true});
    let cleanup = validate(&wal(cleaned), "c1").unwrap().schedules.cleanup;
    assert!(cleanup.is_some());
}

#[test]
fn a_schedule_that_cannot_be_followed_is_refused() {
    for (pointer, value, wanted) in [
        (
            "/snapshots",
            json!({"schedule": "0 25 * * *"}),
            "\"spec.snapshots.schedule\": invalid cron expression \"0 25 * * *\"",
        ),
        (
            "/snapshots",
            json!({"timeZone": "Mars/Phobos"}),
            "\"spec.snapshots.timeZone\": unknown time zone \"Mars/Phobos\"",
        ),
        (
            "/cleanup",
            json!({"schedule": "0 4 31 2 *"}),
            "\"spec.cleanup.schedule\": cron expression \"0 4 31 2 *\" matches no day",
        ),
        ("/verify", json!({"schedule": "@weekly"}), "\"spec.verify.schedule\": invalid cron expression \"@weekly\""),
        ("/gc", json!({"timeZone": "Mars/Phobos"}), "\"spec.gc.timeZone\": unknown time zone \"Mars/Phobos\""),
    ] {
        let (reason, message) = only_refusal(with(pointer, value));
        assert_eq!(reason, Reason::ScheduleInvalid);
        assert!(
            message.starts_with(wanted) && (message.contains("such as") || message.contains("correct")),
            "{message}"
        );
    }
}
