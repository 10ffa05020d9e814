//! Showing steps to a person: a spinner on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::{Progress, Step};

/// A reporter whose steps are shown on standard error until the guard is dropped or finished.
pub(super) fn show() -> (Progress, Shown) {
    let (progress, mut steps) = Progress::channel();
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let shown = bar.clone();
    let task = tokio::spawn(async move {
        if terminal {
            shown.enable_steady_tick(Duration::from_millis(120));
        }
        let mut last = String::new();
        while let Some(step) = steps.recv().await {
            if terminal {
                draw(&shown, &step);
            } else if step.message != last {
                eprintln!("snowglobe: {}", step.message);
                last.clone_from(&step.message);
            }
        }
        shown.finish_and_clear();
    });
    (progress, Shown { bar, task })
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
    bar.set_message(step.message.clone());
}

/// Steps being shown. Must be finished before anything else is printed.
pub(super) struct Shown {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Shown {
    /// Clears the line and shows no more.
    pub(super) fn finish(self) {
        drop(self);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
