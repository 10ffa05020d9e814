//! The version of the guest link, which init states and the host checks at each login.
//!
//! Host and guest usually come from one release. But a restored machine runs the init that it was saved with, and the
//! command line may meet a server of another release. Init states its version in its SSH identification line, which
//! SSH signs with the host key.

use std::fmt;

/// The version that this release speaks. Raise it with each change that an older host or guest would misunderstand.
pub const VERSION: Version = Version(3);

/// What comes before the version in the identification line.
const PREFIX: &str = "SSH-2.0-Snowglobe_";

/// A version of the guest link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(u32);

impl Version {
    /// The SSH identification line of a server that speaks this version, without its line end.
    pub fn identification(self) -> String {
        format!("{PREFIX}{self}")
    }

    /// The version that an identification line states; `None` for any other SSH server.
    pub fn stated_by(identification: &[u8]) -> Option<Self> {
        let number = identification.strip_prefix(PREFIX.as_bytes())?;
        let digits = number.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(number).ok().filter(|_| digits)?;
        number.parse().ok().map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_servers_state_no_version() {
        for line in [
            "",
            "SSH-2.0-Snowglobe",
            "SSH-2.0-Snowglobe_",
            "SSH-2.0-Snowglobe_+1",
            "SSH-2.0-Snowglobe_1 comment",
            "SSH-2.0-Snowglobe_99999999999",
            "SSH-2.0-OpenSSH_9.2",
        ] {
            assert_eq!(Version::stated_by(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_stated_version_is_read_back(number: u32) {
            let line = Version(number).identification();
            prop_assert_eq!(Version::stated_by(line.as_bytes()), Some(Version(number)));
        }

        #[test]
        fn any_line_can_be_read(line in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Version::stated_by(&line);
            let _ = Version::stated_by(&[PREFIX.as_bytes(), &line].concat());
        }
    }
}
