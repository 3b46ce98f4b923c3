//! The rules of a spec, part by part: each makes what the builders take, or notes why it is refused.

use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::{core::v1::ResourceRequirements, networking::v1::NetworkPolicyPeer};
use tidemark_crds::{
    AuthType, ByteSize, CacheSpec, CleanupSpec, CredentialsType, LogPlace, PodTemplate, PodTemplateSettings, Reason,
    RoleSpec, ServiceType, SnapshotCopySpec, StorageCredentials, StorageSpec, TimeSpan, Wal, WalSpec, is_web_origin,
    names, names::WalComponent, parse_quantity_millis,
};

use super::{
    refusal::{RefusalList, SpecRefusal},
    spec_digest::spec_digest,
    validated::{
        ValidatedBootstrap, ValidatedCache, ValidatedCleanup, ValidatedIndexer, ValidatedJobs, ValidatedLog,
        ValidatedRole, ValidatedSearch,
    },
    validated_stores::{StorePlace, ValidatedCredentials, ValidatedStore, WalStores},
};

const HOUR: Duration = Duration::from_hours(1);

pub(super) fn stores(spec: &WalSpec, refusals: &mut RefusalList) -> Option<WalStores> {
    check_urls(spec, refusals);
    let common = spec.storage.as_ref();
    let log = store(StorePlace::Log, spec.log.storage.as_ref(), common, refusals);
    let metadata = store(StorePlace::Metadata, spec.metadata.storage.as_ref(), common, refusals);
    let index = store(StorePlace::Index, spec.index.storage.as_ref(), common, refusals);
    let copy = match copy_to(spec) {
        Some(to) => Some((to.url.clone(), store(StorePlace::Copy, to.storage.as_ref(), common, refusals)?)),
        None => None,
    };
    Some(WalStores {
        log: (spec.log.url.clone(), log?),
        metadata: (spec.metadata.urls.clone(), metadata?),
        index: (spec.index.url.clone(), index?),
        copy,
    })
}

fn copy_to(spec: &WalSpec) -> Option<&SnapshotCopySpec> {
    spec.snapshots.as_ref()?.copy_to.as_ref()
}

fn store(
    place: StorePlace,
    own: Option<&StorageSpec>,
    common: Option<&StorageSpec>,
    refusals: &mut RefusalList,
) -> Option<ValidatedStore> {
    let path = own.map_or_else(|| "spec.storage".to_owned(), |_| format!("{}.storage", place.field()));
    let Some(storage) = own.or(common) else {
        refusals.spec(format!("neither \"spec.storage\" nor \"{}.storage\" is there; add one", place.field()));
        return None;
    };
    let StorageSpec { endpoint, region, account, allow_http, ca_ref, credentials } = storage;
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) && !allow_http {
        refusals.spec(format!("\"{path}.endpoint\" is plain http; use https, or set allowHTTP: true"));
    }
    Some(ValidatedStore {
        folder: if own.is_some() { place.as_str() } else { "storage" },
        endpoint: endpoint.clone(),
        region: region.clone(),
        account: account.clone(),
        allow_http: *allow_http,
        ca: ca_ref.as_ref().map(|ca| ca.name.clone()),
        access: access(&path, credentials, refusals)?,
    })
}

fn access(path: &str, credentials: &StorageCredentials, refusals: &mut RefusalList) -> Option<ValidatedCredentials> {
    match (credentials.r#type, &credentials.secret_ref) {
        (CredentialsType::WorkloadIdentity, _) => Some(ValidatedCredentials::WorkloadIdentity),
        (CredentialsType::Secret, Some(secret)) => Some(ValidatedCredentials::Secret(secret.name.clone())),
        (CredentialsType::Secret, None) => {
            refusals.spec(format!(
                "\"{path}.credentials\" of type Secret needs a secretRef; name the Secret with the keys"
            ));
            None
        }
    }
}

