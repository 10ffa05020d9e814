//! The files that the guest's kernel knows: numbers for it, names for the host.
//!
//! A node is a file, whatever names it has. The guest's kernel counts how often it was told of one, and later takes the
//! counts back. A node needs no descriptor: it is found again by the name of its directory and its name in it, and is
//! known by its [`Identity`].
//!
//! Everything here is pure. The guest decides how many nodes there are, up to [`MOST`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CStr;
use std::sync::Arc;

use rustix::fs::Statx;

/// The number of a node.
pub(super) type NodeId = u64;

/// The shared directory.
pub(super) const ROOT: NodeId = 1;

/// How many nodes there are at most; each takes about 300 bytes.
const MOST: usize = 8 << 20;

/// The longest path, in components.
const DEEPEST: usize = 4096;

/// What tells one file from another, also from a later one with the same inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    /// When it was made, in seconds and nanoseconds; zero where the file system does not know.
    born: (i64, u32),
}

impl From<&Statx> for Identity {
    fn from(stat: &Statx) -> Self {
        Self {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        }
    }
}

/// A name in a directory.
pub(super) type Name = Arc<CStr>;

/// A name of a file, with its directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) parent: NodeId,
    pub(super) name: Name,
}

/// Whether changes in a directory are reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Watched {
    /// Nobody has looked into it.
    #[default]
    NotYet,
    /// They are.
    Yes,
    /// They can't be.
    No,
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    places: Vec<Place>,
    lookups: u64,
    /// The nodes that have a place in this one.
    children: usize,
    watched: Watched,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: HashMap<NodeId, Node>,
    by_identity: HashMap<Identity, NodeId>,
    by_place: HashMap<Place, NodeId>,
    next: NodeId,
}

/// A path to a node: the nearest node that was wanted, and the names below it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The node at which it begins.
    pub(super) from: NodeId,
    /// Each step: the node that it leads to, and its name.
    pub(super) steps: Vec<(NodeId, Name)>,
}

impl Nodes {
    /// Only the shared directory.
    pub(super) fn new(root: Identity) -> Self {
        let node = Node {
            identity: root,
            places: Vec::new(),
            lookups: 1,
            children: 0,
            watched: Watched::NotYet,
        };
        Self {
            nodes: HashMap::from([(ROOT, node)]),
            by_identity: HashMap::from([(root, ROOT)]),
            by_place: HashMap::new(),
            next: ROOT + 1,
        }
    }

