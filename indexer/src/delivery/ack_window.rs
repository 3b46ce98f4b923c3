//! What was read and is not acknowledged yet, within bounds.

use std::collections::VecDeque;

use tidemark_catalog::{ConsumerPosition, ConsumerProgress};

use super::mutants;

/// The most that may be unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Records.
    pub operations: u64,
    /// Bytes of them, as they are sent. One record that is larger by itself may be alone in the window.
    pub bytes: u64,
}

/// The most places that are kept behind a record without an end: a position of some hundred bytes each. While a record is put off, what lies
/// behind it is delivered up to here, and is delivered again if the process ends meanwhile.
const MAX_PLACES: usize = 65_536;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordEnd {
    /// The destination has it.
    Delivered,
    /// It was put aside.
    DeadLettered,
}

/// The records between the acknowledged position and the last one that was read, by seq.
///
/// Acknowledgements come in any order; the position moves over what is acknowledged without a gap.
#[derive(Debug)]
pub(crate) struct AckWindow {
    limits: WindowLimits,
    /// What is done without a gap.
    progress: ConsumerProgress,
    places: VecDeque<WindowPlace>,
    operations: u64,
    bytes: u64,
}

/// A record, or a place up to which there is nothing to deliver.
#[derive(Debug)]
struct WindowPlace {
    position: ConsumerPosition,
    /// Absent where there is no record.
    bytes: Option<u64>,
    end: Option<RecordEnd>,
}

impl WindowPlace {
    fn is_acknowledged(&self) -> bool {
        self.bytes.is_none() || self.end.is_some()
    }
}

/// An acknowledgement of what was never sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "record {seq} was acknowledged and was never sent; the position stays at {acknowledged}; this is a bug, please report it"
)]
pub struct NeverSent {
    seq: u64,
    acknowledged: ConsumerPosition,
}

impl AckWindow {
    /// An empty window after what is done.
    pub(crate) fn new(limits: WindowLimits, progress: ConsumerProgress) -> Self {
        Self { limits, progress, places: VecDeque::new(), operations: 0, bytes: 0 }
    }

