//! Documents as tokens, on disk: written once as they come, then mapped into memory, so that a corpus may be larger than RAM.
//!
//! ```text
//! tokens       u32 each, all documents after each other
//! documents    per document: end u64, row u64, file u32, learned_from u32
//! facts        JSON: names of the files, counts
//! trailer      tokens u64, documents u64, bytes of facts u64, magic 8 bytes
//! ```
//! Numbers are little-endian. The name of a file says its content (a hash of sources and tokenizer), so it is written once or not at all.

use crate::error::{Exit, Failure};
use crate::run::commit::{StagedFile, write_failure};
use anyhow::Context;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

const MAGIC: &[u8; 8] = b"4hTOKEN1";
const TRAILER_BYTES: usize = 32;
const DOCUMENT_BYTES: usize = 24;

/// What was read to make a token file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFacts {
    /// Files in the order in which they were read, as people call them.
    pub files: Vec<String>,
    /// Rows read, those left out included.
    pub rows: u64,
    /// Rows without a usable text, by reason.
    pub unusable: BTreeMap<String, u64>,
    /// Tokens that stand for something that the vocabulary lacks.
    pub unknown_tokens: u64,
}

/// One document of a token file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenDocument {
    /// Index into [`TokenFacts::files`].
    pub file: u32,
    /// Its row in that file.
    pub row: u64,
    /// The first token that is learned; those before it are only read. The first token of all has nothing before it to be
    /// predicted from, so this is at least 1.
    pub learned_from: u32,
}

/// A token file being written.
pub struct TokenWriter {
    staged: StagedFile,
    documents: Vec<u8>,
    tokens: u64,
}

impl TokenWriter {
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { staged: StagedFile::create(path)?, documents: Vec::new(), tokens: 0 })
    }

    pub fn push(&mut self, document: TokenDocument, tokens: &[u32]) -> anyhow::Result<()> {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        self.write(&bytes)?;
        self.tokens += tokens.len() as u64;
        self.documents.extend(self.tokens.to_le_bytes());
        self.documents.extend(document.row.to_le_bytes());
        self.documents.extend(document.file.to_le_bytes());
        self.documents.extend(document.learned_from.to_le_bytes());
        Ok(())
    }

    pub fn finish(mut self, facts: &TokenFacts) -> anyhow::Result<()> {
        let facts = serde_json::to_vec(facts)?;
        let documents = std::mem::take(&mut self.documents);
        // Documents' numbers are read in place, and lie at a multiple of 8 for that.
        if self.tokens % 2 == 1 {
            self.write(&[0; 4])?;
        }
        self.write(&documents)?;
        self.write(&facts)?;
        for number in [self.tokens, (documents.len() / DOCUMENT_BYTES) as u64, facts.len() as u64] {
            self.write(&number.to_le_bytes())?;
        }
        self.write(MAGIC)?;
        self.staged.commit(|_| Ok(()))?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.staged.write_all(bytes).map_err(|error| write_failure(self.staged.path(), &error))
    }
}

/// A token file, mapped.
#[derive(Debug)]
pub struct TokenFile {
    map: Mmap,
    tokens: usize,
    documents: Range<usize>,
    facts: TokenFacts,
}

impl TokenFile {
    /// # Errors
    /// A [`Failure`] with [`Exit::BadData`] for a file that is cut short or is none.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        // SAFETY: the mapping is read-only, and every range of it is checked against its length below. Token files appear
        // whole under their final name and are not written again.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map `{}`", path.display()))?;
        Self::read(map).ok_or_else(|| {
            Failure::new(Exit::BadData, format!("`{}` is damaged: it is no whole token file", path.display()))
                .hint("remove it and run again: it is then made anew")
                .into()
        })
    }

    fn read(map: Mmap) -> Option<Self> {
        let trailer = map.len().checked_sub(TRAILER_BYTES)?;
        let number = |index: usize| usize::try_from(u64_at(&map, trailer + 8 * index)).ok();
        if &map[map.len() - 8..] != MAGIC {
            return None;
        }
        let (tokens, documents, facts) = (number(0)?, number(1)?, number(2)?);
        let first = tokens.checked_mul(4)?.checked_next_multiple_of(8)?;
        let last = first.checked_add(documents.checked_mul(DOCUMENT_BYTES)?)?;
        if last.checked_add(facts)? != trailer {
            return None;
        }
        let mut ends = (0..documents).map(|document| u64_at(&map, first + document * DOCUMENT_BYTES));
        let sorted = ends.clone().is_sorted() && ends.next_back().unwrap_or(0) == tokens as u64;
        let facts = serde_json::from_slice(&map[last..trailer]).ok().filter(|_| sorted)?;
        Some(Self { tokens, documents: first..last, facts, map })
    }

    pub fn facts(&self) -> &TokenFacts {
        &self.facts
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.documents.len() / DOCUMENT_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// How many tokens all documents have.
    pub fn tokens(&self) -> u64 {
        self.tokens as u64
    }

    pub fn document(&self, index: usize) -> TokenDocument {
        let at = self.documents.start + index * DOCUMENT_BYTES;
        let short = |offset: usize| u32_at(&self.map, at + offset);
        TokenDocument { row: u64_at(&self.map, at + 8), file: short(16), learned_from: short(20) }
    }

    /// How many tokens a document has.
    pub fn length(&self, index: usize) -> usize {
        self.range(index).len()
    }

    /// Some of a document's tokens.
    pub fn slice(&self, index: usize, part: Range<usize>) -> impl ExactSizeIterator<Item = u32> + '_ {
        let start = self.range(index).start + part.start;
        (start..start + part.len()).map(|token| u32_at(&self.map, 4 * token))
    }

    /// A document's name for people: its file and row.
    pub fn name(&self, index: usize) -> String {
        let document = self.document(index);
        let file = self.facts.files.get(document.file as usize).map_or("?", String::as_str);
        format!("{file} row {}", document.row)
    }

    fn range(&self, index: usize) -> Range<usize> {
        let end = |index: usize| u64_at(&self.map, self.documents.start + index * DOCUMENT_BYTES) as usize;
        index.checked_sub(1).map_or(0, end)..end(index)
    }
}

fn u64_at(map: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| map[at + byte]))
}

fn u32_at(map: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| map[at + byte]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("a.tokens");
        let mut writer = TokenWriter::create(&path).unwrap();
        let document = |row, learned_from| TokenDocument { file: 0, row, learned_from };
        writer.push(document(3, 1), &[7, 8, 9]).unwrap();
        writer.push(document(5, 2), &[1, 70_000]).unwrap();
        let facts = TokenFacts { files: vec!["f.jsonl".into()], rows: 9, ..TokenFacts::default() };
        writer.finish(&facts).unwrap();
        path
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::open(&written(folder.path())).unwrap();
        assert_eq!((file.len(), file.tokens(), file.facts().rows), (2, 5, 9));
        assert_eq!(file.slice(0, 1..3).collect::<Vec<_>>(), [8, 9]);
        assert_eq!(file.slice(1, 0..2).collect::<Vec<_>>(), [1, 70_000]);
        assert_eq!((file.length(1), file.document(1).learned_from), (2, 2));
        assert_eq!(file.name(1), "f.jsonl row 5");
    }

    #[test]
    fn a_part_of_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[1..], &whole[..10], &whole[8..]] {
            crate::run::commit::write_atomic(&path, bytes).unwrap();
            let error = TokenFile::open(&path).unwrap_err();
            assert!(error.to_string().contains("no whole token file"), "{error:#}");
        }
    }
}
