//! A local file that many threads read at once.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::parquet_source::parquet_failure;

/// A file read by position, so that threads that read it do not move each other. Not memory-mapped: a mapped file that
/// shrinks kills the process, and mapping measured no faster.
#[derive(Debug, Clone)]
pub(super) struct PositionedFile {
    file: Arc<File>,
    size: u64,
}

impl PositionedFile {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        Ok(Self { file: Arc::new(file), size: metadata.len() })
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
    type T = BufReader<PositionedRead>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(PositionedRead { file: self.clone(), offset: start }))
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
        Ok(bytes.into())
    }
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
