//! One message at a time for the library's server, which reads requests from a virtio queue and writes replies there.
//!
//! The queue and its memory are this process's own. It has one chain: a request, and room for the reply.

use std::io;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::{Queue, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::server::Server;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::message::Request;

/// The addresses of the queue's parts.
const DESCRIPTORS: GuestAddress = GuestAddress(0);
const AVAILABLE: GuestAddress = GuestAddress(0x400);
const USED: GuestAddress = GuestAddress(0x800);
const REQUEST: GuestAddress = GuestAddress(0x1000);
const REPLY: GuestAddress = GuestAddress(0x20_0000);

/// The size of the memory, in bytes.
const SIZE: usize = 0x40_0000;

/// The entries of the queue.
const ENTRIES: u16 = 2;

/// Descriptor flags: there is a next one; the server writes to it.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A queue with its memory.
pub(super) struct Messages {
    memory: GuestMemoryMmap<BitmapMmapRegion>,
    queue: Queue,
    /// How many requests there were.
    count: u16,
}

impl Messages {
    pub(super) fn new() -> io::Result<Self> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE)]);
        let mut queue = Queue::new(ENTRIES).map_err(io::Error::other)?;
        let set = queue
            .try_set_desc_table_address(DESCRIPTORS)
            .and_then(|()| queue.try_set_avail_ring_address(AVAILABLE))
            .and_then(|()| queue.try_set_used_ring_address(USED));
        set.map_err(io::Error::other)?;
        queue.set_ready(true);
        Ok(Self {
            memory: memory.map_err(io::Error::other)?,
            queue,
            count: 0,
        })
    }

    /// Has a request answered. Appends the reply to `replies`; nothing for a request that gets none.
    pub(super) fn handle<F: FileSystem + Sync>(
        &mut self,
        server: &Server<F>,
        request: &Request<'_>,
        replies: &mut Vec<u8>,
    ) -> io::Result<()> {
        let length = u32::try_from(request.bytes().len()).map_err(io::Error::other)?;
        let mut table = Vec::with_capacity(32);
        let parts = [
            (REQUEST, length, NEXT, 1_u16),
            (REPLY, request.room(), WRITE, 0),
        ];
        for (at, length, flags, next) in parts {
            table.extend_from_slice(&at.0.to_le_bytes());
            table.extend_from_slice(&length.to_le_bytes());
            table.extend_from_slice(&flags.to_le_bytes());
            table.extend_from_slice(&next.to_le_bytes());
        }
        let put = |bytes: &[u8], at: GuestAddress| {
            self.memory.write_slice(bytes, at).map_err(io::Error::other)
        };
        put(&table, DESCRIPTORS)?;
        put(request.bytes(), REQUEST)?;
        // The chain begins at descriptor 0, and there is one more.
        let entry = u64::from(self.count % ENTRIES);
        put(&[0, 0], GuestAddress(AVAILABLE.0 + 4 + 2 * entry))?;
        self.count = self.count.wrapping_add(1);
        put(&self.count.to_le_bytes(), GuestAddress(AVAILABLE.0 + 2))?;
        let chain = self
            .queue
            .pop_descriptor_chain(&self.memory)
            .ok_or_else(|| io::Error::other("the queue is empty"))?;
        let reader = Reader::new(&self.memory, chain.clone()).map_err(io::Error::other)?;
        let writer = Writer::new(&self.memory, chain).map_err(io::Error::other)?;
        let written = server
            .handle_message(reader, writer, None::<&mut ()>)
            .map_err(io::Error::other)?;
        let begin = replies.len();
        replies.resize(begin + written, 0);
        self.memory
            .read_slice(&mut replies[begin..], REPLY)
            .map_err(io::Error::other)
    }
}
