//! What an index may be restored to, and what holds the operations up to then.

use std::{cmp::Reverse, fmt, mem::take, ops::RangeInclusive, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use tidemark_catalog::{
    CatalogError, Generation, LogCursor, Manifest, PinChain, RootState, SegmentMeta, SnapshotProof,
};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

use crate::{
    error::IngestError,
    recorded_archives::{ArchivedVersions, RecordedArchives},
    restore_origin::RestoreOrigin,
    snapshot::{ArchiveVersion, LogArchive},
};

/// What an index is restored to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreTarget {
    /// Every operation of an entry whose token's second is not after this one.
    Time(StoreSecond),
    /// Every operation of this entry and of those with smaller tokens.
    Token(Token),
    /// The time of the snapshot of this name.
    Snapshot(String),
    /// As far as anything that was recorded reaches.
    Latest,
}

impl fmt::Display for RestoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(second) => write!(f, "{second}"),
            Self::Token(token) => write!(f, "token {token}"),
            Self::Snapshot(name) => write!(f, "snapshot \"{name}\""),
            Self::Latest => f.write_str("the latest time"),
        }
    }
}

/// Which operations are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestoreBound {
    /// The last second of which there are operations.
    pub(crate) second: StoreSecond,
    /// The last entry, if it is not the last one of its second.
    token: Option<Token>,
}

impl RestoreBound {
    /// With the last second whole.
    pub(crate) fn at_end_of(second: StoreSecond) -> Self {
        Self { second, token: None }
    }

    pub(crate) fn includes(&self, token: Token) -> bool {
        self.token.map_or(token.second() <= self.second, |last| token <= last)
    }

    /// Every token whose second lies below it is restored, if it is in the index.
    pub(crate) fn cursor(&self) -> LogCursor {
        LogCursor(if self.token.is_some() { self.second } else { self.second.next() })
    }

    /// The seconds of the operations.
    pub(crate) fn seconds(&self) -> RangeInclusive<StoreSecond> {
        StoreSecond::default()..=self.second
    }
}

/// A manifest of an index, by its generation and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ManifestNumber<'a>(&'a Generation, u64);

/// Where operations are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RestorePlace {
    /// In the open generation.
    Open,
    /// In the manifest that the pin of this name holds: the index's own, or the origin's.
    Pin(String),
    /// In this version of the archive.
    Archive(ArchiveVersion),
}

/// A place, and how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RestoreSource {
    pub(crate) place: RestorePlace,
    /// From the first second of which it has entries to the last one that it has in whole.
    seconds: RangeInclusive<StoreSecond>,
    /// What lies below it had its last look by the audit.
    audited: StoreSecond,
    /// Segments of it that are gone or damaged.
    lost: Vec<SegmentMeta>,
}

/// All that an index can be restored from, in the order in which it is asked: the open generation has the newest outcomes, the archive
/// lacks entries that could not be read.
#[derive(Clone)]
pub(crate) struct RestoreSources {
    sources: Vec<RestoreSource>,
    /// The seconds of all of them.
    reach: RangeInclusive<StoreSecond>,
    /// What is restored; `None`: as far as the source reaches.
    bound: Option<RestoreBound>,
    /// Of what is restored as far as it reaches, those that were audited up to here come first.
    preferred: LogCursor,
    /// Sources that were left out because segments of them are gone or damaged.
    damaged: Vec<RestoreSource>,
    /// Whether nothing is taken from the archive: it was found damaged, or empty.
    is_archive_lost: bool,
    /// What was found of it when the sources were.
    archive_damage: Option<Arc<IngestError>>,
    /// The index's own archive, where the sources are another place's; `None` where they are the index's, whose archive is one of them.
    own: Option<OwnArchive>,
    target: String,
}

/// The archive of an index that is restored from another place.
#[derive(Clone, Debug, Default)]
struct OwnArchive {
    version: Option<ArchiveVersion>,
    /// Whether nothing is taken from it: it was found damaged.
    is_lost: bool,
    /// What was found of it when the sources were.
    damage: Option<Arc<IngestError>>,
}

