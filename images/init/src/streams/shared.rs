//! The state that the streams, the reading task and the writing task share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::frame::{
    Bounds, GROWTH, Head, Kind, MAX_BODY, MAX_WINDOW, Reason, Refusal, Side, Violation, WINDOW, put,
};

/// How many bytes of a stream wait to be sent, at most.
pub(super) const SEND: usize = 64 << 10;

/// Pieces that are together at most so long, in bytes, are received as one. A piece takes more memory than its bytes, and
/// the peer chooses how many there are.
const JOINED: usize = 4 << 10;

/// How many refusals wait to be sent, at most.
const REFUSALS: usize = 4096;

#[derive(Debug)]
pub(super) struct Shared {
    side: Side,
    bounds: Bounds,
    state: Mutex<State>,
    /// Something is to be sent.
    work: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<u32, Entry>,
    /// Streams with something to send, in turn.
    ready: VecDeque<u32>,
    /// Streams of the peer that are refused without ever having had an entry.
    refused: VecDeque<u32>,
    /// How many entries the peer opened.
    theirs: usize,
    /// The newest number of the peer's.
    newest_theirs: u32,
    /// The newest number of ours.
    newest_ours: u32,
    /// By how many bytes windows have grown.
    pub(super) grown: usize,
    pub(super) ended: bool,
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Whether both sides have agreed on it.
    pub(super) open: bool,
    /// Whether this side asked for it.
    ours: bool,
    /// The request that is to be sent, or the answer.
    greeting: Option<(Kind, Bytes)>,
    /// The peer's answer.
    pub(super) answer: Option<Bytes>,
    /// What the peer sent, the size of its window, and how much of that is left.
    pub(super) received: VecDeque<BytesMut>,
    pub(super) window: usize,
    pub(super) left: usize,
    /// What the reader took, or the window has grown by, and the peer has not been told of.
    taken: usize,
    pub(super) peer_finished: bool,
    /// What is to be sent, and how much of it the peer takes.
    pub(super) unsent: VecDeque<u8>,
    credit: usize,
    pub(super) finish: bool,
    finish_sent: bool,
    /// How this side ends the stream.
    reset: Option<Refusal>,
    /// How the peer ended it.
    pub(super) peer_reset: Option<Refusal>,
    /// Whether no [`Stream`](super::stream::Stream) is left for it.
    dropped: bool,
    queued: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Entry {
    fn new(ours: bool) -> Self {
        Self {
            ours,
            window: WINDOW,
            left: WINDOW,
            credit: WINDOW,
            ..Self::default()
        }
    }

    pub(super) fn wake(&mut self) {
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn receive(&mut self, body: BytesMut) {
        match self.received.back_mut() {
            Some(last) if last.len() + body.len() <= JOINED => last.extend_from_slice(&body),
            _ => self.received.push_back(body),
        }
    }

    /// Appends the next frame that is to be sent. Gives whether there was one.
    fn compose(&mut self, id: u32, buffer: &mut Vec<u8>) -> bool {
        if let Some((kind, body)) = self.greeting.take() {
            return put(buffer, id, kind, &[&body]);
        }
        if let Some(refusal) = self.reset.take() {
            return put(buffer, id, Kind::Reset, &[&refusal.encode()]);
        }
        if self.taken >= self.window / 4 && !self.peer_finished {
            let taken = std::mem::take(&mut self.taken);
            self.left += taken;
            let taken = u32::try_from(taken).unwrap_or(u32::MAX);
            return put(buffer, id, Kind::Window, &[&taken.to_be_bytes()]);
        }
        if !self.open || self.finish_sent || self.peer_reset.is_some() {
            return false;
        }
        let length = self.unsent.len().min(self.credit).min(MAX_BODY);
        if length > 0 {
            self.credit -= length;
            let (first, second) = self.unsent.as_slices();
            let of_first = first.len().min(length);
            let parts = [&first[..of_first], &second[..length - of_first]];
            put(buffer, id, Kind::Data, &parts);
            match length == self.unsent.len() {
                // An idle stream holds no buffer.
                true => self.unsent = VecDeque::new(),
                false => drop(self.unsent.drain(..length)),
            }
            self.writer.take().into_iter().for_each(Waker::wake);
            return true;
        }
        if self.finish && self.unsent.is_empty() {
            self.finish_sent = true;
            return put(buffer, id, Kind::Fin, &[]);
        }
        false
    }

    /// Whether nothing is left to do for it.
    fn is_over(&self) -> bool {
        let idle = self.greeting.is_none() && self.reset.is_none();
        let ended = self.peer_reset.is_some() || (self.finish_sent && self.peer_finished);
        self.dropped && idle && ended
    }
}

impl State {
    pub(super) fn entry(&mut self, id: u32) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    fn remove_if_over(&mut self, id: u32) {
        if self.entries.get(&id).is_some_and(Entry::is_over)
            && let Some(entry) = self.entries.remove(&id)
        {
            self.theirs -= usize::from(!entry.ours);
            self.grown -= entry.window - WINDOW;
        }
    }
}

impl Shared {
    pub(super) fn new(side: Side, bounds: Bounds) -> Self {
        let newest_ours = match side {
            Side::Guest => u32::MAX,
            Side::Host => 0,
        };
        Self {
            side,
            bounds,
            state: Mutex::new(State {
                newest_ours,
                ..State::default()
            }),
            work: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.lock().entries.len()
    }

    /// Waits until something is to be sent.
    pub(super) async fn wait(&self) {
        self.work.notified().await;
    }

    /// Has the writing task look at a stream.
    pub(super) fn touch(&self, state: &mut State, id: u32) {
        if let Some(entry) = state.entries.get_mut(&id)
            && !std::mem::replace(&mut entry.queued, true)
        {
            state.ready.push_back(id);
            self.work.notify_one();
        }
    }

    /// A new stream of this side; none if the connection has ended.
    pub(super) fn open(&self, request: Bytes) -> Option<u32> {
        let mut state = self.lock();
        // All numbers are used after 2^31 streams: the connection ends then.
        let id = match (state.newest_ours, state.ended) {
            (_, true) => return None,
            (u32::MAX, _) => 1,
            (newest, _) => newest.checked_add(2)?,
        };
        state.newest_ours = id;
        let mut entry = Entry::new(true);
        entry.greeting = Some((Kind::Open, request));
        state.entries.insert(id, entry);
        self.touch(&mut state, id);
        Some(id)
    }

    /// Accepts a stream of the peer's.
    pub(super) fn accept(&self, id: u32, answer: Bytes) {
        let mut state = self.lock();
        if let Some(entry) = state.entry(id) {
            entry.open = true;
            entry.greeting = Some((Kind::Opened, answer));
        }
        self.touch(&mut state, id);
    }

    /// Ends a stream at once.
    pub(super) fn reset(&self, id: u32, refusal: Refusal) {
        let mut state = self.lock();
        if let Some(entry) = state.entry(id)
            && entry.peer_reset.is_none()
        {
            entry.reset = Some(refusal);
            entry.unsent.clear();
            entry.finish_sent = true;
            entry.peer_finished = true;
            entry.received.clear();
        }
        self.touch(&mut state, id);
    }

    /// The reader took so many bytes.
    pub(super) fn took(&self, state: &mut State, id: u32, bytes: usize) {
        let room = GROWTH - state.grown;
        if let Some(entry) = state.entry(id) {
            entry.taken += bytes;
            if entry.taken >= entry.window / 4 {
                let most = MAX_WINDOW.min(2 * entry.window);
                let more = match entry.peer_finished {
                    true => 0,
                    false => (most - entry.window).min(room),
                };
                entry.window += more;
                entry.taken += more;
                state.grown += more;
                self.touch(state, id);
            }
        }
    }

    /// No [`Stream`](super::stream::Stream) is left: what was not finished is reset.
    pub(super) fn dropped(&self, id: u32) {
        let mut state = self.lock();
        let Some(entry) = state.entry(id) else { return };
        entry.dropped = true;
        let finished = entry.finish && entry.peer_finished && entry.received.is_empty();
        let over = entry.peer_reset.is_some() || entry.finish_sent && entry.peer_finished;
        if !finished && !over {
            drop(state);
            self.reset(id, Refusal::new(Reason::Reset, "the stream was dropped"));
            return;
        }
        state.remove_if_over(id);
        self.touch(&mut state, id);
    }

    /// The connection has ended: everybody who waits is woken.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.entries.values_mut().for_each(Entry::wake);
    }

    /// Appends frames that are to be sent, about `most` bytes of them, a frame of each stream in turn.
    pub(super) fn compose(&self, buffer: &mut Vec<u8>, most: usize) {
        let mut state = self.lock();
        while buffer.len() < most {
            if let Some(id) = state.refused.pop_front() {
                let busy = Refusal::new(Reason::Busy, "too many connections are open");
                put(buffer, id, Kind::Reset, &[&busy.encode()]);
                continue;
            }
            let Some(id) = state.ready.pop_front() else {
                break;
            };
            let Some(entry) = state.entry(id) else {
                continue;
            };
            match entry.compose(id, buffer) {
                true => state.ready.push_back(id),
                false => entry.queued = false,
            }
            state.remove_if_over(id);
        }
    }

    /// Takes a frame. Gives the number of a stream that the peer asks for, and its request.
    pub(super) fn receive(
        &self,
        head: Head,
        body: BytesMut,
    ) -> Result<Option<(u32, Bytes)>, Violation> {
        let Head { id, kind, .. } = head;
        let mut state = self.lock();
        if kind == Kind::Open {
            let new = self.asked(&mut state, id)?;
            return Ok(new.then(|| (id, body.freeze())));
        }
        let known = match self.is_theirs(id) {
            true => id <= state.newest_theirs,
            false => state.newest_ours != u32::MAX && id <= state.newest_ours && id != 0,
        };
        let Some(entry) = state.entry(id) else {
            // Late frames of a stream that has ended are no fault.
            return match known {
                true => Ok(None),
                false => Err(Violation::Order {
                    id,
                    kind: kind.name(),
                }),
            };
        };
        let ended = entry.peer_finished || entry.peer_reset.is_some();
        match kind {
            Kind::Opened if entry.ours && !entry.open && !ended => {
                entry.open = true;
                entry.answer = Some(body.freeze());
            }
            Kind::Reset => {
                entry.peer_reset.get_or_insert(Refusal::decode(&body));
                entry.unsent.clear();
            }
            // This side has reset it, and the peer does not know yet.
            _ if ended && entry.finish_sent => {}
            Kind::Data if entry.open && !ended => {
                entry.left = entry
                    .left
                    .checked_sub(body.len())
                    .ok_or(Violation::Window(id))?;
                if !body.is_empty() {
                    entry.receive(body);
                }
            }
            Kind::Fin if entry.open && !ended => entry.peer_finished = true,
            Kind::Window if entry.open => {
                let more = body[..].try_into().map(u32::from_be_bytes).unwrap_or(0) as usize;
                if entry.credit + more > MAX_WINDOW {
                    return Err(Violation::Window(id));
                }
                entry.credit += more;
            }
            kind => {
                let kind = kind.name();
                return Err(Violation::Order { id, kind });
            }
        }
        entry.wake();
        state.remove_if_over(id);
        // Nothing else lets this side send more.
        if let Kind::Opened | Kind::Window = kind {
            self.touch(&mut state, id);
        }
        Ok(None)
    }

    /// The peer asks for a stream. Whether it has an entry now; otherwise it is refused.
    fn asked(&self, state: &mut State, id: u32) -> Result<bool, Violation> {
        if !self.is_theirs(id) || id <= state.newest_theirs {
            return Err(Violation::Number(id));
        }
        state.newest_theirs = id;
        if state.theirs < self.bounds.streams {
            state.theirs += 1;
            state.entries.insert(id, Entry::new(false));
            return Ok(true);
        }
        if state.refused.len() >= REFUSALS {
            return Err(Violation::Flood(REFUSALS));
        }
        state.refused.push_back(id);
        self.work.notify_one();
        Ok(false)
    }

    fn is_theirs(&self, id: u32) -> bool {
        match self.side {
            Side::Guest => id.is_multiple_of(2),
            Side::Host => !id.is_multiple_of(2),
        }
    }
}
