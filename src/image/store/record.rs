//! The records of disks and images: JSON files, replaced as a whole.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::content::Content;
use crate::image::digest::Digest;
use crate::image::key::ImageKey;
use crate::image::store::disk_id::DiskId;
use crate::image::user::Accounts;

/// The version of the records. Records of older versions are ignored: their images are built or pulled again.
pub(crate) const FORMAT: u32 = 2;

/// The record of a finished disk, `disks/<id>.json`. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskRecord {
    /// The version of this record, [`FORMAT`].
    pub(crate) format: u32,
    /// The id of the disk.
    pub(crate) disk: DiskId,
    /// The content that was unpacked onto it ([`Content::disk_key`]).
    pub(crate) key: String,
    /// The space that its file took on the host when it was finished, in bytes.
    pub(crate) bytes: u64,
    /// The number of tar entries in the layers.
    pub(crate) entries: u64,
    /// The users and groups in its files.
    pub(crate) accounts: Accounts,
}

/// The record of an image, `names/<key>.json`. The time of change of the file is the last use of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRecord {
    /// The version of this record, [`FORMAT`].
    pub(crate) format: u32,
    /// The key of the image.
    pub(crate) key: ImageKey,
    /// The id of its root disk.
    pub(crate) disk: DiskId,
    /// When it was made.
    pub(crate) created: jiff::Timestamp,
    /// Where it comes from.
    pub(crate) source: Source,
    /// Its blobs, and how to run it.
    pub(crate) content: Content,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Source {
    /// A file or a layout of the host.
    File {
        /// The path.
        path: PathBuf,
        /// The state of the file when it was imported.
        stamp: Stamp,
    },
    /// A registry.
    Registry {
        /// The reference, in full.
        reference: String,
        /// The digest of the index or manifest that the reference meant.
        digest: Digest,
    },
    /// A recipe of this program.
    Recipe {
        /// Its name.
        recipe: String,
        /// The digest of the recipe's text.
        digest: Digest,
    },
}

impl Source {
    /// Whether the image can be pulled again.
    pub(crate) fn is_registry(&self) -> bool {
        matches!(self, Self::Registry { .. })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Registry { digest, .. } => write!(f, "sha256:{}…", digest.short()),
            Self::Recipe { recipe, .. } => write!(f, "recipe {recipe}"),
        }
    }
}

/// The state of a file: size, time of change and inode. As long as they are the same, the content counts as unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    size: u64,
    mtime: i64,
    mtime_ns: i64,
    inode: u64,
}

impl Stamp {
    /// The state of a file, or of the index of a layout; `None` if there is none.
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
                digest: digest.clone(),
            },
        ];
        for source in sources {
            let record = ImageRecord {
                format: FORMAT,
                key: ImageKey::of(&"ghcr.io/o/i:1".parse().unwrap()),
                disk: DiskId::random(),
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