impl OwnArchive {
    async fn find(archive: &dyn LogArchive) -> Result<Self, IngestError> {
        match archive.latest().await.map_err(IngestError::from) {
            Ok(version) => Ok(Self { version, ..Self::default() }),
            Err(damage) if damage.is_damage() => {
                tracing::warn!(error = %damage, "the index's own archive is damaged; nothing of it is taken");
                Ok(Self { version: None, is_lost: true, damage: Some(Arc::new(damage)) })
            }
            Err(failure) => Err(failure),
        }
    }
}

impl RestoreSources {
    /// Finds what the index can be restored from, of which `open` is the latest manifest: that, what the `pins` hold, and the `archive`.
    /// Refused if nothing reaches to `target`.
    pub(crate) async fn find(
        (url, pins): (&str, &PinChain),
        archive: &dyn LogArchive,
        open: Option<&Manifest>,
        target: &RestoreTarget,
    ) -> Result<Self, IngestError> {
        let open = open.and_then(|open| RestoreSource::of(RestorePlace::Open, open));
        let pinned = pinned_sources(pins).await?;
        Self::among(url, (open, pinned), archive, target, target.to_string()).await
    }

    /// Finds what the index, whose own archive is `own`, can be restored from in another place: verified snapshots, and the archive there.
    pub(crate) async fn find_in(
        (own, origin): (&dyn LogArchive, &RestoreOrigin),
        target: &RestoreTarget,
    ) -> Result<Self, IngestError> {
        let register = origin.place.pins.register().await?;
        let verified = register.snapshots().into_iter();
        let verified = verified.filter_map(|(name, pin, proof)| {
            let source = RestoreSource::of_snapshot(name, proof)?;
            Some((ManifestNumber(&pin.generation, pin.manifest), source))
        });
        let pinned = furthest_first(verified.collect());
        let wanted = format!("{target} from \"{}\"", origin.url());
        let found = Self::among(origin.url(), (None, pinned), &*origin.place.archive, target, wanted).await?;
        Ok(Self { own: Some(OwnArchive::find(own).await?), ..found })
    }

    /// Those that reach to `target`, which messages call `wanted`.
    async fn among(
        url: &str,
        (open, pinned): (Option<RestoreSource>, Vec<RestoreSource>),
        archive: &dyn LogArchive,
        target: &RestoreTarget,
        wanted: String,
    ) -> Result<Self, IngestError> {
        let bound = bound_of(target, &pinned)?;
        let mut sources: Vec<_> = open.into_iter().chain(pinned).collect();
        let damaged = match archived_source(archive).await {
            Ok(archived) => {
                sources.extend(archived);
                None
            }
            // Where others reach to the target it is not needed.
            Err(damage) if damage.is_damage() => {
                tracing::warn!(error = %damage, "the archive is damaged; nothing of it is taken");
                Some(damage)
            }
            Err(failure) => return Err(failure),
        };
        let seconds = || sources.iter().map(|source| &source.seconds);
        let reach = seconds().map(RangeInclusive::start).min().zip(seconds().map(RangeInclusive::end).max());
        let Some((first, last)) = reach else {
            return Err(damaged.unwrap_or_else(|| IngestError::NothingRecorded { url: url.to_owned() }));
        };
        let found = Self {
            reach: *first..=*last,
            sources,
            bound,
            preferred: LogCursor::default(),
            damaged: Vec::new(),
            is_archive_lost: damaged.is_some(),
            archive_damage: None,
            own: None,
            target: wanted,
        };
        match (found.choose().map(drop), damaged) {
            (Ok(()), damaged) => Ok(Self { archive_damage: damaged.map(Arc::new), ..found }),
            (Err(_), Some(damage)) => Err(damage),
            (Err(outside), None) => Err(outside),
        }
    }

    /// The source to restore from.
    pub(crate) fn choose(&self) -> Result<&RestoreSource, IngestError> {
        let order = |source: &&RestoreSource| (self.preferred <= LogCursor(source.audited), *source.seconds.end());
        let chosen = match self.bound {
            Some(bound) => self.sources.iter().find(|source| source.seconds.contains(&bound.second)),
            // Of two that reach equally far the first one.
            None => self.sources.iter().rev().max_by_key(order),
        };
        chosen.ok_or_else(|| IngestError::OutsideRecoveryWindow {
            target: self.target.clone(),
            first: *self.reach.start(),
            last: *self.reach.end(),
        })
    }

