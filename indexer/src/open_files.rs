//! How many files this process may open, connections included.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Makes it so many, where it is fewer and as far as the system allows it. Gives how many it is.
pub(crate) fn allow_open_files(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed = current.unwrap_or(u64::MAX);
    let raised = wanted.min(maximum.unwrap_or(u64::MAX));
    if raised <= allowed {
        return allowed;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
        Ok(()) => raised,
        Err(error) => {
            tracing::warn!(%error, allowed, wanted, "the limit of open files cannot be raised; fewer clients are served");
            allowed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_is_wanted_and_never_lowered() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let before = current.unwrap_or(u64::MAX);
        assert_eq!(allow_open_files(1), before);
        // As far as it goes, at most: a limit that is reached already stays.
        let wanted = before.saturating_add(1).min(maximum.unwrap_or(u64::MAX));
        assert_eq!(allow_open_files(wanted), wanted);
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), wanted);
        assert_eq!(allow_open_files(1), wanted);
    }
}
