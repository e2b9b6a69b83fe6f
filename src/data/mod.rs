//! Documents and the files that hold them.

pub mod document;
