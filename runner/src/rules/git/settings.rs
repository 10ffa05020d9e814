//! The settings through which git runs a program or leaves the repository.
//!
//! A setting of the list counts with and without a subsection. Names are in lower case.

use crate::git_config::Setting;

/// When a setting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Always.
    Always,
    /// If the value is neither true nor false: these choose what git has built in.
    NoBool,
    /// If the value is a shell command.
    Bang,
    /// If the value is no plain name: git would run or read the file at that path.
    Path,
    /// If the value is an address that a helper program serves.
    Helper,
    /// If the value leads out of the shared directory; decided with the place of the file.
    Place,
}

/// What a setting is to its rule.
pub(in super::super) enum Weight {
    /// It counts.
    Counts,
    /// It counts if its value leads elsewhere.
    CountsAtPlace,
}

const SETTINGS: &str = "git-settings";
const REDIRECTS: &str = "git-redirects";

/// Rule, section, names (`*`: any), and when they count.
type Row = (&'static str, &'static str, &'static [&'static str], When);

const ROWS: &[Row] = &[
    ("git-aliases", "alias", &["*"], When::Always),
    ("git-worktree", "core", &["worktree"], When::Place),
    (
        SETTINGS,
        "core",
        &[
            "alternaterefscommand",
            "askpass",
            "editor",
            "gitproxy",
            "hookspath",
            "pager",
            "sshcommand",
            // They keep a branch from writing to a differently spelled .git.
            "protecthfs",
            "protectntfs",
        ],
        When::Always,
    ),
    (SETTINGS, "core", &["fsmonitor"], When::NoBool),
    (SETTINGS, "pager", &["*"], When::NoBool),
    (SETTINGS, "sequence", &["editor"], When::Always),
    (SETTINGS, "interactive", &["difffilter"], When::Always),
    (SETTINGS, "include", &["*"], When::Always),
    (SETTINGS, "includeif", &["*"], When::Always),
    (SETTINGS, "hook", &["*"], When::Always),
    (SETTINGS, "init", &["templatedir"], When::Always),
    (
        SETTINGS,
        "filter",
        &["clean", "smudge", "process"],
        When::Always,
    ),
    (
        SETTINGS,
        "diff",
        &["external", "command", "textconv"],
        When::Always,
    ),
    (SETTINGS, "diff", &["tool", "guitool"], When::Path),
    (SETTINGS, "merge", &["driver"], When::Always),
    (SETTINGS, "merge", &["tool", "guitool"], When::Path),
    (SETTINGS, "pull", &["twohead", "octopus"], When::Path),
    (
        SETTINGS,
        "mergetool",
        &["cmd", "layout", "path"],
        When::Always,
    ),
    (SETTINGS, "difftool", &["cmd", "path"], When::Always),
    (SETTINGS, "guitool", &["cmd"], When::Always),
    (SETTINGS, "browser", &["cmd", "path"], When::Always),
    (SETTINGS, "man", &["cmd", "path"], When::Always),
    (SETTINGS, "man", &["viewer"], When::Path),
    (SETTINGS, "web", &["browser"], When::Path),
    (SETTINGS, "help", &["browser", "htmlpath"], When::Path),
    (
        SETTINGS,
        "instaweb",
        &["browser", "httpd", "modulepath"],
        When::Always,
    ),
    (SETTINGS, "credential", &["helper"], When::Always),
    (
        SETTINGS,
        "gpg",
        &["program", "defaultkeycommand"],
        When::Always,
    ),
    (SETTINGS, "trailer", &["command", "cmd"], When::Always),
    (SETTINGS, "tar", &["command"], When::Always),
    (SETTINGS, "gc", &["recentobjectshook"], When::Always),
    (SETTINGS, "uploadpack", &["packobjectshook"], When::Always),
    (SETTINGS, "imap", &["tunnel"], When::Always),
    (SETTINGS, "svn", &["authorsprog"], When::Always),
    (SETTINGS, "svn-remote", &["authorsprog"], When::Always),
    (
        SETTINGS,
        "sendemail",
        &[
            "cccmd",
            "composeencodingcmd",
            "headercmd",
            "sendmailcmd",
            "smtpserver",
            "smtpserveroption",
            "tocmd",
        ],
        When::Always,
    ),
    (SETTINGS, "submodule", &["update"], When::Bang),
    (
        SETTINGS,
        "remote",
        &["uploadpack", "receivepack", "vcs"],
        When::Always,
    ),
    // Programs beside git that read its configuration.
    (
        SETTINGS,
        "lfs",
        &[
            "path",
            "args",
            "clean",
            "smudge",
            "standalonetransferagent",
            "customtransfer",
        ],
        When::Always,
    ),
    (SETTINGS, "tig", &["*"], When::Always),
    (SETTINGS, "delta", &["pager"], When::Always),
    (SETTINGS, "gitflow", &["hooks"], When::Always),
    (SETTINGS, "secrets", &["providers"], When::Always),
    // Addresses and the way to them.
    (
        REDIRECTS,
        "url",
        &["insteadof", "pushinsteadof"],
        When::Always,
    ),
    (REDIRECTS, "protocol", &["allow"], When::Always),
    (REDIRECTS, "remote", &["proxy"], When::Always),
    (
        REDIRECTS,
        "remote",
        &["url", "pushurl", "pushdefault"],
        When::Helper,
    ),
    (REDIRECTS, "branch", &["remote", "pushremote"], When::Helper),
    (REDIRECTS, "submodule", &["url"], When::Helper),
    (REDIRECTS, "svn-remote", &["url", "pushurl"], When::Helper),
    (
        REDIRECTS,
        "http",
        &[
            "cookiefile",
            "curloptresolve",
            "delegation",
            "emptyauth",
            "extraheader",
            "followredirects",
            "pinnedpubkey",
            "proactiveauth",
            "proxy",
            "proxysslcainfo",
            "proxysslcert",
            "proxysslkey",
            "savecookies",
            "schannelcheckrevoke",
            "sslbackend",
            "sslcainfo",
            "sslcapath",
            "sslcert",
            "sslcipherlist",
            "sslkey",
            "ssltry",
            "sslverify",
            "sslversion",
        ],
        When::Always,
    ),
];

