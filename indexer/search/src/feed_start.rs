//! From where a request wants changes to a place in the generation that is served.

use tidemark_catalog::{
    CatalogError, EndReason, FIRST_SEQ, GenerationEnd, IndexChain, Manifest, PinChain, SNAPSHOT_OWNER,
};

use super::{
    api::FeedStart,
    change_feed::PageStart,
    error::SearchError,
    feed_position::{FeedPosition, ForeignOrigin, last_seq},
};

/// The place in the generation of `served` that `start` means. `chain` is a chain of the same index.
pub(crate) async fn page_start(
    chain: &IndexChain,
    served: &Manifest,
    start: &FeedStart,
) -> Result<PageStart, SearchError> {
    let seq = match start {
        FeedStart::Token(token) => return Ok(PageStart::Token(*token)),
        FeedStart::Earliest => FIRST_SEQ - 1,
        FeedStart::Latest => last_seq(served),
        FeedStart::After(position) => seq_in(chain, served, position).await?,
        FeedStart::Snapshot(name) => seq_in(chain, served, &end_of_snapshot(chain, served, name).await?).await?,
    };
    Ok(PageStart::After(seq))
}

/// The position after every record of a snapshot.
async fn end_of_snapshot(chain: &IndexChain, served: &Manifest, name: &str) -> Result<FeedPosition, SearchError> {
    let unknown =
        || invalid(format!("there is no snapshot \"{name}\"; \"tidemark snapshots\" lists those that there are"));
    let log = &served.claim.as_ref().ok_or_else(unknown)?.log;
    let pins = PinChain::of_index(chain, log);
    let mut register = pins.register().await.map_err(|e| stored(&e))?;
    let pin = register.pins.remove(name).filter(|pin| pin.confirmed && pin.owner == SNAPSHOT_OWNER);
    let manifest = pins.read_list(&pin.ok_or_else(unknown)?).await.map_err(|e| stored(&e))?;
    Ok(FeedPosition::end(&manifest))
}

/// The seq in the generation of `served` after which `position` lies. A reindex keeps seqs, a restore does not.
pub(crate) async fn seq_in(chain: &IndexChain, served: &Manifest, position: &FeedPosition) -> Result<u64, SearchError> {
    if let Some(foreign) = position.foreign_origin(served) {
        return Err(of_another_index(position, foreign));
    }
    let mut generation = position.generation.clone();
    while generation != served.generation {
        let latest = chain.sibling(generation.clone()).latest().await.map_err(|e| stored(&e))?;
        let latest = latest.map(|latest| latest.state);
        if generation > served.generation {
            return Err(not_served(served, position, latest.is_some()));
        }
        // An index that was lost and made again knows nothing of earlier generations.
        let latest = latest.ok_or_else(|| generation_changed(served, position))?;
        match &latest.closed {
            Some(GenerationEnd { generation: Some(next), by: EndReason::Reindex }) if *next > generation => {
                if position.seq >= latest.next_seq {
                    let last = last_seq(&latest);
                    return Err(invalid(format!("\"{position}\": \"{generation}\" ended with record {last}")));
                }
                generation = next.clone();
            }
            _ => return Err(generation_changed(served, position)),
        }
    }
    Ok(position.seq)
}

/// The error for a position that an index gave that is not served here.
fn of_another_index(position: &FeedPosition, foreign: ForeignOrigin) -> SearchError {
    let of = match foreign {
        ForeignOrigin::Log => "of another log",
        ForeignOrigin::Index => "of another index of this log, or of this one before it was purged or lost",
    };
    invalid(format!(
        "\"{position}\" is a position in the changes {of}; nothing was read; check the address, or start again without it"
    ))
}

/// The error for a position in a later generation than the one that is served.
fn not_served(served: &Manifest, position: &FeedPosition, exists: bool) -> SearchError {
    let FeedPosition { generation, .. } = position;
    if exists {
        let detail = format!("\"{generation}\" is not served yet, \"{}\" is; try again in a moment", served.generation);
        return SearchError::NotReady { detail };
    }
    invalid(format!("\"{position}\": there is no generation \"{generation}\" of this index"))
}

