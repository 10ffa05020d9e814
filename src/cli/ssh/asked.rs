//! What the ssh that started the proxy command was asked for on its command line.
//!
//! A hostile guest can use an agent, a display or a port that ssh offers it, whatever its server said before. Only ssh's own
//! end can refuse these. The hosts' configuration does so, but a flag counts more than a configuration; so the proxy looks
//! at the flags of its parent process, before anything is carried. Where it can't see them (a system without `/proc`), the
//! configuration still keeps the agent away.

use snowglobe_init::wire::Refused;

/// The options of ssh that have a value.
const WITH_VALUE: &str = "BbcDEeFIiJLlmOoPpQRSWw";

/// What is refused of that which the parent process was asked for.
pub(super) fn of_parent() -> Option<Refused> {
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let line = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line);
    let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
    let (program, words) = words.split_first()?;
    let is_ssh = std::path::Path::new(program)
        .file_name()
        .is_some_and(|name| name == "ssh");
    is_ssh.then(|| refused(words)).flatten()
}

/// As ssh decides: of flags the last counts, of `-o` the first.
#[derive(Default)]
struct Asked {
    agent: Option<bool>,
    x11: Option<bool>,
    tunnel: Option<bool>,
    remote: bool,
}

/// What is refused of a command line's words, after the program's name. Pure.
fn refused(words: &[&str]) -> Option<Refused> {
    let mut asked = Asked::default();
    let mut words = words.iter();
    let mut hosts = 0;
    while let Some(word) = words.next() {
        let letters = match word.strip_prefix('-') {
            Some("-") => break,
            Some(letters) if !letters.is_empty() => letters,
            // The host; options may follow it. The next word begins the command.
            _ if hosts == 0 => {
                hosts += 1;
                continue;
            }
            _ => break,
        };
        for (at, letter) in letters.char_indices() {
            if !WITH_VALUE.contains(letter) {
                asked.flag(letter);
                continue;
            }
            let rest = &letters[at + letter.len_utf8()..];
            let value = match rest {
                "" => words.next().copied().unwrap_or_default(),
                rest => rest,
            };
            asked.option(letter, value);
            break;
        }
    }
    let found = [
        (asked.agent == Some(true), Refused::Agent),
        (asked.x11 == Some(true), Refused::X11),
        (asked.remote, Refused::Remote),
        (asked.tunnel == Some(true), Refused::Tunnel),
    ];
    found
        .into_iter()
        .find_map(|(asked, what)| asked.then_some(what))
}

impl Asked {
    fn flag(&mut self, letter: char) {
        match letter {
            'A' => self.agent = Some(true),
            'a' => self.agent = Some(false),
            'X' | 'Y' => self.x11 = Some(true),
            'x' => self.x11 = Some(false),
            _ => {}
        }
    }

    fn option(&mut self, letter: char, value: &str) {
        match letter {
            'R' => self.remote = true,
            'w' => self.tunnel = Some(true),
            'o' => self.line(value),
            _ => {}
        }
    }

    /// A configuration's line.
    fn line(&mut self, line: &str) {
        let line = line.trim_start();
        let end = line.find(|c: char| c.is_whitespace() || c == '=');
        let (key, value) = line.split_at(end.unwrap_or(line.len()));
        let value = value.trim_matches(|c: char| c.is_whitespace() || matches!(c, '=' | '"'));
        let yes = !matches!(value.to_ascii_lowercase().as_str(), "no" | "false");
        match key.to_ascii_lowercase().as_str() {
            // Its value may also be the path of an agent.
            "forwardagent" => self.agent = self.agent.or(Some(yes)),
            "forwardx11" => self.x11 = self.x11.or(Some(yes)),
            "tunnel" => self.tunnel = self.tunnel.or(Some(yes)),
            "remoteforward" => self.remote = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Refused> {
        refused(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn what_ssh_is_asked_for_is_seen_wherever_it_stands() {
        for line in [
            "-A host",
            "-tA host",
            "-vTAq -p 22 host",
            "host -A",
            "host -A true",
            "-oForwardAgent=yes host",
            "-o forwardagent=/run/agent host",
            "-a -A host",
        ] {
            assert_eq!(of(line), Some(Refused::Agent), "{line}");
        }
        for line in ["-X h", "-Y h", "-fNX h", "-oForwardX11=yes h"] {
            assert_eq!(of(line), Some(Refused::X11), "{line}");
        }
        for line in [
            "-R 80:localhost:80 h",
            "-NR80:localhost:80 h",
            "-o RemoteForward=1 h",
        ] {
            assert_eq!(of(line), Some(Refused::Remote), "{line}");
        }
        assert_eq!(of("-w 0:0 h"), Some(Refused::Tunnel));
        assert_eq!(
            refused(&["-o", " ForwardAgent \"yes\"", "h"]),
            Some(Refused::Agent)
        );
    }

    #[test]
    fn what_is_anothers_is_not_sshs() {
        for line in [
            "-T -D 1080 host bash",
            "-L 80:localhost:80 host",
            "host grep -A 3 x",
            "host -- -A",
            "-i -A host",
            "-l -X host",
            "-A -a host",
            // As scp and sftp start it.
            "-x -oPermitLocalCommand=no -oClearAllForwardings=yes -oForwardAgent=no -l root -s -- host sftp",
            "-oForwardAgent=no -o ForwardX11=no -oTunnel=no host",
            "-oForwardAgent=no -oForwardAgent=yes host",
            "",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
