//! What people and scripts see: JSON lines and progress.
//!
//! The bar is indicatif's. That shows nothing where there is no terminal, so that the log lines which stand in for it there, and
//! how seldom they come, are written here.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use tidemark_ingest::IngestStatus;

/// How often progress is logged where there is no terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// A run through more sealed seconds than this is a backfill.
const MIN_BACKFILL_SPAN: Duration = Duration::from_mins(1);

/// Prints `value` as one line of JSON on standard output.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Prints one line on standard output.
pub(super) fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Progress of long work: a bar on a terminal, log lines otherwise.
pub(super) struct ProgressReporter {
    bar: ProgressBar,
    what: &'static str,
    logged: Mutex<Option<Instant>>,
}

impl ProgressReporter {
    /// Progress over `what`, such as `"commits"`.
    pub(super) fn new(what: &'static str) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        Self::over(bar, what)
    }

    fn over(bar: ProgressBar, what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        Self { bar, what, logged: Mutex::default() }
    }

    /// Says that `done` of `total` are done. A `total` of 0 is not known.
    pub(super) fn report(&self, done: u64, total: u64) {
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        if self.bar.is_hidden() && (self.due() || done == total) {
            tracing::info!(done, total, "{}", self.what);
        }
    }

    /// As [`Self::report`], of the part `part` of the work. A `total` of 0 is not known.
    #[cfg(feature = "archive")]
    pub(super) fn report_part(&self, part: &'static str, done: u64, total: u64) {
        self.bar.set_message(part);
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.due() {
            tracing::info!(part, done, total, "{}", self.what);
        }
    }

    fn due(&self) -> bool {
        let mut logged = self.logged.lock();
        let due = logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if due {
            *logged = Some(Instant::now());
        }
        due
    }

    /// Writes something else to the terminal, with the bar out of its way.
    #[cfg(feature = "demo")]
    pub(super) fn interrupt(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Shows how far a job has come, for as long as the answer lives: `counted` gives what is counted, how much of it is done, and how much
/// there is in all, 0 where that is not known.
#[cfg(feature = "archive")]
pub(super) fn show_progress<P: Send + Sync + 'static>(
    mut progress: watch::Receiver<P>,
    counted: impl Fn(&P) -> Option<(&'static str, u64, u64)> + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut shown: Option<(&'static str, ProgressReporter)> = None;
        while progress.changed().await.is_ok() {
            let counted = counted(&progress.borrow_and_update());
            let Some((what, done, total)) = counted else { continue };
            if let Some((_, past)) = shown.take_if(|(at, _)| *at != what) {
                past.finish();
            }
            shown.get_or_insert_with(|| (what, ProgressReporter::new(what))).1.report(done, total);
        }
        if let Some((_, last)) = shown {
            last.finish();
        }
    }))
}

/// Shows how far a backfill has come, for as long as the answer lives.
pub(super) fn watch_backfill(mut status: watch::Receiver<IngestStatus>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut shown: Option<ProgressReporter> = None;
        while status.changed().await.is_ok() {
            let progress = status.borrow_and_update().progress;
            match progress {
                // A run of a few seconds is the ordinary tail.
                Some(run) if run.to.since(run.from.second()) > MIN_BACKFILL_SPAN => {
                    let done = run.at.second().since(run.from.second()).as_secs();
                    let total = run.to.since(run.from.second()).as_secs();
                    shown.get_or_insert_with(|| ProgressReporter::new("seconds of the log")).report(done, total);
                }
                _ => {
                    if let Some(progress) = shown.take() {
                        progress.finish();
                    }
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that keeps all that was written to it.
    #[derive(Clone, Debug, Default)]
    struct RecordingTerminal(Arc<Mutex<String>>);

    impl TermLike for RecordingTerminal {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_shows_a_bar_to_the_end() {
        let terminal = RecordingTerminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let progress = ProgressReporter::over(ProgressBar::with_draw_target(None, target), "commits and tags");
        for done in 1..=3 {
            progress.report(done, 3);
        }
        let shown = terminal.0.lock().clone();
        let places = ["commits and tags", " 1/3 ", " 2/3 ", " 3/3 "].map(|text| shown.find(text));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{shown:?}");
        progress.finish();
    }
}
