//! How long an append waits between its tries.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// The pause before the first retry; each further one is twice as long.
const MIN_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two tokens of one append.
/// [`MIN_PAUSE`], doubled eight times: an append goes on less than a minute after an outage.
const MAX_TOKEN_PAUSE: Duration = Duration::from_millis(51_200);
/// How often a PUT whose outcome is unknown is sent again: it creates the object or does nothing.
const MAX_RESENDS: usize = 4;

/// The pauses between the tokens of one append; the writer's options bound their number.
pub(super) fn token_pauses() -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(MIN_PAUSE).with_max_delay(MAX_TOKEN_PAUSE).without_max_times().build()
}

/// When the PUT of one object is sent again.
pub(super) fn resend_schedule() -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(MIN_PAUSE).with_max_times(MAX_RESENDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(pauses: impl Iterator<Item = Duration>) -> Vec<u128> {
        pauses.map(|pause| pause.as_millis()).collect()
    }

    #[test]
    fn pauses_double_within_their_bounds() {
        assert_eq!(millis(token_pauses().take(3)), [200, 400, 800]);
        assert_eq!(millis(token_pauses().skip(7).take(3)), [25_600, 51_200, 51_200]);
        assert_eq!(millis(resend_schedule().build()), [200, 400, 800, 1600]);
    }
}
