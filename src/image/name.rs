//! Names of images and ids of disks. Pure.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::ImageError;
use crate::image::reference::ImageRef;

/// An image's name: `[a-z0-9][a-z0-9._-]{0,63}`, so also a file name that means nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self, ImageError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = (1..=64).contains(&name.len())
            && name.starts_with(plain)
            && name
                .chars()
                .all(|c| plain(c) || matches!(c, '.' | '_' | '-'));
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err(ImageError::BadName(name.to_owned()))
        }
    }
}

/// What an image is called in the store: a name given here, or the reference it came by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageKey(String);

impl ImageKey {
    /// The key of a reference. A name is a key of its own: whether it is here is the store's to know.
    pub fn of(reference: &ImageRef) -> Self {
        Self(reference.canonical())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A file name for it that no other key has.
    pub(crate) fn file(&self) -> String {
        if self.0.parse::<ImageName>().is_ok() {
            return self.0.clone();
        }
        format!("@{}", hex::encode(&Sha256::digest(&self.0)[..16]))
    }
}

impl From<&ImageName> for ImageKey {
    fn from(name: &ImageName) -> Self {
        Self(name.to_string())
    }
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A disk's id: 32 hexadecimal digits, never given twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl DiskId {
    pub(crate) fn new() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the disk at `path`, as in `<data>/images/disks/<id>.raw`.
    pub fn of_path(path: &Path) -> Option<Self> {
        path.file_name()?
            .to_str()?
            .strip_suffix(".raw")?
            .parse()
            .ok()
    }
}

impl FromStr for DiskId {
    type Err = String;

    fn from_str(id: &str) -> Result<Self, String> {
        let good = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if good {
            Ok(Self(id.to_owned()))
        } else {
            Err(format!("{id:?} is no disk's id"))
        }
    }
}

macro_rules! as_text {
    ($type:ty, $error:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }
    };
}
as_text!(ImageName, ImageError);
as_text!(DiskId, String);

#[cfg(test)]
mod tests {
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

    #[test]
    fn keys_have_files_of_their_own() {
        let file = |text: &str| ImageKey::of(&text.parse().unwrap()).file();
        assert_eq!(file("debian"), "debian");
        let files = [
            "python:3",
            "python:3.1",
            "docker.io/library/debian",
            "tar:/debian",
        ]
        .map(file);
        for (n, name) in files.iter().enumerate() {
            assert!(
                name.starts_with('@') && name.len() == 33 && !name.contains('/'),
                "{name}"
            );
            assert!(!files[..n].contains(name));
        }
        assert_eq!(file("docker.io/python:3"), file("python:3"));
    }

    #[test]
    fn a_disk_is_known_by_its_path() {
        let id = DiskId::new();
        assert_eq!(
            DiskId::of_path(Path::new(&format!("/data/images/disks/{id}.raw"))),
            Some(id.clone())
        );
        assert_eq!(
            DiskId::of_path(Path::new(&format!("/data/images/disks/{id}.json"))),
            None
        );
        assert_eq!(
            DiskId::of_path(Path::new("/data/images/disks/root.raw")),
            None
        );
        assert_ne!(id, DiskId::new());
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
