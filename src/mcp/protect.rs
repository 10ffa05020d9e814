//! What results say about refused changes to the workspace. Pure.

use std::collections::BTreeMap;

use snowglobe_runner::protection::{HIDE, READ_ONLY, ROOM, Refusal, TABLE, TOO_LONG, UNCHECKED};

use crate::mcp::notes::Notes;
use crate::mcp::permission::Wish;
use crate::shown;
use crate::text::grouped;
use crate::workspace::Refusals;

/// How many files a note or a question names for each rule.
const NAMED: usize = 5;

/// How many rules a question is about.
const ASKED: usize = 5;

/// Adds a note for each rule that refused something.
pub(crate) fn add_refusals(refusals: &Refusals, notes: &mut Notes) {
    for note in in_words(refusals) {
        notes.add(note);
    }
}

/// What there is to say about refused changes, a fragment for each rule.
pub(crate) fn in_words(refusals: &Refusals) -> Vec<String> {
    let mut notes: Vec<String> = by_rule(refusals)
        .into_iter()
        .map(|(rule, refused)| {
            let count: u64 = refused.iter().map(|one| one.count).sum();
            let subject = match count {
                1 => "1 change in /workspace was refused".to_owned(),
                count => format!("{} changes in /workspace were refused", grouped(count)),
            };
            format!("{subject}: {}; {}", named(&refused), reason(rule))
        })
        .collect();
    if refusals.lost > 0 {
        notes.push(format!(
            "{} more changes in /workspace were refused",
            grouped(refusals.lost)
        ));
    }
    notes
}

/// The refusals of each rule.
fn by_rule(refusals: &Refusals) -> BTreeMap<&str, Vec<&Refusal>> {
    let mut rules: BTreeMap<&str, Vec<&Refusal>> = BTreeMap::new();
    for one in &refusals.events {
        rules.entry(&one.rule).or_default().push(one);
    }
    rules
}

/// The files of refusals. The guest chooses their names.
fn named(refused: &[&Refusal]) -> String {
    let mut names: Vec<String> = Vec::new();
    for one in refused.iter().take(NAMED) {
        names.push(shown::line(&one.what).into_owned());
    }
    if refused.len() > NAMED {
        names.push(format!("{} more", refused.len() - NAMED));
    }
    names.join(", ")
}

/// Why a rule refuses changes, and what a person does to allow them.
fn reason(rule: &str) -> String {
    match rule {
        HIDE => "`hide` names these files, so the sandbox can neither see nor make them".to_owned(),
        READ_ONLY => "`workspace_read_only` is set".to_owned(),
        TOO_LONG => "a path that changes has at most 256 names and 4,096 bytes".to_owned(),
        ROOM => "the disk of this machine is almost full; a person makes room there".to_owned(),
        UNCHECKED => "whether such a change is safe can't be checked".to_owned(),
        rule => format!(
            "the rule `{rule}`: {}; to allow it, a person runs `snowglobe protect allow {rule}`",
            why(rule)
        ),
    }
}

fn why(rule: &str) -> &'static str {
    let row = TABLE.iter().find(|row| row.id == rule);
    row.map_or("programs of the host run such files", |row| row.why)
}

/// What a person could allow of refusals, beside what was declined before.
pub(crate) fn wish(refusals: &Refusals, declined: impl Fn(&str) -> bool) -> Option<Wish> {
    let asked: Vec<_> = by_rule(refusals)
        .into_iter()
        .filter(|(rule, refused)| !declined(rule) && refused.iter().any(|one| one.asks))
        .take(ASKED)
        .collect();
    if asked.is_empty() {
        return None;
    }
    let lines: Vec<String> = asked
        .iter()
        .map(|(rule, refused)| format!("{} (the rule {rule}: {})", named(refused), why(rule)))
        .collect();
    let rules: Vec<String> = asked.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    let word = if rules.len() == 1 { "rule" } else { "rules" };
    Some(Wish {
        question: format!(
            "The sandbox was refused to change {}. May it change such files?",
            lines.join("; ")
        ),
        named: format!("changes under the {word} {}", rules.join(", ")),
        rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(list: &[(&str, &str, bool, u64)], lost: u64) -> Refusals {
        let one = |(rule, what, asks, count): &(&str, &str, bool, u64)| Refusal {
            rule: (*rule).to_owned(),
            what: (*what).to_owned(),
            asks: *asks,
            count: *count,
        };
        Refusals {
            events: list.iter().map(one).collect(),
            lost,
            next: 0,
        }
    }

    #[test]
    fn a_note_says_what_why_and_what_a_person_does() {
        let told = in_words(&refusals(
            &[
                ("vscode", ".vscode/tasks.json", false, 2),
                ("hide", ".env", false, 1),
                ("vscode", ".vscode/a\u{1b}[31m", false, 1),
            ],
            7,
        ));
        assert_eq!(
            told,
            [
                "1 change in /workspace was refused: .env; `hide` names these files, so the sandbox can neither see nor \
                 make them",
                "3 changes in /workspace were refused: .vscode/tasks.json, .vscode/a\\u{1b}[31m; the rule `vscode`: the \
                 editor runs a project's tasks, debuggers, servers and the programs that its settings name; to allow it, \
                 a person runs `snowglobe protect allow vscode`",
                "7 more changes in /workspace were refused",
            ]
        );
        assert_eq!(in_words(&refusals(&[], 0)), Vec::<String>::new());
    }

    #[test]
    fn a_person_is_asked_about_what_asks_and_was_not_declined() {
        let all = refusals(
            &[
                ("vscode", ".vscode", true, 1),
                ("claude", ".claude/settings.json", true, 1),
                ("git-hooks", ".git/hooks/pre-commit", false, 1),
            ],
            0,
        );
        let wish = |declined: &[&str]| wish(&all, |rule| declined.contains(&rule));
        let both = wish(&[]).unwrap();
        assert_eq!(both.rules, ["claude", "vscode"]);
        assert!(
            both.question
                .contains(".claude/settings.json (the rule claude: "),
            "{both:?}"
        );
        assert_eq!(
            wish(&["claude"]).unwrap().named,
            "changes under the rule vscode"
        );
        assert_eq!(wish(&["claude", "vscode"]), None);
    }
}
