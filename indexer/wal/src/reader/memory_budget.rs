//! A budget for the memory that entries take, which is shared out in the order of the log.
//!
//! An entry opens its share when it is listed, charges what it is about to read, parse or keep, waits while that does not fit,
//! and returns all of it when the share is dropped. Whoever opened earlier is served earlier. The oldest open share never
//! waits: everything older has been returned, what is younger cannot be delivered before it, so that only a charge beyond the
//! limit lets it go on. An entry that is larger than the whole budget therefore passes, while no other is charged anything, and
//! what is charged stays below the limit and the needs of one entry.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A budget for memory. Clones are the same one.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<BudgetLedger>);

#[derive(Debug)]
struct BudgetLedger {
    limit: u64,
    state: Mutex<LedgerState>,
    /// Signalled whenever a charge has to wait.
    contention: Notify,
}

#[derive(Debug, Default)]
struct LedgerState {
    used: u64,
    next_number: u64,
    /// What is charged to the open shares, by their place in the order.
    open: BTreeMap<u64, u64>,
    /// The charges that wait, by share and number.
    waiting: BTreeMap<(u64, u64), Arc<Notify>>,
}

impl LedgerState {
    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Charges `bytes` to the share `place`, unless they do not fit.
    fn take(&mut self, limit: u64, place: u64, bytes: u64) -> bool {
        let oldest = self.open.first_key_value().is_some_and(|(first, _)| *first == place);
        let used = self.used.saturating_add(bytes);
        if used > limit && !oldest {
            return false;
        }
        if let Some(charged) = self.open.get_mut(&place) {
            *charged += bytes;
            self.used = used;
        }
        true
    }

    /// Lets the first charge that waits try again.
    fn wake_first(&self) {
        if let Some(first) = self.waiting.values().next() {
            first.notify_one();
        }
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(BudgetLedger { limit, state: Mutex::default(), contention: Notify::new() }))
    }

    /// Opens the next share, with nothing charged.
    pub fn open(&self) -> MemoryShare {
        let mut state = self.0.state.lock();
        let place = state.next_number();
        state.open.insert(place, 0);
        MemoryShare { budget: self.clone(), place }
    }

    /// Waits until some charge waits. Whoever keeps the shares of several entries then returns them.
    pub async fn contended(&self) {
        loop {
            let contention = self.0.contention.notified();
            if !self.0.state.lock().waiting.is_empty() {
                return;
            }
            contention.await;
        }
    }

    /// Bytes that are charged at present.
    #[cfg(test)]
    fn used(&self) -> u64 {
        self.0.state.lock().used
    }
}

/// What one entry has charged to a budget. Dropping it returns everything.
#[derive(Debug)]
pub struct MemoryShare {
    budget: MemoryBudget,
    place: u64,
}

impl MemoryShare {
    /// A share that never waits: of a reader that holds one entry at a time.
    pub(crate) fn unshared() -> Self {
        MemoryBudget::new(0).open()
    }

    /// Charges `bytes` more; waits while they do not fit. Nothing is charged if the future is dropped.
    pub async fn charge(&self, bytes: u64) {
        let Some(waiting) = self.charge_or_wait(bytes) else { return };
        loop {
            waiting.notify.notified().await;
            // The guard leaves the queue when this returns, and wakes the next one.
            if self.budget.0.state.lock().take(self.budget.0.limit, self.place, bytes) {
                return;
            }
        }
    }

