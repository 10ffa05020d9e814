//! Each setting with which git runs something is refused, in the file that git itself writes.

use std::process::Command;

use crate::git_config::Setting;

use super::super::git::settings;
use super::super::{Change, Verdict};
use super::tree::Tree;
use super::{rule, rules};

/// Settings that a guest must not add, and what of the host they would run or change.
const REFUSED: &[(&str, &str)] = &[
    ("core.fsmonitor", "./evil"),
    ("core.fsmonitor", "2"),
    ("core.hooksPath", "evil"),
    ("core.sshCommand", "evil"),
    ("core.pager", "evil"),
    ("core.editor", "evil"),
    ("core.askPass", "evil"),
    ("core.gitProxy", "evil"),
    ("core.alternateRefsCommand", "evil"),
    ("core.protectHFS", "false"),
    ("core.protectNTFS", "false"),
    ("core.worktree", "/home/someone"),
    ("core.worktree", "../.."),
    ("sequence.editor", "evil"),
    ("pager.status", "evil"),
    ("pager.log", "evil"),
    ("filter.x.clean", "evil"),
    ("filter.x.smudge", "evil"),
    ("filter.lfs.process", "evil"),
    ("diff.external", "evil"),
    ("diff.x.command", "evil"),
    ("diff.x.textconv", "evil"),
    ("diff.tool", "../../evil"),
    ("diff.guitool", "a/b"),
    ("merge.tool", "../../evil"),
    ("merge.guitool", "../../evil"),
    ("merge.x.driver", "evil"),
    ("mergetool.x.cmd", "evil"),
    ("mergetool.x.path", "evil"),
    ("mergetool.vimdiff.layout", "evil"),
    ("difftool.x.cmd", "evil"),
    ("difftool.x.path", "evil"),
    ("pull.twohead", "x/evil"),
    ("pull.octopus", "x/evil"),
    ("credential.helper", "evil"),
    ("credential.https://example.com.helper", "!evil"),
    ("alias.st", "!evil"),
    ("alias.st", "x/evil"),
    ("alias.st", "--exec-path=/workspace evil"),
    ("alias.st", "grep -Oevil x"),
    ("include.path", "../evil"),
    ("includeIf.gitdir:/**.path", "../evil"),
    (
        "url.https://evil.example/.insteadOf",
        "https://example.com/",
    ),
    (
        "url.https://evil.example/.pushInsteadOf",
        "https://example.com/",
    ),
    ("gpg.program", "evil"),
    ("gpg.ssh.program", "evil"),
    ("gpg.x509.program", "evil"),
    ("gpg.ssh.defaultKeyCommand", "evil"),
    ("uploadpack.packObjectsHook", "evil"),
    ("remote.origin.uploadpack", "evil"),
    ("remote.origin.receivepack", "evil"),
    ("remote.origin.proxy", "http://evil.example"),
    ("remote.origin.vcs", "evil"),
    ("remote.origin.url", "ext::sh -c evil"),
    ("remote.origin.pushurl", "evil::x"),
    ("remote.origin.url", "evil://x"),
    ("remote.origin.url", "--upload-pack=evil"),
    ("remote.pushDefault", "ext::sh -c evil"),
    ("branch.main.remote", "ext::sh -c evil"),
    ("branch.main.pushRemote", "ext::sh -c evil"),
    ("submodule.x.url", "ext::sh -c evil"),
    ("submodule.x.update", "!evil"),
    ("protocol.allow", "always"),
    ("protocol.ext.allow", "always"),
    ("browser.x.cmd", "evil"),
    ("browser.x.path", "evil"),
    ("web.browser", "/evil"),
    ("man.x.cmd", "evil"),
    ("man.x.path", "evil"),
    ("help.browser", "/evil"),
    ("instaweb.httpd", "evil"),
    ("instaweb.modulePath", "evil"),
    ("sendemail.smtpServer", "/evil"),
    ("sendemail.x.sendmailCmd", "evil"),
    ("sendemail.toCmd", "evil"),
    ("sendemail.ccCmd", "evil"),
    ("sendemail.headerCmd", "evil"),
    ("imap.tunnel", "evil"),
    ("trailer.x.command", "evil"),
    ("trailer.x.cmd", "evil"),
    ("interactive.diffFilter", "evil"),
    ("init.templateDir", "evil"),
    ("guitool.x.cmd", "evil"),
    ("tar.x.command", "evil"),
    ("gc.recentObjectsHook", "evil"),
    ("hook.x.command", "evil"),
    ("svn.authorsProg", "evil"),
    ("lfs.customtransfer.x.path", "evil"),
    ("lfs.standalonetransferagent", "x"),
    ("lfs.extension.x.clean", "evil"),
    ("tig.bind", "evil"),
    ("http.proxy", "http://evil.example"),
    ("http.https://example.com.sslVerify", "false"),
    ("http.sslCAInfo", "evil"),
    ("http.curloptResolve", "example.com:443:10.0.0.1"),
    ("http.extraHeader", "X: y"),
    ("http.cookieFile", "evil"),
];