/// Schemes that git serves without a helper of another project.
const SCHEMES: &[&str] = &[
    "file", "ftp", "ftps", "git", "git+ssh", "http", "https", "ssh", "ssh+git",
];

/// The rule of a setting, if it has one.
pub(in super::super) fn rule(setting: &Setting) -> Option<(&'static str, Weight)> {
    let value = setting.value.as_deref();
    ROWS.iter()
        .filter(|(_, section, names, _)| {
            *section == setting.section
                && names
                    .iter()
                    .any(|name| *name == "*" || *name == setting.name)
        })
        .find_map(|(rule, _, _, when)| {
            let weight = match when {
                When::Always => Weight::Counts,
                When::Place => Weight::CountsAtPlace,
                When::NoBool if !value.is_none_or(is_bool) => Weight::Counts,
                When::Bang
                    if value.is_some_and(|value| value.trim_ascii_start().starts_with(b"!")) =>
                {
                    Weight::Counts
                }
                When::Path if value.is_some_and(is_path) => Weight::Counts,
                When::Helper if value.is_some_and(needs_helper) => Weight::Counts,
                _ => return None,
            };
            Some((*rule, weight))
        })
}

fn is_bool(value: &[u8]) -> bool {
    const WORDS: &[&[u8]] = &[
        b"", b"true", b"yes", b"on", b"1", b"false", b"no", b"off", b"0",
    ];
    WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Whether a value is more than the name of a tool. A name with a slash is a path below the directory of git's tools, or
/// below the working directory.
fn is_path(value: &[u8]) -> bool {
    value.is_empty()
        || !value
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether git runs a helper for an address, or takes it for an option.
fn needs_helper(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let end = value
        .iter()
        .position(|byte| !scheme(byte))
        .unwrap_or(value.len());
    let (before, rest) = value.split_at(end);
    let known = || {
        SCHEMES
            .iter()
            .any(|scheme| before.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    value.starts_with(b"-") || rest.starts_with(b"::") || (rest.starts_with(b"://") && !known())
}
