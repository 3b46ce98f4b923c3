//! Which record goes to which worker: of an entity one at a time, in order. Pure.

use std::collections::{BTreeMap, VecDeque};

use tidemark_catalog::ConsumerPosition;
use tokio::time::Instant;

use super::{mutants, record::DeliveryRecord};

/// A connection of a worker. No two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WorkerId(pub(crate) u64);

/// The records that are not acknowledged: those that a worker has, and those that wait.
///
/// Of the records of an entity the first one is with a worker or may be handed out, and the others wait for its acknowledgement. A record
/// without an entity waits for none.
#[derive(Debug, Default)]
pub(crate) struct EntityQueues {
    /// What may be handed out, by seq.
    ready: BTreeMap<u64, DeliveryRecord>,
    /// What waits for an earlier record of its entity, by entity. An entity is here while one of its records is not acknowledged.
    waiting: BTreeMap<String, VecDeque<DeliveryRecord>>,
    /// What each worker has, by seq.
    held: BTreeMap<WorkerId, BTreeMap<u64, DeliveryRecord>>,
    /// When each record was handed out, the oldest first. What was acknowledged since is dropped at the front.
    handed_out: VecDeque<(Instant, WorkerId, u64)>,
}

impl EntityQueues {
    /// Adds a record, which lies behind all others.
    pub(crate) fn push(&mut self, record: DeliveryRecord) {
        if let Some(entity) = record.entity.clone().filter(|_| !mutants::ignores_entities()) {
            if let Some(behind) = self.waiting.get_mut(&entity) {
                behind.push_back(record);
                return;
            }
            self.waiting.insert(entity, VecDeque::new());
        }
        self.ready.insert(record.seq(), record);
    }

    /// The first record that may be handed out. `worker` has it from `now` on.
    pub(crate) fn hand_out(&mut self, worker: WorkerId, now: Instant) -> Option<DeliveryRecord> {
        let (seq, record) = self.ready.pop_first()?;
        self.held.entry(worker).or_default().insert(seq, record.clone());
        self.handed_out.push_back((now, worker, seq));
        Some(record)
    }

    /// `worker` has done the record at `position`: the next one of its entity may be handed out. Gives whether the worker has it.
    pub(crate) fn acknowledge(&mut self, worker: WorkerId, position: &ConsumerPosition) -> bool {
        let Some(held) = self.held.get_mut(&worker) else { return false };
        let Some(record) = held.remove(&position.seq) else { return false };
        if record.position != *position {
            held.insert(position.seq, record);
            return false;
        }
        let Some(entity) = record.entity else { return true };
        match self.waiting.get_mut(&entity).and_then(VecDeque::pop_front) {
            Some(next) => drop(self.ready.insert(next.seq(), next)),
            None => drop(self.waiting.remove(&entity)),
        }
        true
    }

    /// `worker` is gone: others get what it has, before everything that comes later.
    pub(crate) fn take_back(&mut self, worker: WorkerId) {
        let held = self.held.remove(&worker).unwrap_or_default();
        if !mutants::forgets_workers() {
            self.ready.extend(held);
        }
    }

    /// How many records `worker` has.
    pub(crate) fn held_by(&self, worker: WorkerId) -> usize {
        self.held.get(&worker).map_or(0, BTreeMap::len)
    }

