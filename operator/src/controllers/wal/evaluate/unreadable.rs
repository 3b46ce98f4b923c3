//! The conditions of a WAL that this release cannot read: what its pods report is not evaluated, and nothing of it is upgraded.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionType, Reason};

use crate::{condition_value::ConditionValue, controllers::wal::upgrade};

/// What the conditions say by the message that is about the spec, and by what they said before.
pub(crate) fn evaluate_unreadable(message: &str, before: &[Condition]) -> Vec<(ConditionType, ConditionValue)> {
    let refused = ConditionValue::no(Reason::SpecInvalid, message);
    let unknown = ConditionValue::unknown(
        Reason::SpecInvalid,
        "this release cannot read the WAL; what its pods do is not known; see the condition Ready",
    );
    let mut values = vec![(ConditionType::Ready, refused.clone()), (ConditionType::Applied, refused)];
    // What was probed of the stores stays known.
    values.extend([ConditionType::Indexing, ConditionType::SearchAvailable].map(|kind| (kind, unknown.clone())));
    if upgrade::is_under_way(before) {
        values.push((ConditionType::UpgradePending, upgrade::interrupted()));
    }
    values
}
