//! The history of one write lock as its clients saw it, and whether it is linearizable: whether some order of all calls, each between its
//! begin and its answer, is one that a lock without faults gives. The search for that order is stateright's.

use std::collections::BTreeSet;

use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

/// Calls without an answer are threads of their own, from this number on: they are tried last.
const FIRST_UNANSWERED: usize = 1000;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LockCall {
    /// The lock, and then what was committed under earlier grants. The holder of the grant is `client`, which makes no further call if it is
    /// told nothing.
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

/// What it is told.
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

/// What clients called and were told, in the order of true time.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockHistory {
    calls: Vec<(LockCall, Option<LockAnswer>)>,
    events: Vec<CallEvent>,
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

    /// It is told. A call that is never answered may take effect at any time, or never.
    pub(crate) fn end(&mut self, place: usize, answer: LockAnswer) {
        self.calls[place].1 = Some(answer);
        self.events.push(CallEvent::End(place));
    }

    /// How many calls were answered so.
    pub(crate) fn answered(&self, is_such: impl Fn(&LockAnswer) -> bool) -> usize {
        self.calls.iter().filter(|(_, answer)| answer.as_ref().is_some_and(&is_such)).count()
    }

    /// Whether it is linearizable, where the log has committed these numbers in the end, in the order of their slots, and these are all grants,
    /// each with its holder.
    pub(crate) fn check(mut self, committed: &[u64], grants: &[(u64, String)]) -> Result<(), String> {
        self.resolve_acquires(grants)?;
        self.resolve_appends(committed);
        let read = self.begin(|_| LockCall::Read);
        self.end(read, LockAnswer::Numbers(committed.to_vec()));
        let mut tester = LinearizabilityTester::new(SequentialLock::default());
        // Calls that follow one another share a thread.
        let (mut free, mut threads, mut unanswered) = (BTreeSet::new(), vec![0; self.calls.len()], FIRST_UNANSWERED);
        let mut next = 0;
        for event in &self.events {
            match *event {
                CallEvent::Begin(place) => {
                    let (call, answer) = &self.calls[place];
                    if !is_needed(call, answer.as_ref()) {
                        continue;
                    }
                    threads[place] = if answer.is_none() {
                        unanswered += 1;
                        unanswered
                    } else if let Some(thread) = free.pop_first() {
                        thread
                    } else {
                        next += 1;
                        next
                    };
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
}

/// Whether the call may have changed anything, or its answer says what there was.
fn is_needed(call: &LockCall, answer: Option<&LockAnswer>) -> bool {
    answer.is_some() || matches!(call, LockCall::Release { .. })
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
        assert_eq!(history.check(&[1], &[]), Ok(()));
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
            let grants = if is_committed { &grants[..] } else { &[] };
            history.end(acquired, granted(9, &committed));
            history.end(release, LockAnswer::Lost);
            assert_eq!(history.check(&committed, grants), Ok(()));
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
            history.check(&committed, &grants)
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
        assert!(history.clone().check(&[1], &[(1, "a".to_owned())]).is_err());
        let of_b = |grants: &[u64]| grants.iter().map(|grant| (*grant, "b".to_owned())).collect::<Vec<_>>();
        assert_eq!(history.clone().check(&[1], &of_b(&[3])), Ok(()));
        let refused = history.check(&[1], &of_b(&[3, 4])).unwrap_err();
        assert!(refused.contains("one call of b took the grants 3 and 4"), "{refused}");
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
        for (call, answer, committed) in begins_and_ends {
            let mut history = one_commit();
            let place = history.begin(|_| call.clone());
            history.end(place, answer.clone());
            assert!(history.check(committed, &[]).is_err(), "{call:?} {answer:?}");
        }
        // Two hold the lock at once.
        let mut history = one_commit();
        let acquired = history.begin(|_| acquire("a"));
        history.end(acquired, granted(4, &[1]));
        for (grant, number) in [(4, 3), (1, 4)] {
            let append = history.begin(|_| LockCall::Append { grant, number });
            history.end(append, LockAnswer::Committed);
        }
        assert!(history.check(&[1, 3, 4], &[]).is_err());
    }
}
