//! Which tasks this release runs: pure.

use tidemark_crds::{TaskType, WalTaskSpec};

/// Why a release with these types of tasks, and perhaps with drills, does not run a task; `None` if it does.
pub(crate) fn unsupported(spec: &WalTaskSpec, available: impl Fn(TaskType) -> bool, drills: bool) -> Option<String> {
    let kind = spec.r#type;
    if !available(kind) {
        return Some(format!(
            "this release of the operator does not run tasks of type {kind}; nothing was done; upgrade the operator and make another task"
        ));
    }
    let wants_drill = spec.verify.as_ref().is_some_and(|verify| verify.drill);
    (wants_drill && !drills).then(|| {
        "this release does not restore snapshots to compare them; nothing was done; leave verify.drill out".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use tidemark_crds::VerifyTask;

    use super::*;

    #[test]
    fn a_task_without_a_program_is_not_run() {
        let spec = |r#type| WalTaskSpec::new("orders", r#type);
        let message = unsupported(&spec(TaskType::Cleanup), |r#type| r#type != TaskType::Cleanup, true).unwrap();
        assert!(message.contains("tasks of type Cleanup"), "{message}");
        assert_eq!(unsupported(&spec(TaskType::Cleanup), |_| true, false), None);
        let mut drill = spec(TaskType::Verify);
        assert_eq!(unsupported(&drill, |_| true, false), None);
        drill.verify = Some(VerifyTask { all: false, drill: true });
        assert!(unsupported(&drill, |_| true, false).unwrap().contains("verify.drill"));
        assert_eq!(unsupported(&drill, |_| true, true), None);
    }
}
