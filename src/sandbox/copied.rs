//! The disk of a workspace that is a copy: made at the first boot, used again by each further machine.
//!
//! The disk belongs to the sandbox's place in the store ([`CopyPlace`]), so it survives a machine that ends, whatever the
//! reason. A machine that takes another one's place gets a layer over the old one's frozen disk, so the old one can go on
//! if the new one does not come up.

use std::path::Path;

use snowglobe_init::boot::SANDBOX_ID;
use snowglobe_runner::rules::Rules;

use super::state::{DiskOf, Live};
use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::copy::{Base, Began, CopyError, Listing, Which, host_changes};
use crate::disk::{CopiedWorkspace, NewDisk, Store, VmDir, base_disk, base_list};
use crate::progress::Progress;
use crate::text::size;

/// Copying a tree of this many bytes is worth a message.
const MUCH: u64 = 256 << 20;

/// The disk of a copied workspace, for a new machine.
#[derive(Debug)]
pub(super) struct WorkspaceDisk {
    pub(super) disk: NewDisk,
    pub(super) copied: CopiedWorkspace,
    pub(super) refresh: Refresh,
}

/// What becomes of the host's newer files.
#[derive(Debug)]
pub(super) enum Refresh {
    /// The copy has what the host has, or another machine had it just now.
    Nothing,
    /// A person is told of them: the copy was used before.
    Told,
    /// They are brought in: the copy is new, and its base is older than this.
    Brought(Listing),
}

/// The most files, and the most bytes of them, that are brought into an older base; with more of them the host's directory
/// is copied anew.
const REFRESHED: (usize, u64) = (2000, 64 << 20);

impl Sandbox {
    /// Makes the disk for a new machine, over the `frozen` one if there is such; otherwise the disk that is there is used
    /// again, and if there is none, the host's directory is copied. `None`: the workspace is no copy.
    pub(super) async fn workspace_disk(
        &self,
        vm_dir: &VmDir,
        root: &NewDisk,
        owner: Option<(u32, u32)>,
        frozen: Option<CopiedWorkspace>,
        progress: &Progress,
    ) -> Result<Option<WorkspaceDisk>, SandboxError> {
        let Some(place) = self.copy.clone() else {
            return Ok(None);
        };
        // Until the disk is noted down.
        let _making = self.on_disk(Store::making).await?;
        let kept = {
            let place = place.clone();
            self.on_disk(move |store| place.read(store)).await?
        };
        let (copied, is_frozen, refresh) = match (frozen, kept) {
            (Some(frozen), _) => (frozen, true, Refresh::Nothing),
            (None, Some(kept)) => (kept, false, Refresh::Told),
            (None, None) => {
                let (copied, newer) = self.copy_host(owner, progress).await?;
                (
                    copied,
                    true,
                    newer.map_or(Refresh::Nothing, Refresh::Brought),
                )
            }
        };
        let (vm_dir, root, steps) = (vm_dir.clone(), root.layers.clone(), progress.clone());
        let disk = self.on_disk(move |store| {
            // The number of changes that it was left with counts no more.
            place.note_unapplied(None)?;
            let (below, say) = (base_disk(&copied.base), |step| steps.say(step));
            let layers = copied.layers.clone();
            let disk = match is_frozen {
                true => store.new_disk(&vm_dir, &root, &below, layers, &say)?,
                false => store.same_disk(&vm_dir, &root, &below, layers, &say)?,
            };
            let copied = CopiedWorkspace {
                layers: disk.layers.clone(),
                ..copied
            };
            if place.read(store)?.is_none() {
                place.begin(&copied)?;
            }
            Ok(WorkspaceDisk {
                disk,
                copied,
                refresh,
            })
        });
        Ok(Some(disk.await?))
    }

