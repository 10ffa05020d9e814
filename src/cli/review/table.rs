//! Changes, and what became of them, for a person.

use std::io::Write as _;

use crate::review::report::{ChangeReport, Changes, Done, Step};
use crate::shown;
use crate::text::size;

/// Prints the changes, one a line, with why some are flagged.
pub(super) fn print(changes: &Changes) -> anyhow::Result<()> {
    let mut out = shown::out();
    for change in &changes.changes {
        writeln!(out, "{}", shown::line(&row(change)))?;
        for flag in &change.flags {
            writeln!(
                out,
                "     flagged: {}",
                shown::line(&format!("{}: {}", flag.flag, flag.why))
            )?;
        }
        if change.host_changed {
            writeln!(out, "     the host changed it, too")?;
        }
    }
    drop(out);
    for branch in &changes.branches {
        let commit = branch.commit.get(..12).unwrap_or(&branch.commit);
        say!("commits: {} ({commit})", branch.reference);
    }
    for note in &changes.notes {
        say!("{note}");
    }
    match changes.newer_on_host {
        0 => {}
        1 => say!("1 file is newer on the host; `snowglobe sync` brings it in"),
        count => say!("{count} files are newer on the host; `snowglobe sync` brings them in"),
    }
    let flagged = changes
        .changes
        .iter()
        .filter(|change| !change.flags.is_empty())
        .count();
    match (changes.changes.len(), flagged) {
        (0, _) => say!("nothing changed"),
        (_, 0) => say!("`snowglobe diff` shows the changes, `snowglobe apply` takes them over"),
        (_, flagged) => say!(
            "`snowglobe diff` shows the changes, `snowglobe apply` takes over those that are not flagged ({flagged} are), \
             and flagged ones if you name them"
        ),
    }
    Ok(())
}

fn letter(kind: &str) -> char {
    match kind {
        "added" => 'A',
        "removed" => 'D',
        "renamed" => 'R',
        "replaced" => 'T',
        _ => 'M',
    }
}

fn row(change: &ChangeReport) -> String {
    let mut row = format!("{}  ", letter(&change.kind));
    if let Some(from) = &change.from {
        row += &format!("{from} -> ");
    }
    row += &change.path;
    let mut about = Vec::new();
    if change.kind == "mode" {
        about.push("the right to execute it".to_owned());
    }
    match (change.added_lines, change.removed_lines) {
        (Some(added), Some(removed)) => about.push(format!("+{added} -{removed}")),
        _ => {
            let sizes = [change.old_bytes, change.new_bytes].into_iter().flatten();
            let sizes: Vec<String> = sizes.map(size).collect();
            if change.kind != "renamed" && !sizes.is_empty() && change.kind != "mode" {
                about.push(sizes.join(" -> "));
            }
        }
    }
    if change.hunks > 1 {
        about.push(format!("{} hunks", change.hunks));
    }
    if !about.is_empty() {
        row += &format!("  ({})", about.join(", "));
    }
    row
}

/// Says what was done with changes.
pub(super) fn tell(done: &Done) {
    let say_all = |head: &str, steps: &[Step]| {
        for step in steps {
            say!("{head}{}: {}", step.path, step.what);
        }
    };
    say_all("", &done.done);
    say_all("left: ", &done.left);
    say_all("conflict: ", &done.conflicts);
}
