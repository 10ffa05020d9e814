//! What the files of the SFTP server share: the packet limit, flags, errors.

use std::io;

use russh_sftp::protocol::OpenFlags;
use rustix::fs::OFlags;

/// The longest packet that either side may send; OpenSSH's own limit.
pub(super) const MAX_PACKET: usize = 256 * 1024;

pub(super) fn invalid(message: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_string())
}

pub(super) fn open_flags(asked: OpenFlags) -> OFlags {
    let mut flags = match (
        asked.contains(OpenFlags::READ),
        asked.contains(OpenFlags::WRITE),
    ) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        // Appending is writing, even if the client does not say so.
        (read, false) if asked.contains(OpenFlags::APPEND) => {
            if read {
                OFlags::RDWR
            } else {
                OFlags::WRONLY
            }
        }
        (_, false) => OFlags::RDONLY,
    };
    flags.set(OFlags::APPEND, asked.contains(OpenFlags::APPEND));
    flags.set(OFlags::CREATE, asked.contains(OpenFlags::CREATE));
    flags.set(OFlags::TRUNC, asked.contains(OpenFlags::TRUNCATE));
    flags.set(
        OFlags::EXCL,
        asked.contains(OpenFlags::CREATE | OpenFlags::EXCLUDE),
    );
    // Opening a pipe must not wait for its other end, and a terminal must not become this process's.
    flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}
