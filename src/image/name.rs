//! Names of images. Pure.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::checked_text;

/// The name of an image: `[a-z0-9][a-z0-9._-]{0,63}`. Such a name is also a safe file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// A text that is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "use the image name {0:?}: a name is 1 to 64 of the characters a-z 0-9 . _ - , \
     and begins with a letter or a digit"
)]
pub struct NameError(String);

impl ImageName {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = (1..=64).contains(&name.len())
            && name.starts_with(plain)
            && name
                .chars()
                .all(|c| plain(c) || matches!(c, '.' | '_' | '-'));
        match good {
            true => Ok(Self(name.to_owned())),
            false => Err(NameError(name.to_owned())),
        }
    }
}

checked_text!(ImageName);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "debian", "0", "debian-12.5_x", &"x".repeat(64)] {
            assert_eq!(good.parse::<ImageName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            ".a",
            "_a",
            "A",
            "a/b",
            "a b",
            "a\n",
            "ä",
            "a\0",
            &"x".repeat(65),
        ] {
            let error = bad.parse::<ImageName>().unwrap_err().to_string();
            assert!(
                error.contains("1 to 64") && error.contains(&format!("{bad:?}")),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_good_name_stays_in_its_directory(name in "\\PC{0,70}") {
            if name.parse::<ImageName>().is_ok() {
                let joined = Path::new("/d").join(format!("{name}.json"));
                prop_assert_eq!(joined.parent(), Some(Path::new("/d")));
            }
        }

        #[test]
        fn names_survive_json(name in "[a-z0-9][a-z0-9._-]{0,63}") {
            let name: ImageName = name.parse().unwrap();
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<ImageName>(&json).unwrap(), name);
        }
    }
}
