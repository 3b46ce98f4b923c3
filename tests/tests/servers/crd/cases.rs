//! Specs that a rule takes and specs that it refuses.

use serde_json::{Value, json};

/// The least that a WAL says.
pub(crate) fn minimal() -> Value {
    json!({
        "storage": {"credentials": {"type": "Secret", "secretRef": {"name": "keys"}}},
        "log": {"url": "s3://wal/orders", "expiry": "1h"},
        "metadata": {"urls": ["s3://meta", "s3://vmeta"]},
        "index": {"url": "s3://idx/orders"},
    })
}

/// A resource of this name and spec.
pub(crate) fn wal(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL", "metadata": {"name": name}, "spec": spec})
}

/// A change of [`minimal`] and what is said about it.
pub(crate) struct DefinitionCase {
    pub(crate) change: &'static str,
    pub(crate) spec: Value,
    /// Words of the refusal; `None` is accepted.
    pub(crate) refused: Option<&'static str>,
}

/// [`minimal`] with a value put at each of the paths; null takes it away.
pub(crate) fn with(changes: &[(&str, Value)]) -> Value {
    let mut spec = minimal();
    for (path, value) in changes {
        put(&mut spec, path, value.clone());
    }
    spec
}

fn put(spec: &mut Value, path: &str, value: Value) {
    let (parents, field) = path.rsplit_once('.').map_or(("", path), |(parents, field)| (parents, field));
    let parent = parents.split('.').filter(|name| !name.is_empty()).fold(spec, |at, name| &mut at[name]);
    match value {
        Value::Null => drop(parent.as_object_mut().map(|parent| parent.remove(field))),
        value => parent[field] = value,
    }
}