fn check_urls(spec: &WalSpec, refusals: &mut RefusalList) {
    let log = ("spec.log.url", &spec.log.url);
    let index = ("spec.index.url", &spec.index.url);
    let metadata = spec.metadata.urls.iter().map(|url| ("spec.metadata.urls", url));
    let copy = copy_to(spec).map(|to| ("spec.snapshots.copyTo.url", &to.url));
    let bootstrap = spec.bootstrap.as_ref().map(|bootstrap| ("spec.bootstrap.fromURL", &bootstrap.from_url));
    // Neither is written by the pods that read log and index.
    let others = copy.into_iter().chain(bootstrap);
    let all: Vec<_> = [log, index].into_iter().chain(metadata.clone()).chain(others.clone()).collect();
    for (path, url) in &all {
        if !["s3://", "gs://", "az://"].iter().any(|scheme| url.starts_with(scheme)) {
            refusals.spec(format!("\"{path}\" is \"{url}\"; it starts with s3://, gs:// or az://"));
        }
    }
    let of_others = others.flat_map(|other| {
        let places = [log, index].into_iter().chain(metadata.clone());
        places.map(move |place| (place, other)).collect::<Vec<_>>()
    });
    let of_metadata = metadata.clone().flat_map(|metadata| [(log, metadata), (index, metadata)]);
    let pairs: Vec<_> = [(log, index)].into_iter().chain(of_metadata).chain(of_others).collect();
    for ((one, a), (other, b)) in pairs {
        if below(a, b) || below(b, a) {
            refusals
                .spec(format!("\"{one}\" \"{a}\" and \"{other}\" \"{b}\" lie one below the other; keep them apart"));
        }
    }
}

/// Whether `inner` is `outer` or lies below it.
fn below(inner: &str, outer: &str) -> bool {
    format!("{inner}/").starts_with(&format!("{outer}/"))
}

pub(super) fn log(log: &LogPlace, refusals: &mut RefusalList) -> Option<ValidatedLog> {
    // 168 h is the longest validity of a signed URL of S3 and Google.
    let expiry = span("spec.log.expiry", &log.expiry, Duration::from_secs(1), 168 * HOUR, refusals);
    let signer_clock_lead = span("spec.log.signerClockLead", &log.signer_clock_lead, Duration::ZERO, HOUR, refusals);
    let request_timeout = span("spec.log.requestTimeout", &log.request_timeout, Duration::ZERO, HOUR, refusals);
    let visibility_delay = span("spec.log.visibilityDelay", &log.visibility_delay, Duration::ZERO, HOUR, refusals);
    // 8784 h is a leap year.
    let audit_window = span("spec.log.auditWindow", &log.audit_window, Duration::ZERO, 8784 * HOUR, refusals);
    let max_entry_bytes = size("spec.log.maxEntrySize", &log.max_entry_size, 64, refusals);
    let max_descriptor_bytes = size("spec.log.maxDescriptorSize", &log.max_descriptor_size, 256, refusals);
    let clock_tolerance =
        span("spec.log.clockTolerance", &log.clock_tolerance, Duration::ZERO, Duration::from_mins(1), refusals);
    let bound = [expiry, signer_clock_lead, request_timeout].into_iter().flatten().sum::<Duration>();
    let least = bound + Duration::from_secs(1);
    let retention = log.idempotency_retention.as_ref();
    // 87840 h are ten leap years.
    let idempotency_retention =
        retention.map(|given| span("spec.log.idempotencyRetention", given, least, 87_840 * HOUR, refusals));
    Some(ValidatedLog {
        expiry: expiry?,
        signer_clock_lead: signer_clock_lead?,
        request_timeout: request_timeout?,
        visibility_delay: visibility_delay?,
        audit_window: audit_window?,
        max_entry_bytes: max_entry_bytes?,
        max_descriptor_bytes: max_descriptor_bytes?,
        clock_tolerance: clock_tolerance?,
        idempotency_retention: match idempotency_retention {
            Some(read) => Some(read?),
            None => None,
        },
        moved_from: log.moved_from.clone().filter(|url| !url.is_empty()),
    })
}

fn span(path: &str, span: &TimeSpan, least: Duration, most: Duration, refusals: &mut RefusalList) -> Option<Duration> {
    let read = refusals.read(path, span.duration())?;
    if !(least..=most).contains(&read) {
        let (least, most) = (least.as_secs(), most.as_secs());
        let most = if most < 3600 { format!("{}m", most / 60) } else { format!("{}h", most / 3600) };
        refusals.spec(format!("\"{path}\" is \"{span}\"; it is from {least}s to {most}"));
    }
    Some(read)
}

