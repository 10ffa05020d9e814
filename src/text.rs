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

/// The longest time that can be given. Longer ones mean "never", which is 0 where a limit can be left out.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The time that a text states: seconds (`90`, `1.5`), or numbers with units (`1m30s`, `2 hours`, `500ms`).
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim().to_lowercase();
    let time = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|time| Duration::try_from(time).ok()),
    };
    match time {
        Some(time) if time <= LONGEST => Ok(time),
        Some(_) => Err("expected a year at most".to_owned()),
        None => Err("expected a time: seconds, or with units, such as 90, 1m30s or 2h".to_owned()),
    }
}

/// A number of whole seconds, given as [`parse_duration`] takes it.
pub(crate) fn parse_seconds(text: &str) -> Result<u64, String> {
    let time = parse_duration(text)?;
    match time.subsec_nanos() {
        0 => Ok(time.as_secs()),
        _ => Err("expected whole seconds".to_owned()),
    }
}

/// The size in bytes that a text states. A number without a unit counts `unit` bytes. Units are powers of 1024, as
/// [`size`] has them, however they are spelled: `2G`, `2GiB`, `2 gb`.
pub(crate) fn parse_size(text: &str, unit: u64) -> Result<u64, String> {
    const UNITS: [&str; 7] = ["", "k", "m", "g", "t", "p", "e"];
    let text = text.trim().to_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let name = &text[digits.len()..];
    let letter = match name {
        "b" | "byte" | "bytes" => "",
        name => name
            .strip_suffix("ib")
            .or(name.strip_suffix('b'))
            .unwrap_or(name),
    };
    let power = UNITS.iter().position(|known| *known == letter);
    let bytes = power.and_then(|power| {
        let unit = match name {
            "" => unit,
            _ => 1 << (10 * power),
        };
        let number = digits.trim();
        match number.parse::<u64>() {
            Ok(number) => number.checked_mul(unit),
            Err(_) => fraction(number, unit),
        }
    });
    bytes.ok_or_else(|| "expected a size, such as 2G, 512 MiB or 1.5TiB".to_owned())
}

/// So many units and a part of one, in whole bytes.
fn fraction(number: &str, unit: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.')?;
    let (whole, digits) = (whole.parse::<u64>().ok()?, u32::try_from(part.len()).ok()?);
    let part = part.parse::<u128>().ok()?;
    let part = part.checked_mul(u128::from(unit))? / 10_u128.checked_pow(digits)?;
    whole
        .checked_mul(unit)?
        .checked_add(u64::try_from(part).ok()?)
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

/// What is said about a key of a configuration that is none.
pub(crate) fn unknown_key<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    // Bounded and without control characters: a project's file may come from anywhere.
    let name: String = name.escape_debug().take(40).collect();
    match nearest(&name, known.iter().copied()) {
        Some(near) => format!("unknown key `{name}`; did you mean `{near}`?"),
        None => format!("unknown key `{name}`; known keys: {}", known.join(", ")),
    }
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

/// Implements serde's conversions for a type that is written as its text and checked when it is read. The type's `FromStr`
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

/// A text of at most about `most` bytes: of a longer one its beginning and its end, with a line about the missing part.
pub(crate) fn middle_cut(text: &str, most: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let (head, tail) = (most * 2 / 5, most - most * 2 / 5);
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=head).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - tail..text.len()).find(boundary);
    let tail = tail.unwrap_or(text.len());
    let missing = size((tail - head) as u64);
    format!("{}\n[{missing} left out]\n{}", &text[..head], &text[tail..]).into()
}

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
    fn times_are_seconds_or_have_units() {
        for (text, ms) in [
            ("0", 0),
            ("90", 90_000),
            ("1.5", 1_500),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1h 30m", 5_400_000),
            (" 2 Hours ", 7_200_000),
            ("500ms", 500),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for wrong in [
            "", "-1", "-5s", "nan", "inf", "soon", "1x", "m", "1e300", "400d", "9999h",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_seconds("1m"), Ok(60));
        assert!(parse_seconds("1.5").is_err());
    }

    #[test]
    fn sizes_are_numbers_of_a_unit() {
        const MIB: u64 = 1 << 20;
        for (text, bytes) in [
            ("2048", 2048 * MIB),
            ("2G", 2048 * MIB),
            ("2 GiB", 2048 * MIB),
            ("2gb", 2048 * MIB),
            ("1.5g", 1536 * MIB),
            ("0.5", MIB / 2),
            ("4096 bytes", 4096),
            ("1 byte", 1),
            ("7B", 7),
            ("1e", 1 << 60),
        ] {
            assert_eq!(parse_size(text, MIB), Ok(bytes), "{text}");
        }
        for wrong in [
            "",
            "G",
            "-1",
            "1x",
            "1.",
            ".5.",
            "2 g g",
            "99999999999999999999",
            "17e",
            "inf",
            "1e3",
        ] {
            assert!(parse_size(wrong, MIB).is_err(), "{wrong}");
        }
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
        fn a_cut_text_keeps_its_beginning_and_its_end(text in "\\PC{0,80}", most in 0_usize..100) {
            let cut = middle_cut(&text, most);
            if text.len() <= most {
                prop_assert_eq!(&cut, &text);
            } else {
                let (head, rest) = cut.split_once("\n[").unwrap();
                let (_, tail) = rest.split_once(" left out]\n").unwrap();
                prop_assert!(text.starts_with(head) && text.ends_with(tail));
                prop_assert!(head.len() + tail.len() <= most);
            }
        }

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
        fn any_text_is_a_time_or_a_size_or_neither(text in "\\PC{0,12}", digits in "[0-9.]{0,30}[a-zA-Z ]{0,4}", unit in any::<u64>()) {
            for text in [text, digits] {
                let _ = (parse_duration(&text), parse_size(&text, unit));
            }
        }

        #[test]
        fn a_size_that_is_shown_can_be_given(bytes in 0u64..100_000) {
            let shown = size(bytes).replace(',', "");
            prop_assert_eq!(parse_size(&shown, 1), Ok(bytes));
        }

        #[test]
        fn a_time_that_is_shown_can_be_given(seconds in 0u64..10_000) {
            let time = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&duration(time)), Ok(time));
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
