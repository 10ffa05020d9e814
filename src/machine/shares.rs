//! The shares of a machine: the workspace, and its repository where that lies outside of it.

use std::os::fd::OwnedFd;

use snowglobe_init::boot::{Link, Repository, SANDBOX_ID};
use snowglobe_runner::Share;

use super::{MachineError, Plan};
use crate::workspace::SharedDir;

/// The port that carries a share, beside the one of the guest link.
pub(super) struct Carrier {
    /// The name of the virtio-serial port.
    tag: &'static str,
    /// The number of the vsock port.
    port: u32,
}

/// What carries the workspace.
pub(super) const WORKSPACE: Carrier = Carrier {
    tag: "snowglobe.workspace",
    port: 1026,
};

/// What carries its repository.
const REPOSITORY: Carrier = Carrier {
    tag: "snowglobe.repository",
    port: 1027,
};

impl Carrier {
    /// Its device in the guest.
    pub(super) fn link(&self, guest_link: &Link) -> Link {
        match guest_link {
            Link::VirtioSerial { .. } => Link::VirtioSerial {
                name: self.tag.into(),
            },
            Link::Vsock { .. } => Link::Vsock { port: self.port },
        }
    }
}

/// The shared directories, in the order of the shares.
fn directories(plan: &Plan) -> impl Iterator<Item = &SharedDir> {
    let repository = plan.repository.iter().map(|repository| &repository.dir);
    plan.workspace.iter().chain(repository)
}

/// Descriptors of the shared directories, for the runner.
pub(super) fn opened(plan: &Plan) -> Result<Vec<OwnedFd>, MachineError> {
    let opened = directories(plan).map(|dir| {
        dir.duplicate().map_err(|source| MachineError::File {
            operation: "hand on",
            path: dir.path().to_owned(),
            source,
        })
    });
    opened.collect()
}

/// The shares, for the runner.
pub(super) fn of_runner(plan: &Plan) -> Vec<Share> {
    let repository = plan.repository.as_ref();
    let git = repository.map(|repository| snowglobe_runner::Repository {
        worktree: repository.worktree.clone(),
    });
    let hooks = repository.map(|repository| repository.hooks.clone());
    // The workspace comes first.
    let of_git = [(hooks.unwrap_or_default(), None), (Vec::new(), git)];
    directories(plan)
        .zip([WORKSPACE, REPOSITORY])
        .zip(of_git)
        .enumerate()
        .map(|(number, ((dir, carrier), (hooks, repository)))| Share {
            tag: carrier.tag.into(),
            port: carrier.port,
            path: dir.path().to_owned(),
            opened: Some(number),
            guest_id: plan.image_user.as_ref().map_or(SANDBOX_ID, |user| user.uid),
            protection: plan.protection.clone(),
            hooks,
            repository,
        })
        .collect()
}

/// What the guest does with the repository.
pub(super) fn of_guest(plan: &Plan, guest_link: &Link) -> Option<Repository> {
    let repository = plan.repository.as_ref()?;
    let workspace = plan.workspace.as_ref()?;
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let links = repository.links(workspace.path());
    Some(Repository {
        share: REPOSITORY.link(guest_link),
        path: text(repository.dir.path()),
        links: links
            .iter()
            .map(|(link, target)| (text(link), text(target)))
            .collect(),
    })
}