    /// Charges `bytes`, or takes a place in the queue.
    fn charge_or_wait(&self, bytes: u64) -> Option<WaitingCharge<'_>> {
        let ledger = &self.budget.0;
        let mut state = ledger.state.lock();
        let behind = state.waiting.range(..=(self.place, u64::MAX)).next().is_some();
        if !behind && state.take(ledger.limit, self.place, bytes) {
            return None;
        }
        let (place, notify) = ((self.place, state.next_number()), Arc::new(Notify::new()));
        state.waiting.insert(place, notify.clone());
        state.wake_first();
        ledger.contention.notify_one();
        Some(WaitingCharge { budget: &self.budget, place, notify })
    }

    /// Returns `bytes` of what is charged.
    pub(crate) fn release(&self, bytes: u64) {
        self.lower(|charged| charged.saturating_sub(bytes));
    }

    /// Returns what is charged beyond `bytes`.
    pub fn shrink_to(&self, bytes: u64) {
        self.lower(|charged| charged.min(bytes));
    }

    fn lower(&self, lowered: impl FnOnce(u64) -> u64) {
        let mut state = self.budget.0.state.lock();
        let Some(charged) = state.open.get_mut(&self.place) else { return };
        let returned = *charged - lowered(*charged);
        *charged -= returned;
        state.used = state.used.saturating_sub(returned);
        if returned > 0 {
            state.wake_first();
        }
    }

    /// Replaces a charge of `estimate` bytes, once it is known what they are.
    pub(crate) async fn settle(&self, estimate: u64, bytes: u64) {
        if bytes > estimate {
            self.charge(bytes - estimate).await;
        } else {
            self.release(estimate - bytes);
        }
    }

    /// Bytes that are charged.
    pub fn bytes(&self) -> u64 {
        self.budget.0.state.lock().open.get(&self.place).copied().unwrap_or_default()
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        let mut state = self.budget.0.state.lock();
        let charged = state.open.remove(&self.place).unwrap_or_default();
        state.used = state.used.saturating_sub(charged);
        state.wake_first();
    }
}

/// A charge that waits; dropping it leaves the queue.
struct WaitingCharge<'a> {
    budget: &'a MemoryBudget,
    place: (u64, u64),
    notify: Arc<Notify>,
}

impl Drop for WaitingCharge<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.0.state.lock();
        state.waiting.remove(&self.place);
        state.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn charges_are_served_in_the_order_of_the_shares() {
        let budget = MemoryBudget::new(10);
        let [first, second, third] = [(); 3].map(|()| budget.open());
        first.charge(8).await;
        let mut younger = Box::pin(third.charge(2));
        let mut older = Box::pin(second.charge(3));
        assert!(younger.as_mut().now_or_never().is_some(), "it comes before anybody waits");
        assert!(older.as_mut().now_or_never().is_none());
        let mut behind = Box::pin(third.charge(0));
        assert!(behind.as_mut().now_or_never().is_none(), "it does not overtake an older share that waits");
        first.release(2);
        assert!(older.as_mut().now_or_never().is_none(), "8 of 10 bytes are charged");
        drop(first);
        older.await;
        behind.await;
        assert_eq!(budget.used(), 5);
    }

    #[tokio::test]
    async fn the_oldest_share_passes_whatever_its_size_and_the_next_one_waits_for_it() {
        let budget = MemoryBudget::new(10);
        let [first, second] = [(); 2].map(|()| budget.open());
        second.charge(10).await;
        first.charge(1000).await;
        assert!(second.charge(1).now_or_never().is_none());
        drop(first);
        second.charge(1000).await;
        assert_eq!((second.bytes(), budget.used()), (1010, 1010));
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_charge_that_is_given_up_charges_nothing_and_holds_nobody_up() {
        let budget = MemoryBudget::new(10);
        let [first, second, third] = [(); 3].map(|()| budget.open());
        first.charge(9).await;
        let mut given_up = Box::pin(second.charge(5));
        assert!(given_up.as_mut().now_or_never().is_none());
        let mut next = Box::pin(third.charge(1));
        assert!(next.as_mut().now_or_never().is_none());
        for _ in 0..2 {
            budget.contended().await;
        }
        drop(given_up);
        next.await;
        assert!(budget.contended().now_or_never().is_none());
        assert_eq!(budget.used(), 10);
        third.settle(1, 0).await;
        assert_eq!(budget.used(), 9);
    }
}
