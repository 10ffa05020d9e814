//! Sparse files: the maps of their pieces, in the three forms that archives use.

use std::io;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::error::LayerError;
use crate::headers::{BLOCK, number};

/// The most pieces that a sparse file may have.
const MAX_PIECES: u64 = 1 << 20;

/// The map of a sparse file.
pub(super) struct Sparse {
    /// The offset and the length of each piece.
    pub(super) pieces: Vec<(u64, u64)>,
    /// The size of the file.
    pub(super) size: u64,
}

impl Sparse {
    /// Checks that the pieces are in order, inside the file, and make up `data` bytes.
    pub(super) fn check(&self, data: u64) -> Result<(), &'static str> {
        let (mut end, mut total) = (0u64, 0u64);
        for &(offset, length) in &self.pieces {
            if offset < end {
                return Err("its pieces overlap or are out of order");
            }
            end = offset
                .checked_add(length)
                .ok_or("a piece ends beyond 2^64 bytes")?;
            total += length;
        }
        if end > self.size {
            return Err("a piece lies behind the end of the file");
        }
        if total != data {
            return Err("its pieces don't add up to the data that comes with it");
        }
        Ok(())
    }

    /// The map of an old GNU sparse file: in its header, and in the blocks after it, which `block` reads. `name` is the
    /// entry's name, for messages.
    pub(super) fn of_header(
        header: &Header,
        name: &[u8],
        mut block: impl FnMut() -> Result<[u8; BLOCK], LayerError>,
    ) -> Result<Self, LayerError> {
        let broken = |error: io::Error| LayerError::refused(name, format!("its map: {error}"));
        let gnu = header
            .as_gnu()
            .ok_or_else(|| broken(io::Error::other("only GNU archives have such files")))?;
        let mut sparse = Self {
            pieces: Vec::new(),
            size: gnu.real_size().map_err(broken)?,
        };
        let mut add = |piece: &GnuSparseHeader| -> io::Result<()> {
            if !piece.is_empty() {
                sparse.pieces.push((piece.offset()?, piece.length()?));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add).map_err(broken)?;
        let mut extended = gnu.is_extended();
        let mut blocks = 0;
        while extended {
            blocks += 1;
            if blocks * 21 > MAX_PIECES {
                return Err(LayerError::refused(
                    name,
                    format!("it is sparse with more than {MAX_PIECES} pieces"),
                ));
            }
            let mut more = GnuExtSparseHeader::new();
            more.as_mut_bytes().copy_from_slice(&block()?);
            more.sparse()
                .iter()
                .try_for_each(&mut add)
                .map_err(broken)?;
            extended = more.is_extended();
        }
        Ok(sparse)
    }

    /// The map of a pax sparse file of version 1: decimal lines before the data, padded to whole blocks. `block` reads
    /// the next block of the entry; it gives `None` where the entry has no whole block left.
    pub(super) fn before_data(
        size: u64,
        name: &[u8],
        mut block: impl FnMut() -> Result<Option<[u8; BLOCK]>, LayerError>,
    ) -> Result<Self, LayerError> {
        let refused = |why: &str| LayerError::refused(name, format!("it is sparse, but {why}"));
        let (mut line, mut numbers) = (Vec::new(), Vec::new());
        let mut wanted = 1;
        while (numbers.len() as u64) < wanted {
            let block = block()?.ok_or_else(|| refused("its map is longer than its data"))?;
            for byte in block {
                if (numbers.len() as u64) == wanted {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let value = number(&line)
                    .filter(|value| !numbers.is_empty() || *value <= MAX_PIECES)
                    .ok_or_else(|| refused("its map is malformed"))?;
                if numbers.is_empty() {
                    wanted = 1 + 2 * value;
                }
                numbers.push(value);
                line.clear();
            }
        }
        let (pairs, _) = numbers[1..].as_chunks::<2>();
        Ok(Self {
            pieces: pairs.iter().map(|pair| (pair[0], pair[1])).collect(),
            size,
        })
    }
}
