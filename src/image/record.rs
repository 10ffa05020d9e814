//! What is written down about disks and names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DiskId;

/// The version of the records, and of what is on the disks they describe.
pub(super) const FORMAT: u32 = 1;

/// What is known of a finished disk: `disks/<id>.json`. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecord {
    /// The version of this record, [`FORMAT`].
    pub format: u32,
    /// The disk.
    pub disk: DiskId,
    /// When it was finished.
    pub created: jiff::Timestamp,
    /// Where its content comes from.
    pub source: Source,
    /// The layers' digests (`sha256:HEX`, of the bytes as they came), in order.
    pub layers: Vec<String>,
    /// What its file took on the host's disk when it was finished, in bytes.
    pub bytes: u64,
    /// Files, directories and so on that the layers brought.
    pub entries: u64,
    /// The environment its commands expect.
    pub env: Vec<(String, String)>,
}

/// Where a disk's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A file that was imported.
    File {
        /// Where it was.
        path: PathBuf,
    },
    /// A recipe of this program.
    Recipe {
        /// Its name.
        recipe: String,
        /// The digest of the recipe's text, `sha256:HEX`.
        digest: String,
    },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path } => write!(f, "{}", path.display()),
            Self::Recipe { recipe, .. } => write!(f, "recipe {recipe}"),
        }
    }
}

/// Which disk a name stands for: `names/<name>.json`. Replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameRecord {
    /// The version of this record, [`FORMAT`].
    pub(super) format: u32,
    /// The disk.
    pub(super) disk: DiskId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_json() {
        let sources = [
            Source::File {
                path: "/tmp/root.tar".into(),
            },
            Source::Recipe {
                recipe: "debian".into(),
                digest: "sha256:00".into(),
            },
        ];
        for source in sources {
            let record = DiskRecord {
                format: FORMAT,
                disk: DiskId::new(),
                created: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
                source,
                layers: vec!["sha256:11".into()],
                bytes: 42,
                entries: 7,
                env: vec![("LANG".into(), "C.UTF-8".into())],
            };
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<DiskRecord>(&json).unwrap(), record);
            let more = json.replacen('{', "{\"surprise\":1,", 1);
            assert!(serde_json::from_str::<DiskRecord>(&more).is_err());
        }
    }
}
