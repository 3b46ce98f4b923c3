//! The manifests that stay open for pages.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidemark_catalog::Manifest;
use tidemark_store::ChainRecord;

use super::page::stamp_of;
use crate::index::Snapshot;

/// How many manifests that were served stay open.
const SERVED: usize = 8;
/// How many others that a cursor asked for do.
const ASKED: usize = 4;

/// A manifest with its number, open.
#[derive(Clone)]
pub(crate) struct Opened {
    /// 0 where the index has none yet.
    pub(crate) number: u64,
    /// Tells it from the manifests of the same number in other indexes.
    pub(crate) stamp: u64,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Opened {
    pub(crate) fn new(slot: &ChainRecord<Manifest>, snapshot: Arc<Snapshot>) -> Self {
        Self { number: slot.number, stamp: stamp_of(&slot.hash), snapshot }
    }

    fn is(&self, number: u64, stamp: u64) -> bool {
        self.number == number && self.stamp == stamp
    }
}

/// The manifests that were served last and, apart from them, those that cursors asked for: whoever asks for old manifests
/// does not close those that others page through.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    served: VecDeque<Opened>,
    /// The one that was asked for last at the end.
    asked: VecDeque<Opened>,
}

impl Kept {
    pub(crate) fn served(&self, opened: Opened) {
        push(&mut self.lock().served, opened, SERVED);
    }

    pub(crate) fn asked(&self, opened: Opened) {
        push(&mut self.lock().asked, opened, ASKED);
    }

    pub(crate) fn find(&self, number: u64, stamp: u64) -> Option<Opened> {
        let mut queues = self.lock();
        if let Some(opened) = queues.served.iter().find(|opened| opened.is(number, stamp)) {
            return Some(opened.clone());
        }
        let opened = queues.asked.iter().find(|opened| opened.is(number, stamp)).cloned()?;
        push(&mut queues.asked, opened.clone(), ASKED);
        Some(opened)
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push(queue: &mut VecDeque<Opened>, opened: Opened, most: usize) {
    queue.retain(|known| !known.is(opened.number, opened.stamp));
    queue.push_back(opened);
    while queue.len() > most {
        queue.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::Generation;

    use super::*;

    fn opened(number: u64) -> Opened {
        let manifest = Manifest::new(Generation::first());
        Opened {
            number,
            stamp: 1,
            snapshot: Arc::new(Snapshot { manifest, segments: Vec::new(), marks: Arc::default() }),
        }
    }

    #[test]
    fn manifests_that_are_asked_for_do_not_close_those_that_were_served() {
        let kept = Kept::default();
        (100..108).for_each(|number| kept.served(opened(number)));
        (0..50).for_each(|number| kept.asked(opened(number)));
        assert!((100..108).all(|number| kept.find(number, 1).is_some()));
        assert_eq!((0..50).filter(|number| kept.find(*number, 1).is_some()).count(), ASKED);
        assert!(kept.find(107, 2).is_none());
    }
}
