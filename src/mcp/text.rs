//! Words for people and models: durations, sizes, terminal output.

use std::time::Duration;

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

/// `4,990,000`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Text without the escape sequences that colour it and move a terminal's cursor.
pub(super) fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        if char != '\u{1b}' {
            plain.push(char);
            continue;
        }
        match rest.next() {
            // CSI: parameters up to a final character.
            Some('[') => while rest.next().is_some_and(|next| !('@'..='~').contains(&next)) {},
            // OSC and other strings: up to BEL or ST (ESC and a backslash).
            Some(']' | 'P' | '_' | '^' | 'X') => {
                while let Some(next) = rest.next() {
                    if next == '\u{7}' {
                        break;
                    }
                    if next == '\u{1b}' {
                        rest.next_if_eq(&'\\');
                        break;
                    }
                }
            }
            // A character set: one more character.
            Some('(' | ')' | '#') => {
                rest.next();
            }
            _ => {}
        }
    }
    plain
}

/// The newest line of output that says something, short enough for a status line.
pub(super) fn newest_line(output: &[u8]) -> Option<String> {
    const LONGEST: usize = 160;
    // A status line needs no more than the end of what came.
    let end = &output[output.len().saturating_sub(4096)..];
    let text = without_escapes(&String::from_utf8_lossy(end));
    let line = text
        .split(['\n', '\r'])
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    let printable = line.chars().filter(|char| !char.is_control());
    Some(printable.take(LONGEST).collect())
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
    fn escapes_go_and_text_stays() {
        assert_eq!(
            without_escapes("\u{1b}[1;31merror\u{1b}[0m: \u{1b}]0;title\u{7}x"),
            "error: x"
        );
        assert_eq!(without_escapes("\u{1b}]8;;http://a\u{1b}\\link"), "link");
        assert_eq!(without_escapes("cut \u{1b}[3"), "cut ");
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