    /// Copies the host's directory to a base of its own, unless the newest base has almost the same; gives a disk without
    /// layers, and what the host has if the base differs from it.
    async fn copy_host(
        &self,
        owner: Option<(u32, u32)>,
        progress: &Progress,
    ) -> Result<(CopiedWorkspace, Option<Listing>), SandboxError> {
        let spec = &self.config.sandbox;
        let (root, limit) = (spec.project_dir.clone(), spec.disk_bytes);
        let (store, steps) = (self.store.clone(), progress.clone());
        let list = self.listing()?;
        let copy = move || -> Result<(CopiedWorkspace, Option<Listing>), SandboxError> {
            let listing = list()?;
            let bytes = listing.bytes();
            if bytes > limit {
                return Err(CopyError::TooLarge { dir: root, bytes }.into());
            }
            if bytes >= MUCH {
                steps.say(format!(
                    "copying {} files ({}) of {}",
                    listing.entries.len(),
                    size(bytes),
                    root.display()
                ));
            }
            for (path, why) in &listing.left_out {
                let path = String::from_utf8_lossy(path).into_owned();
                tracing::warn!(path, "left out of the copy: {why}");
            }
            let owner = owner.unwrap_or((SANDBOX_ID, SANDBOX_ID));
            let bases = store.bases()?;
            let (base, refresh) = match newest_base(&bases, owner, &listing) {
                Some((base, true)) => (base, None),
                Some((base, false)) => (base, Some(listing)),
                None => {
                    steps.say("copying the workspace");
                    (Base::write(&bases, &root, listing, owner)?, None)
                }
            };
            let began = Began::with(base);
            let copied = CopiedWorkspace {
                base: began.base().dir().to_owned(),
                layers: Vec::new(),
                tree: began.write(&store.trees()?)?,
                placing: None,
            };
            Ok((copied, refresh))
        };
        blocking(copy).await
    }

    /// Gives a function that lists the host files of the copy. That function blocks.
    pub(super) fn listing(
        &self,
    ) -> Result<impl FnOnce() -> Result<Listing, CopyError> + Send + use<>, SandboxError> {
        let spec = &self.config.sandbox;
        let root = spec.project_dir.clone();
        let repository = spec.workspace.copied_repository().cloned();
        let which = match spec.copy_ignored {
            true => Which::All,
            false => Which::NotIgnored,
        };
        let hidden = self.hidden()?;
        Ok(move || {
            let hides = |path: &[u8]| hidden.hides(path);
            Listing::of(&root, repository.as_ref(), which, &hides)
        })
    }

    /// Which files of the host are hidden from the sandbox.
    fn hidden(&self) -> Result<Rules, SandboxError> {
        Ok(Rules::new(&self.protected.now())?)
    }

    /// Notes the layers of the copy down. `next` is a layer that the engine is told to add.
    pub(super) async fn note_copy(
        &self,
        live: &Live,
        next: Option<String>,
    ) -> Result<(), SandboxError> {
        let (Some(place), Some(copy)) = (self.copy.clone(), &live.workspace) else {
            return Ok(());
        };
        let disk = copy.disk();
        self.on_disk(move |_| place.write(&disk, next.as_deref()))
            .await
    }

    /// Freezes the disk of the workspace under a machine that is about to be replaced.
    pub(super) async fn freeze_copy(
        &self,
        live: &Live,
    ) -> Result<Option<CopiedWorkspace>, SandboxError> {
        let Some(copy) = &live.workspace else {
            return Ok(None);
        };
        let layers = self.freeze_disk(live, DiskOf::Workspace).await?;
        Ok(Some(CopiedWorkspace {
            layers,
            ..copy.disk()
        }))
    }

    /// Removes what no copy of this sandbox needs any more.
    pub(super) fn sweep_copies(store: &Store) {
        let sweep = || -> Result<(), SandboxError> {
            let Some(_nothing) = store.nothing_is_made()? else {
                // The next sandbox sweeps.
                return Ok(());
            };
            let mut needed = std::collections::BTreeSet::new();
            for tree in store.sweep_bases()? {
                needed.extend(Began::needed(&tree)?);
            }
            crate::copy::Contents::at(store.contents()?).keep_only(&needed)?;
            Ok(())
        };
        if let Err(error) = sweep() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "nothing of copied workspaces is cleared away");
        }
    }
}

/// The newest base, if it has almost what is listed, and whether it has just that.
fn newest_base(bases: &Path, owner: (u32, u32), listing: &Listing) -> Option<(Base, bool)> {
    let newest = std::fs::read_dir(bases).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        // Another process may be writing it.
        base_list(&entry.path()).exists().then_some(())?;
        Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
    });
    let base = Base::open(&newest.max()?.1).ok()?;
    if base.owner() != owner || base.is_of_git() != listing.of_git {
        return None;
    }
    let stamp = base.stamp_ns();
    let began = Began::with(base);
    let changes = host_changes(&began.all_also_ignored(), listing, stamp);
    let sizes = changes
        .iter()
        .map(|change| change.now.as_ref().map_or(0, |now| now.size));
    let few = changes.len() <= REFRESHED.0 && sizes.sum::<u64>() <= REFRESHED.1;
    few.then(|| (began.base().clone(), changes.is_empty()))
}
