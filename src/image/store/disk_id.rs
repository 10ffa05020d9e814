//! The ids of root disks. Pure.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::{checked_text, is_hex};

/// The id of a disk: 32 hexadecimal digits, never given twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

/// A text that is not the id of a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no disk id: it must be 32 digits of 0-9 a-f")]
pub struct DiskIdError(String);

impl DiskId {
    /// A new id.
    pub(crate) fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The id as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the disk at `path`, as in `<data>/images/disks/<id>.raw`.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        path.file_name()?
            .to_str()?
            .strip_suffix(".raw")?
            .parse()
            .ok()
    }
}

impl FromStr for DiskId {
    type Err = DiskIdError;

    fn from_str(id: &str) -> Result<Self, DiskIdError> {
        match is_hex(id, 32) {
            true => Ok(Self(id.to_owned())),
            false => Err(DiskIdError(id.to_owned())),
        }
    }
}

checked_text!(DiskId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_path() {
        let id = DiskId::random();
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
        assert_ne!(id, DiskId::random());
    }
}
