//! What is served at one moment: a manifest and the tail beyond its cursor, swapped together.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::Cursor;
use tidemark_store::StoreSecond;
use tidemark_wal::Token;
use tokio::time::Instant;

use super::{
    api::{IndexPosition, OverlayStatus, instant},
    kept::Opened,
    overlay::{Overlay, OverlayPart},
};
use crate::index::{Fields, Snapshot};
use tidemark_ingest::engine::EngineError;

/// One consistent state of the index and of the log beyond it. Immutable: a running search keeps the view it began with.
#[derive(Clone)]
pub(crate) struct View {
    /// The number of the manifest; 0 where the index has none yet.
    pub(crate) manifest: u64,
    /// Tells the manifest from those of the same number in other indexes.
    pub(crate) stamp: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) parts: Vec<Arc<OverlayPart>>,
    /// `None`: no log is read.
    pub(crate) overlay: Option<OverlayStatus>,
    /// The oldest entry that is not sealed.
    pub(crate) oldest: Option<StoreSecond>,
    /// What waits for the ingest and is not in the tail either.
    pub(crate) gap: Option<Gap>,
    /// The newest store time that was seen in the log, and when.
    pub(crate) seen: Option<(StoreSecond, Instant)>,
    /// How far the horizon lies behind store time, where the log's parameters are known.
    pub(crate) delay: Option<Duration>,
    /// Keys in the log that are no tokens.
    pub(crate) unrecognized_keys: u64,
    /// Entries from the future of their own store time.
    pub(crate) future: u64,
}

impl View {
    /// A manifest with what `overlay` holds beyond it.
    pub(crate) fn new(opened: Opened, overlay: Option<(&Overlay, &Listed)>) -> Self {
        let Opened { number: manifest, stamp, snapshot } = opened;
        let status = |(overlay, listed): (&Overlay, &Listed)| OverlayStatus {
            documents: overlay.documents(),
            dropped: overlay.dropped(),
            bytes: overlay.bytes(),
            listed: listed.up_to.map(instant),
        };
        let cursor = snapshot.manifest.cursor.second();
        let gap = overlay.and_then(|(_, listed)| listed.gap).filter(|gap| cursor < gap.start);
        let gap = gap.map(|gap| Gap { oldest: gap.oldest.max(cursor), ..gap });
        let oldest = overlay.and_then(|(overlay, _)| overlay.oldest()).map(|token| token.second());
        Self {
            manifest,
            stamp,
            snapshot,
            parts: overlay.map(|(overlay, _)| overlay.parts().to_vec()).unwrap_or_default(),
            overlay: overlay.map(status),
            oldest: oldest.into_iter().chain(gap.map(|gap| gap.oldest)).min(),
            gap,
            seen: overlay.and_then(|(_, listed)| listed.seen),
            delay: overlay.and_then(|(_, listed)| listed.delay),
            future: overlay.map_or(0, |(_, listed)| listed.future),
            unrecognized_keys: overlay.map_or(0, |(_, listed)| listed.unrecognized_keys),
        }
    }

    pub(crate) fn cursor(&self) -> Cursor {
        self.snapshot.manifest.cursor
    }

    pub(crate) fn position(&self) -> IndexPosition {
        position(self.manifest, &self.snapshot)
    }

    /// The second of the oldest entry that is not sealed, and about where the horizon is by now.
    ///
    /// A service that only reads has no clock of the store. It knows the newest store time in the log, how long ago it saw
    /// that, and how far the horizon lies behind store time.
    pub(crate) fn oldest_and_horizon(&self) -> Option<(StoreSecond, StoreSecond)> {
        let (seen, at) = self.seen?;
        Some((self.oldest?, seen.after(at.elapsed()).before(self.delay?)))
    }

    /// How long nothing new is to be expected of the catalog, at least: until the horizon passes the oldest entry.
    pub(crate) fn quiet(&self) -> Option<Duration> {
        self.oldest_and_horizon().map(|(oldest, horizon)| oldest.next().since(horizon))
    }

    /// Whether an entry is decided here, or in the tail.
    pub(crate) fn shows(&self, fields: &Fields, token: &Token) -> Result<bool, EngineError> {
        if self.cursor().covers(*token) {
            return Ok(true);
        }
        for part in &self.parts {
            if !part.docs_of(fields, token)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What an answer says about a manifest.
pub(crate) fn position(number: u64, snapshot: &Snapshot) -> IndexPosition {
    IndexPosition {
        generation: snapshot.manifest.generation.to_string(),
        manifest: number,
        watermark: instant(snapshot.manifest.cursor.second()),
    }
}

/// How far the log was listed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listed {
    /// The newest store time of a listed entry.
    pub(crate) up_to: Option<StoreSecond>,
    /// The same with the moment at which it was first seen.
    pub(crate) seen: Option<(StoreSecond, Instant)>,
    /// Entries whose token lies in the future of their own store time.
    pub(crate) future: u64,
    /// Keys that are no tokens.
    pub(crate) unrecognized_keys: u64,
    /// How far the horizon lies behind store time.
    pub(crate) delay: Option<Duration>,
    /// Where the tail starts.
    pub(crate) start: StoreSecond,
    /// What lies between the cursor and the start.
    pub(crate) gap: Option<Gap>,
}

/// Entries that the index has not reached and that the tail leaves to it, because they are too many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    /// The second of the first one.
    pub(crate) oldest: StoreSecond,
    /// Where the tail starts.
    pub(crate) start: StoreSecond,
}

impl Listed {
    /// Notes the store time of a listed entry.
    pub(crate) fn note(&mut self, time: StoreSecond) {
        if self.up_to.is_none_or(|up_to| up_to < time) {
            self.up_to = Some(time);
            self.seen = Some((time, Instant::now()));
        }
    }
}
