//! A local file that many threads read at once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Chain, Cursor, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::parquet_claims;
use super::shield::parquet_failure;

/// A file read by position, so that threads that read it do not move each other. Not memory-mapped: a mapped file that
/// shrinks kills the process, and mapping measured no faster.
#[derive(Debug, Clone)]
pub(super) struct PositionedFile {
    file: Arc<File>,
    size: u64,
    /// Where column chunks begin, each with a page header.
    chunk_starts: Arc<BTreeSet<u64>>,
}

/// Longer than any page header before its statistics.
const PAGE_HEADER_BYTES: usize = 8 << 10;

impl PositionedFile {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        Ok(Self { file: Arc::new(file), size: metadata.len(), chunk_starts: Arc::default() })
    }

    /// Has the page headers at `starts` checked when they are read by range.
    pub(super) fn with_chunks_at(self, starts: BTreeSet<u64>) -> Self {
        Self { chunk_starts: Arc::new(starts), ..self }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes at `range`; `name` is for messages.
    pub(super) fn range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = self.get_bytes(range.start, usize::try_from(range.end - range.start)?);
        Ok(bytes.map_err(|error| parquet_failure(name, &error))?.to_vec())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(self.file.as_ref(), bytes, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(self.file.as_ref(), bytes, offset);
    }
}

impl Length for PositionedFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for PositionedFile {
    type T = Chain<Cursor<Vec<u8>>, PositionedRead>;

    /// Only page headers are read this way, from `start` on.
    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut rest = PositionedRead { file: self.clone(), offset: start };
        let mut header = Vec::with_capacity(PAGE_HEADER_BYTES);
        rest.by_ref().take(PAGE_HEADER_BYTES as u64).read_to_end(&mut header)?;
        check_page(&header, start)?;
        Ok(Cursor::new(header).chain(rest))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // Before reserving memory: a damaged page header may claim anything.
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} lie outside the file")));
        }
        let mut bytes = Vec::with_capacity(length);
        PositionedRead { file: self.clone(), offset: start }.take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF("it ended while it was read".to_owned()));
        }
        if self.chunk_starts.contains(&start) {
            check_page(&bytes, start)?;
        }
        Ok(bytes.into())
    }
}

fn check_page(header: &[u8], start: u64) -> Result<(), ParquetError> {
    if parquet_claims::is_absurd_page(header) {
        return Err(ParquetError::General(format!("the page at byte {start} claims a size that it cannot have")));
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct PositionedRead {
    file: PositionedFile,
    offset: u64,
}

impl Read for PositionedRead {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(bytes, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
