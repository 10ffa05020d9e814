//! Lines of the timeline as a person reads them.

use std::collections::HashMap;

use crate::cli::network;
use crate::mcp::outcome::in_words;
use crate::shown;
use crate::text::size;
use crate::timeline::{Answer, Event, Line, Paths, Record, SnapshotChange, WorkspaceChange};

/// How many paths a line names.
const NAMED: usize = 3;

/// Puts lines into words. A command that has ended already is one line.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The commands whose end was not told, by their ids.
    open: HashMap<u64, String>,
}

impl Words {
    /// The texts of lines, each on one line.
    pub(super) fn texts(&mut self, lines: &[Line]) -> Vec<String> {
        let mut ends: HashMap<u64, String> = lines.iter().filter_map(end).collect();
        let texts = lines.iter().filter_map(|line| self.text(line, &mut ends));
        texts.map(|text| shown::line(&text).into_owned()).collect()
    }

    /// The text of a line; none if an earlier one has said it.
    fn text(&mut self, line: &Line, ends: &mut HashMap<u64, String>) -> Option<String> {
        let time = line.time().strftime("%Y-%m-%d %H:%M:%S");
        let record = match line {
            Line::Network(record) => {
                let text = network::log::text(record);
                return Some(format!("{time}  {:<9}  {text}", "network"));
            }
            Line::Sandbox(record) => record,
        };
        let (kind, text) = match &record.event {
            Event::Command { id, .. } => ("command", self.command(*id, record, ends)),
            Event::CommandEnded { id, .. }
            | Event::CommandDetached { id, .. }
            | Event::CommandLost { id, .. } => {
                // One whose end is no longer there was told with it.
                let end = ends.remove(id)?;
                let command = self.open.remove(id);
                let command = command.unwrap_or_else(|| "an earlier command".to_owned());
                ("command", format!("{command}: {end}"))
            }
            event => other(event),
        };
        let mut text = format!("{time}  {kind:<9}  {text}");
        if let Some(by) = &record.by {
            text.push_str(&format!("  by {by}"));
        }
        if let Some(session) = &record.session {
            text.push_str(&format!("  in session {session}"));
        }
        Some(text)
    }

    fn command(&mut self, id: u64, record: &Record, ends: &mut HashMap<u64, String>) -> String {
        let Event::Command {
            command, cwd, root, ..
        } = &record.event
        else {
            return String::new();
        };
        let mut text = command.clone();
        if *root {
            text.push_str(" (as root)");
        }
        if let Some(cwd) = cwd {
            text.push_str(&format!(" (in {cwd})"));
        }
        match ends.remove(&id) {
            Some(end) => format!("{text}: {end}"),
            None => {
                self.open.insert(id, command.clone());
                format!("{text}: begins")
            }
        }
    }
}

/// How a command ended, with its id.
fn end(line: &Line) -> Option<(u64, String)> {
    let Line::Sandbox(record) = line else {
        return None;
    };
    match &record.event {
        Event::CommandEnded {
            id,
            outcome,
            seconds,
        } => Some((
            *id,
            format!("{} after {seconds:.1} s", in_words(outcome, false)),
        )),
        Event::CommandDetached { id, job } => Some((*id, format!("goes on as the job {job}"))),
        Event::CommandLost { id, why } => Some((*id, format!("no end is known: {why}"))),
        _ => None,
    }
}

/// The kind and the text of an event that is no command's.
fn other(event: &Event) -> (&'static str, String) {
    match event {
        Event::Booted {
            engine,
            image,
            workspace,
        } => (
            "machine",
            format!("booted {image} on {engine}, with the workspace as {workspace}"),
        ),
        Event::Ended { how } => ("machine", how.clone()),
        Event::JobKilled { job } => ("command", format!("the job {job} was told to end")),
        Event::JobEnded {
            job,
            outcome,
            seconds,
        } => {
            let how = in_words(outcome, false);
            (
                "command",
                format!("the job {job}: {how} after {seconds:.1} s"),
            )
        }
        Event::Edited { path, replacements } => {
            let times = match replacements {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            };
            ("file", format!("{path}: edited {times}"))
        }
        Event::Wrote { path, bytes } => ("file", format!("{path}: {} written", size(*bytes))),
        Event::Changed { paths, more } => {
            let others = match more {
                0 => String::new(),
                more => format!("; {more} changes of others"),
            };
            ("files", format!("{}{others}", listed("changed", paths)))
        }
        Event::Refused { rule, path, count } => {
            let times = match count {
                1 => String::new(),
                count => format!(", {count} times"),
            };
            ("file", format!("{path}: refused by the rule {rule}{times}"))
        }
        Event::Snapshot { name, change } => ("snapshot", format!("{name}: {}", saved(*change))),
        Event::Workspace {
            change,
            paths,
            conflicts,
        } => ("changes", changes(*change, paths, *conflicts)),
        Event::Asked {
            question,
            answer,
            choice,
        } => ("asked", asked(question, *answer, choice.as_deref())),
        Event::Network { allow, deny } => {
            let list = |verb, rules: &Vec<String>| match rules.is_empty() {
                true => None,
                false => Some(format!("{verb} {}", rules.join(", "))),
            };
            let parts = [list("allow", allow), list("deny", deny)];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            ("rules", format!("network: {}", parts.join("; ")))
        }
        Event::Protection { effects } => {
            let effects = effects.iter();
            let effects: Vec<String> = effects
                .map(|(rule, effect)| format!("{rule} = {}", effect.as_str()))
                .collect();
            ("rules", format!("workspace: {}", effects.join(", ")))
        }
        Event::Port { port, address } => match address {
            Some(address) => ("port", format!("{port} is open at {address}")),
            None => ("port", format!("{port} is closed")),
        },
        Event::Lost { count } => ("lost", format!("{count} lines: the log could not keep up")),
        Event::Command { .. }
        | Event::CommandEnded { .. }
        | Event::CommandDetached { .. }
        | Event::CommandLost { .. } => ("command", String::new()),
    }
}

