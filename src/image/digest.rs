//! SHA-256 digests, the names of blobs. Pure.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::text::{checked_text, is_hex};

const PREFIX: &str = "sha256:";

/// The digest of a blob: `sha256:HEX`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a digest of the supported kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no supported digest: it must be sha256: and 64 digits of 0-9 a-f")]
pub struct DigestError(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new_with_prefix(bytes))
    }

    /// The digest of all bytes that a hash was fed with.
    pub(crate) fn from_hash(hash: Sha256) -> Self {
        Self(format!("{PREFIX}{}", hex::encode(hash.finalize())))
    }

    /// `sha256:HEX`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 digits alone.
    pub(crate) fn hex(&self) -> &str {
        self.0.strip_prefix(PREFIX).unwrap_or(&self.0)
    }

    /// The first 12 digits, for messages.
    pub(crate) fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }

    /// The first 128 bits as 32 digits, for names that only have to be unique.
    pub(crate) fn half(&self) -> &str {
        self.hex().get(..32).unwrap_or_default()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.strip_prefix(PREFIX) {
            Some(hex) if is_hex(hex, 64) => Ok(Self(text.to_owned())),
            _ => Err(DigestError(text.to_owned())),
        }
    }
}

checked_text!(Digest);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_digest_is_parsed_and_nothing_else(text in "(sha256:)?[0-9a-fA-F:]{0,66}", bytes in any::<Vec<u8>>()) {
            let digest = Digest::of(&bytes);
            prop_assert_eq!(digest.as_str().parse(), Ok(digest.clone()));
            prop_assert_eq!((digest.hex().len(), digest.half().len(), digest.short().len()), (64, 32, 12));
            if let Ok(parsed) = text.parse::<Digest>() {
                prop_assert!(parsed.as_str() == text && text.len() == 71 && text == text.to_lowercase());
            }
        }
    }
}