/// A size from 1Ki to `most` MiB.
fn size(path: &str, size: &ByteSize, most: u64, refusals: &mut RefusalList) -> Option<u64> {
    let read = refusals.read(path, size.bytes())?;
    if !(1 << 10..=most << 20).contains(&read) {
        refusals.spec(format!("\"{path}\" is \"{size}\"; it is from 1Ki to {most}Mi"));
    }
    Some(read)
}

fn data_role(wal: &Wal, spec: &RoleSpec, component: WalComponent, refusals: &mut RefusalList) -> ValidatedRole {
    let spec_digest = refusals.read("spec", spec_digest(&wal.spec, component)).unwrap_or_default();
    ValidatedRole { spec_digest, ..role(&format!("spec.{}", component.as_str()), spec, refusals) }
}

/// A role that the spec describes in the field `role`.
pub(super) fn role(role: &str, spec: &RoleSpec, refusals: &mut RefusalList) -> ValidatedRole {
    let resources = spec.resources.clone().unwrap_or_default();
    let cache = cache(role, &spec.cache, refusals);
    let template = template(&format!("{role}.podTemplate"), spec.pod_template.as_ref(), refusals);
    check_disk_limit(role, &cache, [template.resources.as_ref(), Some(&resources)], refusals);
    ValidatedRole {
        resources,
        cache,
        service_account_annotations: spec.service_account_annotations.clone(),
        template,
        spec_digest: String::new(),
    }
}

pub(super) fn jobs(wal: &Wal, refusals: &mut RefusalList) -> Option<ValidatedJobs> {
    let spec = &wal.spec;
    let role = role(&format!("spec.{}", names::COMPONENT_JOBS), &spec.jobs.role, refusals);
    let own = &spec.cleanup.service_account_annotations;
    let cleanup_account_annotations = if own.is_empty() { &role.service_account_annotations } else { own }.clone();
    Some(ValidatedJobs {
        cleanup_account_annotations,
        archive: spec.archive.enabled,
        keep_snapshots: spec.snapshots.as_ref().map(|snapshots| snapshots.keep_last.max(1)),
        cleanup: cleanup(&spec.cleanup, refusals)?,
        role,
    })
}

fn cleanup(spec: &CleanupSpec, refusals: &mut RefusalList) -> Option<ValidatedCleanup> {
    // 87840 h are ten years of 366 days.
    let min_age = span("spec.cleanup.minAge", &spec.min_age, Duration::from_secs(1), 87840 * HOUR, refusals);
    let max_bytes = match &spec.max_size {
        Some(size) => Some(refusals.read("spec.cleanup.maxSize", size.bytes())?),
        None => None,
    };
    Some(ValidatedCleanup {
        min_age: min_age?,
        max_entries: spec.max_entries.and_then(|entries| u64::try_from(entries).ok()),
        max_bytes,
        keep_snapshots: spec.keep_snapshots.max(1),
    })
}

fn cache(role: &str, spec: &CacheSpec, refusals: &mut RefusalList) -> ValidatedCache {
    let volume_bytes = refusals.read(&format!("{role}.cache.size"), spec.volume_bytes()).unwrap_or_default();
    let claim = spec.volume_claim_template.as_ref().map(|template| template.spec.clone());
    ValidatedCache { volume_bytes, claim }
}

/// A limit on the node's disk that is less than the cache may take there: the kubelet would evict the pods. Of `resources` the first
/// counts that has such a limit.
fn check_disk_limit(
    role: &str,
    cache: &ValidatedCache,
    resources: [Option<&ResourceRequirements>; 2],
    refusals: &mut RefusalList,
) {
    let mut limits = resources.into_iter().flatten().filter_map(|resources| resources.limits.as_ref());
    let Some(limit) = limits.find_map(|limits| limits.get("ephemeral-storage")) else { return };
    let enough = parse_quantity_millis(&limit.0).is_none_or(|limit| limit / 1000 >= i128::from(cache.volume_bytes));
    if cache.claim.is_none() && !enough {
        refusals.spec(format!(
            "the limit of ephemeral-storage of \"{role}\" is \"{}\", less than \"{role}.cache.size\", which counts against it: \
             the kubelet would evict the pods; raise the limit, or lower the size",
            limit.0
        ));
    }
}

