//! Renders events for people: bars on a terminal, plain lines in a pipe, JSON lines for programs. Everything but JSON goes to stderr.

use super::events::{Event, Progress, Stamped};
use crate::behavior::Behavior;
use crate::config::ByteSize;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where events go. Shared by all threads of a run.
pub struct Reporter {
    sink: Mutex<Sink>,
}

struct Sink {
    view: View,
    log: Option<File>,
}

enum View {
    Bars { bar: ProgressBar, fetching: String },
    Lines { last: Option<Instant> },
    Json,
    Silent,
}

/// How often a pipe gets a progress line.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

impl Reporter {
    /// JSON lines on stdout if asked for; else bars on a terminal and plain lines in a pipe.
    pub fn new(json: bool) -> Self {
        let view = if json {
            View::Json
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            View::Bars { bar, fetching: String::new() }
        } else {
            View::Lines { last: None }
        };
        Self { sink: Mutex::new(Sink { view, log: None }) }
    }

    /// A reporter that shows nothing, for tests and for commands that only read.
    pub fn silent() -> Self {
        Self { sink: Mutex::new(Sink { view: View::Silent, log: None }) }
    }

    /// Also appends every lasting event to `events.jsonl`.
    pub fn log_to(&self, path: &Path) -> std::io::Result<()> {
        let file = File::options().create(true).append(true).open(path)?;
        self.lock().log = Some(file);
        Ok(())
    }

    pub fn notice(&self, message: impl Into<String>) {
        self.emit(Event::Notice { message: message.into() });
    }

