//! Names of a chain's objects, below the chain's prefix.

/// The folder of the boundaries.
pub(super) const BOUNDARY_FOLDER: &str = "boundary";

/// An object of a chain, by its name below the chain's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainObjectName {
    /// Record n.
    Record(u64),
    /// Boundary n.
    Boundary(u64),
}

impl ChainObjectName {
    /// What the name means; `None` for names that mean nothing to a chain.
    pub fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(BOUNDARY_FOLDER).and_then(|name| name.strip_prefix('/'));
        let number = digits.unwrap_or(name).parse().ok()?;
        match digits {
            Some(_) => (boundary_key(number) == name).then_some(Self::Boundary(number)),
            None => (record_key(number) == name).then_some(Self::Record(number)),
        }
    }
}

/// Numbers have fixed width, so that keys sort as numbers do.
pub(super) fn record_key(number: u64) -> String {
    format!("{number:020}")
}

pub(super) fn boundary_key(number: u64) -> String {
    format!("{BOUNDARY_FOLDER}/{number:020}")
}
