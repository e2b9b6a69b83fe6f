//! What stands for object storage in a program that was built without the feature `s3`.

use super::hub::{Outgoing, RemoteFile};
use crate::error::{Exit, Failure};
use anyhow::Result;
use reqwest::Url;

/// No bucket can be opened.
pub enum Objects {}

/// What a write did.
pub struct Written {
    pub files: usize,
    pub bytes: u64,
    pub unchanged: usize,
}

/// # Errors
/// Always.
pub fn parse(text: &str) -> Result<(String, String)> {
    Err(absent(text))
}

fn absent(what: &str) -> anyhow::Error {
    Failure::new(Exit::Usage, format!("this program was built without S3, and `{what}` is in it"))
        .hint("build it with the feature `s3`, which is on by default")
        .into()
}

impl Objects {
    /// # Errors
    /// Always.
    pub fn open(bucket: &str) -> Result<Self> {
        Err(absent(bucket))
    }

    pub fn list(&self, _: &str) -> Result<Vec<RemoteFile>> {
        match *self {}
    }

    pub fn link(&self, _: &str) -> Result<Url> {
        match *self {}
    }

    pub fn write(&self, _: &str, _: &[Outgoing], _: &dyn Fn(&str)) -> Result<Written> {
        match *self {}
    }
}
