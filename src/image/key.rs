//! The keys of images in the store.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::image::name::ImageName;
use crate::image::reference::ImageRef;

/// The key of an image in the store: the name that the user gave it, or the reference that it was pulled by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageKey(String);

impl ImageKey {
    /// The key of a reference. A single word is a name; the store knows whether there is such an image.
    pub(crate) fn of(reference: &ImageRef) -> Self {
        Self(reference.canonical())
    }

    /// The key as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A file name that no other key has.
    pub(crate) fn file(&self) -> String {
        match self.0.parse::<ImageName>() {
            Ok(name) => name.into(),
            Err(_) => format!("@{}", Digest::of(self.0.as_bytes()).half()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
