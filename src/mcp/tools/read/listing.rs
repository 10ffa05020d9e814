//! A directory's entries as text. Pure.

use std::borrow::Cow;

use super::MAX_TEXT;
use crate::mcp::records::directory_entries;
use crate::mcp::refusal::Refusal;
use crate::sandbox::DirEntry;

/// A page of a directory's entries as text, and where the next page starts. The guest sends all `total` entries or only
/// those of the page.
pub(super) fn listing(
    json_lines: &[u8],
    total: u64,
    offset: u64,
    limit: u64,
) -> Result<(String, Option<u64>), Refusal> {
    let entries = directory_entries(json_lines)?;
    let sent_all = entries.len() as u64 == total;
    let skip = if sent_all { offset - 1 } else { 0 };
    let mut text = String::new();
    let mut given = 0;
    for entry in entries
        .iter()
        .skip(usize::try_from(skip).unwrap_or(usize::MAX))
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
    {
        if text.len() > MAX_TEXT {
            break;
        }
        text += &listed(entry);
        text.push('\n');
        given += 1;
    }
    let next = offset.saturating_add(given);
    Ok((text, (given > 0 && next <= total).then_some(next)))
}

/// An entry as `ls -l` shows it.
fn listed(entry: &DirEntry) -> String {
    let kind = match entry.kind.as_str() {
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "char" => 'c',
        "block" => 'b',
        _ => '-',
    };
    let mode: String = (0..9)
        .map(|bit| {
            if entry.mode & (0o400 >> bit) == 0 {
                '-'
            } else {
                ['r', 'w', 'x'][bit % 3]
            }
        })
        .collect();
    let slash = if kind == 'd' { "/" } else { "" };
    let target = entry
        .target
        .as_ref()
        .map(|target| format!(" -> {}", on_a_line(target)))
        .unwrap_or_default();
    format!(
        "{kind}{mode} {:>10}  {}{slash}{target}",
        entry.size,
        on_a_line(&entry.name)
    )
}

/// A name without line breaks and other control characters.
fn on_a_line(name: &str) -> Cow<'_, str> {
    match name.contains(char::is_control) {
        true => name
            .chars()
            .map(|char| match char.is_control() {
                true => char.escape_default().to_string(),
                false => char.to_string(),
            })
            .collect::<String>()
            .into(),
        false => name.into(),
    }
}
