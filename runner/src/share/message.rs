//! The framing of FUSE messages. The library reads the rest of them.

use std::io;

use snowglobe_init::wire::share::MOST;

/// The length of a request's header, of a reply's, and of a whole file entry in a reply.
const REQUEST_HEADER: usize = 40;
const REPLY_HEADER: u32 = 16;
const ENTRY: usize = 128;

/// The longest request: the most that is written, and what precedes it.
pub(super) const LONGEST: usize = MOST as usize + 0x1000;

/// The protocol's numbers of operations.
mod operation {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const LINK: u32 = 13;
    pub(super) const READ: u32 = 15;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const INIT: u32 = 26;
    pub(super) const READDIR: u32 = 28;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const COPY_FILE_RANGE: u32 = 47;
    pub(super) const SYNCFS: u32 = 50;
}

/// Features that the library asks for and this server does without: files are truncated by a request of their own, since
/// none is opened; and contents are valid until the guest is told otherwise.
const ATOMIC_O_TRUNC: u32 = 1 << 3;
const AUTO_INVAL_DATA: u32 = 1 << 12;

/// A whole request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a>(&'a [u8]);

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

impl<'a> Request<'a> {
    /// The first request in a buffer, once all of it is there.
    pub(super) fn first(buffer: &'a [u8]) -> io::Result<Option<Self>> {
        let Some(length) = number(buffer, 0) else {
            return Ok(None);
        };
        let length = length as usize;
        if !(REQUEST_HEADER..=LONGEST).contains(&length) {
            let message = format!("the guest sent a message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(buffer.get(..length).map(Self))
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn operation(&self) -> Operation {
        Operation(number(self.0, 4).unwrap_or_default())
    }

    fn unique(&self) -> [u8; 8] {
        let bytes = self.0.get(8..16).and_then(|bytes| bytes.try_into().ok());
        bytes.unwrap_or_default()
    }

    /// The room for its reply. The library fills all room that a read leaves it, so that is just what was asked for.
    pub(super) fn room(&self) -> u32 {
        let asked = match self.operation().0 {
            operation::READ | operation::READDIR | operation::READDIRPLUS => {
                number(self.0, REQUEST_HEADER + 16).unwrap_or(MOST)
            }
            _ => MOST,
        };
        asked.min(MOST) + REPLY_HEADER
    }

    /// Whether its reply may take long, so that others should not wait for it.
    pub(super) fn is_slow(&self) -> bool {
        matches!(
            self.operation().0,
            operation::FSYNC
                | operation::FSYNCDIR
                | operation::SYNCFS
                | operation::FALLOCATE
                | operation::COPY_FILE_RANGE
        )
    }

    /// Whether a file system of this machine answers it at once: to hand it to another thread takes longer.
    pub(super) fn is_brief(&self) -> bool {
        matches!(self.operation().0, operation::LOOKUP | operation::GETATTR)
    }

    /// Whether it only takes back what the guest was told: nobody waits for that, and it is done in order.
    pub(super) fn is_quick(&self) -> bool {
        matches!(
            self.operation().0,
            operation::FORGET | operation::BATCH_FORGET
        )
    }

    /// Whether the guest waits for a reply.
    pub(super) fn has_reply(&self) -> bool {
        let silent = matches!(
            self.operation().0,
            operation::INTERRUPT | operation::DESTROY
        );
        !silent && !self.is_quick()
    }

    /// The reply that an operation failed, with the number of an error.
    pub(super) fn failure(&self, error: i32) -> Vec<u8> {
        let mut reply = Vec::with_capacity(REPLY_HEADER as usize);
        reply.extend_from_slice(&REPLY_HEADER.to_ne_bytes());
        reply.extend_from_slice(&(-error).to_ne_bytes());
        reply.extend_from_slice(&self.unique());
        reply
    }
}

/// The number of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation(u32);

impl Operation {
    /// Makes a reply be believed for no time: something was changed while it was made.
    pub(super) fn shorten(self, reply: &mut [u8]) {
        let body = reply.get_mut(REPLY_HEADER as usize..).unwrap_or_default();
        match self.0 {
            operation::LOOKUP
            | operation::SYMLINK
            | operation::MKNOD
            | operation::MKDIR
            | operation::LINK => clear_entry(body),
            operation::GETATTR | operation::SETATTR => clear(body, 0, 12),
            operation::READDIRPLUS => clear_listing(body),
            _ => {}
        }
    }
}

fn clear(bytes: &mut [u8], from: usize, length: usize) {
    if let Some(bytes) = bytes.get_mut(from..from + length) {
        bytes.fill(0);
    }
}

/// The times of an entry: for its name and its attributes, in seconds, then in nanoseconds.
fn clear_entry(entry: &mut [u8]) {
    clear(entry, 16, 24);
}

/// Each entry is followed by its name, whose length is at 16, padded to eight bytes.
fn clear_listing(mut listing: &mut [u8]) {
    while let Some(length) = number(listing, ENTRY + 16) {
        clear_entry(listing);
        let whole = ENTRY + 24 + (length as usize).next_multiple_of(8);
        match listing.split_at_mut_checked(whole) {
            Some((_, rest)) => listing = rest,
            None => return,
        }
    }
}

/// Takes features out of the guest's first request, which the library would use. `reported` tells whether changes are
/// reported to the guest.
pub(super) fn without_features(request: &mut [u8], reported: bool) {
    if number(request, 4) != Some(operation::INIT) {
        return;
    }
    const FLAGS: usize = REQUEST_HEADER + 12;
    if let Some(flags) = number(request, FLAGS) {
        let dropped = match reported {
            true => ATOMIC_O_TRUNC | AUTO_INVAL_DATA,
            false => ATOMIC_O_TRUNC,
        };
        let flags = flags & !dropped;
        request[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
    }
}
