//! The controller of `WAL` resources.

mod apply;
mod assess;
pub(crate) mod build;
mod dereference;
mod exposure;
pub(crate) mod observe;
mod purge;
mod transitions;
mod unreadable;
mod update_status;
pub(crate) mod upgrade;
pub(crate) mod validate;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Resource as _, ResourceExt as _,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::controller::Action,
};
use tidemark_crds::{
    Reason, Wal,
    names::{self, Component},
};
use tokio::time::Instant;

use self::{
    assess::{Facts, Verdict},
    dereference::{Found, dereference},
    exposure::{LiveSearch, TokenCoverage},
    purge::Deletion,
    update_status::Due,
    upgrade::{Permission, Situation, Step},
    validate::{Refusal, ValidatedWal},
};
use crate::{apply::ApplyError, backoff, cache::WalKey, context::Scope};

/// Name of the controller in metrics.
pub(crate) const NAME: &str = "wal";
/// A WAL is looked at this often even if nothing says that it changed; that costs no request.
const RESYNC: Duration = Duration::from_mins(10);
/// How soon a WAL is looked at again that waits for something which goes by itself.
const SOON: Duration = Duration::from_secs(3);

/// Why a reconciliation is to be tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("the status could not be written: {0}")]
    Status(#[source] kube::Error),
    #[error("the finalizer could not be written: {0}")]
    Finalizer(#[source] kube::Error),
}

/// Names a WAL.
pub(crate) fn name_of(metadata: &ObjectMeta) -> WalKey {
    WalKey::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// Brings one WAL, and what is said of it, closer to what it should be.
pub(crate) async fn reconcile(wal: Arc<DeserializeGuard<Wal>>, scope: Arc<Scope>) -> Result<Action, Error> {
    // The semaphore is never closed.
    let _permit = scope.shared.permits.acquire().await;
    let started = Instant::now();
    let result = match &wal.0 {
        Ok(wal) => reconcile_wal(wal, &scope).await,
        Err(invalid) => reconcile_unreadable(invalid, &wal.object_ref(&()), &scope).await,
    };
    let outcome = if result.is_ok() { "done" } else { "failed" };
    scope.shared.metrics.reconciled(NAME, outcome, started.elapsed());
    if result.is_ok() {
        scope.shared.backoff.reset(&name_of(wal.meta()));
    }
    result
}

/// Says so, and lets one go that is being deleted.
async fn reconcile_unreadable(
    invalid: &InvalidObject,
    reference: &ObjectReference,
    scope: &Scope,
) -> Result<Action, Error> {
    let deletion = purge::finalize_unreadable(&invalid.metadata, reference, scope).await.map_err(Error::Finalizer)?;
    if deletion == Deletion::Done {
        return Ok(Action::await_change());
    }
    unreadable::report(invalid, scope, update_status::now()).await.map_err(Error::Status)?;
    Ok(match deletion {
        Deletion::Purging { again } => Action::requeue(again),
        Deletion::None | Deletion::Done => Action::await_change(),
    })
}

#[tracing::instrument(name = "reconcile", skip_all, fields(wal = %wal.name_any(), namespace = wal.namespace()))]
async fn reconcile_wal(wal: &Wal, scope: &Scope) -> Result<Action, Error> {
    let found = dereference(wal, scope);
    let validated = validate::validate(wal, &scope.shared.settings.cluster_id);
    let deletion = purge::finalize(wal, &found, validated.is_err(), scope).await.map_err(Error::Finalizer)?;
    if deletion == Deletion::Done {
        return Ok(Action::await_change());
    }
    let upgrade = Upgrade::plan(wal, &found, scope);
    let applied = match validated {
        Ok(mut validated) => {
            let coverage = exposure::limit(&mut validated.search, &LiveSearch::read(&found));
            let applied = apply(wal, &validated, &found, upgrade.step, scope).await;
            Applied { coverage, ..applied }
        }
        Err(refusals) => Applied::refused(refused(&refusals)),
    };
    // With what was just written, which the watches tell nobody.
    let found = dereference(wal, scope);
    let again = tell(wal, &found, &upgrade, &applied, scope).await?;
    if let Some(error) = applied.error {
        return Err(error.into());
    }
    let waiting = applied.waits.then_some(SOON);
    let at_once = (upgrade.has_turn || applied.writes > 0 && upgrade.step.is_under_way()).then_some(Duration::ZERO);
    let purging = if let Deletion::Purging { again } = deletion { Some(again) } else { None };
    let resync = backoff::jittered(RESYNC, backoff::random());
    let next = [again, waiting, at_once, purging].into_iter().flatten().fold(resync, Duration::min);
    Ok(Action::requeue(next))
}

/// What came of writing the children.
#[derive(Debug)]
struct Applied {
    /// How many writes it took, where all went well.
    writes: usize,
    /// What a user must know.
    refused: Option<Verdict>,
    /// Why it is to be tried again, later each time.
    error: Option<ApplyError>,
    /// Whether something else must go first, which it does by itself.
    waits: bool,
    /// Which search pods ask for the token.
    coverage: TokenCoverage,
}

impl Default for Applied {
    fn default() -> Self {
        let coverage = TokenCoverage::Full;
        Self { writes: 0, refused: None, error: None, waits: false, coverage }
    }
}

impl Applied {
    fn refused(verdict: Verdict) -> Self {
        Self { refused: Some(verdict), ..Self::default() }
    }
}

async fn apply(wal: &Wal, validated: &ValidatedWal, found: &Found, step: Step, scope: &Scope) -> Applied {
    let settings = &scope.shared.settings;
    let children = build::build(validated, &settings.platform, &settings.release);
    let wanted = apply::wanted(&children, &wal.spec);
    let written = match wanted {
        Ok(wanted) => apply::apply(scope, found, wanted, step).await,
        Err(error) => Err(error.into()),
    };
    let error = match written {
        Ok(writes) => return Applied { writes, ..Applied::default() },
        Err(error) => error,
    };
    let refused = |reason| Some(Verdict::no(reason, error.to_string()));
    match error {
        ApplyError::Leftover { .. } | ApplyError::NamespaceTerminating => {
            tracing::debug!(wal = %found.key, %error, "waiting");
            Applied { waits: true, ..Applied::default() }
        }
        ApplyError::NameTaken { .. } => {
            Applied { refused: refused(Reason::NameTaken), error: Some(error), ..Applied::default() }
        }
        ApplyError::Refused { .. } | ApplyError::Unwritable(_) => {
            Applied { refused: refused(Reason::ChildRefused), error: Some(error), ..Applied::default() }
        }
        ApplyError::Failed { .. } => Applied { error: Some(error), ..Applied::default() },
    }
}

fn refused(refusals: &[Refusal]) -> Verdict {
    let reason = refusals.first().map_or(Reason::SpecInvalid, |refusal| refusal.reason);
    let messages: Vec<_> = refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    Verdict::no(reason, format!("{}; the pods stay as they are; correct the spec", messages.join("; ")))
}

/// Where the WAL stands in an upgrade.
struct Upgrade {
    step: Step,
    verdict: Verdict,
    /// Whether it has a turn.
    has_turn: bool,
}

impl Upgrade {
    fn plan(wal: &Wal, found: &Found, scope: &Scope) -> Self {
        let settings = &scope.shared.settings;
        let release = settings.release.as_str();
        let by_annotation = wal.annotations().get(names::ANNOTATION_APPROVE_UPGRADE).map(String::as_str);
        let situation = Situation {
            release,
            search: found.rollout(Component::Search),
            indexer: found.rollout(Component::Indexer),
            permission: match settings.upgrade_approved == release || by_annotation == Some(release) {
                _ if wal.metadata.deletion_timestamp.is_some() => Permission::Deleted,
                false => Permission::Missing,
                true if wal.spec.suspend => Permission::Suspended,
                true => Permission::Granted,
            },
            under_way: upgrade::is_under_way(&found.status.conditions),
        };
        let step = situation.step();
        let has_turn = match step {
            Step::Queue => scope.shared.turns.take(&found.key),
            _ => false,
        };
        let held = matches!(step, Step::Hold | Step::Queue) && apply::holds_back_spec(found, &wal.spec);
        // With a turn it is written down that the WAL is under way; only then is anything of it changed.
        let verdict = situation.verdict(if has_turn { Step::RollSearch } else { step }, &found.key, held);
        Self { step, verdict, has_turn }
    }

    /// Gives the turn back once the status says that the WAL needs it no longer.
    async fn written(&self, key: &WalKey, scope: &Scope) {
        if self.has_turn || self.step.is_under_way() || self.step == Step::Queue {
            return;
        }
        for next in scope.shared.turns.give_back(key) {
            // Nobody listens only while the process ends.
            drop(scope.changed.send(next).await);
        }
    }
}

/// Writes status and Events if there is news. Answers when there may be some that waits.
async fn tell(
    wal: &Wal,
    found: &Found,
    upgrade: &Upgrade,
    applied: &Applied,
    scope: &Scope,
) -> Result<Option<Duration>, Error> {
    let facts = Facts {
        suspended: wal.spec.suspend,
        search_wanted: wal.spec.search.replicas > 0,
        indexer: found.rollout(Component::Indexer),
        search: found.rollout(Component::Search),
        pods: &found.pods,
        before: &found.status.conditions,
        refused: applied.refused.clone(),
        token_everywhere: applied.coverage == TokenCoverage::Full,
    };
    let now = update_status::now();
    let assessment = facts.assess();
    let status = update_status::next(found, wal.metadata.generation, &facts, &assessment, &upgrade.verdict, now);
    let mut again = None;
    match update_status::due(&found.status, &status, update_status::since(scope, found, now)) {
        Due::Never => {}
        Due::After(wait) => again = Some(wait),
        Due::Now => {
            update_status::write(scope, found, &status).await.map_err(Error::Status)?;
            let adopted_from = facts.principal().and_then(|(_, process)| process.adopted_from.as_deref());
            let happened = transitions::between(&found.status, &status, adopted_from);
            scope.shared.events.publish(&wal.object_ref(&()), &happened).await;
        }
    }
    scope.shared.ledger.count(&found.key, &status.conditions);
    upgrade.written(&found.key, scope).await;
    Ok(again)
}
