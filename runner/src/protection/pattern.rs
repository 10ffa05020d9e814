//! The globs of hidden files, as in gitignore but without negation.

use globset::{Glob, GlobBuilder};

/// The most patterns of a share.
pub const PATTERNS: usize = 256;
/// The longest pattern, in bytes.
const LONGEST: usize = 256;

/// Removes the differences of case from a name.
pub fn fold_case(name: &str) -> String {
    name.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

/// The glob of a pattern, for paths without differences of case; or what is wrong with the pattern.
pub fn glob(pattern: &str) -> Result<Glob, String> {
    if pattern.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    if pattern.starts_with('!') {
        return Err("a pattern can't be negated".to_owned());
    }
    let name = pattern.strip_suffix('/').unwrap_or(pattern);
    let whole = match name.strip_prefix('/') {
        Some(from_root) => from_root.to_owned(),
        None if name.contains('/') => name.to_owned(),
        None => format!("**/{name}"),
    };
    if whole.is_empty() || whole == "**/" {
        return Err("the pattern matches no name".to_owned());
    }
    GlobBuilder::new(&fold_case(&whole))
        .literal_separator(true)
        .backslash_escape(true)
        .case_insensitive(true)
        .build()
        .map_err(|error| error.kind().to_string())
}

/// Whether a pattern names a place, not only names.
pub fn names_place(pattern: &str) -> bool {
    let name = pattern.strip_suffix('/').unwrap_or(pattern);
    name.strip_prefix("**/").unwrap_or(name).contains('/')
}
