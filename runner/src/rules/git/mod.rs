//! What git runs: where it looks for it ([`layout`]), its settings ([`git_config`](crate::git_config) reads them,
//! [`settings`] knows which run a program), the small files that lead it elsewhere ([`links`]), the hooks that several
//! repositories share ([`shared`]), and what it keeps of other worktrees ([`others`]). [`weigh`] puts a file in the
//! balance.

pub(super) mod layout;
pub(super) mod links;
pub(super) mod others;
pub(super) mod settings;
pub(super) mod shared;
pub(super) mod weigh;
pub(super) mod worktrees;