/// Every CEL rule that looks at one state, with what it takes and what it refuses.
pub(crate) fn rules() -> Vec<DefinitionCase> {
    let mut cases = Vec::new();
    let mut case = |change, changes: &[(&str, Value)], refused| {
        cases.push(DefinitionCase { change, spec: with(changes), refused });
    };
    let secret = json!({"type": "Secret", "secretRef": {"name": "own"}});
    let own = json!({"credentials": secret});

    case("nothing", &[], None);

    case("index below log", &[("index.url", json!("s3://wal/orders/index"))], Some("log and index must not lie"));
    case("log below index", &[("index.url", json!("s3://wal"))], Some("log and index must not lie"));
    case("index is log", &[("index.url", json!("s3://wal/orders"))], Some("log and index must not lie"));
    case("index beside log", &[("index.url", json!("s3://wal/orders2"))], None);
    case(
        "metadata below log",
        &[("metadata.urls", json!(["s3://meta", "s3://wal/orders/m"]))],
        Some("log and metadata must"),
    );
    case("log below metadata", &[("metadata.urls", json!(["s3://wal"]))], Some("log and metadata must not lie"));
    case("metadata beside log", &[("metadata.urls", json!(["s3://wal/meta"]))], None);
    case(
        "metadata is index",
        &[("metadata.urls", json!(["s3://idx/orders"]))],
        Some("index and metadata must not lie"),
    );
    case("metadata above index", &[("metadata.urls", json!(["s3://idx"]))], Some("index and metadata must not lie"));
    case("metadata beside index", &[("metadata.urls", json!(["s3://idx/meta"]))], None);

    case("no storage", &[("storage", Value::Null)], Some("storage is needed"));
    case(
        "no storage, two of three places have their own",
        &[("storage", Value::Null), ("log.storage", own.clone()), ("index.storage", own.clone())],
        Some("storage is needed"),
    );
    case(
        "no storage, each place has its own",
        &[
            ("storage", Value::Null),
            ("log.storage", own.clone()),
            ("metadata.storage", own.clone()),
            ("index.storage", own.clone()),
        ],
        None,
    );

    case("plain http", &[("storage.endpoint", json!("http://s3:9000"))], Some("plain http sends"));
    case(
        "plain http of one place",
        &[("index.storage", json!({"endpoint": "http://s3:9000", "credentials": secret}))],
        Some("plain http sends"),
    );
    case(
        "plain http, allowed",
        &[("storage.endpoint", json!("http://s3:9000")), ("storage.allowHTTP", json!(true))],
        None,
    );
    case("https", &[("storage.endpoint", json!("https://s3.corp"))], None);

    case(
        "keys without Secret",
        &[("storage.credentials", json!({"type": "Secret"}))],
        Some("type Secret needs secretRef"),
    );
    case(
        "identity with Secret",
        &[("storage.credentials", json!({"type": "WorkloadIdentity", "secretRef": {"name": "x"}}))],
        Some("type Secret needs secretRef"),
    );
    case("identity", &[("storage.credentials", json!({"type": "WorkloadIdentity"}))], None);

    case("expiry too short", &[("log.expiry", json!("999ms"))], Some("expiry is from 1s to 168h"));
    case("expiry too long", &[("log.expiry", json!("168h1ms"))], Some("expiry is from 1s to 168h"));
    case("shortest expiry", &[("log.expiry", json!("1s"))], None);
    case("longest expiry", &[("log.expiry", json!("168h"))], None);
    case("lead too long", &[("log.signerClockLead", json!("61m"))], Some("signerClockLead is at most 1h"));
    case("longest lead", &[("log.signerClockLead", json!("60m"))], None);
    case("timeout too long", &[("log.requestTimeout", json!("3601s"))], Some("requestTimeout is at most 1h"));
    case("longest timeout", &[("log.requestTimeout", json!("1h"))], None);
    case("delay too long", &[("log.visibilityDelay", json!("2h"))], Some("visibilityDelay is at most 1h"));
    case("longest delay", &[("log.visibilityDelay", json!("1h"))], None);
    case("window too long", &[("log.auditWindow", json!("8784h1s"))], Some("auditWindow is at most 8784h"));
    case("longest window", &[("log.auditWindow", json!("8784h"))], None);
    case("entries too small", &[("log.maxEntrySize", json!("1023"))], Some("maxEntrySize is from 1Ki to 64Mi"));
    case("entries too large", &[("log.maxEntrySize", json!("1Gi"))], Some("maxEntrySize is from 1Ki to 64Mi"));
    case("smallest entries", &[("log.maxEntrySize", json!("1Ki"))], None);
    case("largest entries", &[("log.maxEntrySize", json!("64Mi"))], None);
    case("descriptors too large", &[("log.maxDescriptorSize", json!("1Gi"))], Some("maxDescriptorSize is from 1Ki"));
    case("largest descriptors", &[("log.maxDescriptorSize", json!("256Mi"))], None);
    case("tolerance too long", &[("log.clockTolerance", json!("61s"))], Some("clockTolerance is at most 1m"));
    case("longest tolerance", &[("log.clockTolerance", json!("1m"))], None);
    // One hour, one minute and a second.
    let retention = "idempotencyRetention is at least expiry + signerClockLead + requestTimeout + 1s";
    case("retention too short", &[("log.idempotencyRetention", json!("3660s"))], Some(retention));
    case("retention too long", &[("log.idempotencyRetention", json!("87840h1ms"))], Some(retention));
    case("shortest retention", &[("log.idempotencyRetention", json!("3661s"))], None);
    case("longest retention", &[("log.idempotencyRetention", json!("87840h"))], None);

    let cache = |size: &str| json!({"cache": {"size": size}});
    case("cache too small", &[("indexer", cache("1023Mi"))], Some("the size of a cache is from 1Gi"));
    case("cache too large", &[("search", cache("65537Gi"))], Some("the size of a cache is from 1Gi"));
    case("smallest cache", &[("indexer", cache("1024Mi"))], None);
    case("largest cache", &[("search", cache("65536Gi"))], None);

    let token = json!({"type": "Token", "secretRef": {"name": "t"}});
    case("token without Secret", &[("search", json!({"auth": {"type": "Token"}}))], Some("type Token needs secretRef"));
    case(
        "Secret without token",
        &[("search", json!({"auth": {"secretRef": {"name": "t"}}}))],
        Some("type Token needs"),
    );
    case("token", &[("search", json!({"auth": token}))], None);
    case("open to the world", &[("search", json!({"service": {"type": "LoadBalancer"}}))], Some("needs auth"));
    case("open to the nodes", &[("search", json!({"service": {"type": "NodePort"}}))], Some("needs auth"));
    case("a token for the world", &[("search", json!({"auth": token, "service": {"type": "LoadBalancer"}}))], None);

    let origins = |origin: &str| json!({"cors": {"allowOrigins": [origin]}});
    case("another port", &[("search", origins("https://portal.example.org:8443"))], None);
    case("a default port", &[("search", origins("https://portal.example.org:443"))], Some("an origin has no port"));
    case("the default port of http", &[("search", origins("http://portal.example.org:80"))], Some("an origin has no"));
    let peers = |peer: Value| json!({"allowFrom": [peer]});
    let block = json!({"cidr": "10.0.0.0/8"});
    case("block", &[("search", peers(json!({"ipBlock": block})))], None);
    case("namespaces", &[("search", peers(json!({"namespaceSelector": {"matchLabels": {"a": "b"}}})))], None);
    case(
        "block and pods",
        &[("search", peers(json!({"ipBlock": block, "podSelector": {}})))],
        Some("a peer is either"),
    );

    let snapshots = |more: Value| with_more(json!({}), more);
    case("snapshots", &[("snapshots", json!({}))], None);
    case(
        "no bounds",
        &[("snapshots", json!({"schedule": "", "afterEntries": 0, "afterSize": "0", "afterAge": "0s"}))],
        None,
    );
    case("snapshots too rare", &[("snapshots", json!({"afterAge": "8785h"}))], Some("afterAge is at most 8784h"));
    let copy = |url: &str| snapshots(json!({"copyTo": {"url": url}}));
    case("a copy elsewhere", &[("snapshots", copy("gs://copies/orders"))], None);
    case(
        "a copy in the log",
        &[("snapshots", copy("s3://wal/orders/dr"))],
        Some("a copy of the snapshots lies neither"),
    );
    case("a copy above the index", &[("snapshots", copy("s3://idx"))], Some("a copy of the snapshots lies neither"));
    case(
        "a copy in the metadata",
        &[("snapshots", copy("s3://vmeta/dr"))],
        Some("a copy of the snapshots lies neither"),
    );
    let own = json!({"credentials": {"type": "WorkloadIdentity"}});
    let places = [("log.storage", own.clone()), ("metadata.storage", own.clone()), ("index.storage", own.clone())];
    let apart = |snapshots: Value| {
        let all = [("storage", json!(null)), ("snapshots", snapshots)];
        places.iter().cloned().chain(all).collect::<Vec<_>>()
    };
    case(
        "a copy without a store",
        &apart(copy("gs://copies/orders")),
        Some("snapshots.copyTo needs a storage of its own"),
    );
    case("a copy with the only store", &apart(json!({"copyTo": {"url": "gs://copies/orders", "storage": own}})), None);
    let bootstrap = |url: &str| [("bootstrap", json!({"fromURL": url}))];
    case("begun from elsewhere", &bootstrap("gs://copies/orders"), None);
    case("begun from the index", &bootstrap("s3://idx/orders"), Some("what an index is begun with lies neither"));
    case("begun from above the log", &bootstrap("s3://wal"), Some("neither below log and index"));
    case("begun from below the index", &bootstrap("s3://idx/orders/dr"), Some("neither below log and index"));
    case("begun from the metadata", &bootstrap("s3://vmeta/dr"), Some("neither below the metadata"));
    case("begun from beside the index", &bootstrap("s3://idx/orders-old"), None);
    case("collections", &[("gc", json!({}))], None);
    let cleanup = |more: Value| with_more(json!({"enabled": true}), more);
    case("cleanup", &[("snapshots", json!({})), ("cleanup", cleanup(json!({})))], None);
    case(
        "cleanup without snapshots",
        &[("cleanup", cleanup(json!({})))],
        Some("cleanup needs snapshots and the archive"),
    );
    case(
        "cleanup without archive",
        &[("snapshots", json!({})), ("archive", json!({"enabled": false})), ("cleanup", cleanup(json!({})))],
        Some("cleanup needs snapshots and the archive"),
    );
    case(
        "more snapshots are kept than stay",
        &[("snapshots", json!({"keepLast": 2})), ("cleanup", cleanup(json!({"keepSnapshots": 3})))],
        Some("cleanup.keepSnapshots is at most snapshots.keepLast"),
    );
    case(
        "rules of a cleanup that is off",
        &[("cleanup", json!({"minAge": "1h", "maxEntries": 0, "maxSize": "1Mi"}))],
        None,
    );
    case("cleanup of the present", &[("cleanup", json!({"minAge": "0s"}))], Some("minAge is from 1s"));
    case("cleanup in the far future", &[("cleanup", json!({"minAge": "87841h"}))], Some("minAge is from 1s"));
    case("a log of nothing", &[("cleanup", json!({"maxSize": "1023Ki"}))], Some("maxSize is at least 1Mi"));
    case("jobs with a small disk", &[("jobs", cache("1023Mi"))], Some("the size of a cache is from 1Gi"));
    cases
}

