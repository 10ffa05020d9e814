//! The guest's half of a copied workspace: what is in it, contents out of it, changes into it.
//!
//! The guest is hostile: whatever it says of its tree is its own account. A listing is bounded, a path that is none is an
//! error, and a content is kept by the hash of what came.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use snowglobe_init::wire::tree::{
    EntryKind, MAX_PATHS, Placed, PlacedResult, TreeEntry, UNREADABLE, escape,
};
use snowglobe_init::wire::{Report, Request};
use tokio::sync::mpsc;

use super::request::gathered;
use super::state::Live;
use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::copy::{Contents, CopyError};
use crate::guest::{Guest, Output, unexpected};

/// The bytes of contents that are moved by one request, unless a single file has more.
const BATCH: u64 = 64 << 20;

/// The entries of the guest's tree, by path.
pub(super) type GuestTree = BTreeMap<Vec<u8>, TreeEntry>;

/// A file of the guest to fetch: its path and size.
pub(super) type Wanted = (Vec<u8>, u64);

/// The entries of a listing.
fn entries(mut bytes: &[u8]) -> Result<GuestTree, SandboxError> {
    let mut tree = GuestTree::new();
    while !bytes.is_empty() {
        let (entry, rest) = TreeEntry::decode(bytes).ok_or(SandboxError::GuestTree)?;
        tree.insert(entry.path.clone(), entry);
        bytes = rest;
    }
    Ok(tree)
}

/// A machine and its guest.
pub(super) struct Reached<'a> {
    pub(super) live: &'a Live,
    pub(super) guest: Arc<Guest>,
}

impl Sandbox {
    /// What is in the guest's workspace, without what git ignores if it is of git. Paths in `known` are looked for even if
    /// git ignores them.
    pub(super) async fn guest_tree(
        &self,
        at: &Reached<'_>,
        of_git: bool,
        excludes: &str,
        known: &[&Vec<u8>],
    ) -> Result<GuestTree, SandboxError> {
        let all = Request::Tree {
            ignore: of_git,
            excludes: excludes.to_owned(),
            only: None,
        };
        let mut tree = self.list_guest(at, &all).await?;
        let missing: Vec<_> = known
            .iter()
            .filter(|path| !tree.contains_key(**path))
            .copied()
            .collect();
        tree.extend(self.look_at(at, &missing).await?);
        Ok(tree)
    }

    /// What is at these paths of the guest's workspace.
    pub(super) async fn look_at(
        &self,
        at: &Reached<'_>,
        paths: &[&Vec<u8>],
    ) -> Result<GuestTree, SandboxError> {
        let mut tree = GuestTree::new();
        for some in paths.chunks(MAX_PATHS) {
            let request = Request::Tree {
                ignore: false,
                excludes: String::new(),
                only: Some(some.iter().map(|path| escape(path)).collect()),
            };
            let found = self.list_guest(at, &request).await?.into_iter();
            tree.extend(found.filter(|(_, entry)| entry.kind != EntryKind::Absent));
        }
        Ok(tree)
    }

    async fn list_guest(
        &self,
        at: &Reached<'_>,
        request: &Request,
    ) -> Result<GuestTree, SandboxError> {
        let listed = gathered(&at.guest, request, Bytes::new());
        match self.answer(at.live, listed).await? {
            (Report::Done, bytes) => entries(&bytes),
            (other, _) => Err(unexpected("list the workspace", &other).into()),
        }
    }

    /// Fetches files of the guest; gives the hash of each one's content and its length, or none if it can't be read.
    pub(super) async fn fetch(
        &self,
        at: &Reached<'_>,
        files: Vec<Wanted>,
        contents: &Contents,
    ) -> Result<Vec<Option<(String, u64)>>, SandboxError> {
        let mut all = Vec::with_capacity(files.len());
        for batch in batches(&files, |(_, size)| *size) {
            // A file may have grown a little since it was listed.
            let sizes: u64 = batch.iter().map(|(_, size)| *size).sum();
            let request = Request::Fetch {
                paths: batch.iter().map(|(path, _)| escape(path)).collect(),
                max_bytes: sizes.saturating_add(1 << 20),
            };
            let (pieces, received) = mpsc::unbounded_channel();
            let (count, contents) = (batch.len(), contents.clone());
            let keep = tokio::task::spawn_blocking(move || kept(received, count, &contents));
            let mut output = |output| {
                if let Output::Stdout(bytes) = output {
                    // The keeper has failed if it takes no more; its error is reported.
                    drop(pieces.send(bytes));
                }
            };
            let answered = self
                .answer(
                    at.live,
                    at.guest.request(&request, Bytes::new(), &mut output),
                )
                .await;
            drop(pieces);
            let kept = keep.await.unwrap_or(Err(CopyError::Ended));
            answered?;
            all.extend(kept?);
        }
        Ok(all)
    }

