//! The variables that configure a data pod. They are its whole configuration.

use std::time::Duration;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};
use serde_json::{Map, Value};
use tidemark_crds::names::{self, WalComponent};

use super::volumes;
use crate::controllers::wal::validate::{
    StorePlace, ValidatedCache, ValidatedCredentials, ValidatedStore, ValidatedWal,
};

/// The file of which Kubernetes keeps the content when a container ends.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Variable that names the file of the search token.
pub(crate) const TOKEN_FILE_VARIABLE: &str = "TIDEMARK_AUTH_TOKEN_FILE";

/// The variables of every data pod.
pub(super) fn common(wal: &ValidatedWal, component: WalComponent) -> Vec<EnvVar> {
    let mut variables = places(wal, &wal.stores.of_index());
    variables.extend(process(&wal.role(component).cache));
    variables
}

/// The variables of a job's pod that has these stores. The command itself is in the arguments.
pub(super) fn job(wal: &ValidatedWal, stores: &[(StorePlace, &ValidatedStore)], task: &str) -> Vec<EnvVar> {
    let mut variables = places(wal, stores);
    variables.extend(cache(&wal.jobs.role.cache));
    variables.extend([
        set("TIDEMARK_OWNER", &wal.owner),
        // An attempt goes on with what the one before began.
        set("TIDEMARK_TASK", task),
        set("TIDEMARK_RESULT_FILE", TERMINATION_LOG),
    ]);
    variables
}

