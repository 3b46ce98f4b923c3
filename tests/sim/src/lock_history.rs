//! The history of one write lock as its clients saw it, and whether it is linearizable: whether some order of all calls, each between its
//! begin and its answer, is one that a lock without faults gives. The search for that order is stateright's.

use std::collections::BTreeSet;

use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LockCall {
    /// The lock, and then what was committed under earlier grants. The holder of the grant is `client`, which makes no further call if it gets
    /// no answer.
    Acquire {
        client: String,
    },
    Renew {
        grant: u64,
    },
    Release {
        grant: u64,
    },
    /// An entry with this number.
    Append {
        grant: u64,
        number: u64,
    },
    /// All that is committed.
    Read,
}

/// What it gets as an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LockAnswer {
    /// The grant, and the numbers that were committed before it, where the client could read them.
    Granted {
        grant: u64,
        committed: Option<Vec<u64>>,
    },
    /// The grant is the newest, and was not released.
    Held,
    /// It was overtaken or released.
    Lost,
    Released,
    Committed,
    Fenced,
    Numbers(Vec<u64>),
    /// Nothing.
    Unknown,
}

/// A lock without faults that does one call after the other.
#[derive(Clone, Debug, Default)]
struct SequentialLock {
    /// The grant that holds.
    holder: Option<u64>,
    /// The newest grant, if its holder gave it up.
    released: Option<u64>,
    /// The newest grant that is known.
    newest: u64,
    committed: Vec<u64>,
}

impl SequentialSpec for SequentialLock {
    type Op = LockCall;
    type Ret = LockAnswer;

    fn invoke(&mut self, call: &LockCall) -> LockAnswer {
        match *call {
            // One that took a slot was granted, with or without an answer.
            LockCall::Acquire { .. } => LockAnswer::Unknown,
            LockCall::Renew { grant } if self.holder == Some(grant) => LockAnswer::Held,
            LockCall::Release { grant } if self.holder == Some(grant) || self.released == Some(grant) => {
                (self.holder, self.released) = (None, Some(grant));
                LockAnswer::Released
            }
            LockCall::Renew { .. } | LockCall::Release { .. } => LockAnswer::Lost,
            LockCall::Append { grant, number } if self.holder == Some(grant) => {
                self.committed.push(number);
                LockAnswer::Committed
            }
            LockCall::Append { .. } => LockAnswer::Fenced,
            LockCall::Read => LockAnswer::Numbers(self.committed.clone()),
        }
    }

    fn is_valid_step(&mut self, call: &LockCall, answer: &LockAnswer) -> bool {
        let (LockCall::Acquire { .. }, LockAnswer::Granted { grant, committed }) = (call, answer) else {
            return self.invoke(call) == *answer;
        };
        let is_next = *grant > self.newest && committed.as_ref().is_none_or(|committed| *committed == self.committed);
        (self.holder, self.released, self.newest) = (Some(*grant), None, *grant);
        is_next
    }
}

/// What clients called, and their answers, in the order of true time.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockHistory {
    calls: Vec<(LockCall, Option<LockAnswer>)>,
    events: Vec<CallEvent>,
}

/// What the log has of all calls in the end, answered or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordedCalls {
    /// The numbers that are committed, in the order of their slots.
    pub(crate) committed: Vec<u64>,
    /// All grants, each with its holder.
    pub(crate) grants: Vec<(u64, String)>,
    /// The grants that a slot releases.
    pub(crate) released: Vec<u64>,
}

/// The call of this place begins or ends.
#[derive(Clone, Copy, Debug)]
enum CallEvent {
    Begin(usize),
    End(usize),
}

impl LockHistory {
    /// A client calls. Gives the place of the call, which is its number if it appends.
    pub(crate) fn begin(&mut self, call: impl FnOnce(u64) -> LockCall) -> usize {
        let place = self.calls.len();
        self.calls.push((call(place as u64), None));
        self.events.push(CallEvent::Begin(place));
        place
    }

