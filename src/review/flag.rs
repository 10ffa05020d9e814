//! Why a change is not applied unless it is named.

/// Why a change is not applied unless it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// A word, or the id of a rule that protects the file.
    pub word: String,
    /// For a person.
    pub why: String,
}
