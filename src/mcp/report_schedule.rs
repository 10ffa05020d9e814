//! When to tell a client how a call is doing: at most four times a second, at least every ten seconds.
//!
//! Pure: time is passed in. Progress is counted in seconds since the call began, the one measure that fits
//! every phase of a call and always grows.

use std::time::{Duration, Instant};

/// Between two reports.
const SHORTEST: Duration = Duration::from_millis(250);
/// Clients have been seen to give up after a minute of silence.
const LONGEST: Duration = Duration::from_secs(10);

/// What was said of a call and when.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    last: Option<Instant>,
    value: f64,
    doing: String,
    news: bool,
}

/// One report.
#[derive(Debug, PartialEq)]
pub(crate) struct Report {
    /// Strictly more than in the report before.
    pub(crate) value: f64,
    /// For a person.
    pub(crate) message: String,
}

impl Pace {
    /// A call begins.
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            last: None,
            value: 0.0,
            doing: "working".to_owned(),
            news: false,
        }
    }

    /// There is something to tell; what was not told yet is forgotten.
    pub(crate) fn offer(&mut self, message: String) {
        if !message.is_empty() && message != self.doing {
            self.doing = message;
            self.news = true;
        }
    }

    /// When to report next.
    pub(crate) fn due(&self) -> Instant {
        match (self.news, self.last) {
            (true, None) => self.began,
            (true, Some(last)) => last + SHORTEST,
            (false, last) => last.unwrap_or(self.began) + LONGEST,
        }
    }

    /// The report that is due now.
    pub(crate) fn report(&mut self, now: Instant) -> Report {
        let elapsed = now.saturating_duration_since(self.began);
        let message = if std::mem::take(&mut self.news) {
            self.doing.clone()
        } else {
            format!("{} ({} s)", self.doing, elapsed.as_secs())
        };
        self.last = Some(now);
        self.value = elapsed.as_secs_f64().max(self.value + 0.001);
        Report {
            value: self.value,
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_broken_every_ten_seconds() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        assert_eq!(pace.due(), began + LONGEST);
        let report = pace.report(pace.due());
        assert_eq!(report.message, "working (10 s)");
        assert_eq!(pace.due(), began + LONGEST * 2);
    }

    #[test]
    fn the_first_news_go_out_at_once_and_the_next_wait() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        pace.offer("booting".to_owned());
        assert_eq!(pace.due(), began);
        assert_eq!(pace.report(began).message, "booting");
        pace.offer("line 1".to_owned());
        pace.offer("line 2".to_owned());
        assert_eq!(pace.due(), began + SHORTEST);
        assert_eq!(pace.report(pace.due()).message, "line 2");
        pace.offer("line 2".to_owned());
        assert_eq!(pace.due(), began + SHORTEST + LONGEST);
    }

    #[test]
    fn values_grow_strictly_even_when_time_stands_still() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        let mut last = 0.0;
        for round in 0..5 {
            pace.offer(format!("step {round}"));
            let report = pace.report(began);
            assert!(report.value > last);
            last = report.value;
        }
    }
}
