//! Words for people and models: durations, sizes, status lines.

use std::time::Duration;

pub(super) use snowglobe_init::excerpt::grouped;

use super::terminal;

/// `0.35 s`, `12.3 s`, `4 min 5 s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 9.995 {
        format!("{seconds:.2} s")
    } else if seconds < 119.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = duration.as_secs();
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// `1 byte`, `12,345 bytes`, `12.3 MB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes == 1 {
        return "1 byte".to_owned();
    }
    if bytes < 100_000 {
        return format!("{} bytes", grouped(bytes));
    }
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// The newest line of output that says something, short enough for a status line.
pub(super) fn newest_line(output: &[u8]) -> Option<String> {
    const LONGEST: usize = 160;
    // A status line needs no more than the end of what came, from where no sequence is cut.
    let end = &output[output.len().saturating_sub(4096)..];
    let cut = end.len() < output.len();
    let start = end
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r' | 0x1b));
    let end = &end[start.filter(|_| cut).unwrap_or(0)..];
    let text = terminal::plain(end);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    Some(line.chars().take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_millis(350)), "0.35 s");
        assert_eq!(duration(Duration::from_millis(9_996)), "10.0 s");
        assert_eq!(duration(Duration::from_secs(245)), "4 min 5 s");
    }

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(12_345), "12,345 bytes");
        assert_eq!(size(12_345_678), "12.3 MB");
        assert_eq!(grouped(4_990_000), "4,990,000");
    }

    #[test]
    fn the_newest_line_is_the_last_that_says_something() {
        assert_eq!(newest_line(b"one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(newest_line(b"10%\r20%\r").as_deref(), Some("20%"));
        assert_eq!(newest_line(b" \n\x1b[0m\n"), None);
        assert_eq!(
            newest_line("é".repeat(9000).as_bytes()).map(|line| line.chars().count()),
            Some(160)
        );
    }
}
