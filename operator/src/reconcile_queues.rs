//! The objects that have to be reconciled, on their way to the controllers of their kinds.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::cache::NamespacedName;

/// How many objects may wait in a queue before a sender has to wait.
const QUEUE_CAPACITY: usize = 1024;

/// An object that a controller reconciles. Objects of different kinds may have the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ReconcileTarget {
    pub(crate) kind: Box<str>,
    pub(crate) key: NamespacedName,
}

impl ReconcileTarget {
    pub(crate) fn new(kind: &str, key: NamespacedName) -> Self {
        Self { kind: kind.into(), key }
    }
}

/// The queues of a leader: one a kind and watched namespace, or one a kind for the whole cluster.
#[derive(Debug, Default)]
pub(crate) struct ReconcileQueues {
    by_kind: BTreeMap<&'static str, KindQueues>,
}

#[derive(Debug, Default)]
struct KindQueues {
    /// Takes what no namespace's own queue takes.
    cluster: Option<mpsc::Sender<NamespacedName>>,
    by_namespace: BTreeMap<String, mpsc::Sender<NamespacedName>>,
}

impl ReconcileQueues {
    /// The queue of a kind in a namespace, or everywhere.
    pub(crate) fn open(&mut self, kind: &'static str, namespace: Option<&str>) -> mpsc::Receiver<NamespacedName> {
        let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
        let queues = self.by_kind.entry(kind).or_default();
        match namespace {
            Some(namespace) => drop(queues.by_namespace.insert(namespace.to_owned(), sender)),
            None => queues.cluster = Some(sender),
        }
        receiver
    }

    /// Waits while the queue is full. What has no controller here is not reconciled.
    pub(crate) async fn send(&self, target: ReconcileTarget) {
        if let Some(queue) = self.queue(&target) {
            // There is no receiver only while the process ends.
            drop(queue.send(target.key).await);
        }
    }

    /// Leaves out what a full queue does not take.
    pub(crate) fn try_send(&self, target: ReconcileTarget) {
        if let Some(queue) = self.queue(&target) {
            drop(queue.try_send(target.key));
        }
    }

    fn queue(&self, target: &ReconcileTarget) -> Option<&mpsc::Sender<NamespacedName>> {
        let queues = self.by_kind.get(&*target.kind)?;
        queues.by_namespace.get(&*target.key.namespace).or(queues.cluster.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_reaches_the_queue_of_its_kind_and_namespace_from_any_sender() {
        let mut queues = ReconcileQueues::default();
        let mut wals = ["a", "b"].map(|namespace| queues.open("WAL", Some(namespace)));
        let mut tasks = queues.open("Task", None);
        let names = ["a", "b"].map(|namespace| NamespacedName::new(namespace, "orders"));
        for key in &names {
            queues.try_send(ReconcileTarget::new("WAL", key.clone()));
        }
        for stranger in [("WAL", "c"), ("Deployment", "a")] {
            queues.try_send(ReconcileTarget::new(stranger.0, NamespacedName::new(stranger.1, "orders")));
        }
        for (queue, key) in wals.iter_mut().zip(&names) {
            assert_eq!(queue.try_recv().as_ref(), Ok(key));
            assert!(queue.try_recv().is_err());
        }
        assert!(tasks.try_recv().is_err());
        queues.try_send(ReconcileTarget::new("Task", names[0].clone()));
        assert_eq!(tasks.try_recv().as_ref(), Ok(&names[0]));
    }
}