    /// Whether a record of `bytes` may be admitted now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= self.limits.bytes;
        self.operations == 0 || (self.operations < self.limits.operations && fits && self.places.len() < MAX_PLACES)
    }

    /// How many more records may be admitted, if they are small.
    pub(crate) fn room(&self) -> u64 {
        let remembered = MAX_PLACES.saturating_sub(self.places.len()) as u64;
        self.limits.operations.max(1).saturating_sub(self.operations).min(remembered)
    }

    /// Adds a record, which is unacknowledged from now on. It lies behind all others, and there is room for it.
    pub(crate) fn admit(&mut self, position: ConsumerPosition, bytes: u64) {
        debug_assert!(self.has_room(bytes) && position.seq > self.last().seq);
        self.operations += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.places.push_back(WindowPlace { position, bytes: Some(bytes), end: None });
    }

    /// There is nothing to deliver up to `position`.
    pub(crate) fn pass(&mut self, position: ConsumerPosition) {
        if position.seq > self.last().seq {
            match self.places.back_mut() {
                Some(WindowPlace { position: last, bytes: None, .. }) => *last = position,
                _ => self.places.push_back(WindowPlace { position, bytes: None, end: None }),
            }
        } else if position.seq == self.last().seq {
            // The same place, named in a later generation that keeps seqs.
            *self.last_mut() = position;
        }
        self.advance();
    }

    /// Acknowledges record `seq`; one that is acknowledged already stays as it is.
    pub(crate) fn acknowledge(&mut self, seq: u64, end: RecordEnd) -> Result<(), NeverSent> {
        if seq <= self.progress.acknowledged.seq {
            return Ok(());
        }
        let place = self.places.binary_search_by_key(&seq, |place| place.position.seq).ok();
        let place = place.and_then(|at| self.places.get_mut(at));
        let Some((place, bytes)) = place.and_then(|place| place.bytes.map(|bytes| (place, bytes))) else {
            return Err(NeverSent { seq, acknowledged: self.progress.acknowledged.clone() });
        };
        if place.end.is_none() {
            place.end = Some(end);
            self.operations -= 1;
            self.bytes -= bytes;
            self.advance();
        }
        Ok(())
    }

    /// What is done without a gap.
    pub(crate) fn progress(&self) -> &ConsumerProgress {
        &self.progress
    }

    /// How many records are unacknowledged.
    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }

    /// How many bytes they have.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn last(&self) -> &ConsumerPosition {
        self.places.back().map_or(&self.progress.acknowledged, |place| &place.position)
    }

    fn last_mut(&mut self) -> &mut ConsumerPosition {
        self.places.back_mut().map_or(&mut self.progress.acknowledged, |place| &mut place.position)
    }

    fn advance(&mut self) {
        while let Some(place) = self.places.pop_front() {
            if !mutants::moves_over(place.is_acknowledged()) {
                self.places.push_front(place);
                return;
            }
            self.progress.acknowledged = place.position;
            match place.end {
                Some(RecordEnd::Delivered) => self.progress.delivered += 1,
                Some(RecordEnd::DeadLettered) => self.progress.dead_lettered += 1,
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: WindowLimits = WindowLimits { operations: 5, bytes: 100 };

    fn at(seq: u64) -> ConsumerPosition {
        ConsumerPosition { generation: "g1".parse().unwrap(), seq }
    }

    fn window() -> AckWindow {
        AckWindow::new(LIMITS, ConsumerProgress { acknowledged: at(0), delivered: 0, dead_lettered: 0 })
    }

    fn position(window: &AckWindow) -> u64 {
        window.progress().acknowledged.seq
    }

    #[test]
    fn the_position_waits_for_a_gap_to_close() {
        let mut window = window();
        for seq in [1, 2, 5] {
            window.admit(at(seq), 10);
        }
        window.pass(at(9));
        window.acknowledge(2, RecordEnd::Delivered).unwrap();
        window.acknowledge(5, RecordEnd::DeadLettered).unwrap();
        assert_eq!((position(&window), window.operations(), window.progress().delivered), (0, 1, 0));
        window.acknowledge(1, RecordEnd::Delivered).unwrap();
        let done = ConsumerProgress { acknowledged: at(9), delivered: 2, dead_lettered: 1 };
        assert_eq!((window.progress(), window.bytes()), (&done, 0));
    }

    #[test]
    fn what_was_never_sent_is_not_acknowledged() {
        let mut window = window();
        window.admit(at(3), 10);
        window.pass(at(7));
        for seq in [1, 2, 4, 7, 8] {
            assert!(window.acknowledge(seq, RecordEnd::Delivered).is_err(), "{seq}");
        }
        assert_eq!(position(&window), 0);
        for _ in 0..2 {
            window.acknowledge(3, RecordEnd::Delivered).unwrap();
        }
        assert_eq!((position(&window), window.progress().delivered), (7, 1));
    }

    #[test]
    fn a_record_above_the_bound_is_alone() {
        let mut window = window();
        assert!(window.has_room(1000));
        window.admit(at(1), 1000);
        assert!(!window.has_room(1));
        window.acknowledge(1, RecordEnd::Delivered).unwrap();
        window.admit(at(2), 1);
        assert!(!window.has_room(1000) && window.has_room(99) && !window.has_room(100));
    }

    #[test]
    fn a_place_of_a_later_generation_takes_that_of_an_earlier_one() {
        let mut window = window();
        let later = ConsumerPosition { generation: "g2".parse().unwrap(), seq: 1 };
        window.admit(at(1), 1);
        window.pass(later.clone());
        window.acknowledge(1, RecordEnd::Delivered).unwrap();
        assert_eq!(window.progress().acknowledged, later);
    }

    #[test]
    fn what_is_acknowledged_behind_a_gap_is_remembered_within_a_bound() {
        let mut window = window();
        window.admit(at(1), 1);
        let mut seq = 1;
        while window.has_room(1) && seq < 10 * MAX_PLACES as u64 {
            seq += 1;
            window.admit(at(seq), 1);
            window.acknowledge(seq, RecordEnd::Delivered).unwrap();
            for _ in 0..3 {
                seq += 1;
                window.pass(at(seq));
            }
        }
        assert!(!window.has_room(1) && window.room() == 0 && window.places.len() <= MAX_PLACES + 1);
        window.acknowledge(1, RecordEnd::Delivered).unwrap();
        assert!(position(&window) == seq && window.has_room(1) && window.room() == LIMITS.operations);
    }

    proptest! {
        /// Against a model that keeps each record: the position is the place before the first one without an end.
        #[test]
        fn the_position_is_the_end_of_the_prefix_without_a_gap(
            steps in prop::collection::vec((0u8..4, 1u64..6, 1u64..60, any::<prop::sample::Index>()), 1..120),
        ) {
            let mut window = window();
            let (mut last, mut sent) = (0, BTreeMap::<u64, (u64, Option<RecordEnd>)>::new());
            for (step, skip, bytes, chosen) in steps {
                match step {
                    0 | 1 => {
                        let open: Vec<_> = sent.values().filter(|(_, end)| end.is_none()).collect();
                        let held: u64 = open.iter().map(|(bytes, _)| bytes).sum();
                        let has_room = open.is_empty() || (open.len() < 5 && held + bytes <= 100);
                        prop_assert_eq!(window.has_room(bytes), has_room);
                        if has_room {
                            last += skip;
                            window.admit(at(last), bytes);
                            sent.insert(last, (bytes, None));
                        }
                    }
                    2 => {
                        last += skip;
                        window.pass(at(last));
                    }
                    _ if !sent.is_empty() => {
                        let seq = *chosen.get(&sent.keys().copied().collect::<Vec<_>>());
                        let end = if bytes % 2 == 0 { RecordEnd::Delivered } else { RecordEnd::DeadLettered };
                        window.acknowledge(seq, end).unwrap();
                        sent.get_mut(&seq).unwrap().1.get_or_insert(end);
                    }
                    _ => {}
                }
                let gap = sent.iter().find(|(_, (_, end))| end.is_none()).map(|(seq, _)| *seq);
                // Of what was passed, and lies before the gap, the last place counts.
                match gap {
                    None => prop_assert_eq!(position(&window), last),
                    Some(gap) => prop_assert!(position(&window) < gap),
                }
                let before = |wanted| sent.iter().filter(|(seq, (_, end))| **seq <= position(&window) && *end == Some(wanted)).count() as u64;
                prop_assert_eq!(window.progress().delivered, before(RecordEnd::Delivered));
                prop_assert_eq!(window.progress().dead_lettered, before(RecordEnd::DeadLettered));
                let ended = sent.range(..=gap.unwrap_or(u64::MAX)).filter(|(_, (_, end))| end.is_some()).count() as u64;
                prop_assert_eq!(window.progress().delivered + window.progress().dead_lettered, ended, "a gap-free record waits");
                prop_assert!(window.operations() <= 5 && (window.bytes() <= 100 || window.operations() == 1));
            }
        }
    }
}
