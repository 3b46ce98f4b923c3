//! Whether what an intent expects of an entity holds: a pure function.

use crate::{
    expectation::{ConflictingCommit, RecordedExpectation},
    record::LatestCommit,
};

/// What became of an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectationVerdict {
    /// It holds.
    Holds,
    /// The newest commit is this one, or there is none.
    Conflicts(Option<ConflictingCommit>),
}

/// Judges an expectation. `newest`: the newest commit of its entity among all that was decided before. `own`: what the entry would commit of the
/// entity itself.
///
/// What would not become the newest commit conflicts even with the one that it expects: that one would stay the newest, and a second append
/// that expects it would be committed as well.
pub fn judge_expectation(
    expectation: &RecordedExpectation,
    newest: Option<LatestCommit>,
    own: Option<LatestCommit>,
) -> ExpectationVerdict {
    let holds = match (expectation.token, newest) {
        (None, None) => true,
        (Some(token), Some(newest)) => newest.token == token && own.is_none_or(|own| own > newest),
        _ => false,
    };
    if holds {
        return ExpectationVerdict::Holds;
    }
    ExpectationVerdict::Conflicts(newest.map(|LatestCommit { token, op, .. }| ConflictingCommit { token, op }))
}

#[cfg(test)]
mod tests {
    use tidemark_store::StoreSecond;
    use tidemark_wal::Token;

    use super::*;

    /// A commit of the token of second `token`, complete at `completed`.
    fn commit(token: u64, completed: u64) -> LatestCommit {
        let at = StoreSecond::from_unix(1_800_000_000 + token);
        let completed = StoreSecond::from_unix(1_800_000_000 + completed);
        LatestCommit { completed, token: Token::from_parts(at, [7; 16]), op: 2, seq: token }
    }

    #[test]
    fn only_the_expected_commit_holds_and_only_what_overtakes_it() {
        use ExpectationVerdict::{Conflicts, Holds};
        let (first, second) = (commit(1, 1), commit(5, 5));
        let place = |commit: LatestCommit| Some(ConflictingCommit { token: commit.token, op: 2 });
        for (expected, newest, own, verdict) in [
            (None, None, Some(second), Holds),
            (None, Some(first), Some(second), Conflicts(place(first))),
            (Some(first), None, Some(second), Conflicts(None)),
            (Some(first), Some(first), Some(second), Holds),
            (Some(first), Some(second), Some(commit(6, 6)), Conflicts(place(second))),
            // It only guards the entry.
            (Some(first), Some(first), None, Holds),
            // The expected one was complete after it, or in its second.
            (Some(commit(1, 9)), Some(commit(1, 9)), Some(second), Conflicts(place(first))),
            (Some(commit(1, 5)), Some(commit(1, 5)), Some(second), Holds),
        ] {
            let token = expected.map(|commit| commit.token);
            let expectation = RecordedExpectation { entity: "entry/e".to_owned(), token, conflict: None };
            assert_eq!(judge_expectation(&expectation, newest, own), verdict, "{expected:?} {newest:?} {own:?}");
        }
    }
}
