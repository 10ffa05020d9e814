//! This process's terminal: the modes that the front end needs, and what the terminal says about itself.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{Event as Input, KeyCode, KeyModifiers};

use super::picture::Graphics;
use crate::shown::{self, Stream};

/// Pastes come as such.
const BEGIN: &str = "\x1b[?2004h";

/// Keys come unambiguous, where the terminal knows how (the Kitty protocol).
const KEYS: &str = "\x1b[>1u";

/// Asks for the background's colour and for the terminal's name, and by Kitty's protocol whether there are graphics.
const ASK: &str = "\x1b]11;?\x1b\\\x1b[>0q";
const ASK_KITTY: &str = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\";

/// Terminals with sixels. (What a terminal says about its kind would tell, but crossterm keeps that to itself.)
const SIXEL: [&str; 6] = ["foot", "WezTerm", "mlterm", "contour", "Konsole", "iTerm2"];

const END: &str = "\x1b[?2026l\x1b[?2004l\x1b[?7h\x1b[?25h\x1b[0m";

const KEYS_END: &str = "\x1b[<1u";

/// How long the terminal's answers are looked for. They are recognized between keys, so nothing waits for them.
const ANSWER: Duration = Duration::from_secs(3);

/// How long an Escape may be the beginning of an answer.
const HELD: Duration = Duration::from_millis(30);

/// Whether the modes are set, and the protocol of keys is on.
static SET: AtomicBool = AtomicBool::new(false);
static WITH_KEYS: AtomicBool = AtomicBool::new(false);

/// The terminal in the front end's modes. Dropped, it is as it was, also after a panic.
#[derive(Debug)]
pub(super) struct Terminal(());

