//! Whose Job is being created at this moment: so that of two tasks of one WAL only one starts, and none while an upgrade of the WAL
//! begins.
//!
//! A Job that exists is in the cache. This covers the time between the decision to create one and the answer of the API server. Who
//! starts a Job takes the turn first and looks at the upgrade afterwards; an upgrade takes its slot first and looks at the turn
//! afterwards: one of the two sees the other.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;

use crate::cache::NamespacedName;

/// The WALs for which a Job that writes is being created.
#[derive(Clone, Debug, Default)]
pub(crate) struct WritingTurns {
    taken: Arc<Mutex<HashSet<NamespacedName>>>,
}

/// A turn; dropped, it is over.
#[derive(Debug)]
pub(crate) struct WritingTurn {
    turns: WritingTurns,
    wal: NamespacedName,
}

impl WritingTurns {
    /// Takes the turn of a WAL, unless another task has it.
    pub(crate) fn take(&self, wal: &NamespacedName) -> Option<WritingTurn> {
        let is_free = self.taken.lock().insert(wal.clone());
        is_free.then(|| WritingTurn { turns: self.clone(), wal: wal.clone() })
    }

    /// Whether a task has the turn of a WAL.
    pub(crate) fn is_taken(&self, wal: &NamespacedName) -> bool {
        self.taken.lock().contains(wal)
    }
}

impl Drop for WritingTurn {
    fn drop(&mut self) {
        self.turns.taken.lock().remove(&self.wal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_has_one_turn_and_the_next_one_follows_the_end_of_it() {
        let (turns, wal) = (WritingTurns::default(), NamespacedName::new("data", "orders"));
        let turn = turns.take(&wal);
        assert!(turn.is_some() && turns.clone().take(&wal).is_none() && turns.is_taken(&wal));
        assert!(turns.take(&NamespacedName::new("data", "bills")).is_some());
        drop(turn);
        assert!(!turns.is_taken(&wal) && turns.take(&wal).is_some());
    }
}
