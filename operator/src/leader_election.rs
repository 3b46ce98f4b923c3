//! One replica works, the others wait: a Lease that its holder renews.
//!
//! No two clocks are compared. A candidate takes over when it has seen the same record for a whole lease on its own
//! monotonic clock, and a holder that has not renewed for two thirds of a lease stops by itself, whether or not it can
//! still reach the API server. The lease keeps replicas out of each other's way; the index is safe without it.
//!
//! It is written by hand because the libraries (kube-lease-manager, kubert) compare the record's time with the wall clock of
//! the reader, so that clocks that differ give two leaders; client-go counts observed time as this does.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{args, backoff, clock, metrics::OperatorMetrics};

/// The lease as one replica sees it.
#[derive(Clone)]
pub(crate) struct LeaderElection {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    metrics: OperatorMetrics,
}

/// What a candidate saw last, and since when.
struct ObservedLease {
    record: (Option<String>, Option<MicroTime>),
    since: Instant,
}

/// Why the work of a leader ended.
#[derive(Debug)]
pub(crate) enum LeadershipEnd<T> {
    /// Another replica holds the lease, or it could not be renewed in time.
    Lost,
    /// The process shuts down; the lease was released.
    Stopped,
    /// The work itself ended.
    Finished(T),
}

impl LeaderElection {
    /// A lease holds for `duration` without being renewed.
    pub(crate) fn new(client: Client, args: &args::LeaseArgs, duration: Duration, metrics: OperatorMetrics) -> Self {
        Self {
            api: Api::namespaced(client, &args.lease_namespace),
            name: args.lease_name.clone(),
            identity: args.identity.clone(),
            duration,
            metrics,
        }
    }

    /// Waits for the lease, works while it is held, and drops the work in the same instant in which it is lost.
    pub(crate) async fn lead<T>(
        &self,
        work: impl AsyncFnOnce() -> T,
        shutdown: &CancellationToken,
    ) -> LeadershipEnd<T> {
        tokio::select! {
            () = self.acquire() => {}
            () = shutdown.cancelled() => return LeadershipEnd::Stopped,
        }
        tracing::info!(lease = %self.name, identity = %self.identity, "leading");
        self.metrics.leading(true);
        let ended = tokio::select! {
            // A lost lease comes first: whatever else ends at the same moment, a lease of another replica is not released.
            biased;
            () = self.hold() => LeadershipEnd::Lost,
            () = shutdown.cancelled() => LeadershipEnd::Stopped,
            result = work() => LeadershipEnd::Finished(result),
        };
        self.metrics.leading(false);
        if !matches!(ended, LeadershipEnd::Lost) {
            self.release().await;
        }
        ended
    }

    /// Returns when this replica holds the lease.
    async fn acquire(&self) {
        let mut seen = None;
        loop {
            match within(self.retry(), self.try_acquire(&mut seen)).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(lease = %self.name, %error, "cannot read or write the lease; retrying");
                }
            }
            // Jittered, so that waiting replicas do not all write when the lease ends.
            sleep(backoff::jittered(self.retry(), backoff::random())).await;
        }
    }

    /// Returns when this replica no longer holds the lease.
    async fn hold(&self) {
        let mut renewed = Instant::now();
        loop {
            sleep(self.retry()).await;
            let started = Instant::now();
            match within(self.retry(), self.renew()).await {
                Ok(true) => renewed = started,
                Ok(false) => {
                    tracing::warn!(lease = %self.name, "another replica holds the lease; stopping the controllers");
                    return;
                }
                Err(error) => {
                    tracing::warn!(lease = %self.name, %error, "failed to renew the lease; retrying");
                }
            }
            if renewed.elapsed() + self.retry() >= self.duration * 2 / 3 {
                tracing::warn!(lease = %self.name, "the lease was not renewed in time; stopping the controllers");
                return;
            }
        }
    }

    /// One attempt to become the holder.
    async fn try_acquire(&self, seen: &mut Option<ObservedLease>) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.record(0)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let record = (spec.holder_identity.clone().filter(|holder| !holder.is_empty()), spec.renew_time.clone());
        let free = match (&record.0, &*seen) {
            (None, _) => true,
            (Some(holder), _) if *holder == self.identity => true,
            (_, Some(before)) if before.record == record => before.since.elapsed() >= self.duration,
            _ => {
                *seen = Some(ObservedLease { record, since: Instant::now() });
                false
            }
        };
        if free { self.write_holder(lease).await } else { Ok(false) }
    }

    /// Renews the lease, if this replica still holds it.
    async fn renew(&self) -> Result<bool, kube::Error> {
        let lease = self.api.get(&self.name).await?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder == Some(&self.identity) { self.write_holder(lease).await } else { Ok(false) }
    }

    /// Writes this replica into the lease, unless another replica wrote in between.
    async fn write_holder(&self, mut lease: Lease) -> Result<bool, kube::Error> {
        let before = lease.spec.take().unwrap_or_default();
        let mut spec = self.record(before.lease_transitions.unwrap_or(0));
        if before.holder_identity.as_deref() == Some(&self.identity) {
            spec.acquire_time = before.acquire_time;
        } else {
            spec.lease_transitions = spec.lease_transitions.map(|count| count.saturating_add(1));
        }
        lease.spec = Some(spec);
        won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Releases the lease, so that another replica does not have to wait. An error costs only that wait.
    async fn release(&self) {
        let released = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = None;
                spec.renew_time = Some(MicroTime(clock::now_exactly()));
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok(())
        };
        if let Err(error) = within(self.retry(), released).await {
            tracing::warn!(lease = %self.name, %error, "failed to release the lease; other replicas must wait for it to expire");
        }
    }

    fn record(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(clock::now_exactly());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX).max(1)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Between two attempts, and the longest that one may take. A sixth leaves room for two attempts without an answer between a
    /// quick renewal and the two thirds at which the holder gives up.
    fn retry(&self) -> Duration {
        self.duration / 6
    }
}

/// A write that met another writer is no error: another replica was first.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the API server did not answer within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaseError> {
    timeout(limit, attempt).await.map_err(|_| LeaseError::Late(limit))?.map_err(LeaseError::Api)
}
