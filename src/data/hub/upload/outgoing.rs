//! A file on its way out of this machine: its name there, and where its bytes are here.

use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::error::{Exit, Failure};

/// What a file of the repository will hold.
#[derive(Debug, Clone)]
pub enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// One file on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// In the repository or store.
    pub path: String,
    pub content: Content,
    /// Bytes.
    pub size: u64,
    /// What the content must hash to, where that is known.
    pub sha256: Option<String>,
}

impl Content {
    /// All of it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display())),
        }
    }
}

impl Outgoing {
    /// The SHA-256 of the content as it is now.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it was: another size, or another hash than it must have.
    pub fn hash(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let size = match &self.content {
            Content::Bytes(bytes) => {
                hash.update(bytes);
                bytes.len() as u64
            }
            Content::File(path) => {
                let read = std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hash));
                read.with_context(|| format!("cannot read `{}`", path.display()))?
            }
        };
        let sha256 = format!("{:x}", hash.finalize());
        if size != self.size || self.sha256.as_ref().is_some_and(|expected| *expected != sha256) {
            return Err(Failure::new(Exit::BadData, format!("`{}` is not what it was when it was made", self.path))
                .hint("`pipeline verify --deep RUN` tells which files of a run were changed")
                .into());
        }
        Ok(sha256)
    }
}
