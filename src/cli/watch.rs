//! What people see while a replay or redrive runs, and how they are asked before: a bar on a
//! terminal, plain lines elsewhere, all on standard error.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    sync::{Arc, atomic::Ordering},
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

    fn words(&self, progress: &Progress) -> String {
        let sent = progress.sent.load(Ordering::Relaxed);
        let left_out = progress.left_out.load(Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let rate = sent.saturating_sub(self.sent_before) as f64 / seconds;
        let left_out = match left_out {
            0 => String::new(),
            count => format!(", {} left out", HumanCount(count)),
        };
        let eta = self.eta(progress).map_or_else(String::new, |eta| format!(", {eta} left"));
        format!("{} sent ({rate:.0}/s){left_out}{eta}", HumanCount(sent))
    }

    fn eta(&self, progress: &Progress) -> Option<HumanDuration> {
        let scanned = progress.scanned.load(Ordering::Relaxed);
        let all = progress.records.load(Ordering::Relaxed);
        let done = scanned.checked_sub(self.scanned_before).filter(|done| *done > 0)?;
        let left = all.saturating_sub(scanned);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let seconds = self.began.elapsed().as_secs_f64() * left as f64 / done as f64;
        Some(HumanDuration(Duration::try_from_secs_f64(seconds).ok()?))
    }
}

async fn bar(progress: &Progress, unit: &str, ended: &CancellationToken) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = format!("{{bar:30}} {{human_pos}} of {{human_len}} {unit} · {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&style) {
        bar.set_style(style);
    }
    let pace = Pace::start(progress);
    loop {
        if progress.records.load(Ordering::Relaxed) == 0 && !ended.is_cancelled() {
            // Nothing is known yet that could be shown.
            tokio::time::sleep(REDRAW_INTERVAL).await;
            continue;
        }
        bar.set_length(progress.records.load(Ordering::Relaxed));
        bar.set_position(progress.scanned.load(Ordering::Relaxed));
        bar.set_message(pace.words(progress));
        tokio::select! {
            () = ended.cancelled() => break,
            () = tokio::time::sleep(REDRAW_INTERVAL) => {}
        }
    }
    bar.finish_and_clear();
}

async fn lines(progress: &Progress, unit: &str, ended: &CancellationToken) {
    let pace = Pace::start(progress);
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(LINE_INTERVAL) => {}
        }
        let (all, scanned) = (&progress.records, &progress.scanned);
        eprintln!(
            "{} of {} {unit}, {}",
            HumanCount(scanned.load(Ordering::Relaxed)),
            HumanCount(all.load(Ordering::Relaxed)),
            pace.words(progress)
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
