//! Shows progress: a spinner on a terminal, plain lines with `-v` and on a terminal that can't draw, nothing elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::progress::{Progress, Step};
use crate::shown::{self, Volume};

/// A reporter whose steps are shown on standard error, until the returned value is dropped or finished.
pub(super) fn show() -> (Progress, Shown) {
    let (progress, mut steps) = Progress::channel();
    let (terminal, lines) = form();
    let bars = MultiProgress::new();
    let bar = if terminal {
        bars.add(ProgressBar::new_spinner())
    } else {
        ProgressBar::hidden()
    };
    let (shown, all) = (bar.clone(), bars.clone());
    let task = tokio::spawn(async move {
        if terminal {
            shown.enable_steady_tick(Duration::from_millis(120));
        }
        let mut last = String::new();
        let mut parts = BTreeMap::new();
        while let Some(step) = steps.recv().await {
            match &step.part {
                Some(part) if terminal => draw_part(&all, &mut parts, part, &step),
                // Steps of single layers would be too much for a log.
                Some(_) => {}
                None if terminal => draw(&shown, &step),
                None if lines && step.message != last => {
                    say!("{}", shown::line(&step.message));
                    last.clone_from(&step.message);
                }
                None => {}
            }
        }
        shown.finish_and_clear();
    });
    (progress, Shown { bars, bar, task })
}

/// Whether progress is drawn, and whether it is printed in lines.
fn form() -> (bool, bool) {
    let terminal = std::io::stderr().is_terminal();
    let draws = std::env::var("TERM").is_ok_and(|term| !term.is_empty() && term != "dumb");
    match shown::volume() {
        Volume::Quiet => (false, false),
        Volume::Normal => (terminal && draws, terminal && !draws),
        Volume::Loud => (false, true),
    }
}

/// Draws the line of one of several parts in progress; it is removed when the part is finished.
fn draw_part(
    bars: &MultiProgress,
    parts: &mut BTreeMap<String, ProgressBar>,
    part: &str,
    step: &Step,
) {
    let bar = parts
        .entry(part.to_owned())
        .or_insert_with(|| bars.add(ProgressBar::new_spinner()));
    draw(bar, step);
    if step.done == step.total
        && let Some(bar) = parts.remove(part)
    {
        bar.finish_and_clear();
        bars.remove(&bar);
    }
}

fn draw(bar: &ProgressBar, step: &Step) {
    let style = match (step.done, step.total) {
        (Some(done), Some(total)) => {
            bar.set_length(total);
            bar.set_position(done);
            "{spinner} {msg} [{bar:30}] {bytes} of {total_bytes}, {eta}"
        }
        (Some(done), None) => {
            bar.set_position(done);
            "{spinner} {msg} {bytes}"
        }
        _ => "{spinner} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(shown::line(&step.message).into_owned());
}

/// The shown steps. They must be finished before anything else is printed.
pub(super) struct Shown {
    bars: MultiProgress,
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Shown {
    /// Clears the lines and shows nothing more.
    pub(super) fn finish(self) {
        drop(self);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
        // Clears unfinished parts. A terminal that is gone needs no clearing.
        drop(self.bars.clear());
    }
}
