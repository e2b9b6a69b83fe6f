//! JSONL shards: one JSON object a line, plain, gzip or zstd, read as a stream.
//!
//! A row is a line that is not blank. A line that is no document is a row with a defect. What cannot be read on from (a
//! stream cut short, a line without end, a decompression bomb) is an error of the file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use arrow::array::{StringViewArray, StringViewBuilder};
use flate2::bufread::MultiGzDecoder;
use serde::de::{Deserialize, IgnoredAny};

use super::document::{ColumnMap, Defect, DocumentBatch, Wanted};
use super::shard::{Batches, Compression, Footer, RowGroup, cannot_open, damaged, no_column};
use crate::error::{Exit, Failure};

/// A longer line is no document but a file of another format, or a bomb.
const MAX_LINE_BYTES: usize = 256 << 20;
/// A batch ends early when its lines reach this size.
const MAX_BATCH_BYTES: usize = 64 << 20;
/// Text compresses 2 to 20 times; more than this is a bomb.
const MAX_EXPANSION: u64 = 1000;
/// What may expand without limit: a small file of one repeated line is no danger.
const FREE_EXPANSION_BYTES: u64 = 64 << 20;
/// The window that zstd's own tools accept without being told to: 128 MiB.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;
const LOOK_AHEAD_ROWS: usize = 100;
const READ_BUFFER_BYTES: usize = 256 << 10;

/// A JSONL file that looks like one.
#[derive(Debug)]
pub(super) struct JsonlShard {
    path: PathBuf,
    compression: Compression,
    columns: ColumnMap,
    size: u64,
}

impl JsonlShard {
    pub(super) fn open(path: &Path, compression: Compression, columns: &ColumnMap) -> Result<Self> {
        let mut file = File::open(path).map_err(|error| cannot_open(path, &error))?;
        let mut start = Vec::new();
        file.by_ref().take(4).read_to_end(&mut start).map_err(|error| cannot_open(path, &error))?;
        let found = match start.as_slice() {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Compression::Zstd),
            [] => None,
            _ => Some(Compression::None),
        };
        if start == b"PAR1" {
            return Err(damaged(path.display(), "it is a Parquet file by another name"));
        }
        if let Some(found) = found
            && found != compression
        {
            let say = |compression| match compression {
                Compression::None => "uncompressed",
                Compression::Gzip => "gzip",
                Compression::Zstd => "zstd",
            };
            let reason = format!("its name promises {} data and its content is {}", say(compression), say(found));
            return Err(damaged(path.display(), reason));
        }
        let size = file.metadata().map_err(|error| cannot_open(path, &error))?.len();
        let shard = Self { path: path.to_owned(), compression, columns: columns.clone(), size };
        shard.look_for_text()?;
        Ok(shard)
    }

    /// Fails when none of the first documents has the text's key: then the recipe names a wrong one.
    fn look_for_text(&self) -> Result<()> {
        let mut lines = Lines::open(&self.path, self.compression)?;
        let mut keys = Vec::new();
        for _ in 0..LOOK_AHEAD_ROWS {
            let Some((_, line)) = lines.next_row()? else { break };
            // What is wrong with a line is told when it is read.
            let Ok(line) = std::str::from_utf8(line) else { continue };
            let _ = each_member(line, |key, _| {
                if !keys.iter().any(|known| known == key) {
                    keys.push(key.to_owned());
                }
            });
            if keys.contains(&self.columns.text) {
                return Ok(());
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        Err(no_column(self.path.display(), &self.columns.text, &keys))
    }

    pub(super) fn footer(&self) -> Footer {
        let bytes_uncompressed = (self.compression == Compression::None).then_some(self.size);
        Footer {
            rows: None,
            row_groups: vec![RowGroup { rows: None, bytes_compressed: self.size, bytes_uncompressed }],
            columns: Vec::new(),
            key_values: Vec::new(),
            created_by: None,
        }
    }

    pub(super) fn no_batches(&self) -> Batches {
        Box::new(std::iter::empty())
    }

    pub(super) fn batches(&self, wanted: Wanted, rows: Option<&[u64]>, batch_rows: usize) -> Result<Batches> {
        let lines = Lines::open(&self.path, self.compression)?;
        let only = |column: &Option<String>, wanted: bool| column.clone().filter(|_| wanted);
        let keys = Keys {
            url: only(&self.columns.url, wanted.url),
            text: wanted.text.then(|| self.columns.text.clone()),
            date: only(&self.columns.date, wanted.date),
            metadata: only(&self.columns.metadata, wanted.metadata),
        };
        let rows = rows.map(|rows| Vec::from(rows).into_iter().peekable());
        Ok(Box::new(JsonlBatches { lines: Some(lines), keys, rows, batch_rows, failed: None }))
    }
}

/// The names of the wanted columns.
struct Keys {
    url: Option<String>,
    text: Option<String>,
    date: Option<String>,
    metadata: Option<String>,
}

struct JsonlBatches {
    /// `None` after the end or an error.
    lines: Option<Lines>,
    keys: Keys,
    /// The rows still wanted, if not all are.
    rows: Option<std::iter::Peekable<std::vec::IntoIter<u64>>>,
    batch_rows: usize,
    /// Why nothing follows the last batch.
    failed: Option<anyhow::Error>,
}

impl Iterator for JsonlBatches {
    type Item = Result<DocumentBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.failed.take() {
            Some(error) => Err(error),
            None => self.read_batch(),
        };
        match &batch {
            Ok(batch) if batch.is_empty() => {
                self.lines = None;
                return None;
            }
            Ok(_) => {}
            Err(_) => self.lines = None,
        }
        Some(batch)
    }
}

