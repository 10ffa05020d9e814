//! Any message of a guest's kernel to a share's server gives an answer or an error, and touches no file outside the share.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arbitrary::Arbitrary;
use rustix::fs::{Mode, OFlags};
use snowglobe_runner::Share;
use snowglobe_runner::protection::Protection;
use virtiofsd::server::Server;

use crate::tree as directories;

// The parts of the share's process that read what the guest sends.
#[path = "../../../runner/src/share/descriptors.rs"]
mod descriptors;
#[path = "../../../runner/src/share/guard.rs"]
mod guard;
#[allow(dead_code, reason = "nobody asks for its refusals")]
#[path = "../../../runner/src/share/judge.rs"]
mod judge;
#[path = "../../../runner/src/share/known.rs"]
mod known;
#[allow(dead_code, reason = "there is no stream here")]
#[path = "../../../runner/src/share/link.rs"]
mod link;
#[allow(dead_code, reason = "nobody asks for them")]
#[path = "../../../runner/src/share/made.rs"]
mod made;
#[path = "../../../runner/src/share/message.rs"]
mod message;
#[path = "../../../runner/src/share/nodes.rs"]
mod nodes;
#[allow(dead_code, reason = "nobody watches the directory")]
#[path = "../../../runner/src/share/note.rs"]
mod note;
#[path = "../../../runner/src/share/queue.rs"]
mod queue;
#[allow(dead_code, reason = "nobody asks for them")]
#[path = "../../../runner/src/share/refusals.rs"]
mod refusals;
#[path = "../../../runner/src/share/room.rs"]
mod room;
#[allow(dead_code, reason = "no file stays open for long")]
#[path = "../../../runner/src/share/tree.rs"]
mod tree;
#[allow(dead_code, reason = "nobody watches the directory")]
#[path = "../../../runner/src/share/watch.rs"]
mod watch;

use self::guard::Guard;
use self::judge::Judge;
use self::message::Request;
use self::queue::Messages;
use self::tree::Tree;

/// A message: its header, with few operations and few inodes, and a body of names and numbers.
#[derive(Arbitrary, Debug)]
struct Message {
    operation: u8,
    node: Node,
    /// A false length in the header.
    length: Option<u32>,
    body: Vec<Piece>,
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

/// The longest body.
const LONGEST: usize = 0x1_0000;

/// The operation that starts a FUSE session.
const INIT: u32 = 26;

/// The guest's kernel, and what it talks to.
struct Kernel {
    server: Server<Guard>,
    messages: Messages,
}

impl Kernel {
    fn ask(&mut self, operation: u32, node: u64, length: Option<u32>, body: &[u8]) {
        let body = &body[..body.len().min(LONGEST)];
        let length = length.unwrap_or(40 + body.len() as u32);
        let mut request = Vec::new();
        request.extend_from_slice(&length.to_le_bytes());
        request.extend_from_slice(&operation.to_le_bytes());
        for number in [7, node, 0, 1] {
            request.extend_from_slice(&u64::to_le_bytes(number));
        }
        request.extend_from_slice(body);
        message::without_features(&mut request, true);
        let Ok(Some(request)) = Request::first(&request) else {
            return;
        };
        let mut reply = Vec::new();
        if self
            .messages
            .handle(&self.server, &request, &mut reply)
            .is_ok()
        {
            assert!(reply.len() <= request.room() as usize, "{}", reply.len());
            request.operation().shorten(&mut reply);
        }
    }

    fn send(&mut self, message: &Message) {
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
        self.ask(operation, node, message.length, &body);
    }
}

pub(crate) fn play(bytes: &[u8]) {
    let Some((flags, messages)) = crate::made::<(u64, Vec<Message>)>(bytes) else {
        return;
    };
    let home = directories::directory();
    for dir in ["share", "share/dir", "outside"] {
        fs::create_dir(home.path().join(dir)).expect("it can be made");
    }
    fs::write(home.path().join("share/file"), "file").expect("it can be written");
    fs::write(home.path().join("outside/a"), "secret").expect("it can be written");
    let link = home.path().join("share/link");
    std::os::unix::fs::symlink("../outside/a", link).expect("it can be made");
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .expect("it is there")
    };
    let own_files = File::open("/proc/self/fd").expect("it is there");
    let root = open(&home.path().join("share"));
    let tree = Tree::new(root, own_files.into(), 1000, 1024, |_| None).expect("it can be served");
    let share = Share {
        tag: "share".to_owned(),
        port: 0,
        path: home.path().join("share"),
        opened: None,
        guest_id: 1000,
        protection: Protection::default(),
        hooks: Vec::new(),
        repository: None,
    };
    let room = room::Room::new(open(&share.path));
    let judge = Judge::new(&share, open(&share.path), room);
    let judge = Arc::new(judge.expect("the defaults are valid"));
    let mut kernel = Kernel {
        server: Server::new(Guard::new(tree, 1000, judge)),
        messages: Messages::new().expect("there is memory"),
    };
    let numbers: [u32; 4] = [7, 38, 0x2_0000, flags as u32];
    let mut hello: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    hello.extend_from_slice(&((flags >> 32) as u32).to_le_bytes());
    hello.resize(64, 0);
    kernel.ask(INIT, 1, None, &hello);
    for message in messages.iter().take(16) {
        kernel.send(message);
    }
    assert_eq!(names(&home.path().join("outside")), ["a"]);
    assert_eq!(names(home.path()), ["outside", "share"]);
    let secret = fs::read(home.path().join("outside/a")).expect("it is there");
    assert_eq!(secret, b"secret");
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(dir).expect("it is there");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("it is there").file_name())
        .collect();
    names.sort();
    names
}
