//! Any lines are rules or an error; what a rule denies is never allowed.

use snowglobe::network::hosts::Hosts;
use snowglobe::network::rules::{Host, Mode, Rules, Verdict, Why};

pub(crate) fn play(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let lines: Vec<&str> = text.split('\n').collect();
    let (one, other) = lines.split_at(lines.len() / 2);
    match Hosts::new(one.iter().copied().zip(other.iter().copied())) {
        Ok(hosts) => {
            for line in one {
                if let Ok(host) = Host::parse(line) {
                    hosts.find(&host, 443);
                }
            }
        }
        Err(error) => crate::check_message(&error, bytes.len()),
    }
    let (allow, deny) = (one.iter().copied(), other.iter().copied());
    let both = match Rules::new(Mode::Open, allow, deny.clone()) {
        Ok(rules) => rules,
        Err(error) => return crate::check_message(&error, bytes.len()),
    };
    let denied = Rules::new(Mode::Open, [], deny).expect("they were understood");
    for line in &lines {
        let host = line.split([':', '/', ' ']).next().unwrap_or_default();
        let Ok(host) = Host::parse(host) else {
            continue;
        };
        for port in [80, 443, 8443] {
            if let Verdict::Refused(Why::Denied(by)) = denied.connection(&host, port) {
                let still = matches!(
                    both.connection(&host, port),
                    Verdict::Refused(Why::Denied(_))
                );
                assert!(still, "{host}:{port}, which `{by}` denies, is allowed");
            }
        }
    }
}