impl JsonlBatches {
    fn read_batch(&mut self) -> Result<DocumentBatch> {
        let mut batch = BatchBuilder::default();
        let Some(lines) = &mut self.lines else { return Ok(batch.finish()) };
        let mut bytes = 0;
        while batch.rows.len() < self.batch_rows && bytes < MAX_BATCH_BYTES {
            if self.rows.as_mut().is_some_and(|rows| rows.peek().is_none()) {
                break;
            }
            let next = match lines.next_row() {
                Ok(next) => next,
                // Which rows can be read must not depend on the size of batches.
                Err(error) if !batch.rows.is_empty() => {
                    self.failed = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            };
            let Some((row, line)) = next else {
                if let Some(missing) = self.rows.as_mut().and_then(|rows| rows.next()) {
                    return Err(damaged(&lines.name, format!("it has no row {missing}")));
                }
                break;
            };
            if let Some(rows) = &mut self.rows
                && rows.next_if_eq(&row).is_none()
            {
                continue;
            }
            bytes += line.len();
            batch.push(row, line, &self.keys);
        }
        Ok(batch.finish())
    }
}

#[derive(Default)]
struct BatchBuilder {
    rows: Vec<u64>,
    url: StringViewBuilder,
    text: StringViewBuilder,
    date: StringViewBuilder,
    metadata: StringViewBuilder,
    defects: Vec<Defect>,
}

impl BatchBuilder {
    fn push(&mut self, row: u64, line: &[u8], keys: &Keys) {
        let fields = std::str::from_utf8(line)
            .map_err(|error| format!("invalid UTF-8 at byte {}", error.valid_up_to()))
            .and_then(|line| Fields::of(line, keys));
        let fields = fields.unwrap_or_else(|reason| {
            self.defects.push(Defect { row_in_batch: self.rows.len(), reason });
            Fields::default()
        });
        self.rows.push(row);
        self.url.append_option(fields.url);
        self.text.append_option(fields.text);
        self.date.append_option(fields.date);
        self.metadata.append_option(fields.metadata);
    }

