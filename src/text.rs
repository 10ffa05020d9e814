//! Words for people and models: sizes, durations, the name that was probably meant.

use std::time::Duration;

pub(crate) use snowglobe_init::text::grouped;

/// A duration: `0.35 s`, `12.3 s`, `4 min 5 s`.
pub(crate) fn duration(duration: Duration) -> String {
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

/// A time in seconds: `5s`, `3m 2s`, `2h 5m`.
pub fn time(seconds: u64) -> String {
    // From an hour on seconds, and from a day on minutes, are of no interest.
    let unit = match seconds {
        0..3600 => 1,
        3600..86_400 => 60,
        _ => 3600,
    };
    let rounded = i64::try_from(seconds / unit * unit).unwrap_or(i64::MAX);
    format!("{:#}", jiff::SignedDuration::from_secs(rounded))
}

/// A moment: `2026-11-26 22:54 UTC`.
pub(crate) fn moment(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A size: `1 byte`, `12,345 bytes`, `1.5 MiB`, `64 GiB`. The units are those of the configuration's keys. A small size
/// is exact, since models compare the sizes of files.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    const EXACT_BELOW: u64 = 100_000;
    if bytes == 1 {
        return "1 byte".to_owned();
    }
    if bytes < EXACT_BELOW {
        return format!("{} bytes", grouped(bytes));
    }
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        // 1023.95 would be rounded to 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = match value < 99.95 {
        true => format!("{value:.1}"),
        false => format!("{value:.0}"),
    };
    format!("{} {unit}", digits.strip_suffix(".0").unwrap_or(&digits))
}

/// The known name that `unknown` probably stands for: one that contains it or that it contains, one that it abbreviates
/// (`cmd` is `command`), else the one with the fewest typing errors, if these are few.
pub(crate) fn nearest<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    if unknown.is_empty() {
        return None;
    }
    let errors = |name: &str| {
        let typed = strsim::damerau_levenshtein(&unknown, name);
        // One or two letters are in almost every word.
        let contains = |long: &str, short: &str| short.len() > 2 && long.contains(short);
        let same_word =
            contains(&unknown, name) || contains(name, &unknown) || abbreviates(&unknown, name);
        (typed <= 1 + name.len() / 3 || same_word).then_some((typed, name.to_owned()))
    };
    known
        .into_iter()
        .filter(|name| !name.is_empty())
        .filter_map(|name| Some((errors(name)?, name)))
        .min()
        .map(|(_, name)| name)
}

/// A question about the name that was probably meant, before other words: `did you mean `debian`? `; empty if none is near.
pub(crate) fn did_you_mean<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(unknown, known).map_or_else(String::new, |near| format!("did you mean `{near}`? "))
}

/// Whether `short` is `long` with letters left out, but not the first one.
fn abbreviates(short: &str, long: &str) -> bool {
    let mut letters = long.chars();
    short.chars().count() > 1
        && short.chars().next() == long.chars().next()
        && short
            .chars()
            .all(|wanted| letters.any(|letter| letter == wanted))
}

/// Whether `text` is this many hexadecimal digits, in lower case.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == digits && text.bytes().all(is_digit)
}

/// Implements the conversions by which serde reads and writes a type as its text, and checks it. The type's `FromStr`
/// has the rule, its `Display` the text.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = <$name as ::std::str::FromStr>::Err;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

/// Implements what all newtypes over a checked text have: `Display`, and [`serde_as_text`].
macro_rules! checked_text {
    ($name:ident) => {
        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        $crate::text::serde_as_text!($name);
    };
}

pub(crate) use {checked_text, serde_as_text};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_millis(350)), "0.35 s");
        assert_eq!(duration(Duration::from_millis(9_996)), "10.0 s");
        assert_eq!(duration(Duration::from_secs(245)), "4 min 5 s");
    }

    #[test]
    fn moments() {
        let at = "2025-03-04T05:06:07.89Z".parse().unwrap();
        assert_eq!(moment(at), "2025-03-04 05:06 UTC");
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1024, "1,024 bytes"),
            (12_345, "12,345 bytes"),
            (99_999, "99,999 bytes"),
            (100_000, "97.7 KiB"),
            (1_048_575, "1 MiB"),
            (3 << 19, "1.5 MiB"),
            (123 << 20, "123 MiB"),
            (64 << 30, "64 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        const KEYS: [&str; 6] = ["image", "memory_mib", "cpus", "exec", "command", "diagnose"];
        for (unknown, meant) in [
            ("imge", Some("image")),
            ("Image", Some("image")),
            ("memory_mb", Some("memory_mib")),
            ("memory", Some("memory_mib")),
            ("exce", Some("exec")),
            ("exec_command_tool", Some("command")),
            ("cmd", Some("command")),
            ("diagnoze", Some("diagnose")),
            ("e", None),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(unknown, KEYS), meant, "{unknown}");
        }
    }

    #[test]
    fn a_hint_is_a_question_or_nothing() {
        assert_eq!(
            did_you_mean("debain", ["debian", "dev"]),
            "did you mean `debian`? "
        );
        assert_eq!(did_you_mean("zzz", ["debian"]), "");
    }

    proptest! {
        #[test]
        fn hexadecimal_digits_are_counted_and_in_lower_case(text in "[0-9a-fA-Fg ]{0,9}|[0-9a-f]{8}", digits in 0..10_usize) {
            let read = u64::from_str_radix(&format!("1{text}"), 16);
            let same = read.is_ok_and(|number| format!("{number:x}") == format!("1{text}"));
            prop_assert_eq!(is_hex(&text, digits), same && text.len() == digits);
        }

        #[test]
        fn a_known_name_is_nearest_to_itself(names in prop::collection::btree_set("[a-z_]{1,12}", 1..8), at in any::<prop::sample::Index>()) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let name = names[at.index(names.len())];
            prop_assert_eq!(nearest(name, names.iter().copied()), Some(name));
        }

        #[test]
        fn a_larger_size_is_never_shown_as_a_smaller_one(bytes in any::<u64>()) {
            let text = size(bytes);
            let (number, unit) = text.split_once(' ').unwrap();
            let factor = match unit {
                "byte" | "bytes" => 1.0,
                unit => 1024_f64.powi(["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|known| *known == unit).unwrap() as i32 + 1),
            };
            let shown = number.replace(',', "").parse::<f64>().unwrap() * factor;
            prop_assert!((shown - bytes as f64).abs() <= bytes as f64 * 0.06, "{} is {}", bytes, text);
        }
    }
}
