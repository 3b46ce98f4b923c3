//! A state for the tests of the chain.

use serde::{Deserialize, Serialize};

use super::{
    extensions::StateExtensions,
    state::{ChainState, InvariantViolation},
};
use crate::time::StoreSecond;

/// Numbers that must ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AscendingNumbers(pub(super) Vec<u64>);

impl ChainState for AscendingNumbers {
    type Rejection = std::convert::Infallible;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        static NONE: StateExtensions = StateExtensions::NONE;
        &NONE
    }

    fn apply_store_time(&mut self, _: StoreSecond) {}

    fn check_state(&self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(self.0.is_sorted(), "the numbers ascend", || format!("{:?}", self.0))
    }

    fn check_transition(&self, _: &Self) -> Result<(), InvariantViolation> {
        Ok(())
    }
}
