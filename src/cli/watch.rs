//! What people see while a replay or redrive runs, and how they are asked before: a bar on a
//! terminal, plain lines elsewhere, all on standard error.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::Usage;
use crate::operations::Progress;

/// How often a plain line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Shows progress until it is ended.
pub struct Watch {
    task: JoinHandle<()>,
    end: CancellationToken,
}

impl Watch {
    /// Starts to show. `unit` names what is read.
    pub fn start(progress: Arc<Progress>, unit: &'static str) -> Self {
        let end = CancellationToken::new();
        let ended = end.clone();
        let task = tokio::spawn(async move {
            if std::io::stderr().is_terminal() {
                bar(&progress, unit, &ended).await;
            } else {
                lines(&progress, unit, &ended).await;
            }
        });
        Self { task, end }
    }

    /// Stops to show.
    pub async fn end(self) {
        self.end.cancel();
        // A panic in what is shown must not hide how the run ended.
        let _ = self.task.await;
    }
}

/// What has been done since the start.
struct Pace {
    began: Instant,
    sent_before: u64,
    scanned_before: u64,
}

impl Pace {
    fn start(progress: &Progress) -> Self {
        Self {
            began: Instant::now(),
            sent_before: progress.sent.load(Ordering::Relaxed),
            scanned_before: progress.scanned.load(Ordering::Relaxed),
        }
    }

    /// What is done beside what the bar shows, how fast, and how long the rest takes.
    fn words(&self, progress: &Progress, unit: &str) -> String {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (sent, left_out) = (load(&progress.sent), load(&progress.left_out));
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let rate = sent.saturating_sub(self.sent_before) as f64 / seconds;
        let mut words = vec![format!("{rate:.0}/s")];
        if Measure::of(progress) == Measure::Read {
            words.insert(0, format!("{} sent", HumanCount(sent)));
        } else if load(&progress.records) != load(&progress.planned) {
            let (read, all) = (load(&progress.scanned), load(&progress.records));
            words.push(format!("{} of {} {unit}", HumanCount(read), HumanCount(all)));
        }
        if left_out > 0 {
            words.push(format!("{} left out", HumanCount(left_out)));
        }
        words.extend(self.eta(progress).map(|eta| format!("{eta} left")));
        words.join(", ")
    }

    fn eta(&self, progress: &Progress) -> Option<HumanDuration> {
        let measure = Measure::of(progress);
        let (done, all) = measure.done_of(progress);
        let before = match measure {
            Measure::Sent => self.sent_before,
            Measure::Read => self.scanned_before,
        };
        let here = done.checked_sub(before).filter(|here| *here > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let seconds =
            self.began.elapsed().as_secs_f64() * all.saturating_sub(done) as f64 / here as f64;
        Some(HumanDuration(Duration::try_from_secs_f64(seconds).ok()?))
    }
}

/// What a run is measured by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Deliveries sent of those that are planned.
    Sent,
    /// Records read, where it is not known how many deliveries they make.
    Read,
}

impl Measure {
    fn of(progress: &Progress) -> Self {
        if progress.planned.load(Ordering::Relaxed) > 0 { Self::Sent } else { Self::Read }
    }

    fn done_of(self, progress: &Progress) -> (u64, u64) {
        let (done, all) = match self {
            Self::Sent => (&progress.sent, &progress.planned),
            Self::Read => (&progress.scanned, &progress.records),
        };
        (done.load(Ordering::Relaxed), all.load(Ordering::Relaxed))
    }

    fn unit(self, read: &str) -> String {
        match self {
            Self::Sent => "sent".to_owned(),
            Self::Read => read.to_owned(),
        }
    }
}

async fn bar(progress: &Progress, unit: &str, ended: &CancellationToken) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) =
        ProgressStyle::with_template("{bar:20} {human_pos} of {human_len} {prefix}, {msg}")
    {
        bar.set_style(style);
    }
    let mut pace = Pace::start(progress);
    loop {
        if let Some(what) = progress.waits_for() {
            bar.println(what);
        }
        if progress.records.load(Ordering::Relaxed) == 0 && !ended.is_cancelled() {
            // Nothing is known yet that could be shown.
            tokio::time::sleep(REDRAW_INTERVAL).await;
            pace = Pace::start(progress);
            continue;
        }
        let measure = Measure::of(progress);
        let (done, all) = measure.done_of(progress);
        bar.set_prefix(measure.unit(unit));
        bar.set_message(pace.words(progress, unit));
        bar.set_length(all);
        bar.set_position(done);
        tokio::select! {
            () = ended.cancelled() => break,
            () = tokio::time::sleep(REDRAW_INTERVAL) => {}
        }
    }
    bar.finish_and_clear();
}

async fn lines(progress: &Progress, unit: &str, ended: &CancellationToken) {
    let mut pace = Pace::start(progress);
    let mut next = Instant::now() + LINE_INTERVAL;
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(REDRAW_INTERVAL) => {}
        }
        if let Some(what) = progress.waits_for() {
            eprintln!("{what}");
        }
        if progress.records.load(Ordering::Relaxed) == 0 {
            // What is done before it begins is none of its pace.
            (pace, next) = (Pace::start(progress), Instant::now() + LINE_INTERVAL);
        }
        if Instant::now() < next {
            continue;
        }
        next += LINE_INTERVAL;
        let measure = Measure::of(progress);
        let (done, all) = measure.done_of(progress);
        eprintln!(
            "{} of {} {}, {}",
            HumanCount(done),
            HumanCount(all),
            measure.unit(unit),
            pace.words(progress, unit)
        );
    }
}

/// A token that the first Ctrl-C or SIGTERM cancels; a second one ends the program at once.
pub fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                std::process::exit(1);
            }
            eprintln!("stopping; once more to stop at once");
            stopped.cancel();
        }
    });
    Ok(stop)
}

/// Asks before something is done. Where nobody can answer, only `--yes` lets it go ahead.
pub fn confirm(yes: bool, question: &str) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            Usage(format!("{question} Nobody can answer here: say --yes to go ahead")).into()
        );
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A count with separators, for people.
pub fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_what_was_sent_of_all_where_that_is_known() {
        let progress = Progress::default();
        progress.records.store(1000, Ordering::Relaxed);
        progress.scanned.store(10, Ordering::Relaxed);
        assert_eq!(Measure::of(&progress).done_of(&progress), (10, 1000));
        progress.planned.store(50, Ordering::Relaxed);
        let pace = Pace::start(&progress);
        progress.sent.store(5, Ordering::Relaxed);
        assert_eq!(Measure::of(&progress).done_of(&progress), (5, 50));
        let words = pace.words(&progress, "records");
        assert!(words.contains("/s") && words.contains("10 of 1,000 records"), "{words}");
        assert!(words.ends_with("left"), "{words}");
    }
}
