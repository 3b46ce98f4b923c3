//! Records in the log's root what the index needs of the log, as long as this process writes the index.

use std::time::Duration;

use tidemark_catalog::{CatalogError, IndexChain, LogCursor, RootChain, TransactionRejected};
use tidemark_store::{Entropy, StoreClock};
use tokio::time::sleep;
use tracing::warn;

/// How often it is recorded at most: nothing busy contends in the root chain.
const REPORT_INTERVAL: Duration = Duration::from_hours(1);
/// The longest pause before the first look at the root, and after each moment at which a report may be due.
const FIRST_LOOK_INTERVAL: Duration = Duration::from_mins(4);

/// Records in the log's root what the index keeps, at most once an hour by the store times of the root's records, until dropped. Nothing waits
/// for it. How long this process runs does not matter: one that lives for minutes records what is due since its predecessors ran.
///
/// Ends if the index is no longer registered, so that a clean-up does not wait for it: a process that started while somebody took it off
/// the register has to register it again.
pub(crate) async fn report_keeps(
    chain: &IndexChain,
    root: &RootChain,
    clock: &StoreClock,
    entropy: &Entropy,
) -> CatalogError {
    let mut wait = Duration::ZERO;
    loop {
        // Jittered: many indexes of one log that were started together do not contend.
        sleep(wait + entropy.jittered(FIRST_LOOK_INTERVAL)).await;
        wait = match report(chain, root, clock).await {
            Ok(wait) => wait,
            Err(error @ CatalogError::Rejected(TransactionRejected::NotRegistered { .. })) => return error,
            Err(error) => {
                warn!(%error, "the log's root does not say what the index needs of the log; a clean-up waits; retrying within the hour");
                REPORT_INTERVAL
            }
        };
    }
}

/// Records it if that is due. Gives for how long it is not due again.
async fn report(chain: &IndexChain, root: &RootChain, clock: &StoreClock) -> Result<Duration, CatalogError> {
    let (name, head) = (chain.index().url(), root.head().await?);
    let known = head.as_ref().and_then(|head| head.state.indexes.get(name.as_str()).map(|known| (head, known)));
    if let Some((head, known)) = known {
        // Without a probe it is not known how old the record is.
        let Some(now) = clock.rough_estimate() else { return Ok(Duration::ZERO) };
        // Several indexes take turns.
        let turn = REPORT_INTERVAL / u32::try_from(head.state.indexes.len()).unwrap_or(u32::MAX).max(1);
        let until_turn = turn.saturating_sub(now.since(head.time));
        if !until_turn.is_zero() {
            return Ok(until_turn);
        }
        let Some(latest) = chain.latest().await? else { return Ok(REPORT_INTERVAL) };
        // What was looked at advances as time does: where it gained less, this index was recorded less than an hour ago, in its turn.
        let missing = REPORT_INTERVAL.saturating_sub(latest.state.audited.since(known.keeps.second()));
        if !missing.is_zero() {
            return Ok(missing);
        }
        root.keep(name.as_str(), chain.generation(), LogCursor(latest.state.audited)).await?;
        return Ok(REPORT_INTERVAL);
    }
    // The root refuses it, and says why.
    root.keep(name.as_str(), chain.generation(), LogCursor::default()).await?;
    Ok(REPORT_INTERVAL)
}
