//! What keeps the runner's processes apart from the host.
//!
//! ```text
//! spawn       starts a child;  child: its end;  namespaces: where it runs;  order: its task
//! fence       Landlock;  calls: system call filters;  cgroup: a bound on memory and threads
//! missing     how a child reports a fence that does not hold
//! trial       whether the fences hold on this host
//! process     the limits that each process sets for itself
//! permission  which files root can open without capabilities
//! ```

pub(crate) mod calls;
pub(crate) mod cgroup;
pub(crate) mod child;
pub(crate) mod fence;
pub(crate) mod missing;
pub(crate) mod namespaces;
pub(crate) mod order;
pub(crate) mod permission;
pub(crate) mod process;
pub(crate) mod spawn;
pub(crate) mod trial;
