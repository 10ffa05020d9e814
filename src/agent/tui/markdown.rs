//! Markdown as it streams.
//!
//! A block leaves the stream once nothing that comes can change it: a paragraph when the next block begins, an item of a
//! list when the next item does, a line of code when its line break has come. So nothing above changes any more, and no
//! more than [`PIECE`] is ever parsed again: a block that is longer leaves in pieces.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag};
use ratatui_core::text::{Line, Span};

use super::highlight::Code;
use super::lines::{Page, bounded, wrap};
use super::render::render;

const OPTIONS: Options = Options::ENABLE_TABLES
    .union(Options::ENABLE_STRIKETHROUGH)
    .union(Options::ENABLE_TASKLISTS);

/// How long an unfinished block may get, in bytes.
const PIECE: usize = 8 << 10;

/// How many lines of code are highlighted at once: typing goes on between.
const LINES: usize = 100;

/// A text that has not come to its end.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What is not finished. Of a fenced block of code the opening line stays until all of its lines have left.
    tail: String,
    /// That block's colours.
    code: Option<Code>,
    /// What left last; blocks are apart by an empty line.
    last: Option<Left>,
}

/// What left a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Block,
    /// Items of a list, which may have more.
    Items,
    /// Lines of a block of code, which may have more.
    Code,
    /// A piece of a block.
    Piece,
}

/// The fenced block of code at the beginning of a text.
#[derive(Debug)]
struct Fenced {
    language: String,
    text: String,
    end: usize,
}

impl Fenced {
    fn at_start(text: &str) -> Option<Self> {
        let mut events = Parser::new_ext(text, OPTIONS).into_offset_iter();
        let (first, range) = events.next()?;
        let Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) = first else {
            return None;
        };
        let language = info.split([' ', ',', '{']).next().unwrap_or_default();
        let lines = events.map_while(|(event, _)| match event {
            Event::Text(text) => Some(text.into_string()),
            _ => None,
        });
        Some(Self {
            language: language.to_owned(),
            text: lines.collect(),
            end: range.end,
        })
    }
}

impl Stream {
    /// Adds text, however long. Lines that are finished are in `out` afterwards.
    pub(super) fn push(&mut self, mut text: &str, page: Page, out: &mut Vec<Line<'static>>) {
        while !text.is_empty() {
            let piece = match bounded(text, PIECE) {
                "" => text,
                piece => piece,
            };
            self.tail.push_str(piece);
            text = &text[piece.len()..];
            if !text.is_empty() || self.tail.len() > 2 * PIECE {
                while self.advance(page, out) {}
            }
        }
    }

    /// Moves what is finished to `out`. Whether there may be more.
    pub(super) fn advance(&mut self, page: Page, out: &mut Vec<Line<'static>>) -> bool {
        let blank = self.tail.len() - self.tail.trim_start().len();
        let blank = self.tail[..blank].rfind('\n').map_or(0, |end| end + 1);
        self.tail.drain(..blank);
        let Some((end, left)) = self.finished() else {
            return false;
        };
        let block = self.tail[..end].to_owned();
        let from = match (left, self.tail.find('\n')) {
            (Left::Code, Some(opened)) => opened + 1,
            _ => 0,
        };
        self.tail.drain(from..end);
        self.leave(&block, left, page, out);
        true
    }

    /// All the rest, at the end of the text.
    pub(super) fn finish(&mut self, page: Page, out: &mut Vec<Line<'static>>) {
        while self.advance(page, out) {}
        let rest = std::mem::take(&mut self.tail);
        self.leave(&rest, Left::Block, page, out);
        *self = Self::default();
    }