    /// Whether no worker has a record.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.values().all(BTreeMap::is_empty)
    }

    /// The worker that has had a record for the longest time, and since when.
    pub(crate) fn oldest(&mut self) -> Option<(Instant, WorkerId)> {
        while let Some((since, worker, seq)) = self.handed_out.front().copied() {
            if self.held.get(&worker).is_some_and(|held| held.contains_key(&seq)) {
                return Some((since, worker));
            }
            self.handed_out.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use tidemark_wal::Token;

    use super::*;

    fn at(seq: u64) -> ConsumerPosition {
        ConsumerPosition { generation: "g1".parse().unwrap(), seq }
    }

    /// A record of the entity of this number; 0 is none.
    fn record(seq: u64, entity: u8) -> DeliveryRecord {
        DeliveryRecord {
            position: at(seq),
            token: Token::from_bytes([1; 20]),
            op: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            entity: (entity > 0).then(|| format!("job/{entity}")),
            json: "{}".into(),
        }
    }

    #[derive(Clone, Debug)]
    enum QueueStep {
        Push(u8),
        HandOut(u64),
        Acknowledge(u64, usize),
        Gone(u64),
    }

    fn step() -> impl Strategy<Value = QueueStep> {
        prop_oneof![
            4 => (0u8..5).prop_map(QueueStep::Push),
            4 => (1u64..4).prop_map(QueueStep::HandOut),
            4 => (1u64..4, any::<usize>()).prop_map(|(worker, chosen)| QueueStep::Acknowledge(worker, chosen)),
            1 => (1u64..4).prop_map(QueueStep::Gone),
        ]
    }

    /// What is wrong after the steps, if anything. Workers that are gone come back under another number.
    fn first_fault(steps: &[QueueStep]) -> Result<(), String> {
        let (mut queues, now) = (EntityQueues::default(), Instant::now());
        let (mut entities, mut open) = (Vec::<u8>::new(), BTreeSet::<u64>::new());
        let mut held = BTreeMap::<u64, BTreeSet<u64>>::new();
        let mut lives = BTreeMap::<u64, u64>::new();
        let number =
            |lives: &BTreeMap<u64, u64>, worker: u64| worker + 10 * lives.get(&worker).copied().unwrap_or_default();
        let place = |seq: u64| usize::try_from(seq).unwrap() - 1;
        // In the end everything is handed out and acknowledged by one worker.
        let last = (0..steps.len()).flat_map(|_| [QueueStep::HandOut(1), QueueStep::Acknowledge(1, 0)]);
        let ended = [QueueStep::Gone(1), QueueStep::Gone(2), QueueStep::Gone(3)];
        for step in steps.iter().cloned().chain(ended).chain(last) {
            match step {
                QueueStep::Push(entity) => {
                    entities.push(entity);
                    let seq = entities.len() as u64;
                    open.insert(seq);
                    queues.push(record(seq, entity));
                }
                QueueStep::HandOut(worker) => {
                    let worker = number(&lives, worker);
                    let Some(found) = queues.hand_out(WorkerId(worker), now) else { continue };
                    let seq = found.seq();
                    let entity = entities[place(seq)];
                    let earlier = open.range(..seq).find(|other| entity > 0 && entities[place(**other)] == entity);
                    if let Some(earlier) = earlier {
                        return Err(format!("record {seq} is handed out before {earlier} is done"));
                    }
                    if held.values().any(|seqs| seqs.contains(&seq)) {
                        return Err(format!("record {seq} is with two workers"));
                    }
                    held.entry(worker).or_default().insert(seq);
                }
                QueueStep::Acknowledge(worker, chosen) => {
                    let worker = number(&lives, worker);
                    let seqs: Vec<u64> = held.get(&worker).into_iter().flatten().copied().collect();
                    if seqs.is_empty() {
                        continue;
                    }
                    let seq = seqs[chosen % seqs.len()];
                    let other = ConsumerPosition { generation: "g2".parse().unwrap(), seq };
                    if queues.acknowledge(WorkerId(worker), &other) || queues.acknowledge(WorkerId(99), &at(seq)) {
                        return Err(format!("record {seq} is acknowledged by a foreign position or worker"));
                    }
                    if !queues.acknowledge(WorkerId(worker), &at(seq)) || queues.acknowledge(WorkerId(worker), &at(seq))
                    {
                        return Err(format!("record {seq} is not acknowledged once"));
                    }
                    held.entry(worker).or_default().remove(&seq);
                    open.remove(&seq);
                }
                QueueStep::Gone(worker) => {
                    let gone = number(&lives, worker);
                    *lives.entry(worker).or_default() += 1;
                    queues.take_back(WorkerId(gone));
                    held.remove(&gone);
                }
            }
            for (worker, seqs) in &held {
                if queues.held_by(WorkerId(*worker)) != seqs.len() {
                    return Err(format!("worker {worker} has not {seqs:?}"));
                }
            }
            if queues.is_idle() != held.values().all(BTreeSet::is_empty)
                || queues.oldest().is_some() == queues.is_idle()
            {
                return Err("who is idle is not known".to_owned());
            }
        }
        if open.is_empty() { Ok(()) } else { Err(format!("records {open:?} are lost")) }
    }

    proptest! {
        #[test]
        fn an_entity_is_with_one_worker_in_order_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..150)) {
            prop_assert_eq!(first_fault(&steps), Ok(()));
        }
    }

    /// What a run over fixed steps finds.
    fn fault_of_all() -> Result<(), String> {
        let steps = (0..60).flat_map(|n: u64| {
            let (entity, gone) = (u8::try_from(n % 3).unwrap(), QueueStep::Gone(n % 7));
            let handed = [QueueStep::HandOut(1), QueueStep::HandOut(2), gone];
            let done = [QueueStep::Acknowledge(1, 0), QueueStep::Acknowledge(2, 0)];
            [QueueStep::Push(entity), QueueStep::Push(entity)].into_iter().chain(handed).chain(done)
        });
        first_fault(&steps.filter(|step| !matches!(step, QueueStep::Gone(0 | 4..))).collect::<Vec<_>>())
    }

    #[test]
    fn planted_faults_of_the_dispatch_are_found() {
        assert_eq!(fault_of_all(), Ok(()));
        for name in ["DispatchIgnoresEntities", "GoneWorkerKeepsRecords"] {
            let _planted = mutants::plant(name);
            assert!(fault_of_all().is_err(), "{name}");
        }
    }
}
