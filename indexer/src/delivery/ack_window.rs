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
        self.operations == 0 || (self.operations < self.limits.operations && fits)
    }

    /// How many more records may be admitted, if they are small.
    pub(crate) fn room(&self) -> u64 {
        self.limits.operations.max(1).saturating_sub(self.operations)
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
            self.places.push_back(WindowPlace { position, bytes: None, end: None });
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
