//! Faults: which requests they hit, and what happens to those.

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What a request wants, as the harness counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreOperation {
    /// PUT of an object.
    Put,
    /// GET of an object.
    Get,
    /// HEAD of an object.
    Head,
    /// One page of a listing.
    List,
    /// DELETE of one object.
    Delete,
    /// Deletion of many objects in one request.
    DeleteMany,
    /// Any part of a multipart upload.
    Multipart,
    /// Anything else.
    Other,
}

impl StoreOperation {
    /// Whether it changes objects.
    pub fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::DeleteMany | Self::Multipart)
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// The connection breaks and nothing is applied.
    Drop,
    /// It is applied; then the connection breaks without an answer.
    DropAfter,
    /// It is applied; the answer is 500.
    FailAfter,
    /// The connection breaks now; it is applied after this time.
    LandLater(Duration),
    /// It is applied and answered, after this time.
    Delay(Duration),
    /// It is applied and answered, once the rule is lifted.
    Hold,
    /// 503, nothing is applied.
    Unavailable,
    /// 403, nothing is applied.
    Forbidden,
    /// 403 in the words of a store that a lock of the object binds; nothing is applied. Of a deletion of many it is the answer for this object alone.
    Locked,
    /// It is applied; the answer's body is cut in half, with the headers of the whole.
    Truncate,
}

/// Which requests a fault hits, and how often.
#[derive(Clone, Debug)]
pub struct FaultRule {
    fault: InjectedFault,
    operations: Option<Vec<StoreOperation>>,
    key: Option<String>,
    skip: u32,
    times: Option<u32>,
}

impl FaultRule {
    /// Every request, until the rule is lifted.
    pub fn always(fault: InjectedFault) -> Self {
        Self { fault, operations: None, key: None, skip: 0, times: None }
    }

    /// Only requests of this operation (may be said more than once).
    pub fn on(mut self, operation: StoreOperation) -> Self {
        self.operations.get_or_insert_default().push(operation);
        self
    }

    /// Only requests whose `bucket/key` contains `part`.
    pub fn key(mut self, part: &str) -> Self {
        self.key = Some(part.to_owned());
        self
    }

    /// Lets the first `n` matching requests pass.
    pub fn after(mut self, n: u32) -> Self {
        self.skip = n;
        self
    }

    /// Only the first `n` matching requests.
    pub fn times(mut self, n: u32) -> Self {
        self.times = Some(n);
        self
    }

    fn matches(&self, operation: StoreOperation, path: &str) -> bool {
        self.times != Some(0)
            && self.operations.as_ref().is_none_or(|wanted| wanted.contains(&operation))
            && self.key.as_ref().is_none_or(|part| path.contains(part))
    }
}

/// Names a rule, to lift it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(u64);

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct FaultRules {
    rules: Vec<(RuleId, FaultRule)>,
    added: u64,
    seen: u64,
    lifted: Arc<Notify>,
}

/// Waits until the rule is lifted.
pub(crate) async fn until_lifted(rules: &Mutex<FaultRules>, id: RuleId) {
    let lifted = Arc::clone(&rules.lock().lifted);
    loop {
        let mut notified = pin!(lifted.notified());
        // Before the look: what is lifted after it is not missed.
        notified.as_mut().enable();
        if !rules.lock().has(id) {
            return;
        }
        notified.await;
    }
}

impl FaultRules {
    pub(crate) fn add(&mut self, rule: FaultRule) -> RuleId {
        self.added += 1;
        let id = RuleId(self.added);
        self.rules.push((id, rule));
        id
    }

    pub(crate) fn remove(&mut self, id: RuleId) {
        self.rules.retain(|(other, _)| *other != id);
        self.lifted.notify_waiters();
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
        self.lifted.notify_waiters();
    }

    fn has(&self, id: RuleId) -> bool {
        self.rules.iter().any(|(other, _)| *other == id)
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// The fault that this request acts out, if any, and the rule that says so.
    pub(crate) fn strike(&mut self, operation: StoreOperation, path: &str) -> Option<(RuleId, InjectedFault)> {
        let (id, rule) = self.rules.iter_mut().find(|(_, rule)| rule.matches(operation, path))?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times = rule.times.map(|left| left - 1);
        self.seen += 1;
        Some((*id, rule.fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_hits_what_it_names_and_as_often_as_it_says() {
        let mut faults = FaultRules::default();
        faults.add(FaultRule::always(InjectedFault::Drop).on(StoreOperation::Put).key("b/x").after(1).times(2));
        let mut hits = |operation, path| faults.strike(operation, path).is_some();
        assert!(!hits(StoreOperation::Get, "b/x"));
        assert!(!hits(StoreOperation::Put, "b/y"));
        assert!(!hits(StoreOperation::Put, "b/x"), "the first passes");
        assert!(hits(StoreOperation::Put, "b/x"));
        assert!(hits(StoreOperation::Put, "b/x"));
        assert!(!hits(StoreOperation::Put, "b/x"), "two hits are all");
    }

    #[tokio::test]
    async fn what_is_held_goes_on_when_its_rule_is_lifted() {
        let rules = Mutex::new(FaultRules::default());
        let rule = FaultRule::always(InjectedFault::Hold).times(1);
        let held = rules.lock().add(rule.clone());
        let other = rules.lock().add(rule);
        let mut waiting = pin!(until_lifted(&rules, held));
        assert!(futures::poll!(&mut waiting).is_pending());
        rules.lock().remove(other);
        assert!(futures::poll!(&mut waiting).is_pending());
        rules.lock().remove(held);
        waiting.await;
    }
}
