//! A program on a terminal of its own, whose screen a test reads.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    reason = "each test uses its own part, and fails by panicking"
)]

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

/// How long a screen may take. It only tells minutes from seconds.
const SOON: Duration = Duration::from_secs(120);

/// A running program and its terminal. The program is killed when this is dropped.
pub struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

/// What the terminal has shown.
pub struct Seen {
    parser: vt100::Parser,
    /// All bytes that the program wrote.
    pub bytes: Vec<u8>,
    /// When the newest of them came.
    pub at: Instant,
    /// A character to count on the screen.
    pub counted: char,
    /// How many of it were there, and since when.
    pub counts: Vec<(Instant, usize)>,
    /// The last bytes that were looked at for the marks of a frame.
    tail: Vec<u8>,
    /// A frame has begun that is not whole yet.
    is_drawing: bool,
    ended: bool,
}

/// The beginning and the end of a frame: until its end, a terminal that knows them shows the frame before.
const FRAME: [&[u8]; 2] = [b"\x1b[?2026h", b"\x1b[?2026l"];

impl Seen {
    /// Takes what the program wrote.
    fn take(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        if self.bytes.len() < 64 << 20 {
            self.bytes.extend_from_slice(bytes);
        }
        self.tail.extend_from_slice(bytes);
        let last = |mark: &[u8]| self.tail.windows(mark.len()).rposition(|at| at == mark);
        let [begun, ended] = FRAME.map(last);
        if begun != ended {
            self.is_drawing = begun > ended;
        }
        let split = self.tail.len().saturating_sub(FRAME[0].len() - 1);
        self.tail.drain(..split);
    }

    /// A person sees this: no frame is half drawn.
    fn is_drawn(&self) -> bool {
        !self.is_drawing || self.ended
    }

    /// The screen's lines.
    pub fn text(&self) -> String {
        self.parser.screen().contents()
    }

    /// The screen with its colours.
    pub fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// What has left the screen, then the screen.
    pub fn whole(&mut self) -> String {
        let (rows, columns) = self.parser.screen().size();
        let screen = self.parser.screen_mut();
        screen.set_scrollback(usize::MAX);
        let mut lines = Vec::new();
        for at in (1..=screen.scrollback()).rev() {
            screen.set_scrollback(at);
            lines.extend(screen.rows(0, columns.get()).next());
        }
        screen.set_scrollback(0);
        lines.extend(screen.rows(0, columns.get()).take(usize::from(rows.get())));
        lines.join("\n")
    }
}

impl Terminal {
    /// Starts a program on a terminal of that size.
    pub fn start(command: Command, columns: u16, rows: u16) -> Self {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(rows, columns)).unwrap();
        let child = command.spawn(pts).unwrap();
        let pty = Arc::new(pty);
        let seen = Arc::new((
            Mutex::new(Seen {
                parser: vt100::Parser::new(size(rows), size(columns), 10_000),
                bytes: Vec::new(),
                at: Instant::now(),
                counted: '~',
                counts: Vec::new(),
                tail: Vec::new(),
                is_drawing: false,
                ended: false,
            }),
            Condvar::new(),
        ));
        let (from, shared) = (pty.clone(), seen.clone());
        std::thread::spawn(move || read(&from, &shared));
        Self { pty, child, seen }
    }

    /// Types.
    pub fn write(&self, keys: impl AsRef<[u8]>) {
        (&*self.pty).write_all(keys.as_ref()).unwrap();
    }

    /// Changes the terminal's size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.pty.resize(Size::new(rows, columns)).unwrap();
        let mut seen = self.seen.0.lock().unwrap();
        seen.parser.screen_mut().set_size(size(rows), size(columns));
    }

    /// Waits until what was shown is as wanted, and gives what that makes of it.
    pub fn until<T>(&self, what: &str, mut wanted: impl FnMut(&mut Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        let (lock, changed) = &*self.seen;
        let mut seen = lock.lock().unwrap();
        loop {
            if seen.is_drawn()
                && let Some(found) = wanted(&mut seen)
            {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !seen.ended,
                "{what} never came; the screen:\n{}",
                seen.text()
            );
            seen = changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Waits for a text on the screen.
    pub fn shows(&self, text: &str) -> String {
        self.until(text, |seen| {
            Some(seen.text()).filter(|screen| screen.contains(text))
        })
    }

    /// The screen as it is now.
    pub fn screen(&self) -> String {
        self.seen(|seen| seen.text())
    }

    /// Looks at what was shown, once no frame is half drawn.
    pub fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        let mut look = Some(look);
        self.until("the end of a frame", |seen| Some(look.take()?(seen)))
    }

    /// Types keys, at once after the one before was shown or at a fixed rate, and gives how long each took.
    pub fn type_keys(&self, keys: usize, every: Option<Duration>) -> Vec<Duration> {
        const BATCH: usize = 50;
        let mut times = Vec::new();
        while times.len() < keys {
            let mut typed = Vec::new();
            self.seen(|seen| seen.counts.clear());
            for number in 1..=BATCH.min(keys - times.len()) {
                typed.push(Instant::now());
                self.write("~");
                match every {
                    Some(every) => std::thread::sleep(every),
                    None => {
                        self.until("the key", |seen| {
                            seen.counts
                                .iter()
                                .any(|(_, count)| *count >= number)
                                .then_some(())
                        });
                    }
                }
            }
            let counts = self.until("all keys", |seen| {
                let shown = seen
                    .counts
                    .last()
                    .is_some_and(|(_, count)| *count >= typed.len());
                shown.then(|| seen.counts.clone())
            });
            for (at, typed) in typed.iter().enumerate() {
                let shown = counts.iter().find(|(_, count)| *count > at).unwrap().0;
                times.push(shown.saturating_duration_since(*typed));
            }
            self.write("\x15");
            self.until("an empty editor", |seen| {
                seen.counts
                    .last()
                    .is_some_and(|(_, count)| *count == 0)
                    .then_some(())
            });
        }
        times
    }

    /// All that was shown: what has left the screen, then the screen.
    pub fn whole(&self) -> String {
        self.seen(|seen| seen.whole())
    }

    /// The program's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the program's end.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(length: u16) -> NonZeroU16 {
    NonZeroU16::new(length).unwrap()
}

/// Reads what the program writes until it has ended.
fn read(mut from: &Pty, (lock, changed): &(Mutex<Seen>, Condvar)) {
    let mut buffer = [0; 1 << 16];
    loop {
        // An error is the end: the last process on the terminal is gone.
        let length = from.read(&mut buffer).unwrap_or(0);
        let at = Instant::now();
        let mut seen = lock.lock().unwrap();
        if length == 0 {
            seen.ended = true;
            changed.notify_all();
            return;
        }
        seen.take(&buffer[..length]);
        seen.at = at;
        let count = seen.text().matches(seen.counted).count();
        if seen.counts.last().is_none_or(|(_, last)| *last != count) {
            seen.counts.push((at, count));
        }
        changed.notify_all();
    }
}
