//! An API server in memory, for tests of controllers: it lists, watches, creates, patches and deletes objects of any kind.
//!
//! It knows neither schemas nor owners of fields, and collects no garbage: a server-side apply is a merge. What a real one
//! says to the operator is tested with a real one.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Response},
};
use futures::{StreamExt as _, stream};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeApiServer {
    stored: Arc<Mutex<StoredObjects>>,
    /// How many events there are.
    events: Arc<watch::Sender<usize>>,
}

#[derive(Default)]
struct StoredObjects {
    version: u64,
    objects: BTreeMap<ObjectPath, Value>,
    log: Vec<LoggedEvent>,
    writes: usize,
    /// The plural of which no object can be applied, or only the one of this name, and what is answered.
    refused: Option<(&'static str, Option<&'static str>, ApiRefusal)>,
    /// The plural of which no object can be created.
    uncreatable: Option<&'static str>,
    /// Whether finalizers cannot be changed.
    keeps_finalizers: bool,
    /// The plural whose lists are refused.
    hidden: Option<&'static str>,
    /// The plural that may be listed and not watched.
    unwatchable: Option<&'static str>,
    /// The plural whose changes no watch shows.
    delayed: Option<&'static str>,
    /// How often each plural was listed.
    lists: HashMap<String, usize>,
    /// What a policy of the cluster makes of each object of a plural that is created or changed.
    policy: Option<(&'static str, MutatingPolicy)>,
}

/// What a policy of a cluster does to an object.
type MutatingPolicy = fn(&mut Value);

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ObjectPath {
    /// Group, version and plural, such as `apis/apps/v1/deployments`.
    collection: String,
    namespace: String,
    name: String,
}

#[derive(Clone)]
struct LoggedEvent {
    version: u64,
    path: ObjectPath,
    event: &'static str,
    object: Value,
    /// The object before, if there was one.
    before: Option<Value>,
}

/// What a URL asks for: a collection if `name` is empty.
struct RequestTarget {
    path: ObjectPath,
    subresource: String,
    query: HashMap<String, String>,
}

/// An answer that is no object: its code and reason.
#[derive(Clone, Copy)]
struct ApiRefusal(u16, &'static str);

const NOT_FOUND: ApiRefusal = ApiRefusal(404, "NotFound");
const FORBIDDEN: ApiRefusal = ApiRefusal(403, "Forbidden");
const CONFLICT: ApiRefusal = ApiRefusal(409, "Conflict");
const FAILED: ApiRefusal = ApiRefusal(500, "InternalError");

impl FakeApiServer {
    pub(crate) fn new() -> Self {
        Self { stored: Arc::default(), events: Arc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    /// How many requests have asked for a change.
    pub(crate) fn writes(&self) -> usize {
        self.stored.lock().writes
    }

    /// From now on no object of this plural can be applied; `None` ends that.
    pub(crate) fn refuse(&self, plural: Option<&'static str>) {
        self.stored.lock().refused = plural.map(|plural| (plural, None, FORBIDDEN));
    }

    /// From now on no object of this plural can be created; `None` ends that.
    pub(crate) fn refuse_creation(&self, plural: Option<&'static str>) {
        self.stored.lock().uncreatable = plural;
    }

    /// From now on the object of this plural and name cannot be applied.
    pub(crate) fn refuse_object(&self, plural: &'static str, name: &'static str) {
        self.stored.lock().refused = Some((plural, Some(name), FORBIDDEN));
    }

    /// From now on the server fails to apply objects of this plural, as where a webhook does not answer.
    pub(crate) fn fail(&self, plural: &'static str) {
        self.stored.lock().refused = Some((plural, None, FAILED));
    }

    /// Whether changes of finalizers are refused from now on.
    pub(crate) fn refuse_finalizers(&self, refused: bool) {
        self.stored.lock().keeps_finalizers = refused;
    }

    /// Refuses from now on to list or watch objects of this plural; `None` ends that. Watches end, as they do every few minutes.
    pub(crate) fn hide(&self, plural: Option<&'static str>) {
        self.stored.lock().hidden = plural;
        self.events.send_modify(|_| ());
    }

    /// From now on objects of this plural may be listed and not watched; `None` ends that. Watches end, as they do every few minutes.
    pub(crate) fn refuse_watch(&self, plural: Option<&'static str>) {
        self.stored.lock().unwatchable = plural;
        self.events.send_modify(|_| ());
    }

    /// From now on no watch shows changes of objects of this plural; `None` ends that.
    pub(crate) fn delay(&self, plural: Option<&'static str>) {
        self.stored.lock().delayed = plural;
        self.events.send_modify(|_| ());
    }

    /// How often objects of this plural have been listed.
    pub(crate) fn lists(&self, plural: &str) -> usize {
        self.stored.lock().lists.get(plural).copied().unwrap_or_default()
    }

    /// From now on a policy changes each object of this plural that is created or changed.
    pub(crate) fn mutate(&self, plural: &'static str, policy: MutatingPolicy) {
        self.stored.lock().policy = Some((plural, policy));
    }

    fn change(&self, method: &Method, target: RequestTarget, body: Value) -> Result<Value, ApiRefusal> {
        let mut stored = self.stored.lock();
        stored.writes += 1;
        if stored.keeps_finalizers && body.pointer("/metadata/finalizers").is_some() {
            return Err(FORBIDDEN);
        }
        let applies = target.query.contains_key("force");
        let refused = stored.refused.filter(|(plural, name, _)| {
            applies && target.path.is_of(plural) && name.is_none_or(|name| target.path.name == name)
        });
        if let Some((.., refusal)) = refused {
            return Err(refusal);
        }
        if *method == Method::POST && stored.uncreatable.is_some_and(|plural| target.path.is_of(plural)) {
            return Err(FORBIDDEN);
        }
        let changed = match method.as_str() {
            "POST" => stored.create(target.path, body),
            "PATCH" => stored.patch(target.path, &target.subresource, body),
            "DELETE" => stored.delete(target.path, &body),
            other => panic!("{other} is not known here"),
        };
        self.events.send_replace(stored.log.len());
        changed
    }

    fn watch(&self, target: RequestTarget) -> Body {
        let since: u64 = target.query["resourceVersion"].parse().expect("a watch begins at a version");
        let next = self.stored.lock().log.partition_point(|event| event.version <= since);
        let state = (self.stored.clone(), self.events.subscribe(), next, target);
        let lines = stream::unfold(state, async |(stored, mut events, mut next, target)| {
            loop {
                if !stored.lock().may_watch(&target) {
                    return None;
                }
                let event = stored.lock().shown(&target, next).cloned();
                if let Some(LoggedEvent { path, event, object, before, .. }) = event {
                    next += 1;
                    let selected = target.selects(&path, &object);
                    // What the selector no longer selects is gone for this watch.
                    let event = if selected { event } else { "DELETED" };
                    if selected || before.is_some_and(|before| target.selects(&path, &before)) {
                        let line = format!("{}\n", json!({"type": event, "object": object}));
                        return Some((line, (stored, events, next, target)));
                    }
                } else if events.changed().await.is_err() {
                    return None;
                }
            }
        });
        Body::from_stream(lines.map(Ok::<_, Infallible>))
    }
}

impl ObjectPath {
    fn plural(&self) -> &str {
        self.collection.rsplit('/').next().unwrap_or_default()
    }

    fn is_of(&self, plural: &str) -> bool {
        self.plural() == plural
    }
}

impl StoredObjects {
    fn is_hidden(&self, target: &RequestTarget) -> bool {
        self.hidden.is_some_and(|plural| target.path.is_of(plural))
    }

    fn may_watch(&self, target: &RequestTarget) -> bool {
        !self.is_hidden(target) && !self.unwatchable.is_some_and(|plural| target.path.is_of(plural))
    }

    /// The event at this place in the log, unless this watch is late.
    fn shown(&self, target: &RequestTarget, next: usize) -> Option<&LoggedEvent> {
        self.log.get(next).filter(|_| !self.delayed.is_some_and(|plural| target.path.is_of(plural)))
    }

    fn list(&mut self, target: &RequestTarget) -> Result<Value, ApiRefusal> {
        *self.lists.entry(target.path.plural().to_owned()).or_default() += 1;
        if self.is_hidden(target) {
            return Err(FORBIDDEN);
        }
        let items: Vec<_> = self.objects.iter().filter(|(path, object)| target.selects(path, object)).collect();
        let items: Vec<_> = items.into_iter().map(|(_, object)| object).collect();
        let metadata = json!({"resourceVersion": self.version.to_string()});
        Ok(json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    fn create(&mut self, path: ObjectPath, mut object: Value) -> Result<Value, ApiRefusal> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = ObjectPath { name, ..path };
        if self.objects.contains_key(&path) {
            return Err(CONFLICT);
        }
        object["metadata"]["namespace"] = json!(path.namespace);
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        object["metadata"]["generation"] = json!(1);
        self.admit(&path, &mut object);
        Ok(self.put(path, object, "ADDED"))
    }

    fn patch(&mut self, path: ObjectPath, subresource: &str, mut patch: Value) -> Result<Value, ApiRefusal> {
        let Some(before) = self.objects.get(&path) else {
            let creates = subresource.is_empty() && patch["kind"].is_string();
            return if creates {
                self.create(ObjectPath { name: String::new(), ..path }, patch)
            } else {
                Err(NOT_FOUND)
            };
        };
        for precondition in ["uid", "resourceVersion"] {
            // It must not be merged: a version or an identity is the server's.
            let metadata = patch.get_mut("metadata").and_then(Value::as_object_mut);
            let wanted = metadata.and_then(|metadata| metadata.remove(precondition));
            if wanted.is_some_and(|wanted| wanted != before["metadata"][precondition]) {
                return Err(CONFLICT);
            }
        }
        let mut after = before.clone();
        match subresource {
            "" => merge(&mut after, &patch),
            "status" => merge(&mut after["status"], &patch["status"]),
            other => panic!("subresource {other} is not known here"),
        }
        self.admit(&path, &mut after);
        let before = &self.objects[&path];
        if after == *before {
            return Ok(after);
        }
        if after["spec"] != before["spec"] {
            after["metadata"]["generation"] = json!(before["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
        }
        let held = after["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        let gone = after["metadata"]["deletionTimestamp"].is_string() && !held;
        Ok(self.put(path, after, if gone { "DELETED" } else { "MODIFIED" }))
    }

    fn admit(&self, path: &ObjectPath, object: &mut Value) {
        if let Some((_, policy)) = self.policy.filter(|(plural, _)| path.is_of(plural)) {
            policy(object);
        }
    }

    fn delete(&mut self, path: ObjectPath, options: &Value) -> Result<Value, ApiRefusal> {
        let mut object = self.objects.get(&path).cloned().ok_or(NOT_FOUND)?;
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return Err(CONFLICT);
        }
        if object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            return Ok(self.put(path, object, "DELETED"));
        }
        object["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
        Ok(self.put(path, object, "MODIFIED"))
    }

    fn put(&mut self, path: ObjectPath, mut object: Value, event: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = if event == "DELETED" {
            self.objects.remove(&path)
        } else {
            self.objects.insert(path.clone(), object.clone())
        };
        self.log.push(LoggedEvent { version: self.version, path, event, object: object.clone(), before });
        object
    }
}

impl RequestTarget {
    fn read(uri: &Uri) -> Self {
        let mut parts: Vec<_> = uri.path().split('/').skip(1).map(str::to_owned).collect();
        let resource = parts.split_off(if parts[0] == "api" { 2 } else { 3 });
        let group = parts.join("/");
        let mut rest = resource.into_iter();
        let mut next = || rest.next().unwrap_or_default();
        let (mut plural, mut namespace) = (next(), String::new());
        if plural == "namespaces" {
            (namespace, plural) = (next(), next());
        }
        let path = ObjectPath { collection: format!("{group}/{plural}"), namespace, name: next() };
        let Query(query) = Query::try_from_uri(uri).expect("a query");
        Self { path, subresource: next(), query }
    }

    /// Whether it asks for this object of a collection.
    fn selects(&self, path: &ObjectPath, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let mut wanted = self.query.get("labelSelector").into_iter().flat_map(|selector| selector.split(','));
        path.collection == self.path.collection
            && (self.path.namespace.is_empty() || self.path.namespace == path.namespace)
            && wanted.all(|wanted| match wanted.split_once('=') {
                Some((name, value)) => labels[name] == value,
                None => labels[wanted].is_string(),
            })
    }
}

async fn answer(State(server): State<FakeApiServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = RequestTarget::read(&parts.uri);
    let watches = target.query.get("watch").is_some_and(|watch| watch == "true");
    let found = match parts.method {
        Method::GET if watches && server.stored.lock().may_watch(&target) => {
            return server.watch(target).into_response();
        }
        Method::GET if watches => Err(FORBIDDEN),
        Method::GET if target.path.name.is_empty() => server.stored.lock().list(&target),
        Method::GET => server.stored.lock().objects.get(&target.path).cloned().ok_or(NOT_FOUND),
        method => {
            let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
            server.change(&method, target, serde_json::from_slice(&body).unwrap_or_default())
        }
    };
    let (code, body) = found.map_or_else(
        |ApiRefusal(code, reason)| {
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "no, says a policy"});
            (code, status)
        },
        |object| (200, object),
    );
    Response::builder().status(code).body(Body::from(body.to_string())).expect("a response")
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().expect("it is one").remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}
