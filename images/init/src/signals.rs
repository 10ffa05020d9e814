//! The names and numbers of signals.
//!
//! The names are those of Linux and bash without `SIG`: `TERM`, `SYS`, and for real-time signals `RTMIN`, `RTMIN+1` to
//! `RTMIN+15`, `RTMAX-14` to `RTMAX`. The two signals that the C library reserves have no name.

/// The names of the signals from number 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Further names.
const ALIASES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];

/// The first real-time signal that the C library offers to programs.
const RT_MIN: i32 = 34;

/// The last real-time signal.
const RT_MAX: i32 = 64;

/// The last signal whose name counts from `RTMIN`.
const RT_LOW: i32 = RT_MIN + 15;

/// The name of a signal without `SIG`; the number as text if it has no name.
pub fn name(number: i32) -> String {
    let index = usize::try_from(number - 1).ok();
    if let Some(name) = index.and_then(|index| NAMES.get(index)) {
        return (*name).to_owned();
    }
    match number {
        RT_MIN => "RTMIN".to_owned(),
        RT_MAX => "RTMAX".to_owned(),
        low if (RT_MIN..=RT_LOW).contains(&low) => format!("RTMIN+{}", low - RT_MIN),
        high if (RT_LOW..RT_MAX).contains(&high) => format!("RTMAX-{}", RT_MAX - high),
        other => other.to_string(),
    }
}

/// The number of a signal by its name (with or without `SIG`), or by its number as text.
pub fn number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let named = (1..).zip(NAMES).map(|(number, name)| (name, number));
    if let Some((_, number)) = named.chain(ALIASES).find(|(known, _)| *known == name) {
        return Some(number);
    }
    let offset = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<i32>().ok(),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(above), _) if above.is_empty() || above.starts_with('+') => {
            RT_MIN.checked_add(offset(above)?)?
        }
        (_, Some(below)) if below.is_empty() || below.starts_with('-') => {
            RT_MAX.checked_add(offset(below)?)?
        }
        _ if name.bytes().all(|byte| byte.is_ascii_digit()) => name.parse().ok()?,
        _ => return None,
    };
    (1..=RT_MAX).contains(&number).then_some(number)
}

/// The exit status with which shells report a program that a signal ended. An unknown name counts as `KILL`.
pub fn exit_status(name: &str) -> u8 {
    let number = number(name).unwrap_or(9);
    128 + u8::try_from(number).unwrap_or(9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name_that_leads_back_to_it() {
        for signal in 1..=RT_MAX {
            let name = name(signal);
            assert_eq!(number(&name), Some(signal), "{name}");
            assert_eq!(number(&format!("SIG{name}")), Some(signal), "{name}");
            assert_eq!(exit_status(&name), 128 + signal as u8, "{name}");
        }
    }

    #[test]
    fn names_are_those_of_linux() {
        for (number, expected) in [
            (1, "HUP"),
            (6, "ABRT"),
            (9, "KILL"),
            (15, "TERM"),
            (16, "STKFLT"),
            (24, "XCPU"),
            (25, "XFSZ"),
            (31, "SYS"),
            (32, "32"),
            (34, "RTMIN"),
            (35, "RTMIN+1"),
            (49, "RTMIN+15"),
            (50, "RTMAX-14"),
            (63, "RTMAX-1"),
            (64, "RTMAX"),
        ] {
            assert_eq!(name(number), expected);
        }
    }

    #[test]
    fn what_is_no_signal_is_none() {
        for name in [
            "", "SIG", "0", "65", "-1", "NOPE", "RTMIN+31", "RTMAX-64", "RTMIN1", "RTMAX+1",
            "RTMIN+x",
        ] {
            assert_eq!(number(name), None, "{name:?}");
        }
        assert_eq!(number("POLL"), Some(29));
    }
}
