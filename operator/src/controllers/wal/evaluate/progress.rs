//! `Reconciling` and `Stalled`, which kstatus reads, and with it kpt, Flux and Argo CD: while one of them is there, a WAL is not taken
//! for `Current`, though its `Ready` may still be true of the pods of an earlier spec.

use tidemark_crds::{ConditionStatus, ConditionType, Reason};

use crate::condition_value::ConditionValue;

pub(super) fn evaluate(applied: &ConditionValue) -> Option<(ConditionType, ConditionValue)> {
    if applied.status == ConditionStatus::True {
        return None;
    }
    let kind = match applied.reason {
        // An approval that is waited for is no failure.
        Reason::RollingOut | Reason::Held => ConditionType::Reconciling,
        _ => ConditionType::Stalled,
    };
    Some((kind, ConditionValue::yes(applied.reason, applied.message.clone())))
}
