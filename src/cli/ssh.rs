//! `snowglobe ssh-config` and its proxy command: access for the user's own `ssh`, `scp`, `sftp` and editors.
//!
//! The hosts stay valid: their proxy command starts the sandbox if it does not run, and its keys stay
//! ([`crate::login`]). So they are printed, or installed once, without a sandbox. The host key is in a file rather than in
//! the output of `KnownHostsCommand`, which OpenSSH knows only from version 8.5 on, and editors' own clients not at all.

mod asked;
mod install;
mod proxy;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{Done, load};
use crate::config::{Config, Origin, Raw, Setting};
use crate::disk::Store;
use crate::login::{self, Login};
use crate::rundir::RuntimeDir;
use crate::shown::{self, Stream};
pub(super) use proxy::Proxy;

/// Print hosts for your own ssh, scp, sftp and editors: they start this project's sandbox if it does not run. Flags that are
/// given here count when a host starts it.
#[derive(Debug, Args)]
pub(super) struct SshConfig {
    /// Have your own ~/.ssh/config include them, instead of printing them
    #[arg(long, conflicts_with = "uninstall")]
    install: bool,
    /// Remove what --install added for this project
    #[arg(long)]
    uninstall: bool,
    #[command(flatten)]
    config: Box<Raw>,
}

