//! Asking about each hunk of the changes.

use std::io::{BufRead, IsTerminal, Write as _};

use super::super::ending::Interrupted;
use super::super::signals;
use super::diff;
use crate::blocking::blocking;
use crate::review::report::ChangeReport;
use crate::rundir::Running;
use crate::shown::{self, Stream};

/// An answer to the question about a hunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Yes,
    No,
    /// This one and all later ones of the file.
    Rest,
    /// None of the later ones of the file.
    Skip,
    Quit,
}

const HELP: &str = "y: take it; n: leave it; a: take it and the rest of the file; d: leave the rest of the file; q: stop here";

fn choice(answer: &str) -> Option<Choice> {
    Some(match answer.trim() {
        "y" => Choice::Yes,
        "n" => Choice::No,
        "a" => Choice::Rest,
        "d" => Choice::Skip,
        "q" => Choice::Quit,
        _ => return None,
    })
}

/// The head of a diff, and its hunks. Every line of a hunk begins with a sign, so no content looks like a hunk's head.
fn parts(text: &str) -> (String, Vec<String>) {
    let (mut head, mut hunks) = (String::new(), Vec::<String>::new());
    for line in text.split_inclusive('\n') {
        if line.starts_with("@@ ") {
            hunks.push(String::new());
        }
        hunks.last_mut().unwrap_or(&mut head).push_str(line);
    }
    (head, hunks)
}

/// Asks about each hunk of each change; gives what is taken, as `apply` has it.
pub(super) async fn choose(
    running: &Running,
    changes: &[ChangeReport],
) -> anyhow::Result<Vec<String>> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!(
            "ask about each hunk: standard input is no terminal; name the hunks: snowglobe apply PATH:1,3"
        );
    }
    let mut chosen = Vec::new();
    for change in changes {
        let text = diff(running, vec![change.path.clone()]).await?;
        let (head, hunks) = parts(&String::from_utf8_lossy(&text));
        print(&head)?;
        for flag in &change.flags {
            say!("flagged: {}: {}", flag.flag, flag.why);
        }
        if change.hunks < 2 {
            hunks.iter().try_for_each(|hunk| print(hunk))?;
            match asked(&format!("Take {}? [y,n,q,?] ", change.path)).await? {
                Choice::Yes | Choice::Rest => chosen.push(change.path.clone()),
                Choice::No | Choice::Skip => {}
                Choice::Quit => return Ok(chosen),
            }
            continue;
        }
        let (taken, quit) = of_file(&change.path, &hunks).await?;
        if taken.len() == hunks.len() {
            chosen.push(change.path.clone());
        } else if !taken.is_empty() {
            let numbers: Vec<_> = taken.iter().map(usize::to_string).collect();
            chosen.push(format!("{}:{}", change.path, numbers.join(",")));
        }
        if quit {
            break;
        }
    }
    Ok(chosen)
}

/// The hunks of a file that are taken, and whether nothing more is asked.
async fn of_file(path: &str, hunks: &[String]) -> anyhow::Result<(Vec<usize>, bool)> {
    let mut taken = Vec::new();
    for (index, hunk) in hunks.iter().enumerate() {
        print(hunk)?;
        let number = index + 1;
        let question = format!(
            "Take hunk {number} of {} of {path}? [y,n,a,d,q,?] ",
            hunks.len()
        );
        match asked(&question).await? {
            Choice::Yes => taken.push(number),
            Choice::No => {}
            Choice::Rest => {
                taken.extend(number..=hunks.len());
                return Ok((taken, false));
            }
            Choice::Skip => return Ok((taken, false)),
            Choice::Quit => return Ok((taken, true)),
        }
    }
    Ok((taken, false))
}

/// Prints text for a terminal: what a terminal would obey is escaped.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = shown::out();
    for line in text.lines() {
        writeln!(out, "{}", shown::line(line))?;
    }
    Ok(())
}

async fn asked(question: &str) -> anyhow::Result<Choice> {
    loop {
        shown::raw(Stream::Error, shown::line(question).to_string().as_bytes())?;
        // Since the sandbox was joined, a signal no longer ends this program at once.
        let answer = tokio::select! {
            answer = blocking(answer) => answer?,
            signal = signals::terminated() => return Err(Interrupted(signal).into()),
        };
        match answer.as_deref().map(choice) {
            Some(Some(choice)) => return Ok(choice),
            Some(None) => say!("{HELP}"),
            None => return Ok(Choice::Quit),
        }
    }
}

/// A line of standard input; none at its end. Blocks.
fn answer() -> std::io::Result<Option<String>> {
    let mut answer = String::new();
    let length = std::io::stdin().lock().read_line(&mut answer)?;
    Ok((length > 0).then_some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_falls_into_its_hunks() {
        let text = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-@@ old\n+@@ new\n@@ -9 +9 @@\n-a\n\\ No newline at end of file\n";
        let (head, hunks) = parts(text);
        assert_eq!(head, "--- a/x\n+++ b/x\n");
        assert_eq!(
            hunks,
            [
                "@@ -1 +1 @@\n-@@ old\n+@@ new\n",
                "@@ -9 +9 @@\n-a\n\\ No newline at end of file\n"
            ]
        );
        assert_eq!(choice(" y\n"), Some(Choice::Yes));
        assert_eq!(choice("yes"), None);
    }
}
