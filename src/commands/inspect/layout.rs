//! Text for a terminal: within its width, and without what a document could do to it.

use console::Term;
use std::ops::Range;

/// Columns when nobody says how many there are, as in a pipe.
const WIDTH_IN_PIPES: usize = 100;

/// Characters of the longest name that is shown whole.
const LONGEST_NAME: usize = 32;

/// The columns to fill.
pub(super) fn width() -> usize {
    Term::stdout().size_checked().map_or(WIDTH_IN_PIPES, |(_, columns)| usize::from(columns).clamp(40, 160))
}

/// Text without control characters and without characters that turn the direction of what follows: they are written as
/// `\u{…}`, so that a document can neither move the cursor nor hide what it says.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => safe.push('\n'),
            '\t' => safe.push_str("    "),
            '\r' => {}
            other if other.is_control() || matches!(other, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                safe.extend(other.escape_unicode())
            }
            other => safe.push(other),
        }
    }
    safe
}

/// Text in lines of at most `width` columns, broken at white space where there is some.
pub(super) fn wrapped(text: &str, width: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (line, more) = first_line(rest?, width.max(2));
        rest = more;
        Some(line)
    })
}

/// The first line, and what is left after it.
fn first_line(text: &str, width: usize) -> (&str, Option<&str>) {
    let (mut used, mut blank) = (0, None);
    for (at, character) in text.char_indices() {
        if character == '\n' {
            return (&text[..at], Some(&text[at + 1..]));
        }
        used += if character.is_ascii() { 1 } else { console::measure_text_width(character.encode_utf8(&mut [0; 4])) };
        if used > width {
            return match blank.filter(|_| !character.is_whitespace()) {
                Some(blank) => (&text[..blank], Some(text[blank..].trim_start_matches([' ', '\t']))),
                None => (&text[..at], Some(text[at..].trim_start_matches([' ', '\t']))),
            };
        }
        if character.is_whitespace() && at > 0 {
            blank = Some(at);
        }
    }
    (text, None)
}

/// The first `most` lines of a text, indented, and a line that says how much is left out.
pub(super) fn block(text: &str, indent: usize, width: usize, most: usize) -> Vec<String> {
    let pad = " ".repeat(indent);
    let mut lines = Vec::new();
    let mut end = 0;
    for line in wrapped(text, width.saturating_sub(indent)).take(most) {
        // Lines are parts of the text, so the last one's end is where the rest begins.
        end = line.as_ptr() as usize - text.as_ptr() as usize + line.len();
        lines.push(format!("{pad}{}", printable(line).trim_end()).trim_end().to_owned());
    }
    let left_out = text[end..].trim_start().chars().count();
    if left_out > 0 {
        lines.push(format!("{pad}… {left_out} of {} characters left out; `--json` prints all", text.chars().count()));
    }
    lines
}

/// Names and their values, one under the other; a long value goes on under itself, for `most` lines.
pub(super) fn fields<'n>(fields: impl Iterator<Item = (&'n str, String)>, width: usize, most: usize) -> Vec<String> {
    let fields: Vec<(String, String)> = fields.map(|(name, value)| (shortened(name, LONGEST_NAME), value)).collect();
    let names = fields.iter().map(|(name, _)| console::measure_text_width(name)).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (name, value) in fields {
        let mut own = block(&value, names + 2, width, most);
        let first = own.first().map_or("", |line| line.trim_start()).to_owned();
        let blanks = " ".repeat(names - console::measure_text_width(&name));
        let first = format!("{name}{blanks}  {first}").trim_end().to_owned();
        match own.first_mut() {
            Some(line) => *line = first,
            None => own.push(first),
        }
        lines.extend(own);
    }
    lines
}

/// Rows as aligned columns, those in `right` to the right. The first row is the heading.
pub(super) fn table(rows: &[Vec<String>], right: Range<usize>) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| console::measure_text_width(cell))
                .max()
                .unwrap_or(0)
        })
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                let blanks = " ".repeat(width.saturating_sub(console::measure_text_width(cell)));
                if right.contains(&column) { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Text of at most `chars` characters in one line.
pub(super) fn shortened(text: &str, chars: usize) -> String {
    let line = printable(text).replace('\n', " ");
    if line.chars().count() <= chars { line } else { line.chars().take(chars - 1).collect::<String>() + "…" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_lose_nothing_but_blanks() {
        let check = |text: &str, width: usize, expect: &[&str]| {
            assert_eq!(wrapped(text, width).collect::<Vec<_>>(), expect);
        };
        check("", 10, &[""]);
        check("one two three", 7, &["one two", "three"]);
        check("one two three", 8, &["one two", "three"]);
        check("a\n\nb", 5, &["a", "", "b"]);
        check("abcdefghij", 4, &["abcd", "efgh", "ij"]);
        check("ab cdefghij", 4, &["ab", "cdef", "ghij"]);
        check("   indented", 20, &["   indented"]);
        // A Chinese character takes two columns.
        check("数学很美", 4, &["数学", "很美"]);
    }

    #[test]
    fn documents_cannot_speak_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mred\u{7}\u{202e}evil\r\n\tb"), "a\\u{1b}[31mred\\u{7}\\u{202e}evil\n    b");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let text = "word ".repeat(100);
        let lines = block(&text, 2, 22, 3);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "  word word word word");
        assert_eq!(lines[3], "  … 440 of 500 characters left out; `--json` prints all");
        assert_eq!(block("short", 0, 80, 3), ["short"]);
    }
}