    /// It gets its answer. A call without one took effect at most once, at some time after its begin, if the log shows that it did.
    pub(crate) fn end(&mut self, place: usize, answer: LockAnswer) {
        self.calls[place].1 = Some(answer);
        self.events.push(CallEvent::End(place));
    }

    /// How many calls were answered so.
    pub(crate) fn answered(&self, is_such: impl Fn(&LockAnswer) -> bool) -> usize {
        self.calls.iter().filter(|(_, answer)| answer.as_ref().is_some_and(&is_such)).count()
    }

    /// Whether it is linearizable, where the log has in the end what `recorded` says.
    pub(crate) fn check(mut self, recorded: &RecordedCalls) -> Result<(), String> {
        let RecordedCalls { committed, grants, released } = recorded;
        self.resolve_acquires(grants)?;
        self.resolve_appends(committed);
        self.resolve_releases(released);
        let read = self.begin(|_| LockCall::Read);
        self.end(read, LockAnswer::Numbers(committed.clone()));
        let mut tester = LinearizabilityTester::new(SequentialLock::default());
        // Calls that follow one another share a thread.
        let (mut free, mut threads, mut next) = (BTreeSet::new(), vec![0; self.calls.len()], 0);
        for event in &self.events {
            match *event {
                CallEvent::Begin(place) => {
                    let (call, answer) = &self.calls[place];
                    // Without one it had no effect.
                    if answer.is_none() {
                        continue;
                    }
                    threads[place] = free.pop_first().unwrap_or_else(|| {
                        next += 1;
                        next
                    });
                    tester.on_invoke(threads[place], call.clone())?;
                }
                CallEvent::End(place) => {
                    let answer = self.calls[place].1.clone().unwrap_or(LockAnswer::Unknown);
                    tester.on_return(threads[place], answer)?;
                    free.insert(threads[place]);
                }
            }
        }
        if tester.is_consistent() {
            Ok(())
        } else {
            Err(format!("the history of the lock is not linearizable: {self}"))
        }
    }

    /// An acquire without an answer that took a slot has the grant of that slot. One that did not never had any.
    fn resolve_acquires(&mut self, grants: &[(u64, String)]) -> Result<(), String> {
        let granted = |call: &(LockCall, Option<LockAnswer>)| match call {
            (LockCall::Acquire { .. }, Some(LockAnswer::Granted { grant, .. })) => Some(*grant),
            _ => None,
        };
        let answered: BTreeSet<u64> = self.calls.iter().filter_map(granted).collect();
        for place in 0..self.calls.len() {
            let (LockCall::Acquire { client }, None) = &self.calls[place] else { continue };
            let mut taken = grants.iter().filter(|(grant, holder)| holder == client && !answered.contains(grant));
            let first = taken.next().map(|(grant, _)| *grant);
            if let (Some(first), Some((second, _))) = (first, taken.next()) {
                return Err(format!("one call of {client} took the grants {first} and {second}"));
            }
            if let Some(grant) = first {
                self.end(place, LockAnswer::Granted { grant, committed: None });
            }
        }
        Ok(())
    }

    /// An append without an answer that is committed in the end took effect at some time. One that is not never did.
    fn resolve_appends(&mut self, committed: &[u64]) {
        for place in 0..self.calls.len() {
            if let (LockCall::Append { number, .. }, None) = &self.calls[place]
                && committed.contains(number)
            {
                self.end(place, LockAnswer::Committed);
            }
        }
    }

    /// A release without an answer whose slot is there took effect at some time. One without a slot never did.
    fn resolve_releases(&mut self, released: &[u64]) {
        for place in 0..self.calls.len() {
            if let (LockCall::Release { grant }, None) = &self.calls[place]
                && released.contains(grant)
            {
                self.end(place, LockAnswer::Released);
            }
        }
    }
}

