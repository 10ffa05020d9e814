//! Defaults that more than the resolving needs.

pub(super) const DEFAULT_IMAGE: &str = "debian";
pub(super) const DEFAULT_MEMORY_MIB: u32 = 2048;
pub(super) const DEFAULT_DISK_GIB: u32 = 16;
pub(super) const DEFAULT_NOFILE: u64 = 65_536;

pub(super) fn default_cpus() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX).min(4))
}