    /// Makes changes in the guest's workspace, with the content of each file; gives what became of each.
    pub(super) async fn place(
        &self,
        at: &Reached<'_>,
        changes: Vec<(Placed, Option<File>)>,
    ) -> Result<Vec<PlacedResult>, SandboxError> {
        let _changing = self.read_ahead.changing();
        let mut results = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let (mut batch, mut files, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
            while let Some((change, file)) = changes.next_if(|(next, _)| {
                batch.is_empty()
                    || (batch.len() < MAX_PATHS && bytes.saturating_add(next.size) <= BATCH)
            }) {
                bytes = bytes.saturating_add(change.size);
                files.extend(file.map(|file| (file, change.size)));
                batch.push(change);
            }
            let spool = blocking(move || spooled(files)).await;
            let spool = spool.map_err(CopyError::Spool)?;
            let request = Request::Place { changes: batch };
            let input = tokio::fs::File::from_std(spool);
            let mut ignored = |_| ();
            let placed = at.guest.request_with(&request, input, bytes, &mut ignored);
            match self.answer(at.live, placed).await? {
                Report::Placed { results: placed } => results.extend(placed),
                other => return Err(unexpected("change files", &other).into()),
            }
        }
        Ok(results)
    }
}

/// Splits a list into parts that one request can move.
fn batches<T>(list: &[T], size: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let (mut parts, mut from, mut bytes) = (Vec::new(), 0, 0_u64);
    for (at, one) in list.iter().enumerate() {
        let more = bytes.saturating_add(size(one));
        if at > from && (more > BATCH || at - from >= MAX_PATHS) {
            parts.push(&list[from..at]);
            (from, bytes) = (at, size(one));
        } else {
            bytes = more;
        }
    }
    if from < list.len() {
        parts.push(&list[from..]);
    }
    parts
}

/// The contents of files, one after the other, at its beginning.
fn spooled(files: Vec<(File, u64)>) -> io::Result<File> {
    let mut spool = tempfile::tempfile()?;
    for (mut file, size) in files {
        let copied = io::copy(&mut (&mut file).take(size), &mut spool)?;
        // The guest refuses a file whose content is too short, not those after it.
        let mut missing = io::repeat(0).take(size - copied);
        io::copy(&mut missing, &mut spool)?;
    }
    spool.flush()?;
    spool.rewind()?;
    Ok(spool)
}

/// Keeps contents as they come; gives the hash and the length of each.
fn kept(
    pieces: mpsc::UnboundedReceiver<Bytes>,
    count: usize,
    contents: &Contents,
) -> Result<Vec<Option<(String, u64)>>, CopyError> {
    let mut input = Pieces {
        pieces,
        current: Bytes::new(),
    };
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let mut length = [0; 8];
        input
            .read_exact(&mut length)
            .map_err(|_| CopyError::Ended)?;
        all.push(match u64::from_le_bytes(length) {
            UNREADABLE => None,
            length => Some((contents.add(&mut input, length)?, length)),
        });
    }
    Ok(all)
}

/// Pieces of output as a reader.
struct Pieces {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current[..length]);
        self.current.advance(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_are_small_enough_and_lose_nothing(
            sizes in prop::collection::vec(0_u64..(BATCH * 3 / 2), 0..40)
        ) {
            let parts = batches(&sizes, |size| *size);
            for part in &parts {
                let bytes: u64 = part.iter().sum();
                prop_assert!(!part.is_empty() && (bytes <= BATCH || part.len() == 1));
            }
            prop_assert_eq!(parts.concat(), sizes);
        }
    }

    #[test]
    fn contents_are_kept_however_they_come_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::at(dir.path().to_owned());
        let mut all = 3_u64.to_le_bytes().to_vec();
        all.extend(b"abc");
        all.extend(UNREADABLE.to_le_bytes());
        all.extend(0_u64.to_le_bytes());
        for size in [1, 3, 100] {
            let (send, pieces) = mpsc::unbounded_channel();
            for piece in all.chunks(size) {
                send.send(Bytes::copy_from_slice(piece)).unwrap();
            }
            drop(send);
            let kept = kept(pieces, 3, &contents).unwrap();
            let (hash, length) = kept[0].clone().unwrap();
            assert_eq!((length, kept[1].clone()), (3, None));
            assert_eq!(std::fs::read(contents.path(&hash)).unwrap(), b"abc");
            assert_eq!(kept[2].clone().unwrap().1, 0);
        }
        let (send, pieces) = mpsc::unbounded_channel();
        send.send(Bytes::from_static(&[5, 0, 0, 0, 0, 0, 0, 0, 1]))
            .unwrap();
        drop(send);
        assert!(kept(pieces, 1, &contents).is_err(), "it ended early");
    }
}
