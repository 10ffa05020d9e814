//! `snowglobe network check`.

use std::io::Write;
use std::process::ExitCode;

use super::super::Done;
use super::super::ending::Misused;
use super::super::json::AsJson;
use super::current;
use crate::config::Config;
use crate::network::check::{Answer, Question, check};
use crate::shown;

pub(super) async fn run(config: &Config, target: &str, method: &str, json: AsJson) -> Done {
    let wrong = |why: String| Misused(format!("understand `{}`: {why}", shown::line(target)));
    let question = Question::parse(target).map_err(wrong)?;
    let (_, status) = current(config).await?;
    let method = method.to_uppercase();
    let answer = check(&status.settings, &question, &method).map_err(wrong)?;
    if !json.print(&answer)? {
        let mut out = shown::out();
        for line in lines(&answer) {
            writeln!(out, "{}", shown::line(&line))?;
        }
        if answer.allowed && answer.inspected && !question.is_request() {
            say!("rules name requests to this host: pass a URL, and --method");
        }
    }
    Ok(match answer.allowed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn lines(answer: &Answer) -> Vec<String> {
    let by = answer
        .origin
        .as_ref()
        .map_or_else(String::new, |origin| format!(", from {origin}"));
    let mut lines = vec![format!(
        "{}:{}: {}{by}",
        answer.host, answer.port, answer.why
    )];
    if let Some(to) = &answer.leads_to {
        lines.push(format!(
            "it is {to} on this host's side, by `network.hosts`"
        ));
    }
    if answer.inspected {
        lines.push("each request to it is looked at".to_owned());
    }
    if !answer.secrets.is_empty() {
        lines.push(format!(
            "secrets that go there: {}",
            answer.secrets.join(", ")
        ));
    }
    if let Some(remedy) = &answer.remedy {
        lines.push(format!("to allow it: {remedy}"));
    }
    lines
}
