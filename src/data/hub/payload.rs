//! What a request carries: bytes that are here, or a part of a file that is read as the network takes it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Read and sent at a time.
const PIECE: u64 = 256 << 10;

/// The content of a request. Every attempt sends it from its start.
pub(super) struct Payload {
    /// None on the way to a storage host, whose signed link may not allow for one.
    pub(super) content_type: Option<&'static str>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Bytes(Bytes),
    File { file: Arc<File>, start: u64, end: u64 },
}

impl Payload {
    pub(super) fn bytes(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        Self { content_type: Some(content_type), source: Source::Bytes(bytes.into()) }
    }

    /// Bytes for a storage host.
    pub(super) fn plain(bytes: impl Into<Bytes>) -> Self {
        Self { content_type: None, source: Source::Bytes(bytes.into()) }
    }

    /// The bytes `start..end` of the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn file(path: &Path, start: u64, end: u64) -> std::io::Result<Self> {
        let source = Source::File { file: Arc::new(File::open(path)?), start, end };
        Ok(Self { content_type: None, source })
    }

    /// A body of known length. `sent` grows with what the network has taken.
    pub(super) fn body(&self, sent: &Arc<AtomicU64>) -> reqwest::Body {
        reqwest::Body::wrap(Metered { source: self.source.clone(), sent: Arc::clone(sent) })
    }
}

/// The rest of a payload that is being sent.
struct Metered {
    source: Source,
    sent: Arc<AtomicU64>,
}

impl Metered {
    fn left(&self) -> u64 {
        match &self.source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File { start, end, .. } => end - start,
        }
    }

    /// Takes the next piece off the rest.
    fn next(&mut self) -> std::io::Result<Bytes> {
        let length = self.left().min(PIECE) as usize;
        match &mut self.source {
            Source::Bytes(bytes) => Ok(bytes.split_to(length)),
            Source::File { file, start, .. } => {
                let mut piece = vec![0; length];
                file.read_exact_at(&mut piece, *start)?;
                *start += length as u64;
                Ok(piece.into())
            }
        }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if self.left() == 0 {
            return Poll::Ready(None);
        }
        let piece = self.next();
        if let Ok(piece) = &piece {
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}
