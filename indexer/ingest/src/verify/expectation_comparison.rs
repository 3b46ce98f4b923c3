//! What is recorded of an expectation, compared with what the index has of the commits that it names: a pure function.

use tidemark_wal::{Outcome, Token};

use crate::record::{LatestCommit, OperationRecord};

/// The commits of the entity that an operation expects something of, as far as its record names them.
#[derive(Debug, Default)]
pub(super) struct NamedCommits {
    /// Whether the expected entry has one.
    pub(super) has_expected: bool,
    /// The one that was in the way of a conflicted operation, if the index has it.
    pub(super) conflict: Option<LatestCommit>,
}

/// The entries whose commits have to be known of a record.
pub(super) fn named_entries(recorded: &OperationRecord) -> Vec<Token> {
    let Some(expectation) = &recorded.expectation else { return Vec::new() };
    match recorded.decision.outcome {
        Outcome::Committed => expectation.token.into_iter().collect(),
        Outcome::Conflicted => expectation.conflict.iter().map(|conflict| conflict.token).collect(),
        _ => Vec::new(),
    }
}

/// What of a recorded outcome the commits of its index contradict. `found`: the operation as the log shows it now.
pub(super) fn expectation_fault(
    recorded: &OperationRecord,
    found: Option<&OperationRecord>,
    named: &NamedCommits,
) -> Option<String> {
    let outcome = recorded.decision.outcome;
    let Some(expectation) = &recorded.expectation else {
        return (outcome == Outcome::Conflicted)
            .then(|| "it is recorded as conflicted, and expects nothing".to_owned());
    };
    let entity = &expectation.entity;
    let read = found.and_then(|found| found.expectation.as_ref());
    if found.is_some() && !read.is_some_and(|read| read.expects_the_same(expectation)) {
        return Some("its intent expects something else than is recorded".to_owned());
    }
    match (outcome, expectation.token, expectation.conflict) {
        (Outcome::Committed, Some(token), _) if !named.has_expected => Some(format!(
            "it is recorded as committed, and nothing of \"{token}\", which it expects, is recorded as a commit of \"{entity}\""
        )),
        (Outcome::Conflicted, None, None) => {
            Some(format!("it is recorded as conflicted, expects no commit of \"{entity}\", and names none"))
        }
        (Outcome::Conflicted, expected, Some(conflict)) => match named.conflict {
            None => Some(format!(
                "operation {} of \"{}\", with which it conflicted, is not recorded as a commit of \"{entity}\"",
                conflict.op, conflict.token
            )),
            Some(commit) if expected == Some(commit.token) && !overtakes(commit, recorded) => {
                Some(format!("it is recorded as conflicted with \"{}\", which it expects", commit.token))
            }
            Some(_) => None,
        },
        _ => None,
    }
}

/// Whether the commit stays the newest one beside what the operation would have committed.
fn overtakes(commit: LatestCommit, recorded: &OperationRecord) -> bool {
    let completed = recorded.decision.completed.unwrap_or(recorded.decision.entry_time);
    (commit.completed, commit.token) > (completed, recorded.token)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemark_store::StoreSecond;

    use super::*;

    const AT: u64 = 1_800_000_000;

    fn token(second: u64) -> Token {
        Token::first_of(StoreSecond::from_unix(AT + second))
    }

    fn record(outcome: &str, expectation: &Value) -> OperationRecord {
        serde_json::from_value(json!({
            "seq": 9, "token": token(9), "op": 0, "kind": "entry", "size": 9, "expectation": expectation,
            "decision": {"outcome": outcome, "entryTime": AT + 9, "completed": AT + 9},
        }))
        .unwrap()
    }

    fn commit(second: u64, completed: u64) -> LatestCommit {
        LatestCommit { completed: StoreSecond::from_unix(AT + completed), token: token(second), op: 0, seq: second }
    }

    #[test]
    fn a_record_is_contradicted_by_the_commits_that_it_names() {
        let expecting = |token: Option<Token>, conflict: Option<Token>| {
            let conflict = conflict.map(|token| json!({"token": token, "op": 0}));
            json!({"entity": "entry/e", "token": token, "conflict": conflict})
        };
        let (two, three) = (Some(token(2)), Some(token(3)));
        for (outcome, expectation, has_expected, conflict, is_fault) in [
            ("committed", expecting(two, None), true, None, false),
            ("committed", expecting(two, None), false, None, true),
            ("committed", expecting(None, None), false, None, false),
            ("conflicted", expecting(two, three), false, Some(commit(3, 3)), false),
            ("conflicted", expecting(two, three), false, None, true),
            ("conflicted", expecting(None, three), false, Some(commit(3, 3)), false),
            ("conflicted", expecting(two, None), false, None, false),
            ("conflicted", expecting(None, None), false, None, true),
            ("conflicted", Value::Null, false, None, true),
            ("conflicted", expecting(two, two), false, Some(commit(2, 2)), true),
            // It was complete only after this one.
            ("conflicted", expecting(two, two), false, Some(commit(2, 10)), false),
            ("late", expecting(two, None), false, None, false),
        ] {
            let record = record(outcome, &expectation);
            let named = NamedCommits { has_expected, conflict };
            let fault = expectation_fault(&record, Some(&record), &named);
            assert_eq!(fault.is_some(), is_fault, "{outcome} {expectation} {fault:?}");
        }
        let (recorded, found) = (record("late", &expecting(two, None)), record("late", &expecting(three, None)));
        assert!(expectation_fault(&recorded, Some(&found), &NamedCommits::default()).is_some());
    }
}