fn generation_changed(served: &Manifest, position: &FeedPosition) -> SearchError {
    let (start, own) = (FeedPosition::first(served).to_string(), &served.generation);
    let detail = format!(
        "\"{position}\" is a position in \"{}\", which was restored, removed or lost since; the records of \"{own}\" have other seqs; read \
         \"v1/search/export?sealed=true\", and the changes from its \"tidemark-position\" on, or start with \"from={start}\"",
        position.generation
    );
    SearchError::GenerationChanged { detail, start }
}

fn invalid(detail: String) -> SearchError {
    SearchError::Invalid { parameter: "from", detail }
}

fn stored(error: &CatalogError) -> SearchError {
    SearchError::stored(error)
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::{Generation, IndexId, IndexOwner, LogClaim, LogId};
    use tidemark_store::{Entropy, Store, StoreSecond};

    use super::*;

    fn generation(name: &str) -> Generation {
        name.parse().unwrap()
    }

    fn manifest(name: &str) -> Manifest {
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let claim = LogClaim { log: LogId("log".to_owned()), url: "memory:///".to_owned(), owner };
        Manifest { claim: Some(claim), ..Manifest::new(generation(name)).of_index(IndexId("index".to_owned())) }
    }

    /// An index whose generations ended so, each with the name of its successor.
    async fn index(ends: &[(&str, Option<&str>, EndReason)]) -> IndexChain {
        let chain = IndexChain::open(&Store::memory(), Generation::first(), Entropy::seeded(1));
        for (name, successor, by) in ends {
            let closed = Some(GenerationEnd { generation: successor.map(generation), by: *by });
            let building = (*by == EndReason::Abandoned).then(|| "task".to_owned());
            let open = Manifest { building, ..manifest(name) };
            for state in [open.clone(), Manifest { closed, ..open }] {
                let generation = chain.sibling(generation(name));
                generation.chain().append(None, |_| Ok(Some(state.clone()))).await.unwrap();
            }
        }
        chain
    }

    async fn seq(chain: &IndexChain, served: &str, position: &str) -> Result<u64, SearchError> {
        seq_in(chain, &manifest(served), &position.parse().unwrap()).await
    }

    #[tokio::test]
    async fn a_position_outlives_a_reindex_and_no_restore() {
        let to = StoreSecond::from_unix(1_700_000_000);
        let chain = index(&[
            ("g1", Some("g2"), EndReason::Reindex),
            ("g2", Some("g4"), EndReason::Reindex),
            ("g3", None, EndReason::Abandoned),
            ("g4", Some("g5"), EndReason::Restore { to }),
            ("g5", None, EndReason::Purge),
        ])
        .await;
        for served in ["g1", "g2", "g4"] {
            assert_eq!(seq(&chain, served, "g1:0").await.unwrap(), 0, "{served}");
        }
        for (served, position) in [("g5", "g1:0"), ("g5", "g4:7"), ("g4", "g3:0"), ("g6", "g5:0")] {
            let error = seq(&chain, served, position).await.unwrap_err();
            let SearchError::GenerationChanged { detail, start } = error else {
                panic!("{served} {position}: {error}")
            };
            assert!(start.starts_with(&format!("{served}:0:")) && detail.contains(&start), "{detail}");
        }
        // No client was ever given these.
        for (served, position) in [("g4", "g1:1"), ("g4", "g9:0")] {
            let error = seq(&chain, served, position).await.unwrap_err();
            assert!(matches!(error, SearchError::Invalid { parameter: "from", .. }), "{served} {position}: {error}");
        }
        let lost = seq(&index(&[]).await, "g2", "g1:0").await.unwrap_err();
        assert!(matches!(lost, SearchError::GenerationChanged { .. }), "{lost}");
        let early = seq(&chain, "g1", "g2:0").await.unwrap_err();
        assert!(matches!(early, SearchError::NotReady { .. }), "{early}");
        let own = FeedPosition::first(&manifest("g1")).to_string();
        let (own_log, zeros) = (&own["g1:0:".len()..][..8], "0".repeat(8));
        let of_log = format!("g1:0:{zeros}{zeros}");
        for (position, of) in [(of_log, "another log"), (format!("g1:0:{own_log}{zeros}"), "another index")] {
            let foreign = seq(&chain, "g1", &position).await.unwrap_err();
            assert!(matches!(&foreign, SearchError::Invalid { detail, .. } if detail.contains(of)), "{foreign}");
        }
        assert_eq!(seq(&chain, "g1", &own).await.unwrap(), 0);
    }
}