fn saved(change: SnapshotChange) -> &'static str {
    match change {
        SnapshotChange::Saved => "saved",
        SnapshotChange::Restored => "restored",
        SnapshotChange::Deleted => "deleted",
    }
}

fn changes(change: WorkspaceChange, paths: &Paths, conflicts: usize) -> String {
    let verb = match change {
        WorkspaceChange::Applied => "applied to this directory",
        WorkspaceChange::Undone => "undone in this directory",
        WorkspaceChange::Discarded => "discarded in the sandbox",
        WorkspaceChange::Synced => "brought into the sandbox",
    };
    let mut text = listed(verb, paths);
    if conflicts > 0 {
        text.push_str(&format!("; {conflicts} conflicts"));
    }
    text
}

/// What was done at paths, the first of them by name.
fn listed(verb: &str, paths: &Paths) -> String {
    let named = paths.paths.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|step| match step.what.as_str() {
            "removed" => format!("{} (removed)", step.path),
            _ => step.path.clone(),
        })
        .collect();
    match paths.count {
        0 => format!("nothing {verb}"),
        count if count <= NAMED => format!("{verb}: {}", named.join(", ")),
        count => {
            let more = count - named.len();
            format!("{verb}: {} and {more} more", named.join(", "))
        }
    }
}

fn asked(question: &str, answer: Answer, choice: Option<&str>) -> String {
    let said = match (answer, choice) {
        (Answer::Accepted, Some(choice)) => format!("yes, {choice}"),
        (Answer::Accepted, None) => "yes".to_owned(),
        (Answer::Declined, _) => "no".to_owned(),
        (Answer::None, _) => "no answer".to_owned(),
    };
    format!("{question} {said}")
}

#[cfg(test)]
mod tests {
    use snowglobe_init::wire::Outcome;

    use super::*;

    fn line(event: Event) -> Line {
        Line::Sandbox(Record {
            time: "2026-11-27T01:02:03Z".parse().unwrap(),
            by: Some("claude".into()),
            session: None,
            event,
        })
    }

    fn command(id: u64) -> Line {
        line(Event::Command {
            id,
            command: "make\u{1b}[2J".into(),
            cwd: None,
            root: true,
        })
    }

    fn ended(id: u64) -> Line {
        line(Event::CommandEnded {
            id,
            outcome: Outcome::Exited { code: 2 },
            seconds: 1.25,
        })
    }

    fn texts(words: &mut Words, lines: &[Line]) -> String {
        words.texts(lines).join("\n")
    }

    #[test]
    fn a_command_is_one_line_if_its_end_is_known_and_else_two() {
        let mut words = Words::default();
        let both = texts(&mut words, &[command(1), ended(1)]);
        assert!(both.starts_with("2026-11-27 01:02:03  command    make"));
        assert!(
            both.ends_with(" (as root): exit code 2 after 1.2 s  by claude"),
            "{both}"
        );
        assert!(
            !both.contains('\u{1b}') && both.lines().count() == 1,
            "{both}"
        );
        let begins = texts(&mut words, &[command(2)]);
        assert!(begins.contains(" (as root): begins  by claude"), "{begins}");
        let ends = texts(&mut words, &[ended(2), ended(3)]);
        assert!(
            ends.contains("  make") && ends.contains("an earlier command: exit"),
            "{ends}"
        );
        assert!(words.open.is_empty());
    }
}