impl Terminal {
    pub(super) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        crossterm::terminal::enable_raw_mode()?;
        SET.store(true, Ordering::SeqCst);
        shown::take_terminal(true);
        let terminal = Self(());
        let with_keys = !is_plain();
        WITH_KEYS.store(with_keys, Ordering::SeqCst);
        let begin = match with_keys {
            true => [BEGIN, KEYS].concat(),
            false => BEGIN.to_owned(),
        };
        write(begin.as_bytes())?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back into the modes that it had. A terminal that is gone needs none.
fn restore() {
    if !SET.swap(false, Ordering::SeqCst) {
        return;
    }
    let end = match WITH_KEYS.load(Ordering::SeqCst) {
        true => [END, KEYS_END].concat(),
        false => END.to_owned(),
    };
    write(end.as_bytes()).ok();
    shown::take_terminal(false);
    if let Err(error) = crossterm::terminal::disable_raw_mode() {
        tracing::debug!(%error, "the terminal could not be restored; run `reset`");
    }
}

/// Writes to the terminal.
pub(super) fn write(bytes: &[u8]) -> io::Result<()> {
    match bytes.is_empty() {
        true => Ok(()),
        false => shown::raw(Stream::Output, bytes),
    }
}

/// The terminal's size; some, such as serial lines, state none.
pub(super) fn size() -> (u16, u16) {
    match crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => (columns, rows),
        _ => (80, 24),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the terminal may take a sequence that it does not know for text: the Linux console, GNU screen.
fn is_plain() -> bool {
    let term = variable("TERM").unwrap_or_default();
    term == "linux" || (term.starts_with("screen") && variable("TMUX").is_none())
}

/// Whether the terminal breaks rows anew when it gets narrower. Most do; xterm and GNU screen cut them.
pub(super) fn reflows() -> bool {
    !is_plain() && variable("XTERM_VERSION").is_none()
}

/// How many pixels a cell has, as far as the terminal says.
pub(super) fn cell() -> Option<(u16, u16)> {
    let size = crossterm::terminal::window_size().ok()?;
    let cell = (
        size.width.checked_div(size.columns)?,
        size.height.checked_div(size.rows)?,
    );
    (cell.0 > 0 && cell.1 > 0).then_some(cell)
}

/// The terminal's answers, among keys.
///
/// An answer comes as keys that nobody types: an Alt-], Alt-_ or Alt-P, what it says, and an end. An Escape that is read
/// alone may be its beginning, so it waits for a moment.
#[derive(Debug, Default)]
pub(super) struct Answers {
    until: Option<Duration>,
    held: Vec<Input>,
    /// What is held, as the terminal sent it.
    text: String,
    since: Option<Duration>,
    /// Whether the background is light, as far as is known.
    pub(super) light: Option<bool>,
    pub(super) graphics: Graphics,
}

impl Answers {
    /// Asks the terminal.
    pub(super) fn ask(&mut self, now: Duration) -> io::Result<()> {
        if is_plain() {
            return Ok(());
        }
        self.until = Some(now + ANSWER);
        write(ASK.as_bytes())?;
        // To tmux the question is a title, and Apple's terminal prints it.
        let is_apple = variable("TERM_PROGRAM").is_some_and(|name| name == "Apple_Terminal");
        match variable("TMUX").is_some() || is_apple {
            false => write(ASK_KITTY.as_bytes()),
            true => Ok(()),
        }
    }

    /// Takes what is read; gives what is no answer.
    pub(super) fn filter(&mut self, input: Input, now: Duration) -> Vec<Input> {
        let is_asked = self.until.is_some_and(|until| now <= until);
        let sent = sent(&input).filter(|_| is_asked);
        self.held.push(input);
        self.text += sent.as_deref().unwrap_or("\0");
        match ends(&self.text) {
            Some(false) => {
                self.since = Some(now);
                Vec::new()
            }
            Some(true) => {
                let text = std::mem::take(&mut self.text);
                self.release();
                self.answered(&text);
                Vec::new()
            }
            None => self.release(),
        }
    }

    /// What was held for an answer and is none.
    fn release(&mut self) -> Vec<Input> {
        self.since = None;
        self.text.clear();
        std::mem::take(&mut self.held)
    }

    /// What is held for too long, and when that is.
    pub(super) fn overdue(&mut self, now: Duration) -> (Vec<Input>, Option<Duration>) {
        match self.since.map(|since| since + HELD) {
            Some(due) if due <= now => (self.release(), None),
            due => (Vec::new(), due),
        }
    }

    fn answered(&mut self, text: &str) {
        if text.contains("_Gi=31;OK") {
            self.graphics = Graphics::Kitty;
        } else if let Some((_, name)) = text.split_once("P>|") {
            let has_sixels = SIXEL.iter().any(|known| name.starts_with(known));
            if has_sixels && self.graphics == Graphics::None {
                self.graphics = Graphics::Sixel;
            }
        } else {
            self.light = is_light(text).or(self.light);
        }
    }
}

/// What a terminal sent to become this key.
fn sent(input: &Input) -> Option<String> {
    let Input::Key(key) = input else {
        return None;
    };
    let modifiers = key.modifiers - KeyModifiers::SHIFT;
    match (key.code, modifiers) {
        (KeyCode::Esc, KeyModifiers::NONE) => Some("\x1b".to_owned()),
        (KeyCode::Char('g'), KeyModifiers::CONTROL) => Some("\x07".to_owned()),
        (KeyCode::Char(typed), KeyModifiers::NONE) => Some(typed.to_string()),
        (KeyCode::Char(typed), KeyModifiers::ALT) => Some(format!("\x1b{typed}")),
        _ => None,
    }
}

/// Whether an answer has come to its end; none if the text is no beginning of one.
fn ends(text: &str) -> Option<bool> {
    let rest = text.strip_prefix('\x1b')?;
    if rest.is_empty() {
        return Some(false);
    }
    let said = rest.strip_prefix([']', '_', 'P'])?;
    let end = said.find(['\x07', '\x1b', '\0']).unwrap_or(said.len());
    match &said[end..] {
        "" if said.len() < 128 => Some(false),
        "\x1b" => Some(false),
        "\x07" | "\x1b\\" => Some(true),
        _ => None,
    }
}

/// Whether an answer such as `]11;rgb:ffff/ffff/ffff` is that of a light answers.
fn is_light(answer: &str) -> Option<bool> {
    let answer = answer.trim_end_matches(['\x07', '\x1b', '\\']);
    let (_, colour) = answer.split_once("rgb")?;
    let colour = colour.trim_start_matches('a').strip_prefix(':')?;
    let mut parts = colour.split('/').map(|part| {
        let value = u32::from_str_radix(part, 16).ok()?;
        let most = 16_u32.checked_pow(u32::try_from(part.len()).ok()?)? - 1;
        (most > 0).then(|| f64::from(value) / f64::from(most))
    });
    let mut next = || parts.next().flatten();
    let (r, g, b) = (next()?, next()?, next()?);
    Some(0.299 * r + 0.587 * g + 0.114 * b > 0.5)
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> Input {
        Input::Key(KeyEvent::new(code, modifiers))
    }

    fn asked(now: Duration) -> Answers {
        Answers {
            until: Some(now + ANSWER),
            ..Answers::default()
        }
    }

    fn chars(text: &str) -> Vec<Input> {
        let key = |c| key(KeyCode::Char(c), KeyModifiers::NONE);
        text.chars().map(key).collect()
    }

    #[test]
    fn the_answer_is_taken_out_of_what_is_typed() {
        let now = Duration::ZERO;
        let alt = |c| key(KeyCode::Char(c), KeyModifiers::ALT);
        let escape = || key(KeyCode::Esc, KeyModifiers::NONE);
        let beginnings = [vec![alt(']')], vec![escape(), chars("]").remove(0)]];
        let ends = [
            vec![alt('\\')],
            vec![escape(), chars("\\").remove(0)],
            vec![key(KeyCode::Char('g'), KeyModifiers::CONTROL)],
        ];
        for beginning in &beginnings {
            for end in &ends {
                let mut answers = asked(now);
                let mut rest = Vec::new();
                let answer = chars("11;rgb:fafa/fafa/f0f0");
                let all = [
                    chars("he"),
                    beginning.clone(),
                    answer,
                    end.clone(),
                    chars("llo"),
                ];
                for input in all.concat() {
                    rest.extend(answers.filter(input, now));
                }
                assert_eq!(rest, chars("hello"));
                assert_eq!(answers.light, Some(true));
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_not_lost() {
        let now = Duration::ZERO;
        let escape = key(KeyCode::Esc, KeyModifiers::NONE);
        let mut answers = asked(now);
        assert!(answers.filter(escape.clone(), now).is_empty());
        let (none, due) = answers.overdue(now);
        assert!(none.is_empty());
        let held = answers.overdue(due.unwrap()).0;
        assert_eq!(held, std::slice::from_ref(&escape));
        answers.filter(escape.clone(), now);
        let both = [escape.clone(), chars("x").remove(0)];
        assert_eq!(answers.filter(both[1].clone(), now), both);
        let typed = [vec![escape], chars("]1z")].concat();
        let mut rest = Vec::new();
        for input in typed.clone() {
            rest.extend(answers.filter(input, now));
        }
        let due = answers.overdue(now).1.unwrap();
        rest.extend(answers.overdue(due).0);
        assert_eq!(rest, typed);
        assert_eq!(answers.light, None);
    }

    #[test]
    fn graphics_are_known_by_query() {
        let said = |answers: &[&str]| {
            let mut asked = asked(Duration::ZERO);
            for answer in answers {
                let all = [
                    chars(answer),
                    vec![key(KeyCode::Char('\\'), KeyModifiers::ALT)],
                ];
                for (at, mut input) in all.concat().into_iter().enumerate() {
                    if let (0, Input::Key(key)) = (at, &mut input) {
                        key.modifiers = KeyModifiers::ALT;
                    }
                    assert!(asked.filter(input, Duration::ZERO).is_empty());
                }
            }
            asked.graphics
        };
        assert_eq!(said(&["P>|foot(1.16.2)"]), Graphics::Sixel);
        assert_eq!(said(&["_Gi=31;OK", "P>|WezTerm 2024"]), Graphics::Kitty);
        assert_eq!(
            said(&["P>|tmux 3.4", "_Gi=31;ENOTSUPPORTED"]),
            Graphics::None
        );
    }

    #[test]
    fn light_and_dark() {
        assert_eq!(is_light("]11;rgb:0000/0000/0000"), Some(false));
        assert_eq!(is_light("]11;rgb:ff/ff/ff\x1b\\"), Some(true));
        assert_eq!(is_light("]11;rgba:1c1c/1c1c/1c1c/ffff"), Some(false));
        assert_eq!(is_light("]11;rgb:"), None);
        assert_eq!(is_light(""), None);
    }
}
