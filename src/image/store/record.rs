//! What is written down about disks and images.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::content::Content;
use crate::image::store::blobs::Digest;
use crate::image::user::Accounts;
use crate::image::{DiskId, ImageKey};

/// The version of the records. What an older version wrote is not there any more: it is built or pulled anew.
pub(crate) const FORMAT: u32 = 2;

/// What is known of a finished disk: `disks/<id>.json`. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecord {
    /// The version of this record, [`FORMAT`].
    pub format: u32,
    /// The disk.
    pub disk: DiskId,
    /// What was unpacked onto it ([`Content::key`]).
    pub key: String,
    /// What its file took on the host's disk when it was finished, in bytes.
    pub bytes: u64,
    /// Files, directories and so on that the layers brought.
    pub entries: u64,
    /// Its users and groups, as the layers brought them.
    pub accounts: Accounts,
}

/// What is known of an image: `names/<name>.json`. Replaced as a whole; its time of change is when it was last used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The version of this record, [`FORMAT`].
    pub format: u32,
    /// What it is called.
    pub key: ImageKey,
    /// Its root disk.
    pub disk: DiskId,
    /// When it came to be here.
    pub created: jiff::Timestamp,
    /// Where it comes from.
    pub source: Source,
    /// What it is made of.
    pub content: Content,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A file or a layout of this host.
    File {
        /// Where it was.
        path: PathBuf,
        /// What tells whether it is still the same.
        stamp: Stamp,
    },
    /// A registry.
    Registry {
        /// The reference, in full.
        reference: String,
        /// What the reference stood for: the digest of an index or a manifest.
        digest: Digest,
    },
    /// A recipe of this program.
    Recipe {
        /// Its name.
        recipe: String,
        /// The digest of the recipe's text, `sha256:HEX`.
        digest: String,
    },
}

impl Source {
    /// Whether it can be had again where it came from, without anybody's doing.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Registry { .. })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Registry { digest, .. } => write!(f, "{}…", &digest.as_str()[..19]),
            Self::Recipe { recipe, .. } => write!(f, "recipe {recipe}"),
        }
    }
}

/// Size, time of change and number of a file: as long as they stay, its content is taken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    size: u64,
    mtime: i64,
    mtime_ns: i64,
    inode: u64,
}

impl Stamp {
    /// That of a file, or of a layout's table of contents; nothing where there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let index = path.join("index.json");
        let meta = if path.is_dir() {
            index.metadata()
        } else {
            path.metadata()
        };
        let meta = meta.ok()?;
        Some(Self {
            size: meta.size(),
            mtime: meta.mtime(),
            mtime_ns: meta.mtime_nsec(),
            inode: meta.ino(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::content::{LayerBlob, RunConfig};

    #[test]
    fn records_survive_json() {
        let digest = Digest::of(b"x");
        let sources = [
            Source::File {
                path: "/tmp/root.tar".into(),
                stamp: Stamp::default(),
            },
            Source::Registry {
                reference: "ghcr.io/o/i:1".into(),
                digest: digest.clone(),
            },
            Source::Recipe {
                recipe: "debian".into(),
                digest: "sha256:00".into(),
            },
        ];
        for source in sources {
            let record = ImageRecord {
                format: FORMAT,
                key: ImageKey::of(&"ghcr.io/o/i:1".parse().unwrap()),
                disk: DiskId::new(),
                created: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
                source,
                content: Content {
                    manifest: digest.clone(),
                    config: digest.clone(),
                    layers: vec![LayerBlob {
                        digest: digest.clone(),
                        bytes: 3,
                        diff_id: digest.clone(),
                    }],
                    plain_root: false,
                    run: RunConfig {
                        env: vec![("LANG".into(), "C.UTF-8".into())],
                        ..RunConfig::default()
                    },
                },
            };
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<ImageRecord>(&json).unwrap(), record);
            let more = json.replacen('{', "{\"surprise\":1,", 1);
            assert!(serde_json::from_str::<ImageRecord>(&more).is_err());
        }
    }

    #[test]
    fn a_changed_file_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(Stamp::of(&path), None);
        std::fs::write(&path, "1").unwrap();
        let before = Stamp::of(&path);
        assert_eq!(Stamp::of(&path), before);
        std::fs::write(&path, "12").unwrap();
        assert_ne!(Stamp::of(&path), before);
        std::fs::write(dir.path().join("index.json"), "{}").unwrap();
        assert!(Stamp::of(dir.path()).is_some_and(|stamp| stamp.size == 2));
    }
}