    fn finish(mut self) -> DocumentBatch {
        let [url, text, date, metadata]: [StringViewArray; 4] =
            [&mut self.url, &mut self.text, &mut self.date, &mut self.metadata].map(StringViewBuilder::finish);
        DocumentBatch { rows: self.rows, url, text, date, metadata, defects: self.defects }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Fields {
    url: Option<String>,
    text: Option<String>,
    date: Option<String>,
    metadata: Option<String>,
}

impl Fields {
    /// The wanted fields of one line, or why there are none.
    fn of(line: &str, keys: &Keys) -> Result<Self, String> {
        let (mut url, mut text, mut date, mut metadata) = ("null", None, "null", "null");
        let is = |wanted: &Option<String>, key: &str| wanted.as_deref() == Some(key);
        each_member(line, |key, value| {
            // Of equal keys the last counts, as for most readers. One member may serve two columns.
            if is(&keys.text, key) {
                text = Some(value);
            }
            if is(&keys.url, key) {
                url = value;
            }
            if is(&keys.date, key) {
                date = value;
            }
            if is(&keys.metadata, key) {
                metadata = value;
            }
        })?;
        let text = match &keys.text {
            Some(_) => Some(document_text(text.ok_or("text is missing")?)?),
            None => None,
        };
        Ok(Self {
            url: as_text("url", url)?,
            text,
            date: as_text("date", date)?,
            metadata: as_text("metadata", metadata)?,
        })
    }
}

fn document_text(value: &str) -> Result<String, String> {
    let found = match value.as_bytes().first() {
        Some(b'"') => return string(value).map_err(|reason| format!("text is no valid string: {reason}")),
        Some(b'n') => return Err("text is null".to_owned()),
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        _ => "a number",
    };
    Err(format!("text is {found}, expected a string"))
}

/// A string's content, nothing for null, and the JSON as it stands for anything else: metadata is often an object.
fn as_text(column: &str, value: &str) -> Result<Option<String>, String> {
    match value.as_bytes().first() {
        Some(b'"') => string(value).map(Some).map_err(|reason| format!("`{column}` is no valid string: {reason}")),
        Some(b'n') => Ok(None),
        _ => Ok(Some(value.to_owned())),
    }
}

fn string(value: &str) -> Result<String, String> {
    serde_json::from_str(value).map_err(|error| without_position(&error))
}

fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.split(" at line ").next().unwrap_or_default().to_owned()
}

/// Calls `visit` with each member of the object that `line` is: its key, and its value as it is written.
fn each_member<'a>(line: &'a str, mut visit: impl FnMut(&str, &'a str)) -> Result<(), String> {
    let mut rest = Cursor { line, at: 0 };
    if rest.peek() != Some(b'{') {
        // Say whether it is JSON at all.
        serde_json::from_str::<IgnoredAny>(line)
            .map_err(|error| format!("line is not JSON: {} at column {}", without_position(&error), error.column()))?;
        return Err("line is not a JSON object".to_owned());
    }
    rest.at += 1;
    if rest.peek() == Some(b'}') {
        rest.at += 1;
        return rest.end();
    }
    loop {
        let key = rest.value::<std::borrow::Cow<'_, str>>()?.0;
        rest.expect(b':')?;
        let (_, value) = rest.value::<IgnoredAny>()?;
        visit(&key, value);
        match rest.peek() {
            Some(b',') => rest.at += 1,
            _ => {
                rest.expect(b'}')?;
                return rest.end();
            }
        }
    }
}

struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = &self.line.as_bytes()[self.at..];
        let blank = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
        self.at += blank;
        bytes.get(blank).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            _ => Err(format!("line is not JSON: expected `{}` at column {}", char::from(byte), self.at + 1)),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(format!("line is not JSON: trailing characters at column {}", self.at + 1)),
        }
    }

    /// The next value, decoded and as it is written.
    fn value<T: Deserialize<'a>>(&mut self) -> Result<(T, &'a str), String> {
        self.peek();
        let rest = &self.line[self.at..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<T>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                let column = self.at + error.column();
                return Err(format!("line is not JSON: {} at column {column}", without_position(&error)));
            }
            None => return Err("line is not JSON: it ends early".to_owned()),
        };
        let written = &rest[..values.byte_offset()];
        self.at += written.len();
        Ok((value, written))
    }
}

/// The lines of a file that are not blank, numbered.
struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    next_row: u64,
    /// Of every line, for messages.
    line_number: u64,
}

impl Lines {
    fn open(path: &Path, compression: Compression) -> Result<Self> {
        let file = File::open(path).map_err(|error| cannot_open(path, &error))?;
        let consumed = Arc::new(AtomicU64::new(0));
        let file = BufReader::with_capacity(READ_BUFFER_BYTES, Counted { inner: file, bytes: Arc::clone(&consumed) });
        let reader: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(file),
            Compression::Gzip => buffered(MultiGzDecoder::new(file), consumed),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(file).map_err(|error| cannot_open(path, &error))?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(|error| cannot_open(path, &error))?;
                buffered(decoder, consumed)
            }
        };
        Ok(Self { name: path.display().to_string(), reader, line: Vec::new(), next_row: 0, line_number: 0 })
    }

    /// The next row and its number.
    fn next_row(&mut self) -> Result<Option<(u64, &[u8])>> {
        loop {
            self.line.clear();
            self.line_number += 1;
            let mut limited = self.reader.by_ref().take(MAX_LINE_BYTES as u64 + 1);
            let read = limited.read_until(b'\n', &mut self.line);
            let read = read.map_err(|error| stream_failure(&self.name, self.line_number, &error))?;
            if read == 0 {
                return Ok(None);
            }
            if read > MAX_LINE_BYTES {
                let reason = format!("line {} is longer than 256 MiB", self.line_number);
                return Err(damaged(&self.name, reason));
            }
            if self.line_number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            if self.next_row == 0 && self.line.trim_ascii_start().first() == Some(&b'[') {
                return Err(Failure::new(
                    Exit::BadData,
                    format!("cannot read `{}`: it is a JSON array, expected one object a line", self.name),
                )
                .hint(format!("`jq -c '.[]' {}` makes lines of it", self.name))
                .into());
            }
            let row = self.next_row;
            self.next_row += 1;
            return Ok(Some((row, self.line.trim_ascii_end())));
        }
    }
}

