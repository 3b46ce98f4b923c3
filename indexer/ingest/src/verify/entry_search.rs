//! Entries of the log that the index lacks. Those below the log's floor may be gone, and are left out.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemark_catalog::{LogCursor, Manifest};
use tidemark_store::{Entropy, StoreError, StoreSecond, error_chain};
use tidemark_wal::{ListedEntry, Log, LogReader, ParameterSchedule, Token};

use super::{
    finding::{FindingLog, FindingSeverity, VerifyCheck, message_parts},
    sample_draw::{ShuffledSeqs, below, segments_above},
};
use crate::engine::{EngineError, IndexEngine, IndexLookup};

/// Entries of the log that are looked up in the index at once.
const LISTED_CHUNK: usize = 1000;
/// How many stretches of the log a sample has, if it has as many entries: each takes a listing.
const SAMPLE_STRETCHES: u64 = 32;
/// The entries of a stretch at most: a listing gives no more at once.
const MAX_STRETCH_ENTRIES: u64 = 1000;
/// How often stretches are chosen again because those before had too few entries that were new. What is missing then is listed from the
/// start of the log.
const MAX_STRETCH_ROUNDS: u32 = 4;
/// Records that are drawn at most for one that lies above the floor.
const MAX_DRAWS: usize = 20;

/// Looks in the index for entries of the log.
pub(super) struct EntrySearch<'a> {
    pub(super) log: &'a Log,
    pub(super) engine: &'a dyn IndexEngine,
    pub(super) manifest: &'a Manifest,
    pub(super) schedule: &'a ParameterSchedule,
    /// Listings that run at once.
    pub(super) fetches: usize,
    pub(super) findings: &'a FindingLog<'a>,
    pub(super) reader: &'a LogReader,
    pub(super) lookup: &'a dyn IndexLookup,
    /// The log's floor when the check began.
    pub(super) floor: LogCursor,
    pub(super) figures: SearchFigures,
}

/// What came of a search.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SearchFigures {
    /// Entries that were looked for.
    pub(super) entries: u64,
    /// Those that the index lacks.
    pub(super) missing_entries: u64,
    /// Listings that failed.
    pub(super) unread: u64,
}