impl std::fmt::Display for LockHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for event in &self.events {
            match *event {
                CallEvent::Begin(place) => write!(f, "\n  {place} {:?}", self.calls[place].0)?,
                CallEvent::End(place) => write!(f, "\n  {place}   {:?}", self.calls[place].1)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(numbers: &[u64]) -> RecordedCalls {
        RecordedCalls { committed: numbers.to_vec(), ..RecordedCalls::default() }
    }

    fn granted(grant: u64, committed: &[u64]) -> LockAnswer {
        LockAnswer::Granted { grant, committed: Some(committed.to_vec()) }
    }

    fn acquire(client: &str) -> LockCall {
        LockCall::Acquire { client: client.to_owned() }
    }

    /// A client acquires grant 1 and has committed number 1; nobody else did anything.
    fn one_commit() -> LockHistory {
        let mut history = LockHistory::default();
        let acquired = history.begin(|_| acquire("a"));
        history.end(acquired, granted(1, &[]));
        let append = history.begin(|number| LockCall::Append { grant: 1, number });
        history.end(append, LockAnswer::Committed);
        history
    }

    #[test]
    fn a_history_of_one_holder_after_the_other_is_linearizable() {
        let mut history = one_commit();
        let (stale, acquired) =
            (history.begin(|number| LockCall::Append { grant: 1, number }), history.begin(|_| acquire("b")));
        history.end(acquired, granted(4, &[1]));
        history.end(stale, LockAnswer::Fenced);
        let renew = history.begin(|_| LockCall::Renew { grant: 1 });
        history.end(renew, LockAnswer::Lost);
        assert_eq!(history.check(&committed(&[1])), Ok(()));
    }

    #[test]
    fn what_has_no_answer_takes_effect_or_not() {
        for is_committed in [true, false] {
            let mut history = one_commit();
            history.begin(|number| LockCall::Append { grant: 1, number });
            let release = history.begin(|_| LockCall::Release { grant: 1 });
            history.begin(|_| acquire("b"));
            let acquired = history.begin(|_| acquire("a"));
            let committed = if is_committed { vec![1, 2] } else { vec![1] };
            let grants = [(1, "a".to_owned()), (4, "b".to_owned()), (9, "a".to_owned())];
            let grants = if is_committed { grants.to_vec() } else { Vec::new() };
            history.end(acquired, granted(9, &committed));
            history.end(release, LockAnswer::Lost);
            assert_eq!(history.check(&RecordedCalls { committed, grants, released: Vec::new() }), Ok(()));
        }
    }

    #[test]
    fn an_acquire_without_an_answer_overtakes_what_came_before_its_slot_only() {
        let checked = |fenced: u64, slot: Option<u64>| {
            let mut history = one_commit();
            history.begin(|_| acquire("b"));
            let acquired = history.begin(|_| acquire("c"));
            let early = history.begin(|number| LockCall::Append { grant: 1, number });
            if fenced == 1 {
                history.end(early, LockAnswer::Fenced);
            }
            history.end(acquired, granted(5, &[1]));
            let late = history.begin(|number| LockCall::Append { grant: 5, number });
            history.end(late, if fenced == 5 { LockAnswer::Fenced } else { LockAnswer::Committed });
            let committed = if fenced == 5 { vec![1] } else { vec![1, late as u64] };
            let taken = slot.map(|slot| (slot, "b".to_owned()));
            let grants: Vec<_> = [(1, "a".to_owned()), (5, "c".to_owned())].into_iter().chain(taken).collect();
            history.check(&RecordedCalls { committed, grants, released: Vec::new() })
        };
        for slot in [None, Some(3)] {
            assert_eq!(checked(1, slot), Ok(()));
            assert!(checked(5, slot).is_err(), "{slot:?}");
        }
        assert_eq!(checked(5, Some(7)), Ok(()));
        // Nobody has overtaken it.
        let mut history = one_commit();
        history.begin(|_| acquire("b"));
        let append = history.begin(|number| LockCall::Append { grant: 1, number });
        history.end(append, LockAnswer::Fenced);
        let recorded = |holder: &str, grants: &[u64]| RecordedCalls {
            grants: grants.iter().map(|grant| (*grant, holder.to_owned())).collect(),
            ..committed(&[1])
        };
        assert!(history.clone().check(&recorded("a", &[1])).is_err());
        assert_eq!(history.clone().check(&recorded("b", &[3])), Ok(()));
        let refused = history.check(&recorded("b", &[3, 4])).unwrap_err();
        assert!(refused.contains("one call of b took the grants 3 and 4"), "{refused}");
    }

    #[test]
    fn a_release_without_an_answer_takes_effect_once_after_its_begin_and_only_with_its_slot() {
        let append = |history: &mut LockHistory, grant: u64, answer: LockAnswer| {
            let place = history.begin(|number| LockCall::Append { grant, number });
            history.end(place, answer);
            place as u64
        };
        let release = |history: &mut LockHistory| history.begin(|_| LockCall::Release { grant: 1 });
        let checked = |history: LockHistory, numbers: &[u64], released: &[u64]| {
            history.check(&RecordedCalls { released: released.to_vec(), ..committed(numbers) }).is_ok()
        };
        // What comes after its begin may come before it or after it, if it took a slot.
        let mut before = one_commit();
        release(&mut before);
        let number = append(&mut before, 1, LockAnswer::Committed);
        let mut after = before.clone();
        append(&mut after, 1, LockAnswer::Fenced);
        assert!(checked(before.clone(), &[1, number], &[1]) && checked(before, &[1, number], &[]));
        assert!(checked(after.clone(), &[1, number], &[1]) && !checked(after.clone(), &[1, number], &[]));
        append(&mut after, 1, LockAnswer::Committed);
        assert!(!checked(after, &[1, number, number + 2], &[1]), "it ends once");
        // What came before its begin it did not fence.
        let mut early = one_commit();
        append(&mut early, 1, LockAnswer::Fenced);
        release(&mut early);
        assert!(!checked(early, &[1], &[1]));
        // It is not that of a later grant.
        let mut later = one_commit();
        release(&mut later);
        let acquired = later.begin(|_| acquire("b"));
        later.end(acquired, granted(4, &[1]));
        append(&mut later, 4, LockAnswer::Fenced);
        assert!(!checked(later, &[1], &[1]));
    }

    #[test]
    fn what_no_lock_without_faults_does_is_found() {
        let begins_and_ends: [(LockCall, LockAnswer, &[u64]); 7] = [
            // It does not see what was committed before, or sees what never was.
            (acquire("b"), granted(4, &[]), &[1]),
            (acquire("b"), granted(4, &[1, 7]), &[1]),
            // A grant is given twice.
            (acquire("b"), granted(1, &[1]), &[1]),
            (LockCall::Renew { grant: 1 }, LockAnswer::Lost, &[1]),
            (LockCall::Append { grant: 1, number: 2 }, LockAnswer::Fenced, &[1]),
            // A commit that was acknowledged is lost, and one that was fenced counts.
            (LockCall::Append { grant: 1, number: 2 }, LockAnswer::Committed, &[1]),
            (LockCall::Append { grant: 0, number: 2 }, LockAnswer::Fenced, &[1, 2]),
        ];
        for (call, answer, numbers) in begins_and_ends {
            let mut history = one_commit();
            let place = history.begin(|_| call.clone());
            history.end(place, answer.clone());
            assert!(history.check(&committed(numbers)).is_err(), "{call:?} {answer:?}");
        }
        // Two hold the lock at once.
        let mut history = one_commit();
        let acquired = history.begin(|_| acquire("a"));
        history.end(acquired, granted(4, &[1]));
        for (grant, number) in [(4, 3), (1, 4)] {
            let append = history.begin(|_| LockCall::Append { grant, number });
            history.end(append, LockAnswer::Committed);
        }
        assert!(history.check(&committed(&[1, 3, 4])).is_err());
    }
}