/// The variables of a sink's pod, which has the index only; `further` say where it delivers, and how.
pub(super) fn sink(
    wal: &ValidatedWal,
    of_pod: &[(StorePlace, &ValidatedStore)],
    of_role: &ValidatedCache,
    further: &[(&'static str, String)],
) -> Vec<EnvVar> {
    let places = [set("TIDEMARK_INDEX", &wal.stores.index.0), set("TIDEMARK_STORES", &stores(of_pod))];
    let further = further.iter().map(|(name, value)| set(name, value));
    places.into_iter().chain(process(of_role)).chain(further).collect()
}

fn places(wal: &ValidatedWal, of_pod: &[(StorePlace, &ValidatedStore)]) -> Vec<EnvVar> {
    let mut variables = vec![
        set("TIDEMARK_LOG", &wal.stores.log.0),
        set("TIDEMARK_METADATA", &wal.stores.metadata.0.join(",")),
        set("TIDEMARK_INDEX", &wal.stores.index.0),
        set("TIDEMARK_STORES", &stores(of_pod)),
    ];
    variables.extend(wal.log.moved_from.as_deref().map(|url| set("TIDEMARK_MOVED_FROM", url)));
    variables
}

fn process(of_role: &ValidatedCache) -> Vec<EnvVar> {
    let listen = set("TIDEMARK_LISTEN", &format!("0.0.0.0:{}", names::CONTAINER_PORT));
    let others = [set("TIDEMARK_WAIT", "true"), pod_uid("TIDEMARK_IDENTITY")];
    [listen].into_iter().chain(cache(of_role)).chain(others).collect()
}

fn cache(cache: &ValidatedCache) -> [EnvVar; 2] {
    [
        set("TIDEMARK_CACHE_DIR", volumes::CACHE_FOLDER),
        set("TIDEMARK_CACHE_MIB", &volumes::cache_mib(cache).to_string()),
    ]
}

/// The further variables of an indexer.
pub(super) fn indexer(wal: &ValidatedWal) -> Vec<EnvVar> {
    // Without the variable the indexer takes what the log records, and no difference would be reported.
    let retention = wal.log.idempotency_retention.map_or_else(|| "forever".to_owned(), span_text);
    let mut variables = vec![
        set("TIDEMARK_EXPIRY", &span_text(wal.log.expiry)),
        set("TIDEMARK_SIGNER_CLOCK_LEAD", &span_text(wal.log.signer_clock_lead)),
        set("TIDEMARK_REQUEST_TIMEOUT", &span_text(wal.log.request_timeout)),
        set("TIDEMARK_VISIBILITY_DELAY", &span_text(wal.log.visibility_delay)),
        set("TIDEMARK_AUDIT_WINDOW", &span_text(wal.log.audit_window)),
        set("TIDEMARK_MAX_ENTRY_SIZE", &wal.log.max_entry_bytes.to_string()),
        set("TIDEMARK_MAX_DESCRIPTOR_SIZE", &wal.log.max_descriptor_bytes.to_string()),
        set("TIDEMARK_CLOCK_TOLERANCE", &span_text(wal.log.clock_tolerance)),
        set("TIDEMARK_IDEMPOTENCY_RETENTION", &retention),
        set("TIDEMARK_OWNER", &wal.owner),
        set("TIDEMARK_CONTROL_DIR", volumes::CONTROL_FOLDER),
        set("TIDEMARK_NO_SEARCH", "true"),
    ];
    if let Some(owner) = &wal.indexer.adopt_owner {
        variables.push(set("TIDEMARK_ADOPT_OWNER", owner));
    }
    if let Some(bootstrap) = &wal.indexer.bootstrap {
        variables.push(set("TIDEMARK_BOOTSTRAP_FROM", &bootstrap.from_url));
        variables.extend(bootstrap.time.as_deref().map(|time| set("TIDEMARK_BOOTSTRAP_TIME", time)));
    }
    if !wal.indexer.compaction {
        variables.push(set("TIDEMARK_NO_COMPACTION", "true"));
    }
    if wal.indexer.file_names {
        variables.push(set("TIDEMARK_FILES", "true"));
    }
    variables
}

/// The further variables of a search pod.
pub(super) fn search(wal: &ValidatedWal) -> Vec<EnvVar> {
    let token = wal.search.token_secret.as_ref().map(|_| set(TOKEN_FILE_VARIABLE, volumes::TOKEN_FILE));
    let origins = wal.search.allow_origins.join(",");
    let origins = (!origins.is_empty()).then(|| set("TIDEMARK_CORS_ORIGIN", &origins));
    token.into_iter().chain(origins).collect()
}

/// The stores as JSON: `{"log": {...}, "metadata": {...}, "index": {...}}`, and perhaps `"copy"`.
fn stores(of_pod: &[(StorePlace, &ValidatedStore)]) -> String {
    let places = of_pod.iter().map(|(place, store)| (place.as_str().to_owned(), settings(store)));
    Value::Object(places.collect()).to_string()
}

fn settings(store: &ValidatedStore) -> Value {
    let ValidatedStore { folder, endpoint, region, account, allow_http, ca, access } = store;
    let mut settings = Map::new();
    if let Some(endpoint) = endpoint {
        settings.insert("endpoint".to_owned(), endpoint.clone().into());
    }
    if let Some(region) = region {
        settings.insert("region".to_owned(), region.clone().into());
    }
    if let Some(account) = account {
        settings.insert("account".to_owned(), account.clone().into());
    }
    if *allow_http {
        settings.insert("allowHTTP".to_owned(), true.into());
    }
    if ca.is_some() {
        settings.insert("caFile".to_owned(), volumes::ca_file(folder).into());
    }
    if let ValidatedCredentials::Secret(_) = access {
        settings.insert("credentialsDir".to_owned(), volumes::credentials_folder(folder).into());
    }
    Value::Object(settings)
}

/// One way of writing for each span, so that `60s` and `1m` do not roll the pods.
pub(crate) fn span_text(span: Duration) -> String {
    if span.subsec_millis() == 0 { format!("{}s", span.as_secs()) } else { format!("{}ms", span.as_millis()) }
}

fn set(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn pod_uid(name: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: "metadata.uid".to_owned(), api_version: Some("v1".to_owned()) };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}
