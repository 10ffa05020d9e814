//! Any message of a guest's kernel to a share's server gives an answer or an error, and touches no file outside the share.

use std::fs::{self, File};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::server::Server;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::tree;

// The settings of the share's process.
#[path = "../../../runner/src/share/config.rs"]
mod config;
#[path = "../../../runner/src/share/guard.rs"]
mod guard;

/// A message: its header, with few operations and few inodes, and a body of names and numbers.
#[derive(Arbitrary, Debug)]
struct Message {
    operation: u8,
    node: Node,
    /// A false length in the header.
    length: Option<u32>,
    body: Vec<Piece>,
    room: u16,
}

#[derive(Arbitrary, Debug)]
enum Node {
    Root,
    Known(u8),
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Small(u8),
    Number(u32),
    Long(u64),
    File,
    New,
    Up,
    Outside,
    Link,
    Attribute,
    Text(Vec<u8>),
}

impl Piece {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Small(number) => out.extend_from_slice(&u64::from(*number).to_le_bytes()),
            Self::Number(number) => out.extend_from_slice(&number.to_le_bytes()),
            Self::Long(number) => out.extend_from_slice(&number.to_le_bytes()),
            Self::File => out.extend_from_slice(b"file\0"),
            Self::New => out.extend_from_slice(b"new\0"),
            Self::Up => out.extend_from_slice(b"..\0"),
            Self::Outside => out.extend_from_slice(b"../outside/a\0"),
            Self::Link => out.extend_from_slice(b"link\0"),
            Self::Attribute => out.extend_from_slice(b"user.x\0"),
            Self::Text(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// The addresses of the queue's parts in the guest's memory.
const DESCRIPTORS: u32 = 0x1000;
const AVAILABLE: u32 = 0x2000;
const USED: u32 = 0x3000;
const REQUEST: u64 = 0x1_0000;
const REPLY: u64 = 0x8_0000;

/// The longest body.
const LONGEST: usize = 0x1_0000;

/// Descriptor flags: there is a next one; the server writes to it.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The operation that starts a FUSE session.
const INIT: u32 = 26;

type Memory = GuestMemoryMmap<BitmapMmapRegion>;

static MEMORY: LazyLock<Memory> =
    LazyLock::new(|| Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("there is memory"));

fn put(bytes: &[u8], at: u64) {
    MEMORY
        .write_slice(bytes, GuestAddress(at))
        .expect("it is there");
}

/// A descriptor chain: a request and room for its answer.
fn chain(request: u32, room: u32) -> DescriptorChain<&'static Memory> {
    let mut table = Vec::new();
    let parts = [(REQUEST, request, NEXT, 1_u16), (REPLY, room, WRITE, 0)];
    for (at, length, flags, next) in parts {
        table.extend_from_slice(&at.to_le_bytes());
        table.extend_from_slice(&length.to_le_bytes());
        table.extend_from_slice(&flags.to_le_bytes());
        table.extend_from_slice(&next.to_le_bytes());
    }
    put(&table, DESCRIPTORS.into());
    // One chain is available; it starts at the first descriptor.
    put(&[0, 0, 1, 0, 0, 0], AVAILABLE.into());
    let mut queue = Queue::new(2).expect("a queue can be made");
    queue.set_size(2);
    queue.set_desc_table_address(Some(DESCRIPTORS), Some(0));
    queue.set_avail_ring_address(Some(AVAILABLE), Some(0));
    queue.set_used_ring_address(Some(USED), Some(0));
    queue.set_ready(true);
    let memory: &'static Memory = &MEMORY;
    queue.pop_descriptor_chain(memory).expect("there is one")
}

fn ask(
    server: &Server<guard::Guard>,
    operation: u32,
    node: u64,
    length: Option<u32>,
    body: &[u8],
    room: u16,
) {
    let body = &body[..body.len().min(LONGEST)];
    let length = length.unwrap_or(40 + body.len() as u32);
    let mut request = Vec::new();
    request.extend_from_slice(&length.to_le_bytes());
    request.extend_from_slice(&operation.to_le_bytes());
    for number in [7, node, 0, 1] {
        request.extend_from_slice(&u64::to_le_bytes(number));
    }
    request.extend_from_slice(body);
    put(&request, REQUEST);
    let chain = chain(request.len() as u32, u32::from(room).max(16));
    let reader = Reader::new(&MEMORY, chain.clone()).expect("it is a chain");
    let writer = Writer::new(&MEMORY, chain).expect("it is a chain");
    if let Ok(written) = server.handle_message(reader, writer, None::<&mut ()>) {
        assert!(
            written <= usize::from(room).max(16),
            "{written} bytes of {room}"
        );
    }
}

fn send(server: &Server<guard::Guard>, message: &Message) {
    let mut body = Vec::new();
    let pieces = message.body.iter().take(16);
    pieces.for_each(|piece| piece.write(&mut body));
    let node = match message.node {
        Node::Root => 1,
        Node::Known(number) => u64::from(number % 8),
        Node::Any(number) => number,
    };
    // Valid operations, and some numbers above them.
    let operation = u32::from(message.operation % 56);
    ask(server, operation, node, message.length, &body, message.room);
}

pub(crate) fn play(bytes: &[u8]) {
    let Some((flags, messages)) = crate::made::<(u64, Vec<Message>)>(bytes) else {
        return;
    };
    let home = tree::directory();
    for dir in ["share", "share/dir", "outside"] {
        fs::create_dir(home.path().join(dir)).expect("it can be made");
    }
    fs::write(home.path().join("share/file"), "file").expect("it can be written");
    fs::write(home.path().join("outside/a"), "secret").expect("it can be written");
    let link = home.path().join("share/link");
    std::os::unix::fs::symlink("../outside/a", link).expect("it can be made");
    let root = home.path().join("share").to_string_lossy().into_owned();
    let own_files = File::open("/proc/self/fd").expect("it is there");
    let config = config::config(1000, &root, own_files, 4096);
    let inner = PassthroughFs::new(config).expect("it can be served");
    let server = Server::new(guard::Guard::new(inner));
    let numbers: [u32; 4] = [7, 38, 0x2_0000, flags as u32];
    let mut hello: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    hello.extend_from_slice(&((flags >> 32) as u32).to_le_bytes());
    hello.resize(64, 0);
    ask(&server, INIT, 1, None, &hello, 4096);
    for message in messages.iter().take(16) {
        send(&server, message);
    }
    assert_eq!(names(&home.path().join("outside")), ["a"]);
    assert_eq!(names(home.path()), ["outside", "share"]);
    let secret = fs::read(home.path().join("outside/a")).expect("it is there");
    assert_eq!(secret, b"secret");
}

fn names(dir: &std::path::Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(dir).expect("it is there");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("it is there").file_name())
        .collect();
    names.sort();
    names
}