fn git(arguments: &[&str]) -> std::process::Output {
    Command::new("git")
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap()
}

#[test]
fn each_setting_that_runs_a_program_is_refused() {
    let rules = rules();
    let mut allowed = Vec::new();
    for (key, value) in REFUSED {
        let tree = Tree::new(&[
            ".git/HEAD=x",
            ".git/objects/",
            ".git/refs/",
            ".git/config=[core]\n\tbare = false\n",
        ]);
        let lock = tree.root().join(".git/config.lock");
        let written = git(&["config", "-f", lock.to_str().unwrap(), key, value]);
        assert!(written.status.success(), "{key}: {written:?}");
        let change = Change::Rename {
            from: b".git/config.lock",
            to: b".git/config",
            exchange: false,
        };
        let verdict = rules.check(&change, &tree);
        if !matches!(&verdict, Verdict::Deny(it) if it.rule.starts_with("git-") && it.what.to_lowercase().contains(&key.to_lowercase()))
        {
            allowed.push(format!("{key} = {value}: {verdict:?}"));
        }
        // Another value is a change, the same value is none.
        tree.apply(&change);
        for (value, refused) in [(*value, false), ("other!::/", true)] {
            let other = if value == "other!::/" && key.ends_with("update") {
                "!o"
            } else {
                value
            };
            assert!(
                git(&["config", "-f", lock.to_str().unwrap(), key, other])
                    .status
                    .success()
            );
            let verdict = rules.check(&change, &tree);
            let helper = settings_rule(key, other).is_none();
            assert_eq!(
                rule(&verdict).is_empty(),
                !refused || helper,
                "{key}: {verdict:?}"
            );
            std::fs::remove_file(&lock).unwrap();
        }
    }
    assert!(allowed.is_empty(), "{allowed:#?}");
}

fn settings_rule(key: &str, value: &str) -> Option<&'static str> {
    let (section, rest) = key.split_once('.').unwrap();
    let (subsection, name) = rest.rsplit_once('.').unwrap_or(("", rest));
    let setting = Setting {
        section: section.to_lowercase(),
        subsection: subsection.into(),
        name: name.to_lowercase(),
        value: Some(value.into()),
    };
    settings::rule(&setting).map(|(rule, _)| rule)
}

/// Settings of git whose names speak of a program or an address, and that run and lead to nothing new.
const HARMLESS: &[&str] = &[
    "advice.ignoredHook",
    "advice.waitingForEditor",
    "commit.template",
    "completion.commands",
    "core.fsmonitorHookVersion",
    "diff.<driver>.cachetextconv",
    "gitcvs.dbDriver",
    "gui.newBranchTemplate",
    "http.proxyAuthMethod",
    "http.proxySSLCertPasswordProtected",
    "notes.rewrite.<command>",
    "push.useForceIfIncludes",
    "rebase.abbreviateCommands",
    "rebase.rescheduleFailedExec",
    "remote.<name>.proxyAuthMethod",
    "stash.showIncludeUntracked",
];

/// A git of another version may have more settings: those whose names speak of a program must be known.
#[test]
fn no_setting_of_the_installed_git_that_names_a_program_is_unknown() {
    let words = [
        "cmd",
        "command",
        "program",
        "helper",
        "editor",
        "pager",
        "hook",
        "exec",
        "driver",
        "textconv",
        "proxy",
        "askpass",
        "tunnel",
        "prog",
        "external",
        "browser",
        "httpd",
        "smudge",
        "clean.",
        "viewer",
        "insteadof",
        "vcs",
        "uploadpack",
        "receivepack",
        "template",
        "include",
    ];
    let output = git(&["help", "--config"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let keys: Vec<&str> = text
        .lines()
        .filter(|line| line.contains('.') && !line.contains(' '))
        .collect();
    assert!(keys.len() > 300, "{}", keys.len());
    let speaks = |key: &&&str| {
        let name = key.rsplit('.').next().unwrap().to_lowercase();
        words.iter().any(|word| name.contains(word))
    };
    let unknown: Vec<&str> = keys
        .iter()
        .filter(speaks)
        .copied()
        .filter(|key| settings_rule(key, "!x::/y").is_none())
        .filter(|key| {
            !HARMLESS.contains(key) && !key.starts_with("uploadpack.") && !key.starts_with("color.")
        })
        .collect();
    assert_eq!(unknown, Vec::<&str>::new());
}
