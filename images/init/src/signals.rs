//! Signals by name and by number: the one table that guest and host use.
//!
//! Names are those of Linux and bash without their `SIG`: `TERM`, `SYS`, and for real-time signals `RTMIN`, `RTMIN+1` to
//! `RTMIN+15`, `RTMAX-14` to `RTMAX`. The two numbers that the C library keeps for itself have no name.

/// The signals with names of their own, by number from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Second names.
const ALIASES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];

/// The first and the last real-time signal that programs get from the C library.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// The last signal that is counted from the first one on.
const RT_LOW: i32 = RT_MIN + 15;

/// A signal's name without `SIG`; a number that has no name, as a number.
pub fn name(number: i32) -> String {
    match number {
        1..=31 => NAMES[number as usize - 1].to_owned(),
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
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Some(index as i32 + 1);
    }
    if let Some((_, number)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(*number);
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

/// The exit status by which shells say that a signal ended a program; for a name that nobody knows, as for SIGKILL.
pub fn exit_status(name: &str) -> u8 {
    let number = number(name).unwrap_or(9);
    128 + number as u8
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
