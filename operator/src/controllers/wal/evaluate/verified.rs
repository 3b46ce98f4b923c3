//! `Verified`: index and archive were found to be right as lately as the schedule asks for.

use kube::ResourceExt as _;
use tidemark_crds::{DamageStatus, Reason, TaskType};

use super::protection::{ProtectionInputs, message};
use crate::condition_value::ConditionValue;

pub(crate) fn evaluate(protection: &ProtectionInputs<'_>) -> ConditionValue {
    let schedule = &protection.schedule;
    let last = schedule.status.last_verification.as_ref();
    let latest = match last {
        Some(last) => format!("index and archive were verified at {}", last.time.0),
        None => "index and archive were never verified".to_owned(),
    };
    // Whoever asked for it: damage is damage.
    if let Some(task) = protection.failed_task(TaskType::Verify) {
        return ConditionValue::no(
            Reason::VerificationFailed,
            format!(
                "task \"{}\": {}; {latest} before; do not delete anything from the log until this is repaired",
                task.name_any(),
                message(task)
            ),
        );
    }
    if let Some((damage, wanted)) = last.and_then(|last| Some((last.open_damage()?, last.wanted_check()?))) {
        let DamageStatus { time, damaged } = damage;
        return ConditionValue::no(
            Reason::VerificationFailed,
            format!(
                "{latest}; {damaged} objects or records were found missing or damaged at {}; no cleanup runs until a verification that begins after that, and looks at everything, finds nothing: repair this, and make {wanted}",
                time.0
            ),
        );
    }
    let Some(verification) = &schedule.schedules.verification else {
        return ConditionValue::no(
            Reason::NotScheduled,
            format!(
                "no schedule verifies index and archive, and {latest}; damage shows when they are needed; set \"spec.verify\": {{}}, which verifies once a week"
            ),
        );
    };
    // Nothing was looked at, and nothing found.
    if let Some(task) = protection.rejected_task(TaskType::Verify) {
        return ConditionValue::no(
            Reason::VerificationOverdue,
            format!(
                "task \"{}\" was not run: {}; {latest}; damage since then is not known",
                task.name_any(),
                message(task)
            ),
        );
    }
    match (protection.lateness(TaskType::Verify, verification.cron.as_ref(), last.map(|last| last.time.0)), last) {
        (Some(why), _) => ConditionValue::no(
            Reason::VerificationOverdue,
            format!("{latest}, and {why}; damage since then is not known; see \"kubectl tidemark tasks\""),
        ),
        (None, Some(last)) => {
            let drill = match (verification.drill, &last.last_drill) {
                (false, _) => String::new(),
                (true, Some(time)) => format!("; a snapshot was restored to try it at {}", time.0),
                (true, None) => "; no snapshot was restored to try it yet".to_owned(),
            };
            ConditionValue::yes(Reason::Verified, format!("{latest}, and are right{drill}"))
        }
        (None, None) => ConditionValue::unknown(Reason::Pending, format!("{latest}, and no verification was due yet")),
    }
}