impl SshConfig {
    pub(super) fn run(self) -> Done {
        let config = load(*self.config)?;
        let login = Login::of(&config.host.dirs.data);
        let name = &config.sandbox.name;
        if self.uninstall {
            tell(install::uninstall(&login, name, &own(&config)?)?);
            return Ok(ExitCode::SUCCESS);
        }
        config.check_workspace()?;
        // The hosts are of no use where the runtime directory is not.
        RuntimeDir::open(&config.host.dirs.runtime)?;
        let text = configuration(&std::env::current_exe()?, &config)?;
        if self.install {
            // Some programs read the keys before they connect; ssh itself does so when the sandbox has made them.
            login.keys(name)?;
            // Its data then shows which directory the hosts are for, and goes as that of a sandbox that has run.
            Store::open(&config.host.dirs.data, name)?.belongs_to(&config.sandbox.project_dir)?;
            tell(install::install(&login, name, &text, &own(&config)?)?);
            return Ok(ExitCode::SUCCESS);
        }
        shown::raw(Stream::Output, text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(done: Vec<String>) {
    for done in done {
        say!("{}", shown::line(&done));
    }
}

/// The user's own ssh configuration.
fn own(config: &Config) -> anyhow::Result<std::path::PathBuf> {
    let home = config.host.dirs.home.as_ref();
    let home = home.ok_or_else(|| anyhow::anyhow!("find ~/.ssh/config: HOME is not set"))?;
    Ok(home.join(".ssh/config"))
}

/// The configuration for the user's own ssh.
fn configuration(program: &Path, config: &Config) -> anyhow::Result<String> {
    let (login, name) = (Login::of(&config.host.dirs.data), &config.sandbox.name);
    let host = login::host(name);
    let key = word(&login.user_file())?;
    let hosts = word(&login.known_hosts(name))?;
    let proxy = proxy_command(program, config)?;
    let env = set_env(config)?;
    let mut out = format!("# ssh {host}, or ssh {host}-root\n");
    for (each, user) in [(host.clone(), "sandbox"), (format!("{host}-root"), "root")] {
        // Nothing of the user's computer is for the guest: no agent, no display, no other key, and no host key from it.
        out.push_str(&format!(
            "Host {each}\n  User {user}\n  HostKeyAlias {host}\n  ProxyCommand {proxy}\n  \
             IdentityFile {key}\n  IdentitiesOnly yes\n  IdentityAgent none\n  PreferredAuthentications publickey\n  \
             UserKnownHostsFile {hosts}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  \
             UpdateHostKeys no\n  ForwardAgent no\n  ForwardX11 no\n  ForwardX11Trusted no\n{env}"
        ));
    }
    Ok(out)
}

/// The line that ssh passes to a shell: it works in every environment, since it names all that this process found.
fn proxy_command(program: &Path, config: &Config) -> anyhow::Result<String> {
    let mut words = vec![OsString::from("env")];
    let mut runtime = OsString::from("SNOWGLOBE_RUNTIME_DIR=");
    runtime.push(&config.host.dirs.runtime);
    words.push(runtime);
    for name in ["SNOWGLOBE_CACHE_DIR", "SNOWGLOBE_LIBEXEC"] {
        if let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            words.push(word);
        }
    }
    words.extend([program.into(), "ssh-proxy".into()]);
    words.extend(["--name".into(), config.sandbox.name.as_str().into()]);
    words.extend([
        "--workspace".into(),
        config.sandbox.project_dir.clone().into(),
    ]);
    words.extend(["--data-dir".into(), config.host.dirs.data.clone().into()]);
    for setting in &config.settings {
        let by_hand = matches!(setting.origin, Origin::Flag | Origin::Environment(_));
        if by_hand
            && !matches!(
                setting.key.as_str(),
                "name" | "workspace" | "data_dir" | "env"
            )
        {
            words.extend(flag(&setting.key, &setting.value).map(OsString::from));
        }
    }
    let words: anyhow::Result<Vec<String>> = words
        .iter()
        .map(|word| for_shell(Path::new(word)))
        .collect();
    Ok(words?.join(" "))
}

/// The word of a flag that sets a key, if a flag can set it to that value.
pub(super) fn flag(key: &str, value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    let text = match value {
        Value::Null | Value::Object(_) | Value::Array(_) => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(format!("--{}={text}", key.replace('_', "-")))
}

/// The line `SetEnv` with the variables of `--env`. Each session gets them, even if the sandbox runs already.
fn set_env(config: &Config) -> anyhow::Result<String> {
    let by_flag = |setting: &Setting| setting.key == "env" && setting.origin == Origin::Flag;
    if !config.settings.iter().any(by_flag) {
        return Ok(String::new());
    }
    let mut line = "  SetEnv".to_owned();
    for (name, value) in &config.sandbox.env {
        let text = format!("{name}={value}");
        // ssh expands no `%` here.
        nameable(Path::new(&text))?;
        line.push_str(&format!(" \"{text}\""));
    }
    line.push('\n');
    Ok(line)
}

/// Text as an ssh configuration can hold it. Inside quotes ssh still expands `%` and `${`, and only `%` can be escaped;
/// versions of ssh differ in the meaning of a backslash.
fn nameable(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| {
        !text.contains("${") && !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\'))
    });
    match text {
        Some(text) => Ok(text.replace('%', "%%")),
        None => anyhow::bail!(
            "name {path:?} in an ssh configuration: it holds a control character, a quotation mark, a backslash or \
             `${{`, or is not UTF-8; use another path or value"
        ),
    }
}

/// A path as one word of a configuration's line.
fn word(path: &Path) -> anyhow::Result<String> {
    Ok(format!("\"{}\"", nameable(path)?))
}

/// A path as one word of the line that ssh passes to a shell.
fn for_shell(path: &Path) -> anyhow::Result<String> {
    let text = nameable(path)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => Ok(text),
        false => Ok(format!("'{}'", text.replace('\'', "'\\''"))),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Sources;

    fn config(workspace: &Path, data: &Path) -> Config {
        Config::load(Sources {
            cwd: workspace.to_owned(),
            user_file: None,
            env: vec![
                ("SNOWGLOBE_RUNTIME_DIR".into(), "/run/it's".into()),
                ("SNOWGLOBE_CPUS".into(), "3".into()),
            ],
            flags: Raw {
                name: Some("n".into()),
                data_dir: Some(data.to_owned()),
                image: Some("a b".into()),
                env: vec![("A".into(), "$(touch owned) 50% 'b'".into())],
                ..Raw::default()
            },
        })
        .unwrap()
    }

    /// The user's own ssh takes each word whole, and runs nothing that is in it.
    #[test]
    fn ssh_itself_takes_each_word_whole() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir
            .path()
            .join("a %h 'b' $(touch owned) `touch owned` #; $HOME");
        std::fs::create_dir(&odd).unwrap();
        let program = odd.join("snow globe");
        let script = "#!/bin/sh\n{ echo \"$0|$SNOWGLOBE_RUNTIME_DIR\"; printf '%s\\n' \"$@\"; } >\"${0%/*}/called\"\n";
        crate::files::tests::executable(&program, script);
        let file = dir.path().join("ssh.conf");
        let text = configuration(&program, &config(&odd, &odd)).unwrap();
        std::fs::write(&file, text).unwrap();
        let output = Command::new("ssh")
            .arg("-F")
            .arg(&file)
            .args(["snowglobe-n", "true"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(!output.status.success(), "nothing answers there");
        let called = std::fs::read_to_string(odd.join("called")).unwrap();
        let odd_text = odd.canonicalize().unwrap().display().to_string();
        let words = [
            &format!("{}|/run/it's", program.display()),
            "ssh-proxy",
            "--name",
            "n",
            "--workspace",
            &odd_text,
            "--data-dir",
            odd.to_str().unwrap(),
            "--image=a b",
            "--cpus=3",
        ];
        assert_eq!(called.lines().collect::<Vec<_>>(), words);
        assert!(!dir.path().join("owned").exists() && !odd.join("owned").exists());
        let shown = Command::new("ssh")
            .arg("-G")
            .arg("-F")
            .arg(&file)
            .arg("snowglobe-n-root")
            .output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        let identities: Vec<_> = shown
            .lines()
            .filter(|line| line.starts_with("identityfile"))
            .collect();
        assert_eq!(identities.len(), 1, "{identities:?}");
        assert!(identities[0].contains("$(touch owned)"), "{identities:?}");
        assert!(
            shown.contains("setenv A=$(touch owned) 50% 'b'\n"),
            "{shown}"
        );
        assert!(shown.contains("user root\n") && shown.contains("hostkeyalias snowglobe-n\n"));
    }

    #[test]
    fn a_path_that_can_not_be_quoted_is_refused() {
        for path in [
            "/a\nProxyCommand x",
            "/a\"b",
            "/a\\",
            "/${HOME}",
            "/a\u{1b}",
        ] {
            for refused in [word(Path::new(path)), for_shell(Path::new(path))] {
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("use another path"), "{error}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_word_never_ends_before_its_end(path in "/\\PC{0,20}") {
            if let Ok(word) = word(Path::new(&path)) {
                let inner = &word[1..word.len() - 1];
                prop_assert!(!inner.contains(['"', '\\', '\n']));
                prop_assert_eq!(inner.replace("%%", ""), path.replace('%', ""));
            }
            if let Ok(word) = for_shell(Path::new(&path)) {
                let said = Command::new("sh").arg("-c").arg(format!("printf %s {word}")).output().unwrap();
                prop_assert_eq!(String::from_utf8(said.stdout).unwrap(), path.replace('%', "%%"));
            }
        }
    }
}