fn stream_failure(name: &str, line: u64, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        // The disk is at fault, and not the data.
        _ if error.raw_os_error().is_some() => {
            Failure::new(Exit::Failed, format!("cannot read `{name}`: {error}")).into()
        }
        ErrorKind::UnexpectedEof => damaged(name, format!("its compressed data is cut short in line {line}")),
        _ => damaged(name, format!("{error} in line {line}")),
    }
}

fn buffered(decoder: impl Read + Send + 'static, consumed: Arc<AtomicU64>) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(READ_BUFFER_BYTES, Bounded { decoder, consumed, produced: 0 }))
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A decoder that gives up when its output outgrows its input beyond reason.
struct Bounded<R> {
    decoder: R,
    consumed: Arc<AtomicU64>,
    produced: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.produced += read as u64;
        let allowed = FREE_EXPANSION_BYTES + MAX_EXPANSION * self.consumed.load(Ordering::Relaxed);
        if self.produced > allowed {
            return Err(io::Error::other("it expands more than 1000 times, as a decompression bomb does,"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_fields_or_reasons() {
        let keys = Keys {
            url: Some("url".to_owned()),
            text: Some("text".to_owned()),
            date: Some("date".to_owned()),
            metadata: Some("metadata".to_owned()),
        };
        let check = |line: &str, expect: Result<[Option<&str>; 4], &str>| {
            let [url, text, date, metadata] = expect.unwrap_or_default().map(|field| field.map(str::to_owned));
            let expect = expect.map(|_| Fields { url, text, date, metadata }).map_err(str::to_owned);
            assert_eq!(Fields::of(line, &keys), expect, "{line}");
        };
        check(r#"{"text":"a"}"#, Ok([None, Some("a"), None, None]));
        check(" { \"text\" : \"a\\u00e9\\n\" , \"url\":\"u\"}\r", Ok([Some("u"), Some("aé\n"), None, None]));
        check(r#"{"text":"","date":null,"other":[1,{"text":2}]}"#, Ok([None, Some(""), None, None]));
        // What is no string stands as it was written: big numbers, spaces, order of keys.
        check(
            r#"{"metadata":{"b": 12345678901234567890123, "a":1.0},"text":"a","date":20230322,"url":true}"#,
            Ok([Some("true"), Some("a"), Some("20230322"), Some(r#"{"b": 12345678901234567890123, "a":1.0}"#)]),
        );
        check(r#"{"text":"a","text":"b"}"#, Ok([None, Some("b"), None, None]));
        check(r#"{"te\u0078t":"a"}"#, Ok([None, Some("a"), None, None]));
        check(r#"{}"#, Err("text is missing"));
        check(r#"{"Text":"a"}"#, Err("text is missing"));
        check(r#"{"text":null}"#, Err("text is null"));
        check(r#"{"text":1}"#, Err("text is a number, expected a string"));
        check(r#"{"text":-1.5e3}"#, Err("text is a number, expected a string"));
        check(r#"{"text":false}"#, Err("text is a boolean, expected a string"));
        check(r#"{"text":["a"]}"#, Err("text is an array, expected a string"));
        check(r#"{"text":{"a":1}}"#, Err("text is an object, expected a string"));
        check(r#"{"text":"\ud800"}"#, Err("text is no valid string: unexpected end of hex escape"));
        check(r#"["a"]"#, Err("line is not a JSON object"));
        check(r#""a""#, Err("line is not a JSON object"));
        check("7", Err("line is not a JSON object"));
        check("hello", Err("line is not JSON: expected value at column 1"));
        check(r#"{"text":"a""#, Err("line is not JSON: expected `}` at column 12"));
        check(r#"{"text":"a"#, Err("line is not JSON: EOF while parsing a string at column 10"));
        check(r#"{"text":"a"} x"#, Err("line is not JSON: trailing characters at column 14"));
        check(r#"{"text" "a"}"#, Err("line is not JSON: expected `:` at column 9"));
        check(r#"{"text":"a",}"#, Err("line is not JSON: expected value at column 13"));
        check(r#"{text:"a"}"#, Err("line is not JSON: expected ident at column 3"));
    }

    #[test]
    fn nesting_cannot_exhaust_the_stack() {
        let keys = Keys { url: None, text: Some("text".to_owned()), date: None, metadata: None };
        let line = format!(r#"{{"a":{},"text":"b"}}"#, "[".repeat(1_000_000));
        assert!(Fields::of(&line, &keys).is_err());
    }
}
