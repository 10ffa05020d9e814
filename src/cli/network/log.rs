//! `snowglobe network log`.

use std::io::Write;

use super::super::json::AsJson;
use super::super::{Done, follow};
use crate::blocking::blocking_here;
use crate::config::Config;
use crate::disk::Store;
use crate::network::audit::{self, Decision, Event, Record};
use crate::shown;
use crate::text::size;

pub(super) async fn run(config: &Config, follow: bool, refused: bool, json: AsJson) -> Done {
    let store = Store::look(&config.host.dirs.data, &config.sandbox.name);
    let path = store.network_path();
    let mut log = blocking_here(|| audit::follow(&path))
        .map_err(|error| anyhow::Error::new(error).context(format!("read {}", path.display())))?;
    let mut any = false;
    let show = |records: Vec<Record>| {
        any = true;
        let wanted = |record: &&Record| !refused || record.decision != Decision::Allowed;
        let mut out = shown::out();
        for record in records.iter().filter(wanted) {
            match json.wanted() {
                true => writeln!(out, "{}", shown::json_line(record)?)?,
                false => writeln!(out, "{}", shown::line(&line(record)))?,
            }
        }
        Ok(out.flush()?)
    };
    let done = follow::show(follow, || Ok(log.read()?), show).await?;
    if !any && !follow {
        say!(
            "the sandbox of {} has asked nothing of the network yet",
            config.sandbox.project_dir.display()
        );
    }
    Ok(done)
}

/// A record as a person reads it.
fn line(record: &Record) -> String {
    let time = record.time.strftime("%Y-%m-%d %H:%M:%S");
    format!("{time}  {}", text(record))
}

/// What a record says, without its time.
pub(in crate::cli) fn text(record: &Record) -> String {
    let decision = match record.decision {
        Decision::Allowed => "allowed",
        Decision::Refused => "refused",
        Decision::Failed => "failed",
    };
    let event = match record.event {
        Event::Resolve => "name",
        Event::Connect => "connect",
        Event::Request => "request",
        Event::Close => "close",
        Event::Lost => "lost",
    };
    let mut line = format!("{decision:<7}  {event:<7}  {}", record.host);
    if let Some(port) = record.port {
        line.push_str(&format!(":{port}"));
    }
    let mut add = |part: String| {
        line.push_str("  ");
        line.push_str(&part);
    };
    if let Some(request) = &record.request {
        add(request.clone());
    }
    if let Some(program) = &record.program {
        add(format!("by {} ({})", program.name, program.pid));
    }
    if let Some(rule) = &record.rule {
        add(format!("by the rule `{rule}`"));
    }
    if let Some(reason) = &record.reason {
        add(reason.clone());
    }
    if record.event == Event::Close {
        add(format!(
            "{} sent, {} received",
            size(record.up),
            size(record.down)
        ));
    }
    if record.count > 1 {
        add(format!("{} times", record.count));
    }
    line
}

#[cfg(test)]
mod tests {
    use snowglobe_init::wire::network::Program;

    use super::*;

    #[test]
    fn a_line_says_who_wanted_what_and_what_came_of_it() {
        let record = Record {
            time: "2026-11-27T01:02:03Z".parse().unwrap(),
            event: Event::Connect,
            decision: Decision::Refused,
            program: Some(Program {
                pid: 41,
                name: "pip".into(),
                command: "pip install x".into(),
            }),
            host: "pypi.org".into(),
            port: Some(443),
            address: None,
            request: None,
            rule: None,
            reason: Some("no rule allows it".into()),
            up: 0,
            down: 0,
            seconds: 0.0,
            count: 3,
        };
        assert_eq!(
            line(&record),
            "2026-11-27 01:02:03  refused  connect  pypi.org:443  by pip (41)  no rule allows it  3 times"
        );
    }
}
