//! The instructions that every model reads first. Pure.
//!
//! Clients cut them at 2 KB, so the most important comes first.

use crate::mcp::facts::{Facts, Network, Workspace};

/// The instructions for sandboxes of which these facts hold.
pub(crate) fn instructions(facts: &Facts) -> String {
    let boundary = match facts.workspace {
        Workspace::Shared => {
            "Whatever you do with these tools happens inside it and cannot harm the user's machine, with one \
             exception: /workspace is the user's project directory itself, shared with the host. Treat the files \
             there as the user's; everything outside /workspace is yours to break and disposable."
        }
        Workspace::Copied => {
            "Whatever you do with these tools happens inside it and cannot harm the user's machine. /workspace is a \
             copy of the user's project directory: what you change there reaches the user only after the user has \
             reviewed it. `changes` shows what you changed, as a diff. Everything is yours to break."
        }
        Workspace::OwnDisk => {
            "Whatever you do with these tools happens inside it and cannot harm the user's machine. Nothing is shared \
             with the host: /workspace is an ordinary directory of the VM, empty at first, and the user's files are \
             not in it. Everything is yours to break and disposable; what the user should get, show in your answer."
        }
    };
    let repository = match facts.repository {
        true => {
            " Its git repository lies outside and is shared, too, with the branches of other worktrees."
        }
        false => "",
    };
    let snapshots = match facts.workspace {
        Workspace::Shared => "Files in /workspace are not part of snapshots.",
        Workspace::Copied => "The files in /workspace are saved and restored with it.",
        Workspace::OwnDisk => "/workspace is on that disk, too.",
    };
    let reboot = match facts.workspace {
        Workspace::Shared | Workspace::Copied => {
            "installed packages, files outside /workspace and running processes are gone; /workspace and saved \
             snapshots stay"
        }
        Workspace::OwnDisk => {
            "installed packages, all files you made (those in /workspace, too) and running processes are gone; saved \
             snapshots stay"
        }
    };
    let kept = match facts.kept {
        true => {
            " It stays when you leave and may have been used before: `reboot` for a clean start."
        }
        false => "",
    };
    let network = network(&facts.network);
    format!(
        "\
Snowglobe is a computer of your own: a private Linux microVM. {boundary}{repository}

- `exec` runs shell lines, as the ordinary user `sandbox` unless you pass user `root`. Each call is a new shell: \
use `cwd` and `env` instead of relying on an earlier `cd` or `export`. A command that fails is a normal result: \
look at its exit code and stderr. Pass `timeout_s` for what takes longer than the default.
- `exec` with `background` starts a job: a server, a long build. `job` lists jobs, gives their output, waits for \
them, kills them, sends them input. A call that takes long may become a job by itself and says so.
- `read`, `write`, `edit` and `search` handle files without shell quoting. Relative paths start at /workspace.
- `snapshot` saves and restores the whole system disk. Save one before a risky step, restore it when the system \
is broken. {snapshots}
- `reboot` gives a clean system in seconds: {reboot}. It is the way out when nothing else works.
- {network}

Long output is shortened to its head and tail; the result names a file in the VM with all of it, to be searched \
with `exec` (grep, sed -n) or paged with `read`. The VM boots by itself with the first call that needs it.{kept}"
    )
}

/// What is reached of the network.
fn network(network: &Network) -> String {
    match network {
        Network::Off => "There is no network: do not try to download or to install from package registries; use what \
                         is installed."
            .to_owned(),
        Network::Listed(rules) if rules.is_empty() => "The network reaches nothing yet; results say what was refused, \
                                                       and how the user allows it."
            .to_owned(),
        Network::Listed(rules) => format!(
            "The network (TCP) reaches only: {rules}. All else is refused at once; the result says how the user allows it."
        ),
        Network::Open(but) if but.is_empty() => {
            "The network (TCP) reaches the public internet; private addresses are refused.".to_owned()
        }
        Network::Open(but) => {
            format!("The network (TCP) reaches the public internet, but not: {but}; private addresses are refused.")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn instructions_fit_what_clients_show_and_promise_what_there_is() {
        for workspace in [Workspace::Shared, Workspace::Copied, Workspace::OwnDisk] {
            let facts = |kept| Facts {
                workspace,
                repository: workspace == Workspace::Shared,
                exec_timeout: Duration::from_secs(1),
                kept,
                network: Network::Off,
            };
            let kept = instructions(&facts(true));
            assert!(kept.len() < 2048, "{workspace:?}: {}", kept.len());
            let text = instructions(&facts(false));
            assert!(kept.contains("used before") && !text.contains("used before"));
            let shared = workspace == Workspace::Shared;
            assert_eq!(text.contains("shared with the host. Treat"), shared);
            let nothing = workspace == Workspace::OwnDisk;
            assert_eq!(text.contains("Nothing is shared"), nothing);
            let copied = workspace == Workspace::Copied;
            assert_eq!(text.contains("`changes` shows"), copied);
            assert_eq!(text.contains("git repository lies outside"), shared);
            assert_eq!(text.contains("outside /workspace"), !nothing);
            assert_eq!(text.contains("not part of snapshots"), shared);
            let rules = "x".repeat(160);
            for (network, says) in [
                (Network::Off, "There is no network"),
                (
                    Network::Listed("packages, example.org".to_owned()),
                    "reaches only: packages, example.org. All",
                ),
                (Network::Listed(rules.clone()), "reaches only"),
                (Network::Listed(String::new()), "nothing yet"),
                (Network::Open(String::new()), "the public internet;"),
                (Network::Open(rules), "but not: xxx"),
            ] {
                let facts = Facts {
                    network,
                    ..facts(true)
                };
                let text = instructions(&facts);
                assert!(text.len() < 2048, "{workspace:?}: {}", text.len());
                assert!(text.contains(says), "{text}");
                assert_eq!(text.contains("no network"), facts.network == Network::Off);
            }
        }
    }
}