    /// The version of the archive that is one of the sources, if it can be read.
    fn archive_source(&self) -> Option<&ArchiveVersion> {
        self.sources.iter().find_map(|source| match &source.place {
            RestorePlace::Archive(version) => Some(version),
            RestorePlace::Open | RestorePlace::Pin(_) => None,
        })
    }

    /// The versions of the archives that can be read.
    pub(crate) fn archived(&self) -> ArchivedVersions {
        self.archived_beside(self.archive_source().cloned())
    }

    /// The same, where `version` is that of the archive that is one of the sources.
    pub(crate) fn archived_beside(&self, version: Option<ArchiveVersion>) -> ArchivedVersions {
        match &self.own {
            Some(own) => ArchivedVersions { own: own.version.clone(), other: version },
            None => ArchivedVersions { own: version, other: None },
        }
    }

    /// What was found damaged of the archive when the sources were found.
    pub(crate) fn archive_damage(&self) -> Option<&IngestError> {
        self.archive_damage.as_deref()
    }

    /// The same, with what was found damaged of the index's own archive beside it.
    pub(crate) fn found_damages(&self) -> impl Iterator<Item = &IngestError> {
        let own = self.own.as_ref().and_then(|own| own.damage.as_deref());
        self.archive_damage().into_iter().chain(own)
    }

    /// From where on the archives are asked first for what `held`, the manifest of `place`, has: where that is not settled, or its segments
    /// are lost. What is settled in another index's manifest stands behind the index's own archive all the same.
    pub(crate) fn archived_from(&self, place: &RestorePlace, held: &Manifest) -> LogCursor {
        if self.own.as_ref().is_some_and(|own| own.version.is_some()) {
            return LogCursor::default();
        }
        let lost = self.lost_of(place).iter().map(|segment| LogCursor(segment.first.second()));
        lost.fold(LogCursor(held.audited), LogCursor::min)
    }

    /// The segments of `place` that are left out.
    pub(crate) fn lost_of(&self, place: &RestorePlace) -> &[SegmentMeta] {
        self.sources.iter().find(|source| source.place == *place).map_or(&[], |source| &source.lost)
    }

    /// What `failure` says is damaged, of a restore from `place`, which may read the archive too.
    pub(crate) fn damaged_by(&self, failure: &IngestError, place: &RestorePlace) -> RestorePlace {
        let archived = self.archive_source().filter(|_| matches!(failure, IngestError::Archive(_)));
        archived.map_or_else(|| place.clone(), |version| RestorePlace::Archive(version.clone()))
    }

    /// Leaves out a source that is damaged: of one that is a manifest perhaps the segment `lost` alone. Gives whether there is still one that
    /// reaches to the target. If no other one does, it is one of which an archive has all that lost segments held.
    pub(crate) fn leave_out(&mut self, place: &RestorePlace, lost: Option<&SegmentMeta>) -> bool {
        self.is_archive_lost |= matches!(place, RestorePlace::Archive(_));
        let damaged = self.sources.iter().position(|source| source.place == *place);
        let damaged = damaged.map(|at| self.sources.remove(at));
        if let Some((mut source, lost)) = damaged.zip(lost.cloned())
            && !source.lost.contains(&lost)
        {
            source.lost.push(lost);
            self.damaged.push(source);
        }
        self.leave_out_lost();
        self.choose().is_ok() || self.take_back()
    }

    /// Leaves those out of which no archive that can be read has what lost segments held.
    fn leave_out_lost(&mut self) {
        let end = self.archived().end();
        let (sources, damaged): (Vec<_>, Vec<_>) =
            take(&mut self.sources).into_iter().partition(|source| source.is_held_below(end));
        self.sources = sources;
        self.damaged.extend(damaged);
    }

