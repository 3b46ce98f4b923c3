//! What the pins of an index hold, of whatever log: for collectors, and for whoever looks for what nothing names.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use tidemark_store::{Entropy, Store};

use crate::{
    error::CatalogError,
    identity::LogId,
    pin_register::IndexPin,
    pins::{PIN_FOLDER, PinChain},
};

/// How often the pins are read again because one was dropped while its list was read.
const MAX_PIN_READS: u32 = 4;

/// The keys of the objects that the pins of every log name: a listing that begins after the manifests were read shows each chain that
/// counts. A list that cannot be read is an error.
pub(crate) async fn pinned_objects(index: &Store, entropy: &Entropy) -> Result<BTreeSet<String>, CatalogError> {
    let mut named = BTreeSet::new();
    for log in logs_with_pins(index).await? {
        let pins = PinChain::open(index, &LogId(log), entropy.clone());
        named.extend(pinned_by(&pins).await?);
    }
    Ok(named)
}

/// The ids of the logs that have a folder of pins in the store.
pub(crate) async fn logs_with_pins(index: &Store) -> Result<BTreeSet<String>, CatalogError> {
    let keys: Vec<_> = index.list(PIN_FOLDER, None).map_ok(|object| object.key).try_collect().await?;
    Ok(keys.iter().filter_map(|key| key.split('/').nth(1)).map(str::to_owned).collect())
}

async fn pinned_by(pins: &PinChain) -> Result<BTreeSet<String>, CatalogError> {
    let mut reads = 0;
    loop {
        reads += 1;
        let register = pins.register().await?;
        match read_lists(pins, register.pins.values()).await {
            // A pin that is dropped takes its list with it.
            Err(CatalogError::Corrupt { .. }) if reads < MAX_PIN_READS && pins.register().await? != register => {}
            named => return named,
        }
    }
}

async fn read_lists(pins: &PinChain, of: impl Iterator<Item = &IndexPin>) -> Result<BTreeSet<String>, CatalogError> {
    let mut named = BTreeSet::new();
    let mut read = BTreeSet::new();
    for pin in of {
        if read.insert(&pin.list) {
            named.extend(pins.read_list(pin).await?.objects().map(str::to_owned));
        }
    }
    Ok(named)
}