    /// The guest is told of the file `name` in `parent` once more. Gives its node; `None` if there are too many.
    pub(super) fn look_up(&mut self, place: Place, identity: Identity) -> Option<NodeId> {
        if !self.nodes.contains_key(&place.parent) {
            return None;
        }
        let id = match self.by_identity.entry(identity) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                if self.nodes.len() >= MOST {
                    return None;
                }
                let id = self.next;
                self.next += 1;
                new.insert(id);
                let node = Node {
                    identity,
                    places: Vec::new(),
                    lookups: 0,
                    children: 0,
                    watched: Watched::NotYet,
                };
                self.nodes.insert(id, node);
                id
            }
        };
        self.put(place, id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_add(1);
        }
        Some(id)
    }

    /// The node `id` has this place from now on, and no other has it.
    fn put(&mut self, place: Place, id: NodeId) {
        match self.by_place.get(&place) {
            Some(known) if *known == id => return,
            Some(_) => self.take(&place),
            None => {}
        }
        // A directory below itself, which only a mount of the host makes, has no further place: no way would lead to it.
        if id == ROOT || self.is_above(id, place.parent) {
            return;
        }
        let Some(parent) = self.nodes.get_mut(&place.parent) else {
            return;
        };
        parent.children += 1;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.places.push(place.clone());
        }
        self.by_place.insert(place, id);
    }

    /// Whether the way to `below` begins at the node, or leads through it.
    fn is_above(&self, id: NodeId, below: NodeId) -> bool {
        let mut at = below;
        for _ in 0..DEEPEST {
            if at == id {
                return true;
            }
            let place = self.nodes.get(&at).and_then(|node| node.places.last());
            match place {
                Some(place) => at = place.parent,
                None => return false,
            }
        }
        true
    }

    /// Nothing that is known has this place any more.
    pub(super) fn take(&mut self, place: &Place) {
        let Some(id) = self.by_place.remove(place) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.places.retain(|other| other != place);
        }
        if let Some(parent) = self.nodes.get_mut(&place.parent) {
            parent.children -= 1;
        }
        self.drop_unused(place.parent);
        self.drop_unused(id);
    }

    /// A file got another place; what was there lost it. With `exchange` each got the place of the other.
    pub(super) fn rename(&mut self, from: &Place, to: &Place, exchange: bool) {
        let (moved, replaced) = (self.at(from), self.at(to));
        // Counted once more, so that none is dropped on the way.
        let held: Vec<NodeId> = [moved, replaced].into_iter().flatten().collect();
        held.iter().for_each(|id| self.count(*id, 1));
        self.take(from);
        self.take(to);
        if let Some(id) = moved {
            self.put(to.clone(), id);
        }
        if let (Some(id), true) = (replaced, exchange) {
            self.put(from.clone(), id);
        }
        held.iter().for_each(|id| {
            self.forget(*id, 1);
        });
    }

    fn count(&mut self, id: NodeId, times: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_add(times);
        }
    }

    /// The guest no longer counts on the node, `times` times. Gives whether the node is gone.
    pub(super) fn forget(&mut self, id: NodeId, times: u64) -> bool {
        if let Some(node) = self.nodes.get_mut(&id) {
            // The shared directory stays, whatever the guest says.
            node.lookups = node
                .lookups
                .saturating_sub(times)
                .max(u64::from(id == ROOT));
        }
        self.drop_unused(id);
        !self.nodes.contains_key(&id)
    }

    /// Drops the node, and those above it, if nothing needs them any more.
    fn drop_unused(&mut self, id: NodeId) {
        let mut unused = vec![id];
        while let Some(id) = unused.pop() {
            let Entry::Occupied(node) = self.nodes.entry(id) else {
                continue;
            };
            if node.get().lookups > 0 || node.get().children > 0 {
                continue;
            }
            let node = node.remove();
            if self.by_identity.get(&node.identity) == Some(&id) {
                self.by_identity.remove(&node.identity);
            }
            for place in node.places {
                self.by_place.remove(&place);
                if let Some(parent) = self.nodes.get_mut(&place.parent) {
                    parent.children -= 1;
                }
                unused.push(place.parent);
            }
        }
    }

    /// Whether the guest may know this node.
    #[cfg(test)]
    fn contains(&self, id: NodeId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// The node at a place.
    pub(super) fn at(&self, place: &Place) -> Option<NodeId> {
        self.by_place.get(place).copied()
    }

    /// The node's identity.
    pub(super) fn identity(&self, id: NodeId) -> Option<Identity> {
        self.nodes.get(&id).map(|node| node.identity)
    }

    /// The places where it was seen.
    pub(super) fn places(&self, id: NodeId) -> Vec<Place> {
        self.nodes
            .get(&id)
            .map(|node| node.places.clone())
            .unwrap_or_default()
    }

    /// The way to a directory from the nearest one above it that `is_open`; `None` if it has no place, or lies too deep.
    pub(super) fn route(&self, id: NodeId, is_open: impl Fn(NodeId) -> bool) -> Option<Route> {
        let mut steps = Vec::new();
        let mut at = id;
        while at != ROOT && !is_open(at) {
            let place = self.nodes.get(&at)?.places.last()?;
            steps.push((at, place.name.clone()));
            if steps.len() > DEEPEST {
                return None;
            }
            at = place.parent;
        }
        steps.reverse();
        Some(Route { from: at, steps })
    }

    /// The path to a place, relative to the shared directory.
    pub(super) fn path(&self, place: &Place) -> Option<Vec<u8>> {
        let mut path = Vec::new();
        for (_, name) in self.route(place.parent, |_| false)?.steps {
            path.extend_from_slice(name.to_bytes());
            path.push(b'/');
        }
        path.extend_from_slice(place.name.to_bytes());
        Some(path)
    }

    /// Whether changes in the directory are reported.
    pub(super) fn watched(&self, id: NodeId) -> Watched {
        self.nodes.get(&id).map_or(Watched::No, |node| node.watched)
    }

    /// Notes whether changes in the directory are reported.
    pub(super) fn set_watched(&mut self, id: NodeId, watched: Watched) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.watched = watched;
        }
    }

    /// Each node, with its places.
    pub(super) fn all(&self) -> impl Iterator<Item = (NodeId, &[Place])> {
        self.nodes
            .iter()
            .map(|(id, node)| (*id, node.places.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn identity(inode: u64) -> Identity {
        Identity {
            device: 1,
            inode,
            born: (0, 0),
        }
    }

    fn place(parent: NodeId, name: &CStr) -> Place {
        Place {
            parent,
            name: name.into(),
        }
    }

    #[test]
    fn a_file_with_two_names_is_one_node() {
        let mut nodes = Nodes::new(identity(1));
        let a = nodes.look_up(place(ROOT, c"a"), identity(2)).unwrap();
        let b = nodes.look_up(place(ROOT, c"b"), identity(2)).unwrap();
        assert_eq!(a, b);
        assert_eq!(nodes.places(a).len(), 2);
        // Another file took the name: the first one keeps its other name.
        let other = nodes.look_up(place(ROOT, c"a"), identity(3)).unwrap();
        assert_ne!(other, a);
        assert_eq!(nodes.places(a), [place(ROOT, c"b")]);
        assert!(!nodes.forget(a, 1));
        assert!(nodes.forget(a, 1));
        assert_eq!(nodes.at(&place(ROOT, c"b")), None);
    }

    #[test]
    fn a_route_follows_a_rename() {
        let mut nodes = Nodes::new(identity(1));
        let dir = nodes.look_up(place(ROOT, c"dir"), identity(2)).unwrap();
        let file = nodes.look_up(place(dir, c"file"), identity(3)).unwrap();
        nodes.rename(&place(ROOT, c"dir"), &place(ROOT, c"new"), false);
        let route = nodes.route(file, |_| false).unwrap();
        assert_eq!(route.from, ROOT);
        assert_eq!(route.steps, [(dir, c"new".into()), (file, c"file".into())]);
        assert_eq!(nodes.route(file, |id| id == dir).unwrap().from, dir);
        assert_eq!(nodes.path(&place(dir, c"x")).unwrap(), b"new/x");
        assert_eq!(nodes.path(&place(ROOT, c"x")).unwrap(), b"x");
        // A directory stays while a file in it is known.
        assert!(!nodes.forget(dir, 1));
        assert!(nodes.forget(file, 1));
        assert!(!nodes.contains(dir));
        assert!(nodes.contains(ROOT));
    }

    #[derive(Debug, Clone)]
    enum Step {
        LookUp(u64, u8, u64),
        Forget(u64, u64),
        Take(u64, u8),
        Rename(u64, u8, u64, u8, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (id, name) = (0..12_u64, 0..4_u8);
        prop_oneof![
            4 => (id.clone(), name.clone(), 1..8_u64).prop_map(|(parent, name, inode)| Step::LookUp(parent, name, inode)),
            2 => (id.clone(), 0..3_u64).prop_map(|(id, times)| Step::Forget(id, times)),
            1 => (id.clone(), name.clone()).prop_map(|(parent, name)| Step::Take(parent, name)),
            1 => (id.clone(), name.clone(), id, name, any::<bool>()).prop_map(|(a, b, c, d, exchange)| Step::Rename(a, b, c, d, exchange)),
        ]
    }

    proptest! {
        /// Whatever a kernel asks for, the tables agree with each other.
        #[test]
        fn the_tables_agree(steps in proptest::collection::vec(step(), 0..60)) {
            let at = |parent, name: u8| {
                let name = [b'a' + name, 0];
                place(parent, CStr::from_bytes_with_nul(&name).unwrap())
            };
            let mut nodes = Nodes::new(identity(1));
            for step in steps {
                match step {
                    Step::LookUp(parent, name, inode) => drop(nodes.look_up(at(parent, name), identity(inode))),
                    Step::Forget(id, times) => drop(nodes.forget(id, times)),
                    Step::Take(parent, name) => nodes.take(&at(parent, name)),
                    Step::Rename(a, b, c, d, exchange) => nodes.rename(&at(a, b), &at(c, d), exchange),
                }
                prop_assert!(nodes.contains(ROOT));
                let mut places = 0;
                for (id, node) in &nodes.nodes {
                    prop_assert!(node.lookups > 0 || node.children > 0);
                    prop_assert_eq!(nodes.by_identity.get(&node.identity), Some(id));
                    let own: HashSet<_> = node.places.iter().collect();
                    prop_assert_eq!(own.len(), node.places.len());
                    for place in &node.places {
                        prop_assert_eq!(nodes.by_place.get(place), Some(id));
                    }
                    places += node.places.len();
                    let children = nodes.by_place.keys().filter(|place| place.parent == *id).count();
                    prop_assert_eq!(children, node.children);
                }
                prop_assert_eq!(places, nodes.by_place.len());
                prop_assert_eq!(nodes.nodes.len(), nodes.by_identity.len());
            }
        }
    }
}
