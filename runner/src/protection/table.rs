//! The rules, as data.

use super::Effect::Deny;
use super::Protects::{GitContents, InGitDirectory, Names};
use super::{Protects, Row};

const fn deny(id: &'static str, protects: Protects, why: &'static str) -> Row {
    Row {
        id,
        protects,
        default: Deny,
        why,
    }
}

/// All rules, git's first.
pub const TABLE: &[Row] = &[
    deny(
        "git-hooks",
        InGitDirectory(&["hooks"]),
        "git runs hooks at commit, checkout, merge and push",
    ),
    deny(
        "git-shared-hooks",
        GitContents,
        "git runs the files of the directory that core.hooksPath names",
    ),
    deny(
        "git-settings",
        GitContents,
        "many settings of git name a program that git runs, some at a mere status",
    ),
    deny(
        "git-aliases",
        GitContents,
        "an alias runs any command in place of the one that a person is used to",
    ),
    deny(
        "git-redirects",
        GitContents,
        "these settings lead git, and a person's passwords, to other servers and helpers",
    ),
    deny(
        "git-directory",
        GitContents,
        "these files lead git to another repository with other settings and hooks",
    ),
    deny(
        "git-worktree",
        GitContents,
        "git writes the files of a branch to the directory that core.worktree names",
    ),
    deny(
        "git-other-worktrees",
        GitContents,
        "git in the sandbox can't see the other worktrees of a repository, and would remove what it keeps of them",
    ),
    deny(
        "git-links",
        GitContents,
        "git writes its logs and messages through symbolic links in its directory, to any file of a person",
    ),
    deny(
        "git-rebase",
        GitContents,
        "git runs the exec lines of an unfinished rebase when a person continues it",
    ),
    deny(
        "git-remotes",
        InGitDirectory(&["remotes", "branches"]),
        "git reads the addresses of remotes from these old files, too",
    ),
    deny(
        "lazygit",
        Names(&[".lazygit.yml", ".git/lazygit.yml"]),
        "lazygit runs the commands that its settings name",
    ),
    deny(
        "mercurial",
        Names(&[".hg/hgrc", ".hg/hgrc-not-shared", ".hg/sharedpath"]),
        "hg runs the hooks and extensions that its settings name, even for a prompt",
    ),
    deny(
        "jujutsu",
        Names(&[".jj/repo/config.toml", ".jj/workspace-config.toml"]),
        "jj runs the programs that its settings name",
    ),
    deny(
        "vscode",
        Names(&[".vscode", "*.code-workspace", ".theia"]),
        "the editor runs a project's tasks, debuggers, servers and the programs that its settings name",
    ),
    deny(
        "visual-studio",
        Names(&[".vs"]),
        "the editor runs a project's tasks and debuggers",
    ),
    deny(
        "jetbrains",
        Names(&[".idea", ".run", "*.ipr", "*.iws", ".fleet"]),
        "the editor runs a project's run configurations, file watchers and external tools",
    ),
    deny(
        "vim",
        Names(&[
            ".vim",
            ".nvim",
            ".vimrc",
            "_vimrc",
            ".gvimrc",
            ".exrc",
            "_exrc",
            ".nvimrc",
            ".nvim.lua",
            ".lvimrc",
            ".local.vimrc",
            ".vimspector.json",
            ".ycm_extra_conf.py",
            ".nlsp-settings",
            ".neoconf.json",
        ]),
        "the editor and its plug-ins run what these files contain",
    ),
    deny(
        "emacs",
        Names(&[".dir-locals.el", ".dir-locals-2.el", ".projectile"]),
        "the editor evaluates the expressions in these files",
    ),
    deny(
        "zed",
        Names(&[".zed"]),
        "the editor runs a project's tasks and the servers that its settings name",
    ),
    deny(
        "helix",
        Names(&[".helix"]),
        "the editor runs the servers that its settings name",
    ),
    deny(
        "sublime",
        Names(&[
            "*.sublime-project",
            "*.sublime-workspace",
            "*.sublime-build",
        ]),
        "the editor runs a project's build systems and the programs that its settings name",
    ),
    deny(
        "devcontainer",
        Names(&[".devcontainer", ".devcontainer.json"]),
        "editors run its initializeCommand on the host, and mount what it names",
    ),
    deny(
        "shell",
        Names(&[
            ".envrc",
            ".autoenv",
            ".autoenv.zsh",
            ".autoenv_leave.zsh",
            ".mise",
            ".mise.toml",
            ".mise.local.toml",
            "mise.toml",
            "mise.local.toml",
            ".config/mise",
            ".config/mise.toml",
            ".rtx.toml",
        ]),
        "a shell runs these files when a person enters the directory",
    ),
    deny(
        "mcp",
        Names(&[".mcp.json", ".mcp"]),
        "agents start the servers that this file names",
    ),
    deny(
        "claude",
        Names(&[".claude"]),
        "the agent runs the hooks that its settings name, and follows their permissions",
    ),
    deny(
        "cursor",
        Names(&[".cursor"]),
        "the editor starts the servers and hooks that its settings name",
    ),
    deny(
        "gemini",
        Names(&[".gemini"]),
        "the agent starts the servers and tools that its settings name",
    ),
    deny(
        "codex",
        Names(&[".codex"]),
        "the agent starts the servers that its settings name, and follows their permissions",
    ),
    deny(
        "agents",
        Names(&[
            ".aider.conf.yml",
            ".amazonq",
            ".amp",
            ".augment",
            ".cline",
            ".clinerules",
            ".continue",
            ".crush.json",
            "crush.json",
            ".factory",
            ".goose",
            ".junie",
            ".kiro",
            ".opencode",
            "opencode.json",
            "opencode.jsonc",
            ".qwen",
            ".roo",
            ".trae",
            ".windsurf",
        ]),
        "these agents run the hooks and servers that their settings name, and follow their permissions",
    ),
    deny(
        "snowglobe",
        Names(&["snowglobe.toml"]),
        "the file has the settings of the sandbox itself",
    ),
];
