//! Keeps the pin of what a process works on.

use std::time::Duration;

use tidemark_catalog::{CatalogError, PinChain};
use tokio::time::sleep;

/// How often the maker of a snapshot says that it still works on it: one that has not done so for a day is taken for ended.
const RENEWAL_INTERVAL: Duration = Duration::from_hours(1);

/// Says every hour that the snapshot `name`, whose pin has this `list`, is being made. Ends if its pin is gone.
pub(super) async fn keep_renewed(pins: &PinChain, name: &str, list: &str) -> CatalogError {
    loop {
        sleep(RENEWAL_INTERVAL).await;
        match pins.renew(name, list).await {
            Ok(()) => {}
            Err(error @ (CatalogError::Rejected(_) | CatalogError::Unknown { .. })) => return error,
            Err(error) => {
                tracing::warn!(%error, "the snapshot was not renewed; it is dropped after a day of this; retrying within the hour");
            }
        }
    }
}
