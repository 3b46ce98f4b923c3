//! One process of a named consumer: it claims the name, delivers, keeps the position, and ends when another one has claimed it.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::FutureExt as _;
use tidemark_catalog::{
    AcquireError, CatalogError, ConsumerChain, ConsumerLease, ConsumerPosition, ConsumerStandby, TransactionRejected,
    WriterIdentity, clean_heartbeats, heartbeat,
};
use tidemark_crds::SinkReport;
use tidemark_store::{Entropy, StoreClock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    dead_letters::DeadLetters,
    destination::DeliveryTarget,
    entity_dispatcher::EntityDispatcher,
    mutants,
    position_keeper::PositionKeeper,
    pump::{DeliveryEnd, DeliveryError, DeliveryOptions, DeliveryPump},
    source::ChangeSource,
    status::{log_delivery, report_delivery},
};

/// Why a consumer ended.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The name could not be claimed.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The position could not be kept: another process holds the consumer, or the outcome of a write is unknown.
    #[error(transparent)]
    Position(#[from] CatalogError),
    /// The delivery ended.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// A process that delivers for a consumer.
pub struct ConsumerRun<'a> {
    /// The consumer.
    pub chain: &'a ConsumerChain,
    /// This process: one of the same identity takes the consumer over at once.
    pub identity: WriterIdentity,
    /// The clock whose object is this process's heartbeat: [`ConsumerChain::clock`].
    pub clock: &'a StoreClock,
    /// Where records come from.
    pub source: &'a dyn ChangeSource,
    /// Where they go.
    pub target: &'a DeliveryTarget<'a>,
    /// How.
    pub options: DeliveryOptions,
    /// Randomness of the pauses.
    pub entropy: Entropy,
    /// Where it reports how far it is.
    pub report: &'a watch::Sender<SinkReport>,
}

impl ConsumerRun<'_> {
    /// Waits until the consumer may be claimed, and delivers until `stop`, or until everything is where it does not follow. A consumer that
    /// was never held begins at `start`.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::ConsumerFenced`] once another process holds the consumer: this one claims nothing again.
    pub async fn run(&self, start: &ConsumerPosition, stop: &CancellationToken) -> Result<DeliveryEnd, ConsumerError> {
        loop {
            let is_told = AtomicBool::new(false);
            let on_wait = |standby: ConsumerStandby| log_wait(&standby, is_told.swap(true, Ordering::Relaxed));
            let claim = self.chain.claim(self.identity.clone(), self.clock, start, on_wait);
            let Some(lease) = stop.run_until_cancelled(claim).await else { return Ok(DeliveryEnd::Stopped) };
            let ended = self.deliver(lease?, stop).await;
            self.report.send_modify(|report| report.holding = false);
            match ended {
                Err(ConsumerError::Position(CatalogError::Rejected(TransactionRejected::ConsumerFenced {
                    ..
                }))) if mutants::claims_again() => {}
                ended => return ended,
            }
        }
    }

    async fn deliver(&self, lease: ConsumerLease, stop: &CancellationToken) -> Result<DeliveryEnd, ConsumerError> {
        let (epoch, done) = (lease.state().epoch, lease.state().progress());
        let name = lease.state().name.clone();
        tracing::info!(consumer = %name, epoch, acknowledged = %done.acknowledged, "the consumer is held");
        let (progress, status, delivering) = match self.target {
            DeliveryTarget::Destination(destination) => {
                let (dead_letters, entropy) = (DeadLetters::new(self.chain.folder()), self.entropy.clone());
                let pump =
                    DeliveryPump::new(self.source, destination.as_ref(), dead_letters, entropy, self.options, done);
                (pump.progress(), pump.status(), pump.run(stop).boxed())
            }
            DeliveryTarget::Workers(socket) => {
                let dispatcher = EntityDispatcher::new(self.source, socket, self.options, done);
                (dispatcher.progress(), dispatcher.status(), dispatcher.run(stop).boxed())
            }
        };
        let keeper = PositionKeeper::new(lease, progress);
        let mut logging = pin!(log_delivery(name.as_str(), status.subscribe()));
        let mut reporting = pin!(report_delivery(self.source, status, self.report));
        let mut beating = pin!(heartbeat(self.clock));
        let mut cleaning = pin!(clean_heartbeats(self.clock, &self.entropy));
        let ended = CancellationToken::new();
        let (mut pumping, mut keeping) = (delivering, pin!(keeper.run(ended.clone())));
        let delivered = tokio::select! {
            biased;
            // It ends first only with an error. Then nothing more is sent.
            kept = &mut keeping => {
                kept?;
                return Ok(DeliveryEnd::Stopped);
            }
            delivered = &mut pumping => delivered,
            never = &mut logging => match never {},
            never = &mut reporting => match never {},
            never = &mut beating => match never {},
            never = &mut cleaning => match never {},
        };
        ended.cancel();
        // A run may be over at once, again and again: it cleans up while its last position is stored, which takes a second.
        tokio::select! {
            biased;
            kept = &mut keeping => kept?,
            never = &mut cleaning => match never {},
        }
        Ok(delivered?)
    }
}

/// Tells once for people that a candidate waits, and each time for those who look closely.
fn log_wait(standby: &ConsumerStandby, is_told: bool) {
    let ConsumerStandby { holder, silent, failure } = standby;
    let (silent, failure) = (silent.as_secs(), failure.as_ref().map(ToString::to_string));
    if is_told {
        tracing::debug!(%holder, silent, failure, "waiting for the consumer");
    } else {
        tracing::info!(%holder, failure, "another process holds the consumer; waiting until it ends");
    }
}
