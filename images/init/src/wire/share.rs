//! What init and the server of a shared directory agree on, beside the FUSE protocol.

/// Where the guest sees the workspace.
pub const WORKSPACE: &str = "/workspace";

/// The code of a notification that names a file which the host changed, by its path below the directory. It is init's:
/// the kernel has no such code.
pub const TOUCH: u32 = 0x5e0_77ed;

/// The modification time that init sets for programs that watch a file, in seconds and nanoseconds: 2 July 1853. The
/// server knows it by that, and changes nothing.
pub const TOUCHED: (i64, u32) = (-3_675_888_000, 421_907_163);

/// The most bytes that a request reads or writes.
pub const MOST: u32 = 1 << 20;