/// An object with the fields of another one.
fn with_more(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

/// For each field with a pattern, an enumeration or a bound: values that it takes, and values that it refuses.
pub(crate) fn fields() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let urls = |urls: &[&str]| urls.iter().map(|url| json!(url)).collect::<Vec<_>>();
    let each = |values: Value| values.as_array().cloned().unwrap_or_default();
    let long = |length: usize| "a".repeat(length);
    vec![
        (
            "log.url",
            urls(&["gs://bucket", "az://container/a/b", "s3://b-u.c_ket/A_b!@+=:~'()*-.c"]),
            urls(&[
                "",
                "s3://",
                "wal",
                "http://wal",
                "file:///wal",
                "memory:///",
                "s3://wal/",
                "s3://wal//a",
                "s3://wal/.a",
                "s3://wal/../idx",
                "s3://wal/a%62",
                "s3://wal/a,b",
                "s3://wal/a b",
                "s3://WAL",
                "s3://wal?x",
                "s3://w",
                &format!("s3://wal/{}", long(600)),
            ]),
        ),
        (
            "log.expiry",
            each(json!(["1h30m", "90s", "1s500ms", "1500ms", "1h1m1s1ms"])),
            each(json!(["", "10", "1.5h", "-1h", "1d", "1m1h", "1h 1m", "soon", "9999999h", 3600, "0s", null])),
        ),
        ("log.maxEntrySize", each(json!(["1048576", "2Mi"])), each(json!(["1M", "1.5Mi", "", "-1", "1mi", 4096]))),
        (
            "metadata.urls",
            each(json!([["s3://meta"], ["gs://meta", "gs://vmeta"]])),
            each(json!([[], ["s3://a/b", "s3://abc", "s3://abd"], ["s3://meta/"], "s3://meta", [null]])),
        ),
        ("index.url", urls(&["s3://idx", "s3://wal/orders-index"]), urls(&["s3://idx/", "idx", "ftp://idx"])),
        (
            "storage.endpoint",
            urls(&["https://s3.corp", "https://s3.corp:9000", "https://[::1]:9000", "https://s3.corp/base/path"]),
            urls(&[
                "s3.corp",
                "ftp://s3",
                "https://",
                "https://user:pw@s3",
                "https://s3?x",
                "https://s3 x",
                &format!("https://{}", long(300)),
            ]),
        ),
        ("storage.region", urls(&["us-east-1"]), urls(&["", "us east", &long(64)])),
        ("storage.account", urls(&["orders2"]), urls(&["", "ab", "Orders", "or-ders", &long(25)])),
        ("storage.allowHTTP", each(json!([true, false])), each(json!(["yes", 1]))),
        (
            "storage.caRef",
            each(json!([{"name": "corp-ca"}])),
            each(json!([{}, {"name": ""}, {"name": "Corp"}, {"name": long(254)}])),
        ),
        (
            "storage.credentials",
            each(json!([{"type": "Secret", "secretRef": {"name": "a.b-c"}}])),
            each(json!([
                {}, {"type": "Key"}, {"type": "Secret", "secretRef": {}}, {"type": "Secret", "secretRef": {"name": "A"}},
                {"type": "Secret", "secretRef": {"name": "a", "namespace": "other"}},
            ])),
        ),
        (
            "indexer",
            each(json!([
                {}, {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": 2}}},
                {"serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn"}},
                {"podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}}},
                {"cache": {}}, {"cache": {"volumeClaimTemplate": {}}},
                {"cache": {"size": "2Gi", "volumeClaimTemplate": {"spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOncePod"]}}}},
            ])),
            each(json!([
                {"resources": {"requests": {"memory": "lots"}}}, {"resources": {"claims": []}}, {"replicas": 2},
                {"serviceAccountAnnotations": {"a": 1}}, {"podTemplate": "x"}, [],
                {"cache": {"size": "8G"}}, {"cache": {"size": 8}}, {"cache": "8Gi"}, {"cache": {"medium": "Memory"}},
                {"cache": {"volumeClaimTemplate": {"spec": {"accessModes": []}}}},
                {"cache": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadOnlyMany"]}}}},
                {"cache": {"volumeClaimTemplate": {"spec": {"storageClassName": ""}}}},
                {"cache": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "1Gi"}}}}}},
            ])),
        ),
        (
            "search",
            each(json!([
                {"replicas": 0}, {"replicas": 100}, {"service": {"annotations": {"a": "b"}}}, {"allowFrom": []},
                {"allowFrom": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}]},
                {"cors": {"allowOrigins": ["https://portal.example.org", "http://127.0.0.1:8080", "https://[::1]", "http://a"]}},
            ])),
            each(json!([
                {"replicas": -1}, {"replicas": 101}, {"replicas": "2"}, {"replicas": 1.5}, {"service": {"type": "ExternalName"}},
                {"auth": {"type": "JWT"}}, {"allowFrom": [{}]}, {"allowFrom": [{"ipBlock": {}}]}, {"size": 1},
                {"allowFrom": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]},
                {"allowFrom": vec![json!({"podSelector": {}}); 17]},
                {"cors": {}}, {"cors": {"allowOrigins": []}}, {"cors": {"allowOrigins": ["*"]}}, {"cors": {"allowOrigins": ["null"]}},
                {"cors": {"allowOrigins": ["https://a/"]}}, {"cors": {"allowOrigins": ["https://A"]}},
                {"cors": {"allowOrigins": ["a.example.org"]}}, {"cors": {"allowOrigins": ["ftp://a"]}},
                {"cors": {"allowOrigins": ["https://a,https://b"]}}, {"cors": {"allowOrigins": ["https://a", "https://a"]}},
            ])),
        ),
        ("compaction", each(json!([{}, {"enabled": false}])), each(json!([{"enabled": "no"}, {"on": true}]))),
        ("adoptOwner", urls(&["", "9c2b-1:x_y.z"]), urls(&["a b", "a/b", &long(129)])),
        (
            "bootstrap",
            each(
                json!([{"fromURL": "s3://copies/orders"}, {"fromURL": "az://copies/a", "time": "2026-11-20T10:00:00Z"}]),
            ),
            each(json!([
                {}, {"time": "2026-11-20T10:00:00Z"}, {"fromURL": "dr"}, {"fromURL": "s3://copies/"}, {"fromURL": format!("s3://copies/{}", "a".repeat(512))},
                {"fromURL": "s3://copies/orders", "time": "yesterday"}, {"fromURL": "s3://copies/orders", "snapshot": "daily"},
            ])),
        ),
        ("suspend", each(json!([true, false])), each(json!(["true"]))),
        ("deletionPolicy", urls(&["Retain", "Purge"]), urls(&["Delete", "", "purge"])),
        ("archive", each(json!([{}, {"enabled": false}])), each(json!([{"enabled": "no"}, {"url": "s3://a"}]))),
        (
            "jobs",
            each(
                json!([{}, {"resources": {"limits": {"memory": "2Gi"}}, "podTemplate": {"spec": {"tolerations": []}}}]),
            ),
            each(json!([{"replicas": 1}, {"cache": "8Gi"}])),
        ),
        (
            "snapshots",
            each(json!([
                {}, {"schedule": "*/15 0-6 1,15 JAN-MAR MON"}, {"timeZone": "America/Argentina/Buenos_Aires"}, {"keepLast": 1},
                {"copyTo": {"url": "s3://copies/orders", "storage": {"region": "r", "credentials": {"type": "WorkloadIdentity"}}}},
            ])),
            each(json!([
                {"schedule": "hourly"}, {"schedule": "0 3 * *"}, {"schedule": "0 3 * * * *"}, {"schedule": "@daily"},
                {"timeZone": ""}, {"timeZone": "Europe Berlin"}, {"timeZone": "/etc/passwd"}, {"timeZone": "../UTC"},
                {"afterEntries": -1}, {"afterSize": "10G"}, {"afterAge": "a day"}, {"keepLast": 0}, {"keepLast": 1001},
                {"copyTo": {}}, {"copyTo": {"url": "dr"}}, {"enabled": true},
            ])),
        ),
        (
            "cleanup",
            each(
                json!([{}, {"schedule": "0 4 * * *", "timeZone": "Europe/Berlin"}, {"serviceAccountAnnotations": {"a": "b"}}]),
            ),
            each(
                json!([{"minAge": "30d"}, {"keepSnapshots": 0}, {"maxEntries": -1}, {"maxSize": "1Ti"}, {"dryRun": true}]),
            ),
        ),
        ("verify", each(json!([{}, {"drill": false}])), each(json!([{"schedule": "weekly"}, {"sample": 1}]))),
        (
            "gc",
            each(json!([{}, {"schedule": ""}, {"schedule": "0 2 1 * *", "timeZone": "Europe/Berlin"}])),
            each(json!([{"schedule": "weekly"}, {"timeZone": ""}, {"enabled": true}])),
        ),
    ]
}

