//! Notes to the guest's kernel: what it must no longer believe.

use std::collections::HashSet;

use snowglobe_init::wire::share::TOUCH;

use super::nodes::{NodeId, Place};

/// `FUSE_NOTIFY_INVAL_INODE`, `FUSE_NOTIFY_INVAL_ENTRY` and `FUSE_NOTIFY_DELETE` of the protocol.
const INODE: u32 = 2;
const ENTRY: u32 = 3;
const DELETE: u32 = 6;

/// A note.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Note {
    /// The attributes of a node changed.
    Attributes(NodeId),
    /// Its contents changed, too.
    Contents(NodeId),
    /// The name may lead to another file.
    Name(Place),
    /// The name leads to nothing.
    Gone { place: Place, child: NodeId },
    /// Programs that watch this path, relative to the shared directory, are told of a change. It is for init, which touches
    /// the file: nothing that the kernel must no longer believe fires their watches.
    Touch(Vec<u8>),
}

impl Note {
    pub(super) fn of(id: NodeId, attributes_only: bool) -> Self {
        match attributes_only {
            true => Self::Attributes(id),
            false => Self::Contents(id),
        }
    }

    /// Appends the note's message.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Attributes(id) => inode(out, *id, -1),
            Self::Contents(id) => inode(out, *id, 0),
            Self::Name(place) => entry(out, ENTRY, &[place.parent], place),
            Self::Gone { place, child } => entry(out, DELETE, &[place.parent, *child], place),
            Self::Touch(path) => {
                header(out, TOUCH, path.len());
                out.extend_from_slice(path);
            }
        }
    }
}

/// The header of a note: its length, its kind, and no request.
fn header(out: &mut Vec<u8>, kind: u32, body: usize) {
    let length = u32::try_from(16 + body).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&0_u64.to_ne_bytes());
}

/// From `offset` to the end; a negative one leaves the contents.
fn inode(out: &mut Vec<u8>, id: NodeId, offset: i64) {
    header(out, INODE, 24);
    out.extend_from_slice(&id.to_ne_bytes());
    out.extend_from_slice(&offset.to_ne_bytes());
    out.extend_from_slice(&0_i64.to_ne_bytes());
}

fn entry(out: &mut Vec<u8>, kind: u32, nodes: &[NodeId], place: &Place) {
    let name = place.name.to_bytes_with_nul();
    header(out, kind, nodes.len() * 8 + 8 + name.len());
    for id in nodes {
        out.extend_from_slice(&id.to_ne_bytes());
    }
    let length = u32::try_from(name.len() - 1).unwrap_or_default();
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&0_u32.to_ne_bytes());
    out.extend_from_slice(name);
}

/// Each note once, in the order of the first; none about attributes where another says more.
pub(super) fn without_repeats(notes: Vec<Note>) -> Vec<Note> {
    let all: HashSet<Note> = notes.iter().cloned().collect();
    let mut told = HashSet::new();
    let mut kept = notes;
    kept.retain(|note| {
        let more = match note {
            Note::Attributes(id) => all.contains(&Note::Contents(*id)),
            _ => false,
        };
        !more && told.insert(note.clone())
    });
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(note: &Note) -> Vec<u8> {
        let mut out = Vec::new();
        note.write(&mut out);
        out
    }

    #[test]
    fn a_note_says_its_length() {
        let place = Place {
            parent: 7,
            name: c"name".into(),
        };
        let child = 9;
        let notes = [
            Note::Attributes(3),
            Note::Contents(3),
            Note::Name(place.clone()),
            Note::Gone { place, child },
        ];
        for note in &notes {
            let message = written(note);
            assert_eq!(
                message[..4],
                (message.len() as u32).to_ne_bytes(),
                "{note:?}"
            );
            assert_eq!(message[8..16], [0; 8]);
        }
        assert_eq!(
            written(&notes[2])[16 + 8..],
            [&4_u32.to_ne_bytes()[..], &[0; 4], b"name\0"].concat()
        );
        assert!(written(&notes[3]).ends_with(b"name\0"));
        assert_eq!(written(&notes[0])[24..32], (-1_i64).to_ne_bytes());
    }

    #[test]
    fn a_note_comes_once() {
        let notes = vec![
            Note::Attributes(3),
            Note::Contents(3),
            Note::Attributes(4),
            Note::Contents(3),
        ];
        let left = without_repeats(notes);
        assert_eq!(left, [Note::Contents(3), Note::Attributes(4)]);
    }
}
