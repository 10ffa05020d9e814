//! An access control list, for tests of files with attributes.

/// The name of a file's own list.
pub(crate) const ACL: &str = "system.posix_acl_access";

/// `user::rw-, user:1234:r--, group::r--, mask::r--, other::r--`, in the kernel's format.
pub(crate) fn acl() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, 1234),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}