    pub fn emit(&self, event: Event) {
        let mut sink = self.lock();
        let passing = matches!(event, Event::Progress { .. } | Event::Fetching { .. });
        let stamped = Stamped::now(event);
        if let (Some(log), false) = (&mut sink.log, passing)
            && let Ok(line) = serde_json::to_string(&stamped)
        {
            // The log is for people; a full disk must not end the run here, the next commit will say so.
            // In one call: tasks that run at the same time append to one log.
            let _ = log.write_all((line + "\n").as_bytes());
        }
        sink.view.show(&stamped);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl View {
    fn show(&mut self, stamped: &Stamped) {
        match self {
            View::Silent => {}
            View::Json => {
                if let Ok(line) = serde_json::to_string(stamped) {
                    let _ = writeln!(std::io::stdout(), "{line}");
                }
            }
            View::Lines { last } => match &stamped.event {
                Event::Progress { stage, progress } => {
                    if last.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
                        *last = Some(Instant::now());
                        say(&format!("{stage}: {}", progress_text(progress)));
                    }
                }
                Event::StageStarted { .. } => {
                    *last = Some(Instant::now());
                    lasting(&stamped.event).iter().for_each(|line| say(line));
                }
                event => lasting(event).iter().for_each(|line| say(line)),
            },
            View::Bars { bar, fetching } => match &stamped.event {
                Event::StageStarted { stage, documents, documents_done, .. } => {
                    bar.reset();
                    bar.set_style(style(documents.is_some()));
                    bar.set_length(documents.unwrap_or(0));
                    bar.set_position(*documents_done);
                    bar.set_prefix(stage.clone());
                    bar.set_message("");
                    bar.enable_steady_tick(Duration::from_millis(250));
                }
                Event::Progress { progress, .. } => {
                    if let Some(training) = progress.training.as_ref().filter(|one| bar.length() != Some(one.steps)) {
                        bar.set_style(style(true));
                        bar.set_length(training.steps);
                    }
                    bar.set_position(progress.training.as_ref().map_or(progress.documents, |training| training.step));
                    bar.set_message(format!("{}{fetching}", rates_text(progress)));
                }
                Event::Fetching { shard, bytes, total_bytes } => {
                    *fetching = if bytes == total_bytes {
                        String::new()
                    } else {
                        format!(" · fetching {shard} {} of {}", ByteSize(*bytes), ByteSize(*total_bytes))
                    };
                }
                event => {
                    for line in lasting(event) {
                        bar.suspend(|| say(&line));
                    }
                    if matches!(event, Event::StageDone { .. } | Event::RunDone { .. }) {
                        bar.disable_steady_tick();
                        bar.finish_and_clear();
                    }
                }
            },
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The lines that stay on the screen.
fn lasting(event: &Event) -> Vec<String> {
    match event {
        Event::RunStarted { name, plan_id, run_dir, .. } => {
            vec![format!("{name} · plan {} · {run_dir}", &plan_id[..plan_id.len().min(12)])]
        }
        Event::StageStarted { stage, units, units_done, .. } => {
            let done = if *units_done > 0 { format!(" ({units_done} done before)") } else { String::new() };
            vec![format!("{stage}: {units} unit{}{done}", if *units == 1 { "" } else { "s" })]
        }
        Event::StageDone { stage, seconds, counts } => {
            vec![format!("{stage}: done in {}: {}", seconds_text(*seconds), counts_text(counts))]
        }
        Event::Notice { message } => vec![message.clone()],
        Event::RunDone { message, .. } => message.iter().cloned().collect(),
        Event::UnitDone { .. } | Event::Progress { .. } | Event::Fetching { .. } => vec![],
    }
}

/// Row counts in words: `132 rows = 130 kept + 2 quarantined`.
pub fn counts_text(counts: &super::manifest::Counts) -> String {
    let mut text = format!("{} rows = {} kept", HumanCount(counts.rows_in), HumanCount(counts.kept));
    for (reason, rows) in &counts.dropped {
        text += &format!(" + {} {reason}", HumanCount(*rows));
    }
    if counts.quarantined > 0 {
        text += &format!(" + {} quarantined", HumanCount(counts.quarantined));
    }
    text
}

fn seconds_text(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.1} s") } else { HumanDuration(Duration::from_secs_f64(seconds)).to_string() }
}

fn progress_text(progress: &Progress) -> String {
    let total = progress.documents_total.map_or(String::new(), |total| format!(" of {}", HumanCount(total)));
    let eta = progress.eta().map_or(String::new(), |eta| format!(", about {} left", HumanDuration(eta)));
    if let Some(training) = &progress.training {
        let (step, steps) = (HumanCount(training.step), HumanCount(training.steps));
        return format!("step {step} of {steps}, {}{eta}", rates_text(progress));
    }
    format!("{}{total} documents, {}{eta}", HumanCount(progress.documents), rates_text(progress))
}

fn rates_text(progress: &Progress) -> String {
    if let Some(training) = &progress.training {
        if let Some(figures) = &training.figures {
            return figures.clone();
        }
        let tokens = HumanCount(progress.tokens_per_second() as u64);
        let share = training.share_of_peak.map_or(String::new(), |share| format!(" ({:.0}% of peak)", 100.0 * share));
        return format!("loss {:.4}, {tokens} tokens/s{share}", training.loss);
    }
    if progress.documents_here == 0 {
        return "starting".into();
    }
    let documents = progress.documents_per_second();
    let mut text = if documents < 10.0 {
        format!("{documents:.2} documents/s")
    } else {
        format!("{} documents/s", HumanCount(documents as u64))
    };
    if progress.tokens_here > 0 {
        text += &format!(", {} tokens/s", HumanCount(progress.tokens_per_second() as u64));
    }
    if progress.shown.iter().any(|&shown| shown > 0) {
        let rates =
            Behavior::ALL.map(|behavior| format!("{} {:.0}%", short(behavior), 100.0 * progress.rate(behavior)));
        text += &format!(" · {}", rates.join(" "));
    }
    if progress.quarantined > 0 {
        text += &format!(" · {} quarantined", HumanCount(progress.quarantined));
    }
    text
}

fn short(behavior: Behavior) -> &'static str {
    match behavior {
        Behavior::Verification => "verify",
        Behavior::Backtracking => "backtrack",
        Behavior::SubgoalSetting => "subgoal",
        Behavior::BackwardChaining => "backward",
    }
}

fn style(bounded: bool) -> ProgressStyle {
    let template = if bounded {
        "{prefix:8} {bar:24} {human_pos}/{human_len} {eta} left · {wide_msg}"
    } else {
        "{prefix:8} {spinner} {human_pos} documents · {wide_msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
