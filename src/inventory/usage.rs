//! What files take on the disk: their blocks, and a file with several names once, as `du` counts.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Counts files, each once, whatever its names are.
#[derive(Debug, Default)]
pub(super) struct Usage(HashSet<(u64, u64)>);

impl Usage {
    /// The bytes of a file, or of a directory with all that is in it. What is gone or can't be read counts nothing.
    pub(super) fn of(&mut self, path: &Path) -> u64 {
        let mut bytes = 0;
        let mut todo = vec![path.to_owned()];
        while let Some(path) = todo.pop() {
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if !self.0.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                todo.extend(entries.map(|entry| entry.path()));
            }
        }
        bytes
    }

    /// The bytes of a directory alone.
    pub(super) fn of_directory(&mut self, path: &Path) -> u64 {
        match fs::symlink_metadata(path) {
            Ok(meta) if self.0.insert((meta.dev(), meta.ino())) => meta.blocks() * 512,
            Ok(_) | Err(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_and_a_file_of_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("below")).unwrap();
        fs::write(at("below/full"), vec![1; 300_000]).unwrap();
        fs::File::create(at("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        fs::hard_link(at("below/full"), at("again")).unwrap();
        std::os::unix::fs::symlink("/", at("link")).unwrap();
        let du = std::process::Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(dir.path())
            .output()
            .unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        let du: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
        let mut usage = Usage::default();
        assert_eq!(usage.of(dir.path()), du);
        assert!((300_000..1_000_000).contains(&du), "{du}");
        assert_eq!(usage.of(dir.path()), 0, "it was counted already");
        assert_eq!(Usage::default().of(&at("none")), 0);
    }
}
