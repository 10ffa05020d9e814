//! When a progress report of a call is due: at most four a second, and at least one every ten seconds.
//!
//! Pure: the time is a parameter. A report's value is the seconds since the call began, since that grows through every
//! phase of a call; the protocol asks for values that grow.

use std::time::{Duration, Instant};

/// The shortest time between two reports.
const MIN_INTERVAL: Duration = Duration::from_millis(250);
/// The longest time between two reports: some clients give up after a minute of silence.
const MAX_INTERVAL: Duration = Duration::from_secs(10);

/// The reports of one call.
#[derive(Debug)]
pub(crate) struct ReportSchedule {
    began: Instant,
    last: Option<Instant>,
    value: f64,
    message: String,
    unreported: bool,
}

/// One report.
#[derive(Debug, PartialEq)]
pub(crate) struct Report {
    /// Strictly more than in the report before.
    pub(crate) value: f64,
    /// For a person.
    pub(crate) message: String,
}

impl ReportSchedule {
    /// The schedule of a call that begins now.
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            last: None,
            value: 0.0,
            message: "working".to_owned(),
            unreported: false,
        }
    }

    /// Sets the message of the next report. A message that was not reported yet is dropped.
    pub(crate) fn set_message(&mut self, message: String) {
        if !message.is_empty() && message != self.message {
            self.message = message;
            self.unreported = true;
        }
    }

    /// When the next report is due.
    pub(crate) fn next(&self) -> Instant {
        match (self.unreported, self.last) {
            (true, None) => self.began,
            (true, Some(last)) => last + MIN_INTERVAL,
            (false, last) => last.unwrap_or(self.began) + MAX_INTERVAL,
        }
    }

    /// The report to send now.
    pub(crate) fn report(&mut self, now: Instant) -> Report {
        let elapsed = now.saturating_duration_since(self.began);
        let message = if std::mem::take(&mut self.unreported) {
            self.message.clone()
        } else {
            format!("{} ({} s)", self.message, elapsed.as_secs())
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
    fn a_silent_call_is_reported_every_ten_seconds() {
        let began = Instant::now();
        let mut schedule = ReportSchedule::new(began);
        assert_eq!(schedule.next(), began + MAX_INTERVAL);
        let report = schedule.report(schedule.next());
        assert_eq!(report.message, "working (10 s)");
        assert_eq!(schedule.next(), began + MAX_INTERVAL * 2);
    }

    #[test]
    fn the_first_message_goes_out_at_once_and_the_next_waits() {
        let began = Instant::now();
        let mut schedule = ReportSchedule::new(began);
        schedule.set_message("booting".to_owned());
        assert_eq!(schedule.next(), began);
        assert_eq!(schedule.report(began).message, "booting");
        schedule.set_message("line 1".to_owned());
        schedule.set_message("line 2".to_owned());
        assert_eq!(schedule.next(), began + MIN_INTERVAL);
        assert_eq!(schedule.report(schedule.next()).message, "line 2");
        schedule.set_message("line 2".to_owned());
        assert_eq!(schedule.next(), began + MIN_INTERVAL + MAX_INTERVAL);
    }

    #[test]
    fn values_grow_strictly_even_when_the_clock_does_not_move() {
        let began = Instant::now();
        let mut schedule = ReportSchedule::new(began);
        let mut last = 0.0;
        for round in 0..5 {
            schedule.set_message(format!("step {round}"));
            let report = schedule.report(began);
            assert!(report.value > last);
            last = report.value;
        }
    }
}
