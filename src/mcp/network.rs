//! What results say about refused connections. Pure.

use crate::mcp::notes::Notes;
use crate::mcp::permission::Wish;
use crate::network::broker::{Refusals, Refused};
use crate::network::check::{could_be_allowed, target};
use crate::network::rules::Rules;
use crate::shown;
use crate::text::grouped;

/// How much of a command a question shows, in characters.
const COMMAND: usize = 200;

/// How many refused hosts a note names.
const NAMED: usize = 5;

/// Adds a note for each kind of refusal: those that a person can allow by a rule beside these, and others by their reason.
pub(crate) fn add_refusals(refusals: &Refusals, rules: &Rules, notes: &mut Notes) {
    let by_rule = |one: &&Refused| could_be_allowed(rules, &one.host, one.port);
    let (by_rule, other): (Vec<_>, Vec<_>) = refusals.events.iter().partition(by_rule);
    if !by_rule.is_empty() {
        notes.add(note(&by_rule, Some(remedy(&by_rule))));
    }
    let mut reasons: Vec<&str> = other.iter().map(|one| one.why.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    for why in reasons.into_iter().take(NAMED) {
        let same: Vec<&Refused> = other.iter().copied().filter(|one| one.why == why).collect();
        notes.add(note(&same, None));
    }
    if refusals.lost > 0 {
        notes.add(format!(
            "{} more were refused; the resource snowglobe://network has the log",
            grouped(refusals.lost)
        ));
    }
}

/// Adds a note of the ports on which programs have begun to listen, each with the program's name if it is known.
pub(crate) fn add_listeners(new: &[(&u16, &Option<String>)], notes: &mut Notes) {
    let Some((first, _)) = new.first() else {
        return;
    };
    let one = |(port, by): &(&u16, &Option<String>)| match by {
        Some(by) => format!("{port} ({by})"),
        None => port.to_string(),
    };
    let mut named: Vec<String> = new.iter().take(NAMED).map(one).collect();
    if new.len() > NAMED {
        named.push(format!("{} more", new.len() - NAMED));
    }
    let ports = if new.len() == 1 { "port" } else { "ports" };
    notes.add(format!(
        "something listens on {ports} {}; to give the user a URL: `port` with action open, port {first}",
        named.join(", ")
    ));
}

/// A note about refusals: how many, of what, by which program, why.
fn note(refused: &[&Refused], remedy: Option<String>) -> String {
    let count: u64 = refused.iter().map(|one| one.count).sum();
    let subject = match count {
        1 => "1 connection was refused".to_owned(),
        count => format!("{} connections were refused", grouped(count)),
    };
    let mut named: Vec<String> = Vec::new();
    for one in refused {
        let place = one
            .port
            .map_or_else(|| one.host.clone(), |port| format!("{}:{port}", one.host));
        let named_so = match &one.program {
            Some(program) => format!("{place} (by {}, pid {})", program.name, program.pid),
            None => place,
        };
        if !named.contains(&named_so) {
            named.push(named_so);
        }
    }
    let more = named.len().saturating_sub(NAMED);
    named.truncate(NAMED);
    let mut text = format!("{subject}: {}", named.join(", "));
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if let Some(first) = refused.first() {
        text.push_str(&format!("; {}", first.why));
    }
    if let Some(remedy) = remedy {
        text.push_str(&format!("; to allow it: `{remedy}`"));
    }
    text
}

/// What a person runs to allow what was refused by rules.
fn remedy(refused: &[&Refused]) -> String {
    let rules = rules_for(refused.iter().copied());
    let rules: Vec<String> = rules.into_iter().take(NAMED).collect();
    format!("snowglobe network allow {}", rules.join(" "))
}

/// A rule for each host that was refused.
fn rules_for<'a>(refused: impl Iterator<Item = &'a Refused>) -> Vec<String> {
    // The name alone covers what was refused before its port was known.
    let mut rules: Vec<String> = Vec::new();
    for rule in refused.map(|one| target(&one.host, one.port)) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// What a person could allow of refusals, a rule for each host, beside what was declined before.
pub(crate) fn wish(
    refusals: &Refusals,
    rules: &Rules,
    declined: impl Fn(&str) -> bool,
) -> Option<Wish> {
    let wanted = |one: &&Refused| {
        could_be_allowed(rules, &one.host, one.port) && !declined(&target(&one.host, one.port))
    };
    let wanted: Vec<&Refused> = refusals.events.iter().filter(wanted).collect();
    let mut rules = rules_for(wanted.iter().copied());
    rules.truncate(NAMED);
    let by = wanted.first()?.program.as_ref();
    // The guest chooses the name and the command: they stand in quotes, after what the host knows.
    let by = by.map_or_else(String::new, |by| {
        let command: String = shown::line(&by.command).chars().take(COMMAND).collect();
        format!(" (asked for by `{command}`)")
    });
    Some(Wish {
        question: format!(
            "The sandbox was refused {}{by}. May it reach that?",
            rules.join(", ")
        ),
        named: rules.join(", "),
        rules,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use snowglobe_init::wire::network::Program;

    use super::*;
    use crate::network::rules::Mode;

    fn refused(host: &str, port: Option<u16>, count: u64) -> Refused {
        Refused {
            at: Timestamp::UNIX_EPOCH,
            program: Some(Program {
                pid: 41,
                name: "pip".into(),
                command: "pip install x".into(),
            }),
            host: host.into(),
            port,
            why: "no rule allows it".into(),
            count,
        }
    }

    fn notes(refused: Vec<Refused>, lost: u64) -> Vec<String> {
        let mut notes = Notes::default();
        let refusals = Refusals {
            events: refused,
            lost,
            next: 0,
        };
        let rules = Rules::new(Mode::List, ["intranet.example"], []).unwrap();
        add_refusals(&refusals, &rules, &mut notes);
        notes.all().to_vec()
    }

    #[test]
    fn a_refusal_comes_with_its_program_and_its_remedy() {
        assert_eq!(notes(Vec::new(), 0), Vec::<String>::new());
        assert_eq!(
            notes(vec![refused("pypi.org", Some(443), 1)], 0),
            [
                "1 connection was refused: pypi.org:443 (by pip, pid 41); no rule allows it; to allow it: \
                 `snowglobe network allow pypi.org`"
            ]
        );
        assert_eq!(
            notes(
                vec![
                    refused("pypi.org", None, 6),
                    refused("db.example", Some(5432), 1)
                ],
                0
            ),
            [
                "7 connections were refused: pypi.org (by pip, pid 41), db.example:5432 (by pip, pid 41); no rule \
                 allows it; to allow it: `snowglobe network allow pypi.org db.example:5432`"
            ]
        );
    }

    #[test]
    fn new_ports_are_told_in_one_note() {
        let node = Some("node".to_owned());
        let mut notes = Notes::default();
        add_listeners(&[], &mut notes);
        assert!(notes.all().is_empty());
        add_listeners(&[(&5173, &node), (&8000, &None)], &mut notes);
        assert_eq!(
            notes.all(),
            [
                "something listens on ports 5173 (node), 8000; to give the user a URL: `port` with action open, port 5173"
            ]
        );
        let many: Vec<u16> = (1..=100).collect();
        let many: Vec<_> = many.iter().map(|port| (port, &None)).collect();
        let mut notes = Notes::default();
        add_listeners(&many, &mut notes);
        assert!(notes.all()[0].contains("and 95 more") || notes.all()[0].contains(", 95 more"));
    }

    #[test]
    fn what_no_rule_can_allow_has_no_remedy_and_a_flood_is_bounded() {
        let private = Refused {
            why: "intranet.example is at 10.0.0.1, a private address".into(),
            ..refused("intranet.example", Some(80), 1)
        };
        let all = notes(vec![private], 0);
        assert!(all[0].ends_with("a private address"), "{all:?}");
        let flood = (0..100).map(|n| refused(&format!("h{n}.example"), Some(443), 1));
        let all = notes(flood.collect(), 900);
        assert!(
            all[0].starts_with("100 connections")
                && all[0].contains("and 95 more")
                && all[0].len() < 600
        );
        assert!(all[1].starts_with("900 more"), "{all:?}");
    }
}