pub(super) fn indexer(wal: &Wal, refusals: &mut RefusalList) -> ValidatedIndexer {
    let role = data_role(wal, &wal.spec.indexer.role, WalComponent::Indexer, refusals);
    let adopt_owner = Some(wal.spec.adopt_owner.clone()).filter(|owner| !owner.is_empty());
    let (compaction, file_names) = (wal.spec.compaction.enabled, wal.spec.index.files);
    let bootstrap = wal.spec.bootstrap.as_ref().map(|bootstrap| ValidatedBootstrap {
        from_url: bootstrap.from_url.clone(),
        time: bootstrap.time.as_ref().map(|time| time.0.to_string()),
    });
    ValidatedIndexer { role, compaction, file_names, adopt_owner, bootstrap, suspended: wal.spec.suspend }
}

pub(super) fn search(wal: &Wal, refusals: &mut RefusalList) -> ValidatedSearch {
    let spec = &wal.spec.search;
    if spec.replicas < 0 {
        refusals.spec(format!("\"spec.search.replicas\" is {}; 0 turns search off", spec.replicas));
    }
    let secret = spec.auth.secret_ref.as_ref().map(|secret| secret.name.clone());
    let token_secret = match (spec.auth.r#type, secret) {
        (AuthType::None, _) => {
            if spec.service.r#type != ServiceType::ClusterIP {
                refusals.spec(
                    "a Service that is reachable from outside of the cluster needs \"spec.search.auth\" of type Token",
                );
            }
            None
        }
        (AuthType::Token, Some(secret)) => Some(secret),
        (AuthType::Token, None) => {
            refusals.spec("\"spec.search.auth\" of type Token needs a secretRef; name the Secret that holds the token");
            None
        }
    };
    let role = data_role(wal, &spec.role, WalComponent::Search, refusals);
    let allow_from = spec.allow_from.clone();
    check_peers(&allow_from, refusals);
    let allow_origins = spec.cors.as_ref().map_or_else(Vec::new, |cors| cors.allow_origins.clone());
    check_origins(&allow_origins, refusals);
    let service = spec.service.clone();
    ValidatedSearch { role, replicas: spec.replicas, token_secret, service, allow_from, allow_origins }
}

/// Search does not start with an origin that no browser sends, which the schema does not see of each: hosts have forms that browsers
/// write in another way.
fn check_origins(origins: &[String], refusals: &mut RefusalList) {
    for origin in origins {
        if !is_web_origin(origin) {
            refusals.spec(format!(
                "\"spec.search.cors.allowOrigins\" has \"{origin}\"; write a scheme and a host as browsers send them, such as \
                 https://portal.example.org"
            ));
        }
    }
}

fn check_peers(peers: &[NetworkPolicyPeer], refusals: &mut RefusalList) {
    let blocks = peers.iter().filter_map(|peer| peer.ip_block.as_ref());
    for range in blocks.flat_map(|block| block.except.iter().flatten().chain([&block.cidr])) {
        if range.parse::<IpNet>().is_err() {
            refusals.spec(format!(
                "\"spec.search.allowFrom\" has \"{range}\"; write a range of addresses such as 10.0.0.0/8"
            ));
        }
    }
}

fn template(path: &str, template: Option<&PodTemplate>, refusals: &mut RefusalList) -> PodTemplateSettings {
    let settings = template.map_or_else(|| Ok(PodTemplateSettings::default()), PodTemplate::settings);
    settings.unwrap_or_else(|refused| {
        let reason = Reason::PodTemplateRefused;
        refusals.0.extend(refused.into_iter().map(|refused| {
            let message = format!("\"{path}.{}\" {}", refused.path, refused.why);
            SpecRefusal { reason, message }
        }));
        PodTemplateSettings::default()
    })
}
