//! Eviction: frees space by removing what can be fetched again.
//!
//! Blobs that no image needs go first. Then images go, the least recently used first, but only pulled ones: imported and
//! built images stay until the user removes them by name. An image stays while a VM uses its disk or a snapshot needs it.

use crate::image::key::ImageKey;
use crate::image::store::image_store::{ImageInfo, ImageStore};
use crate::image::store::store_error::StoreError;
use crate::image::store::sweep::{SweptBlobs, SweptDisk};

/// The space that the store takes on the host, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Root disks.
    pub(crate) disks: u64,
    /// Whole blobs.
    pub(crate) blobs: u64,
}

impl Usage {
    /// The sum.
    pub(crate) fn total(&self) -> u64 {
        self.disks + self.blobs
    }
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// Images, the least recently used first.
    pub(crate) images: Vec<ImageKey>,
    /// Disks, those of the images included.
    pub(crate) disks: Vec<SweptDisk>,
    /// Blobs.
    pub(crate) blobs: SweptBlobs,
    /// The freed bytes.
    pub(crate) bytes: u64,
    /// Whether no blobs were removed, because a process was fetching some.
    pub(crate) fetching: bool,
}

impl ImageStore {
    /// The space that the store takes now.
    pub(crate) fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage {
            disks: self.disk_bytes()?,
            blobs: self.blobs().all()?.iter().map(|(_, size)| size).sum(),
        })
    }

    /// Removes what no image needs; with `all`, also every pulled image that is not in use.
    pub(crate) fn prune(&self, all: bool) -> Result<Pruned, StoreError> {
        let before = self.usage()?.total();
        let mut pruned = Pruned::default();
        if all {
            for image in self.evictable(None)? {
                self.evict(image, &mut pruned)?;
            }
        }
        pruned.disks.extend(self.sweep()?);
        self.sweep_blobs(&mut pruned)?;
        pruned.bytes = before.saturating_sub(self.usage()?.total()) + pruned.blobs.partial;
        Ok(pruned)
    }

    /// Evicts until the store takes at most `limit` bytes. Images in use and `keep` stay, even if it then takes more.
    pub(crate) fn make_room(&self, limit: u64, keep: &ImageKey) -> Result<Pruned, StoreError> {
        let before = self.usage()?.total();
        let mut pruned = Pruned::default();
        if before <= limit {
            return Ok(pruned);
        }
        self.sweep_blobs(&mut pruned)?;
        for image in self.evictable(Some(keep))? {
            if self.usage()?.total() <= limit {
                break;
            }
            if self.evict(image, &mut pruned)? {
                self.sweep_blobs(&mut pruned)?;
            }
        }
        pruned.bytes = before.saturating_sub(self.usage()?.total());
        Ok(pruned)
    }

    /// The pulled images, the least recently used first.
    fn evictable(&self, keep: Option<&ImageKey>) -> Result<Vec<ImageInfo>, StoreError> {
        let mut images = self.list()?;
        images.retain(|image| image.record.source.is_registry() && Some(&image.record.key) != keep);
        images.sort_by_key(|image| image.last_used);
        Ok(images)
    }

    /// Removes an image unless it is in use or gone already.
    fn evict(&self, image: ImageInfo, pruned: &mut Pruned) -> Result<bool, StoreError> {
        match self.remove(&image.record.key) {
            Ok(disks) => {
                pruned.images.push(image.record.key);
                pruned.disks.extend(disks);
                Ok(true)
            }
            Err(StoreError::InUse { .. } | StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sweep_blobs(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        match self.remove_blobs()? {
            Some(swept) => {
                pruned.blobs.whole.extend(swept.whole);
                pruned.blobs.partial += swept.partial;
            }
            None => pruned.fetching = true,
        }
        Ok(())
    }
}
