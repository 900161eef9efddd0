//! Lines of JSON, as people and programs really write them: what is none is a line like any other,
//! with its number, and no reason to stop.

use std::io::{self, BufRead, Read as _};

use bytes::Bytes;

use crate::codec::form;

/// The longest line that is read whole, in bytes: more than an event may have. It also bounds what is
/// taken together of an object that is spread over lines.
const MAX_LINE_BYTES: usize = 4 << 20;

/// What stands in one line, or in several that are one object.
pub struct Piece {
    /// Its first line, from 1.
    pub first: usize,
    /// Its last line.
    pub last: usize,
    /// What it is.
    pub found: Found,
}

/// What stands in a line.
pub enum Found {
    /// A text to be read.
    Text(Bytes),
    /// Something that cannot be one event, and why.
    Wrong(&'static str),
}

/// The lines of an input.
pub struct Lines {
    input: Box<dyn BufRead>,
    /// The number of the line that was read last.
    pub number: usize,
    /// A line that was read too early.
    next: Option<Vec<u8>>,
    is_over: bool,
}

impl Lines {
    /// The lines of this input.
    pub fn new(input: Box<dyn BufRead>) -> Self {
        Self { input, number: 0, next: None, is_over: false }
    }

    /// The next line that is not empty, or the object that is spread over the next lines.
    pub fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.number == 0 {
            // A reader gives what it has; a file or a pipe has more than so few bytes at once.
            let head = self.input.fill_buf()?;
            if let Some(words) = form::not_text(head) {
                (self.number, self.is_over) = (1, true);
                return Ok(Some(Piece { first: 1, last: 1, found: Found::Wrong(words) }));
            }
        }
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            let first = self.number;
            if line.len() >= MAX_LINE_BYTES {
                let words = "the line is longer than any event: an event has at most 1 MiB";
                return Ok(Some(Piece { first, last: first, found: Found::Wrong(words) }));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            if opens(&line) {
                return self.rest_of(line, first).map(Some);
            }
            let text = Bytes::from(line);
            let start = text.len() - text.trim_ascii_start().len();
            let text = text.slice(start..start + text.trim_ascii().len());
            return Ok(Some(Piece { first, last: first, found: Found::Text(text) }));
        }
    }

    /// What belongs to an object or list that does not end on its first line.
    fn rest_of(&mut self, line: Vec<u8>, first: usize) -> io::Result<Piece> {
        let mut depth = Depth::default();
        depth.take(&line);
        let mut length = line.len();
        let piece = |last, found| Ok(Piece { first, last, found });
        loop {
            let before = self.number;
            let Some(next) = self.line()? else { break };
            // A line that was cut off, and the next event.
            let is_event = next.starts_with(b"{") && !opens(&next);
            length += next.len();
            if is_event || length > MAX_LINE_BYTES {
                self.number = before;
                self.next = Some(next);
                break;
            }
            depth.take(&next);
            if depth.open == 0 {
                let words = "an event stands on one line: this is spread over several (jq -c . puts \
                             each object on one line)";
                return piece(self.number, Found::Wrong(words));
            }
        }
        if self.number == first {
            return piece(first, Found::Text(line.into()));
        }
        piece(
            self.number,
            Found::Wrong("the JSON does not end, neither on its line nor on later ones"),
        )
    }

    /// A line without its end; cut at the longest length.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.is_over {
            return Ok(None);
        }
        if let Some(line) = self.next.take() {
            self.number += 1;
            return Ok(Some(line));
        }
        let mut line = Vec::new();
        let longest = MAX_LINE_BYTES as u64;
        if self.input.by_ref().take(longest).read_until(b'\n', &mut line)? == 0 {
            self.is_over = true;
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() >= MAX_LINE_BYTES {
            self.skip_line()?;
        }
        Ok(Some(line))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let end = memchr::memchr(b'\n', buffer);
            let length = end.map_or(buffer.len(), |end| end + 1);
            let is_done = length == 0 || end.is_some();
            self.input.consume(length);
            if is_done {
                return Ok(());
            }
        }
    }
}

/// Whether a line begins an object or a list and ends within it.
fn opens(line: &[u8]) -> bool {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
    matches!(line.first(), Some(b'{' | b'['))
        && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err_and(|error| error.is_eof())
}

/// How many brackets are open.
#[derive(Default)]
struct Depth {
    open: usize,
    in_text: bool,
}

impl Depth {
    fn take(&mut self, line: &[u8]) {
        let mut bytes = line.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' if self.in_text => drop(bytes.next()),
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => self.open += 1,
                b'}' | b']' if !self.in_text => self.open = self.open.saturating_sub(1),
                _ => {}
            }
        }
        // No text of JSON goes on in the next line.
        self.in_text = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(input: &'static [u8]) -> Vec<(usize, usize, String)> {
        let mut lines = Lines::new(Box::new(input));
        let mut found = Vec::new();
        while let Some(piece) = lines.next().unwrap() {
            let text = match piece.found {
                Found::Text(text) => String::from_utf8_lossy(&text).into_owned(),
                Found::Wrong(words) => format!("! {words}"),
            };
            found.push((piece.first, piece.last, text));
        }
        found
    }

    #[test]
    fn each_line_is_a_piece_whatever_it_is() {
        let found = pieces(b"\xef\xbb\xbf{}\r\n\n \n\xff\xfe\n {\"a\":1} \nnonsense");
        let lines: Vec<usize> = found.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [1, 4, 5, 6]);
        assert_eq!(found[2].2, "{\"a\":1}");
        assert_eq!(pieces(b""), []);
    }

    #[test]
    fn an_object_over_several_lines_is_one_piece() {
        let found = pieces(
            b"{\n \"a\": [\n  {\"b\": \"}\"}\n ]\n}\n{\"c\":1}\n{\"cut\":\n{\"d\":2}\n[\n{\"e\":3}",
        );
        let shape: Vec<(usize, usize, bool)> = found
            .iter()
            .map(|(first, last, text)| (*first, *last, text.starts_with('!')))
            .collect();
        assert_eq!(
            shape,
            [
                (1, 5, true),
                (6, 6, false),
                (7, 7, false),
                (8, 8, false),
                (9, 9, false),
                (10, 10, false)
            ]
        );
    }

    #[test]
    fn a_file_that_is_no_text_is_one_piece() {
        for file in
            [&b"\xff\xfe{\0}\0\n\0{\0}\0"[..], b"{\0\"\0", b"\x1f\x8b\x08\0\n\n", b"Obj\x01\n\n"]
        {
            let found = pieces(file);
            assert!(found.len() == 1 && found[0].2.starts_with('!'), "{file:?}: {found:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let line = io::repeat(b'x').take(3 * MAX_LINE_BYTES as u64).chain(&b"\n{}\n"[..]);
        let mut lines = Lines::new(Box::new(io::BufReader::new(line)));
        assert!(matches!(lines.next().unwrap().unwrap().found, Found::Wrong(_)));
        let piece = lines.next().unwrap().unwrap();
        assert_eq!((piece.first, matches!(piece.found, Found::Text(_))), (2, true));
        assert!(lines.next().unwrap().is_none());
    }
}
