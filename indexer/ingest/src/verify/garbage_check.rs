//! Objects of ours that nothing names.

use tidemark_catalog::{GarbageCounts, GarbageSurvey, ObjectName};
use tidemark_store::{Store, error_chain};

use super::finding::{FindingLog, FindingSeverity, VerifyCheck, message_parts};

/// Counts what nothing names; `None` where that cannot be told.
pub(super) async fn check_garbage(
    index: &Store,
    survey: &GarbageSurvey,
    findings: &FindingLog<'_>,
) -> Option<GarbageCounts> {
    let counted = survey.count(|key, size| {
        let is_list = key.parse::<ObjectName>().is_err();
        findings.report(FindingSeverity::Notice, VerifyCheck::Garbage, index.url_of(key), leak_parts(size, is_list));
    });
    match counted.await {
        Ok(counts) => {
            findings.progress(VerifyCheck::Garbage, counts.listed, counts.listed);
            Some(counts)
        }
        Err(error) => {
            let parts = message_parts(&error_chain(&error));
            findings.report(FindingSeverity::Unverified, VerifyCheck::Garbage, index.url().as_str(), parts);
            None
        }
    }
}

/// What is said of an object of `size` bytes that nothing names.
fn leak_parts(size: u64, is_list: bool) -> [String; 3] {
    let remedy = if is_list {
        "delete it by hand; no process does"
    } else {
        "nothing is to be done: the indexer, or `tidemark gc`, deletes it a day after its next pass"
    };
    [format!("nothing names it, and it has {size} bytes"), "it takes room".to_owned(), remedy.to_owned()]
}
