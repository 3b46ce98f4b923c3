//! What is searched at one moment: a manifest and the tail of the log beyond its cursor, replaced together.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::LogCursor;
use tidemark_ingest::engine::EngineError;
use tidemark_store::StoreSecond;
use tidemark_wal::Token;
use tokio::time::Instant;

use super::{
    api::{IndexVersion, OverlayStatus, instant},
    manifest_cache::OpenManifest,
    overlay::tail_index::{OverlaySegment, TailIndex},
};
use crate::segment::{ManifestView, SchemaFields};

/// One consistent state of the index and of the log beyond it. Immutable: a running search keeps the view it began with.
#[derive(Clone)]
pub(crate) struct SearchView {
    /// The number of the manifest; 0 where the index has none yet.
    pub(crate) manifest: u64,
    /// Tells the manifest from those of the same number in other indexes.
    pub(crate) fingerprint: u64,
    pub(crate) index: Arc<ManifestView>,
    pub(crate) pending: Vec<Arc<OverlaySegment>>,
    /// `None`: no log is read.
    pub(crate) overlay: Option<OverlayStatus>,
    /// The oldest entry that is not sealed.
    pub(crate) oldest: Option<StoreSecond>,
    /// Entries that are neither indexed nor in the tail.
    pub(crate) gap: Option<UnindexedGap>,
    /// The newest store time that was seen in the log, and when.
    pub(crate) seen: Option<(StoreSecond, Instant)>,
    /// How far the horizon lies behind store time, where the log's parameters are known.
    pub(crate) delay: Option<Duration>,
    /// Keys in the log that are not valid tokens.
    pub(crate) unrecognized_keys: u64,
    /// Entries from the future of their own store time.
    pub(crate) future: u64,
}

impl SearchView {
    /// A manifest with what `overlay` holds beyond it.
    pub(crate) fn new(open: OpenManifest, overlay: Option<(&TailIndex, &TailListing)>) -> Self {
        let OpenManifest { number: manifest, fingerprint, index } = open;
        let status = |(overlay, listing): (&TailIndex, &TailListing)| OverlayStatus {
            documents: overlay.documents(),
            left_out: overlay.left_out(),
            bytes: overlay.bytes(),
            listed: listing.up_to.map(instant),
        };
        let cursor = index.manifest.cursor.second();
        let gap = overlay.and_then(|(_, listing)| listing.gap).filter(|gap| cursor < gap.start);
        let gap = gap.map(|gap| UnindexedGap { oldest: gap.oldest.max(cursor), ..gap });
        let oldest = overlay.and_then(|(overlay, _)| overlay.oldest()).map(|token| token.second());
        Self {
            manifest,
            fingerprint,
            index,
            pending: overlay.map(|(overlay, _)| overlay.segments().to_vec()).unwrap_or_default(),
            overlay: overlay.map(status),
            oldest: oldest.into_iter().chain(gap.map(|gap| gap.oldest)).min(),
            gap,
            seen: overlay.and_then(|(_, listing)| listing.seen),
            delay: overlay.and_then(|(_, listing)| listing.delay),
            future: overlay.map_or(0, |(_, listing)| listing.future),
            unrecognized_keys: overlay.map_or(0, |(_, listing)| listing.unrecognized_keys),
        }
    }

    pub(crate) fn cursor(&self) -> LogCursor {
        self.index.manifest.cursor
    }

    pub(crate) fn index_version(&self) -> IndexVersion {
        index_version(self.manifest, &self.index)
    }

    /// The second of the oldest entry that is not sealed, and an estimate of the horizon by now.
    ///
    /// A service that only reads has no clock of the store. It knows the newest store time in the log, how long ago it saw
    /// that, and how far the horizon lies behind store time.
    pub(crate) fn oldest_and_horizon(&self) -> Option<(StoreSecond, StoreSecond)> {
        let (seen, at) = self.seen?;
        Some((self.oldest?, seen.after(at.elapsed()).before(self.delay?)))
    }

    /// The shortest time until the catalog can have something new: until the horizon passes the oldest entry.
    pub(crate) fn time_until_news(&self) -> Option<Duration> {
        self.oldest_and_horizon().map(|(oldest, horizon)| oldest.next().since(horizon))
    }

    /// Whether an entry is sealed here, or in the tail.
    pub(crate) fn shows(&self, fields: &SchemaFields, token: &Token) -> Result<bool, EngineError> {
        if self.cursor().covers(*token) {
            return Ok(true);
        }
        for segment in &self.pending {
            if !segment.docs_of(fields, token)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The index version that answers carry.
pub(crate) fn index_version(number: u64, index: &ManifestView) -> IndexVersion {
    IndexVersion {
        generation: index.manifest.generation.to_string(),
        manifest: number,
        watermark: instant(index.manifest.cursor.second()),
    }
}

/// What the listings of the log have shown so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TailListing {
    /// The newest store time of a listed entry.
    pub(crate) up_to: Option<StoreSecond>,
    /// The same with the moment at which it was first seen.
    pub(crate) seen: Option<(StoreSecond, Instant)>,
    /// Entries whose token lies in the future of their own store time.
    pub(crate) future: u64,
    /// Keys that are not valid tokens.
    pub(crate) unrecognized_keys: u64,
    /// How far the horizon lies behind store time.
    pub(crate) delay: Option<Duration>,
    /// Where the tail starts.
    pub(crate) start: StoreSecond,
    /// What lies between the cursor and the start.
    pub(crate) gap: Option<UnindexedGap>,
}

/// Entries that the index has not reached and that the tail leaves to it, because they are too many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnindexedGap {
    /// The second of the first one.
    pub(crate) oldest: StoreSecond,
    /// Where the tail starts.
    pub(crate) start: StoreSecond,
}

impl TailListing {
    /// Records the store time of a listed entry.
    pub(crate) fn record(&mut self, time: StoreSecond) {
        if self.up_to.is_none_or(|up_to| up_to < time) {
            self.up_to = Some(time);
            self.seen = Some((time, Instant::now()));
        }
    }
}
