//! Paths in the head of a diff, as git writes them by default. Pure.

/// A path with a prefix, in double quotes if it has bytes that are no printable ASCII character, quotes or backslashes.
pub fn quoted(prefix: &str, path: &[u8]) -> String {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let escaped = |byte: &u8| match byte {
        0x07 => r"\a".to_owned(),
        0x08 => r"\b".to_owned(),
        b'\t' => r"\t".to_owned(),
        b'\n' => r"\n".to_owned(),
        0x0b => r"\v".to_owned(),
        0x0c => r"\f".to_owned(),
        b'\r' => r"\r".to_owned(),
        b'"' => "\\\"".to_owned(),
        b'\\' => r"\\".to_owned(),
        byte if is_plain(byte) => char::from(*byte).to_string(),
        byte => format!("\\{byte:03o}"),
    };
    let text: String = path.iter().map(escaped).collect();
    match path.iter().all(is_plain) {
        true => format!("{prefix}{text}"),
        false => format!("\"{prefix}{text}\""),
    }
}

/// The same after `---` or `+++`, where a tab ends a name with spaces.
pub fn in_head(prefix: &str, path: &[u8]) -> String {
    let name = quoted(prefix, path);
    match name.contains(' ') {
        true => format!("{name}\t"),
        false => name,
    }
}
