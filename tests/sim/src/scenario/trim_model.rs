//! What must hold of the trims of every chain, checked against every event: a record goes only below a boundary, and only once it was followed
//! for as long as readers rely on.

use std::collections::BTreeMap;

use tidemark_store::RECORD_RETENTION;

use crate::simulated_store::{StoreChange, StoreEvent};

/// Digits of the number of a record or boundary.
const NUMBER_DIGITS: usize = 20;

/// All chains, by bucket and folder.
#[derive(Debug, Default)]
pub(super) struct TrimModel {
    chains: BTreeMap<(String, String), TrimmedChain>,
}

#[derive(Debug, Default)]
struct TrimmedChain {
    /// When each record was written first, true time in milliseconds.
    written: BTreeMap<u64, u64>,
    /// The highest boundary.
    boundary: u64,
}

impl TrimModel {
    pub(super) fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        let Some((folder, number)) = event.key.rsplit_once('/').and_then(|(folder, name)| Some((folder, slot(name)?)))
        else {
            return Ok(());
        };
        let boundary_of = folder.strip_suffix("/boundary");
        let place = (event.bucket.clone(), boundary_of.unwrap_or(folder).to_owned());
        let chain = self.chains.entry(place).or_default();
        let checked = match event.change {
            StoreChange::Deleted if boundary_of.is_some() => chain.check_boundary(number),
            StoreChange::Deleted => chain.check_record(number, event.at),
            _ if boundary_of.is_some() => {
                chain.boundary = chain.boundary.max(number);
                Ok(())
            }
            _ => {
                chain.written.entry(number).or_insert(event.at);
                Ok(())
            }
        };
        checked.map_err(|why| format!("{} trimmed \"{}\", {why}", event.by, event.key))
    }
}

impl TrimmedChain {
    fn check_record(&self, number: u64, now: u64) -> Result<(), String> {
        if number > self.boundary {
            return Err(format!("which is above the boundary {}", self.boundary));
        }
        let Some(followed) = self.written.get(&(number + 1)) else { return Err("which nothing followed".to_owned()) };
        let retention = u64::try_from(RECORD_RETENTION.as_millis()).unwrap_or(u64::MAX);
        // Store times are whole seconds.
        if now + 2_000 < followed.saturating_add(retention) {
            return Err(format!("which was followed {} ms before", now - followed));
        }
        Ok(())
    }

    fn check_boundary(&self, number: u64) -> Result<(), String> {
        if number < self.boundary { Ok(()) } else { Err("the boundary in force".to_owned()) }
    }
}

fn slot(name: &str) -> Option<u64> {
    name.parse().ok().filter(|_| name.len() == NUMBER_DIGITS)
}