    /// What is not finished, as it is so far.
    pub(super) fn live(&self, page: Page) -> Vec<Line<'static>> {
        let mut lines = lines(&self.tail, &mut None, page);
        if !lines.is_empty() && self.is_apart(&self.tail) {
            lines.insert(0, Line::default());
        }
        lines
    }

    /// Whether nothing has come since the beginning.
    pub(super) fn is_new(&self) -> bool {
        self.tail.is_empty() && self.last.is_none()
    }

    /// Whether an empty line is between what left last and this block.
    fn is_apart(&self, block: &str) -> bool {
        let goes_on = || {
            let first = Parser::new_ext(block, OPTIONS).next();
            matches!(first, Some(Event::Start(Tag::List(_))))
        };
        match self.last {
            None | Some(Left::Piece | Left::Code) => false,
            Some(Left::Block) => true,
            Some(Left::Items) => !goes_on(),
        }
    }

    fn leave(&mut self, block: &str, left: Left, page: Page, out: &mut Vec<Line<'static>>) {
        let lines = lines(block, &mut self.code, page);
        if !lines.is_empty() && self.is_apart(block) {
            out.push(Line::default());
        }
        if !lines.is_empty() || self.last == Some(Left::Code) {
            self.last = Some(left);
        }
        if left != Left::Code {
            self.code = None;
        }
        out.extend(lines);
    }

    /// The end of what is finished at the beginning of the tail, and what that is.
    fn finished(&self) -> Option<(usize, Left)> {
        // The rest of a line may make another block of it.
        let whole = &self.tail[..self.tail.rfind('\n').map_or(0, |end| end + 1)];
        if let Some(found) = self.finished_code(whole) {
            return Some(found);
        }
        let (mut depth, mut blocks, mut items) = (0, Vec::new(), Vec::new());
        let mut is_list = false;
        for (event, range) in Parser::new_ext(whole, OPTIONS).into_offset_iter() {
            match event {
                Event::Start(Tag::Item) if depth == 1 => items.push(range.start),
                Event::Start(ref tag) if depth == 0 && blocks.is_empty() => {
                    is_list = matches!(tag, Tag::List(_));
                    blocks.push(range);
                }
                // Another block.
                _ if depth == 0 && !blocks.is_empty() => {
                    return Some((range.start, Left::Block));
                }
                _ if depth == 0 => blocks.push(range),
                _ => {}
            }
            depth += match event {
                Event::Start(_) => 1,
                Event::End(_) => -1,
                _ => 0,
            };
        }
        if let [_, .., before] = &items[..] {
            return Some((*before, Left::Items));
        }
        // A list may go on after an empty line.
        if let [block] = &blocks[..]
            && !is_list
            && whole[block.end.min(whole.len())..].starts_with('\n')
        {
            return Some((block.end, Left::Block));
        }
        (self.tail.len() > PIECE).then(|| {
            let piece = bounded(&self.tail, PIECE);
            let end = piece.rfind('\n').or(piece.rfind(' '));
            (end.map_or(piece.len(), |end| end + 1), Left::Piece)
        })
    }

    /// The end of the whole lines of the block of code at the beginning, as many as may leave at once.
    fn finished_code(&self, whole: &str) -> Option<(usize, Left)> {
        let fenced = Fenced::at_start(whole)?;
        let count = fenced.text.matches('\n').count().min(LINES);
        let end = match count {
            // A line that is too long leaves in pieces.
            0 if fenced.end == whole.len() && self.tail.len() > whole.len() + PIECE => {
                bounded(&self.tail, whole.len() + PIECE).len()
            }
            0 => return None,
            count => whole.match_indices('\n').nth(count)?.0 + 1,
        };
        Some((end, Left::Code))
    }
}

/// The lines of a block, and of what is after a block of code.
fn lines(block: &str, code: &mut Option<Code>, page: Page) -> Vec<Line<'static>> {
    let Some(fenced) = Fenced::at_start(block) else {
        return render(block, page);
    };
    let code = code.get_or_insert_with(|| Code::new(&fenced.language, page.theme));
    let indent = [Span::raw("  ")];
    let rows = fenced.text.lines().flat_map(|line| {
        let line = Line::from(code.line(line));
        wrap(&line, page.columns, &indent, &indent)
    });
    let mut rows: Vec<Line<'static>> = rows.collect();
    let rest = render(&block[fenced.end..], page);
    if !rest.is_empty() {
        rows.push(Line::default());
        rows.extend(rest);
    }
    rows
}

#[cfg(test)]
mod tests;
