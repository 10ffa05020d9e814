//! Reading a file piece by piece, without waiting for more.

use std::fs::File;
use std::io::{self, Read};

/// How many bytes are sent at once.
pub(super) const PIECE: usize = 64 << 10;

/// Takes output, and returns whether more is wanted.
pub(crate) type Send<'a> = dyn FnMut(Vec<u8>) -> bool + 'a;

/// Sends everything that can be read.
pub(super) fn copy(from: &mut dyn Read, send: &mut Send<'_>) -> io::Result<()> {
    loop {
        let mut buffer = vec![0; PIECE];
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                buffer.truncate(read);
                if !send(buffer) {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The next bytes of a file, at most `most`, without waiting for more.
pub(super) fn beginning(file: &mut File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match file.take(most as u64).read_to_end(&mut bytes) {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(bytes),
    }
}