/// Names that are taken, and names that are not.
pub(crate) const GOOD_NAMES: [&str; 4] = ["a", "orders", "a1-b", "abcdefghijabcdefghijabcdefghijabcdefghij"];
/// Names that the API server takes for other kinds.
pub(crate) const BAD_NAMES: [&str; 4] = ["1st", "a.b", "9", "abcdefghijabcdefghijabcdefghijabcdefghijk"];

/// Changes of a stored WAL: what is said about each.
pub(crate) fn updates() -> Vec<DefinitionCase> {
    let mut cases = Vec::new();
    let mut case = |change, changes: &[(&str, Value)], refused| {
        cases.push(DefinitionCase { change, spec: with(changes), refused });
    };
    case("log moved", &[("log.url", json!("s3://wal/others"))], Some("the log's URL cannot change"));
    case("metadata dropped", &[("metadata.urls", json!(["s3://meta"]))], Some("the metadata URLs cannot change"));
    case(
        "metadata swapped",
        &[("metadata.urls", json!(["s3://vmeta", "s3://meta"]))],
        Some("the metadata URLs cannot"),
    );
    case("index moved", &[("index.url", json!("s3://idx/others"))], Some("the index's URL cannot change"));
    case("bootstrap added", &[("bootstrap", json!({"fromURL": "s3://copies/a"}))], Some("bootstrap cannot change"));
    case("expiry", &[("log.expiry", json!("2h"))], None);
    case("endpoint", &[("storage.endpoint", json!("https://elsewhere"))], None);
    case("a store for the index", &[("index.storage", json!({"credentials": {"type": "WorkloadIdentity"}}))], None);
    case("replicas", &[("search", json!({"replicas": 3}))], None);
    case("cache", &[("indexer", json!({"cache": {"size": "100Gi", "volumeClaimTemplate": {}}}))], None);
    cases
}
