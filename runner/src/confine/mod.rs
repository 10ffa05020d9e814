//! What keeps the runner's processes apart from the host: how they are started, fenced in and bounded.

pub(crate) mod calls;
pub(crate) mod cgroup;
pub(crate) mod fence;
pub(crate) mod process;
pub(crate) mod reach;
pub(crate) mod spawn;
pub(crate) mod trial;