    /// Takes the first source back that reaches to the target and of which the archives have all that its lost segments held.
    fn take_back(&mut self) -> bool {
        let (bound, end) = (self.bound, self.archived().end());
        let reaches = |source: &&RestoreSource| {
            bound.is_none_or(|bound| source.seconds.contains(&bound.second)) && source.is_held_below(end)
        };
        let Some(source) = self.damaged.iter().find(reaches).cloned() else { return false };
        self.damaged.retain(|damaged| damaged.place != source.place);
        self.sources.insert(0, source);
        true
    }

    /// Takes nothing from the index's own archive any more, where that is another one than that of the sources. Gives whether it was read so far,
    /// and one that reaches to the target is left.
    pub(crate) fn leave_out_own(&mut self) -> bool {
        let Some(own) = &mut self.own else { return false };
        own.is_lost = true;
        let was_read = own.version.take().is_some();
        self.leave_out_lost();
        was_read && (self.choose().is_ok() || self.take_back())
    }

    /// Whether one of `archives` has settled more by now of what `made` holds, which was made from these sources.
    pub(crate) async fn is_settled_since(
        &self,
        RecordedArchives { own, other }: RecordedArchives<'_>,
        made: &Manifest,
    ) -> Result<bool, IngestError> {
        let audited = LogCursor(made.audited);
        if made.cursor <= audited {
            return Ok(false);
        }
        let is_own_lost = self.own.as_ref().map_or(self.is_archive_lost, |own| own.is_lost);
        let archives = [(Some(own), is_own_lost), (other, self.is_archive_lost)];
        for archive in archives.into_iter().filter_map(|(archive, is_lost)| archive.filter(|_| !is_lost)) {
            match archive.latest().await.map_err(IngestError::from) {
                Ok(latest) if latest.as_ref().is_some_and(|latest| audited < latest.end) => return Ok(true),
                Ok(_) => {}
                // It is read where something is taken from it.
                Err(damage) if damage.is_damage() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(false)
    }

    /// With the archives as they are by now.
    pub(crate) async fn renew_archives(
        &mut self,
        RecordedArchives { own, other }: RecordedArchives<'_>,
    ) -> Result<(), IngestError> {
        if self.own.as_ref().is_some_and(|own| !own.is_lost) {
            self.own = Some(OwnArchive::find(own).await?);
        }
        if self.is_archive_lost {
            self.leave_out_lost();
            return Ok(());
        }
        let renewed = archived_source(other.unwrap_or(own)).await?;
        self.sources.retain(|source| !matches!(source.place, RestorePlace::Archive(_)));
        // One without a row has nothing to take.
        self.is_archive_lost |= renewed.is_none();
        self.sources.extend(renewed);
        self.leave_out_lost();
        Ok(())
    }

    /// Which operations are restored from what reaches up to the second `last`.
    pub(crate) fn bound(&self, last: StoreSecond) -> RestoreBound {
        self.bound.unwrap_or(RestoreBound::at_end_of(last))
    }

    /// Leaves out what was not audited up to the log's floor: outcomes that were corrected there since are not in it, and the log, where the
    /// audit would find that again, may lack them. Refused if nothing is left.
    pub(crate) fn above_floor(mut self, root: &RootState) -> Result<Self, CatalogError> {
        let audited = self.sources.iter().map(|source| audited_up_to(source, self.bound)).max().unwrap_or_default();
        root.check_floor(audited)?;
        let bound = self.bound;
        self.sources.retain(|source| root.check_floor(audited_up_to(source, bound)).is_ok());
        // The archive may be among those that are gone.
        self.leave_out_lost();
        Ok(self)
    }

    /// What is restored to the latest time is taken from what was audited up to the log's floor, where there is any: what reaches further is
    /// added by the promotion.
    pub(crate) fn preferring_above_floor(&self, root: &RootState) -> Self {
        let floor = root.floor.as_ref().map(|floor| floor.second).unwrap_or_default();
        Self { preferred: floor, ..self.clone() }
    }

    /// How far what is restored from the chosen source reaches, and up to where it is audited: by that source, or by the archive beside it.
    pub(crate) fn reach(&self) -> Result<(LogCursor, StoreSecond), IngestError> {
        let source = self.choose()?;
        let cursor = self.bound(*source.seconds.end()).cursor();
        let audited = source.audited.max(self.archived().end().second());
        Ok((cursor, audited.min(cursor.second())))
    }

    /// Every second below it is recorded somewhere.
    pub(crate) fn end(&self) -> LogCursor {
        self.sources.iter().map(|source| LogCursor(source.seconds.end().next())).max().unwrap_or_default()
    }
}

impl RestoreSource {
    /// `place` holds `manifest`; `None` if that has no records.
    fn of(place: RestorePlace, manifest: &Manifest) -> Option<Self> {
        let first = manifest.segments.iter().map(|segment| segment.first.second()).min()?;
        Some(Self { place, seconds: first..=last_second(manifest.cursor), audited: manifest.audited, lost: Vec::new() })
    }

    /// Whether all that its lost segments held is in archives that end at `end`.
    fn is_held_below(&self, end: LogCursor) -> bool {
        self.lost.iter().all(|segment| end.covers(segment.last))
    }

    /// The snapshot `name`, of which `proof` says what it holds; `None` if that has no records.
    fn of_snapshot(name: &str, proof: &SnapshotProof) -> Option<Self> {
        let (place, seconds) = (RestorePlace::Pin(name.to_owned()), proof.first?..=last_second(proof.cursor));
        Some(Self { place, seconds, audited: proof.audited, lost: Vec::new() })
    }
}

/// What lies below it had its last look in what is restored from `source` up to `bound`.
fn audited_up_to(source: &RestoreSource, bound: Option<RestoreBound>) -> LogCursor {
    let audited = LogCursor(source.audited);
    bound.map_or(audited, |bound| audited.min(bound.cursor()))
}

/// The last second of which everything lies below `cursor`.
pub(crate) fn last_second(cursor: LogCursor) -> StoreSecond {
    cursor.second().before(Duration::from_secs(1))
}

/// What pins hold.
async fn pinned_sources(pins: &PinChain) -> Result<Vec<RestoreSource>, IngestError> {
    let register = pins.register().await?;
    let mut sources = Vec::new();
    for (name, pin) in register.restorable() {
        let source = match &pin.verified {
            Some(proof) => RestoreSource::of_snapshot(name, proof),
            None => match pins.read_list(pin).await {
                Ok(manifest) => RestoreSource::of(RestorePlace::Pin(name.to_owned()), &manifest),
                Err(error) => {
                    tracing::warn!(%error, name, "what this pin holds cannot be read; it is not restored from");
                    None
                }
            },
        };
        sources.extend(source.map(|source| (ManifestNumber(&pin.generation, pin.manifest), source)));
    }
    Ok(furthest_first(sources))
}

/// The one that reaches furthest first. Of those that end in the same second the one of the later manifest: that has what was corrected
/// between them.
fn furthest_first(mut sources: Vec<(ManifestNumber<'_>, RestoreSource)>) -> Vec<RestoreSource> {
    sources.sort_by_key(|(number, source)| Reverse((*source.seconds.end(), *number)));
    sources.into_iter().map(|(_, source)| source).collect()
}

async fn archived_source(archive: &dyn LogArchive) -> Result<Option<RestoreSource>, IngestError> {
    let Some(version) = archive.latest().await? else { return Ok(None) };
    let first = archive.rows(&version, LogCursor::default()..version.end).try_next().await?;
    Ok(first.map(|first| {
        // What is archived is settled.
        let (seconds, audited) = (first.record.token.second()..=last_second(version.end), version.end.second());
        RestoreSource { place: RestorePlace::Archive(version), seconds, audited, lost: Vec::new() }
    }))
}

fn bound_of(target: &RestoreTarget, pins: &[RestoreSource]) -> Result<Option<RestoreBound>, IngestError> {
    Ok(match target {
        RestoreTarget::Time(second) => Some(RestoreBound::at_end_of(*second)),
        RestoreTarget::Token(token) => Some(RestoreBound { second: token.second(), token: Some(*token) }),
        RestoreTarget::Snapshot(name) => {
            let of_name = |source: &&RestoreSource| matches!(&source.place, RestorePlace::Pin(pin) if pin == name);
            let pinned = pins.iter().find(of_name);
            let pinned = pinned.ok_or_else(|| IngestError::SnapshotMissing { name: name.clone() })?;
            Some(RestoreBound::at_end_of(*pinned.seconds.end()))
        }
        RestoreTarget::Latest => None,
    })
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::{ArchiveExtent, LogFloor, LogId, RecordCounts, SetDigest, TransactionRejected};

    use super::*;

    fn second(second: u64) -> StoreSecond {
        StoreSecond::from_unix(1_800_000_000 + second)
    }

    fn sources(bound: Option<u64>, open: Option<u64>) -> RestoreSources {
        let source = |place, first, last| {
            let (seconds, audited) = (second(first)..=second(last), second(last).before(Duration::from_secs(15)));
            RestoreSource { place, seconds, audited, lost: Vec::new() }
        };
        let mut sources: Vec<_> = open.map(|last| source(RestorePlace::Open, 10, last)).into_iter().collect();
        sources.push(source(RestorePlace::Pin("late".to_owned()), 10, 50));
        sources.push(source(RestorePlace::Pin("early".to_owned()), 10, 30));
        let bound = bound.map(|at| RestoreBound::at_end_of(second(at)));
        let (reach, preferred) = (second(10)..=second(50), LogCursor::default());
        let (damaged, target) = (Vec::new(), "x".to_owned());
        let (is_archive_lost, archive_damage, own) = (false, None, None);
        RestoreSources { sources, reach, bound, preferred, damaged, is_archive_lost, archive_damage, own, target }
    }

    #[test]
    fn the_open_generation_is_asked_first_and_others_where_it_does_not_reach() {
        let chosen = |bound, open| sources(bound, open).choose().map(|source| source.place.clone());
        let late = RestorePlace::Pin("late".to_owned());
        assert_eq!(chosen(Some(30), Some(40)).unwrap(), RestorePlace::Open);
        assert_eq!(chosen(Some(41), Some(40)).unwrap(), late);
        assert_eq!(chosen(Some(20), None).unwrap(), late);
        assert_eq!(chosen(None, Some(40)).unwrap(), late, "it reaches further");
        assert_eq!(chosen(None, Some(50)).unwrap(), RestorePlace::Open, "it reaches as far");
        for outside in [9, 51] {
            let refused = chosen(Some(outside), Some(40)).unwrap_err();
            let IngestError::OutsideRecoveryWindow { first, last, .. } = refused else { panic!("{refused}") };
            assert_eq!((first, last), (second(10), second(50)));
        }
        let mut damaged = sources(Some(40), Some(40));
        assert!(damaged.leave_out(&RestorePlace::Open, None));
        assert_eq!(damaged.choose().unwrap().place, late);
        assert!(!damaged.leave_out(&late, None), "the early one ends before");
    }

    #[test]
    fn of_what_reaches_furthest_a_segment_may_be_lost_that_the_own_archive_has() {
        let lost = SegmentMeta {
            key: "lost".to_owned(),
            size: 1,
            checksum: String::new(),
            format: 1,
            digest: SetDigest::default(),
            first: Token::first_of(second(10)),
            last: Token::first_of(second(20)),
            entry_times: second(10)..second(21),
            documents: 1,
            seq: 1..2,
            counts: RecordCounts::default(),
            unsettled: 0,
        };
        let [late, early] = ["late", "early"].map(|name| RestorePlace::Pin(name.to_owned()));
        for (end, is_held) in [(20, false), (21, true)] {
            let (generation, hash, digest) = (Generation::first(), String::new(), SetDigest::default());
            let end = LogCursor(second(end));
            let version = ArchiveVersion { number: 1, hash, generation, end, operations: 0, digest };
            let mut left = sources(None, None);
            left.own = Some(OwnArchive { version: Some(version), ..OwnArchive::default() });
            assert!(left.leave_out(&late, Some(&lost)));
            assert_eq!(left.choose().unwrap().place, early, "it is whole");
            assert_eq!(left.leave_out(&early, Some(&lost)), is_held);
            if is_held {
                assert_eq!(left.choose().unwrap().place, late);
                assert_eq!(left.lost_of(&late), std::slice::from_ref(&lost));
                assert!(left.leave_out(&late, Some(&lost)), "the other one is without it as well");
                assert!(!left.leave_out(&early, Some(&lost)));
            }
        }
    }

    #[test]
    fn of_pins_that_end_in_the_same_second_the_one_of_the_latest_manifest_comes_first() {
        let pins = [("a", "g9", 12, 50), ("b", "g9", 110, 50), ("c", "g10", 3, 50), ("d", "g1", 1, 51)];
        let pins = pins.map(|(name, generation, manifest, end)| {
            let (place, audited) = (RestorePlace::Pin(name.to_owned()), second(10));
            let source = RestoreSource { place, seconds: second(10)..=second(end), audited, lost: Vec::new() };
            (generation.parse::<Generation>().unwrap(), manifest, source)
        });
        let sources =
            pins.iter().map(|(generation, number, source)| (ManifestNumber(generation, *number), source.clone()));
        let sources = sources.collect();
        let places = ["d", "c", "b", "a"].map(|name| RestorePlace::Pin(name.to_owned()));
        assert_eq!(furthest_first(sources).into_iter().map(|source| source.place).collect::<Vec<_>>(), places);
    }

    #[test]
    fn what_was_not_audited_up_to_the_floor_is_left_out() {
        let root = |floor: Option<u64>| {
            let extent = ArchiveExtent { version: 1, hash: String::new(), end: LogCursor(second(90)) };
            let (archive, log) = ("memory:///archive".to_owned(), LogId("1".repeat(32)));
            let floor = floor.map(|floor| LogFloor { second: LogCursor(second(floor)), archive, extent, log });
            RootState { floor, ..RootState::default() }
        };
        let ends = |floor| sources(None, None).above_floor(&root(floor)).map(|left| (left.sources.len(), left.end()));
        let end = LogCursor(second(51));
        let left = [None, Some(15), Some(16), Some(35)].map(|floor| ends(floor).unwrap());
        assert_eq!(left, [(2, end), (2, end), (1, end), (1, end)]);
        let is_below =
            |refused: &CatalogError| matches!(refused, CatalogError::Rejected(TransactionRejected::BelowFloor { .. }));
        let refused = ends(Some(36)).unwrap_err();
        assert!(is_below(&refused), "{refused}");
        // What is restored up to a time is audited no further.
        assert!(sources(Some(20), None).above_floor(&root(Some(21))).is_ok());
        let refused = sources(Some(20), None).above_floor(&root(Some(22))).err().unwrap();
        assert!(is_below(&refused), "{refused}");
        // Where it is only preferred, the others stay behind it.
        let mut preferring = sources(None, Some(60)).preferring_above_floor(&root(Some(45)));
        assert_eq!(preferring.choose().unwrap().place, RestorePlace::Open);
        preferring.sources[0].audited = second(44);
        preferring.sources[2].audited = second(45);
        assert_eq!(preferring.choose().unwrap().place, RestorePlace::Pin("early".to_owned()));
        assert!(preferring.leave_out(&RestorePlace::Pin("early".to_owned()), None));
        assert_eq!(preferring.choose().unwrap().place, RestorePlace::Open);
    }

    #[test]
    fn a_bound_within_a_second_leaves_its_cursor_there() {
        let token = Token::from_parts(second(7), [9; 16]);
        let within = RestoreBound { second: second(7), token: Some(token) };
        assert_eq!(within.cursor(), LogCursor(second(7)));
        assert!(within.includes(token) && !within.includes(Token::from_parts(second(7), [10; 16])));
        let whole = RestoreBound::at_end_of(second(7));
        assert_eq!(whole.cursor(), LogCursor(second(8)));
        assert!(whole.includes(Token::from_parts(second(7), [255; 16])) && !whole.includes(Token::first_of(second(8))));
    }
}
