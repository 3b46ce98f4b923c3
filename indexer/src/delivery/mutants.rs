//! Faults that the tests plant in the delivery, to see that they find them. In the product each hook returns what is right.

use tidemark_catalog::{CatalogError, ConsumerProgress};

#[cfg(test)]
pub(crate) use planted::{plant, plant_fenced};

/// `AckWithoutGaps`: the position moves over what is not acknowledged.
pub(super) fn moves_over(is_acknowledged: bool) -> bool {
    is_acknowledged || is_planted("AckWithoutGaps")
}

/// `AckBeforeDelivery`: a batch is acknowledged before it is delivered.
pub(super) fn acknowledges_first() -> bool {
    is_planted("AckBeforeDelivery")
}

/// `OpenBreakerDrops`: what a destination does not take is dropped.
pub(super) fn drops_failed() -> bool {
    is_planted("OpenBreakerDrops")
}

/// `PartialFailureIsSuccess`: an answer counts for all items of a bulk request, whatever it says of each.
pub(super) fn counts_each_item() -> bool {
    !is_planted("PartialFailureIsSuccess")
}

/// `FencedConsumerClaimsAgain`: a process that lost the consumer takes it back.
pub(super) fn claims_again() -> bool {
    is_planted("FencedConsumerClaimsAgain")
}

/// `FencedConsumerAdvances`: a process that lost the consumer acknowledges all the same.
pub(super) fn is_fence_ignored() -> bool {
    is_planted("FencedConsumerAdvances")
}

/// `FencedConsumerAdvances`: the position moves although another process holds the consumer.
#[cfg(not(test))]
#[expect(clippy::unused_async, reason = "the planted fault writes")]
pub(super) async fn advance_fenced(_: &ConsumerProgress) -> Result<(), CatalogError> {
    Ok(())
}

#[cfg(test)]
pub(super) async fn advance_fenced(progress: &ConsumerProgress) -> Result<(), CatalogError> {
    planted::advance_fenced(progress).await
}

/// `DispatchIgnoresEntities`: a record is handed out while an earlier one of its entity is not done.
pub(super) fn ignores_entities() -> bool {
    is_planted("DispatchIgnoresEntities")
}

/// `GoneWorkerKeepsRecords`: what a worker had that is gone is handed to nobody.
pub(super) fn forgets_workers() -> bool {
    is_planted("GoneWorkerKeepsRecords")
}

#[cfg(not(test))]
fn is_planted(_: &str) -> bool {
    false
}

#[cfg(test)]
fn is_planted(name: &str) -> bool {
    planted::is_planted(name)
}

#[cfg(test)]
mod planted {
    use std::cell::{Cell, RefCell};

    use tidemark_catalog::{CatalogError, ConsumerChain, ConsumerProgress, ConsumerState};

    thread_local! {
        static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
        /// The consumer whose position moves past the fence.
        static FENCED: RefCell<Option<ConsumerChain>> = const { RefCell::new(None) };
    }

    /// A fault is planted in this thread until it is dropped.
    pub(crate) struct PlantedFault;

    pub(crate) fn plant(name: &'static str) -> PlantedFault {
        PLANTED.set(Some(name));
        PlantedFault
    }

    /// As [`plant`], for `FencedConsumerAdvances` on this consumer.
    pub(crate) fn plant_fenced(chain: ConsumerChain) -> PlantedFault {
        FENCED.set(Some(chain));
        plant("FencedConsumerAdvances")
    }

    /// Writes the position in the name of the present holder.
    pub(super) async fn advance_fenced(progress: &ConsumerProgress) -> Result<(), CatalogError> {
        let Some(chain) = FENCED.with_borrow(Clone::clone) else { return Ok(()) };
        let ConsumerProgress { acknowledged, delivered, dead_lettered } = progress.clone();
        let advance = |state: Option<&ConsumerState>| {
            let acknowledged = acknowledged.clone();
            Ok(state.map(|state| ConsumerState { acknowledged, delivered, dead_lettered, ..state.clone() }))
        };
        chain.chain().append(None, advance).await.map(|_| ())
    }

    impl Drop for PlantedFault {
        fn drop(&mut self) {
            FENCED.set(None);
            PLANTED.set(None);
        }
    }

    pub(super) fn is_planted(name: &str) -> bool {
        PLANTED.get() == Some(name)
    }
}