impl EntrySearch<'_> {
    pub(super) async fn find_all(&mut self) -> Result<(), EngineError> {
        let (from, to) = (self.floor.second(), self.manifest.cursor.second());
        let mut listed = self.reader.list(from, to).ready_chunks(LISTED_CHUNK);
        while let Some(chunk) = listed.next().await {
            let chunk: Result<Vec<_>, StoreError> = chunk.into_iter().collect();
            match chunk {
                Ok(chunk) => self.find(&chunk).await?,
                Err(error) => {
                    self.report_unread(&error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks for `count` entries, or all if there are no more: in stretches of entries that follow one another. The first one begins where
    /// the log does. Of the others every second one begins behind an entry that the index has, each of which is chosen as likely as any
    /// other, so that a burst is looked at as much as it holds; and every second one at some second of the log, each of which is chosen as
    /// likely as any other, so that what was lost of a long time is met, however little it held.
    pub(super) async fn find_sample(&mut self, count: u64, entropy: &Entropy) -> Result<(), EngineError> {
        let mut looked = BTreeSet::new();
        // Of a few entries each is looked for.
        let is_part = count < self.manifest.totals.records;
        if is_part && !self.find_stretches(count, &mut looked, entropy).await? {
            return Ok(());
        }
        let (from, to) = (self.floor.second(), self.manifest.cursor.second());
        let mut listed = self.reader.list(from, to).ready_chunks(LISTED_CHUNK);
        while (looked.len() as u64) < count {
            let Some(chunk) = listed.next().await else { break };
            if !self.find_new(chunk.into_iter().collect(), count, &mut looked).await? {
                break;
            }
        }
        Ok(())
    }

    /// Looks for entries of stretches until there are `count`, or few of them are new. Gives whether all could be listed.
    async fn find_stretches(
        &mut self,
        count: u64,
        looked: &mut BTreeSet<Token>,
        entropy: &Entropy,
    ) -> Result<bool, EngineError> {
        let to = self.manifest.cursor.second();
        let length = count.div_ceil(SAMPLE_STRETCHES).min(MAX_STRETCH_ENTRIES);
        let stretch =
            StretchReader { reader: self.reader.clone().with_one_listing(), from: self.floor.second(), to, length };
        let first = stretch.read(None).await;
        let begin = first.as_ref().ok().and_then(|listed| listed.first()).map(|listed| listed.token.second());
        if !self.find_new(first, count, looked).await? {
            return Ok(false);
        }
        let Some(begin) = begin else { return Ok(true) };
        let mut seqs = ShuffledSeqs::of(segments_above(self.manifest, self.floor), entropy);
        for _ in 0..MAX_STRETCH_ROUNDS {
            let missing = count.saturating_sub(looked.len() as u64);
            let mut starts = Vec::new();
            for number in 0..missing.div_ceil(length.max(1)) {
                let at_record = if number % 2 == 0 { self.next_token(&mut seqs).await? } else { None };
                starts.push(at_record.unwrap_or_else(|| token_between(begin, to, entropy)));
            }
            let read = stream::iter(starts).map(|start| stretch.read(Some(start))).buffered(self.fetches.max(1));
            for listed in read.collect::<Vec<_>>().await {
                if !self.find_new(listed, count, looked).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The token of the next of these records that lies above the floor, unless the next ones all lie below.
    async fn next_token(&self, seqs: &mut ShuffledSeqs<'_>) -> Result<Option<Token>, EngineError> {
        let segments = segments_above(self.manifest, self.floor);
        for seq in seqs.take(MAX_DRAWS) {
            let Some(segment) = segments.iter().find(|segment| segment.seq.contains(&seq)) else { continue };
            let places = self.engine.places(segment, seq..seq + 1).await?;
            if let Some(place) = places.first().filter(|place| !self.floor.covers(place.token)) {
                return Ok(Some(place.token));
            }
        }
        Ok(None)
    }

    /// Looks for those entries that were not looked for before, up to `count` in all. Gives whether they could be listed.
    async fn find_new(
        &mut self,
        listed: Result<Vec<ListedEntry>, StoreError>,
        count: u64,
        looked: &mut BTreeSet<Token>,
    ) -> Result<bool, EngineError> {
        let mut listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.report_unread(&error);
                return Ok(false);
            }
        };
        listed.retain(|listed| (looked.len() as u64) < count && looked.insert(listed.token));
        self.find(&listed).await?;
        Ok(true)
    }

    /// Looks in the index for entries of the log.
    async fn find(&mut self, listed: &[ListedEntry]) -> Result<(), EngineError> {
        let tokens: Vec<_> = listed.iter().map(|listed| listed.token).collect();
        let recorded = self.lookup.recorded_outcomes(&tokens).await?;
        self.figures.entries += listed.len() as u64;
        for (listed, _) in listed.iter().zip(recorded).filter(|(_, recorded)| recorded.is_empty()) {
            self.report_unknown(listed);
        }
        self.findings.progress(VerifyCheck::Log, self.figures.entries, 0);
        Ok(())
    }

    /// The index has no record of an entry of the log.
    fn report_unknown(&mut self, listed: &ListedEntry) {
        let ListedEntry { token, time, .. } = *listed;
        let second = token.second();
        let (severity, effect, remedy) = if self.schedule.at(second).is_past_audit(second, time) {
            // Whoever decides it by the rule makes it expired.
            (
                FindingSeverity::Notice,
                "it came after the audit window, so that no search finds it",
                "nothing is to be done",
            )
        } else if second >= self.manifest.audited {
            (FindingSeverity::Notice, "no search finds it yet", "wait for the audit, which publishes it")
        } else {
            self.figures.missing_entries += 1;
            (FindingSeverity::Damage, "no search finds it", "rebuild the index from the log")
        };
        let what = "an entry of the log is not in the index";
        self.findings.report(
            severity,
            VerifyCheck::Log,
            self.log.entries.url_of(&token.to_string()),
            [what, effect, remedy].map(str::to_owned),
        );
    }

    fn report_unread(&mut self, error: &StoreError) {
        self.figures.unread += 1;
        let parts = message_parts(&error_chain(error));
        let location = self.log.entries.url().as_str();
        self.findings.report(FindingSeverity::Unverified, VerifyCheck::Log, location, parts);
    }
}

/// Lists entries of the log that follow one another.
struct StretchReader {
    reader: LogReader,
    from: StoreSecond,
    to: StoreSecond,
    /// How many entries a stretch has at most.
    length: u64,
}

impl StretchReader {
    /// The entries after this token, or from the start.
    async fn read(&self, after: Option<Token>) -> Result<Vec<ListedEntry>, StoreError> {
        let listed = match after {
            Some(after) => self.reader.list_after(after, self.to),
            None => self.reader.list(self.from, self.to),
        };
        listed.take(usize::try_from(self.length).unwrap_or(usize::MAX)).try_collect().await
    }
}

/// A token of a second from `begin` to `end`, each second as likely as any other.
fn token_between(begin: StoreSecond, end: StoreSecond, entropy: &Entropy) -> Token {
    let second = begin.unix() + below(entropy, end.since(begin).as_secs().max(1));
    Token::from_parts(StoreSecond::from_unix(second), entropy.bytes())
}
