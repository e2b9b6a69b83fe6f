//! A package as a folder on this disk.

use super::Package;
use crate::data::hub::Content;
use crate::error::{Exit, Failure};
use crate::run::commit;
use std::collections::BTreeSet;
use std::path::Path;

/// Writes the package into `to`: large files as links where the file system has them, else as copies.
///
/// # Errors
/// The folder holds other files, a source is not what it was, or the disk refuses.
pub fn write(package: &Package, to: &Path) -> anyhow::Result<()> {
    let ours: BTreeSet<&str> = package.files.iter().map(|file| file.path.as_str()).collect();
    let mut there = Vec::new();
    super::package::walk(to, to, &mut there)?;
    if let Some(other) = there.iter().find(|path| !ours.contains(path.as_str())) {
        let message = format!("`{}` holds `{other}`, which is not part of what is exported", to.display());
        return Err(Failure::new(Exit::Usage, message).hint("choose an empty folder").into());
    }
    for file in &package.files {
        let path = to.join(&file.path);
        match &file.content {
            Content::Bytes(bytes) => commit::write_atomic(&path, bytes)?,
            Content::File(from) => {
                file.hash()?;
                commit::link_or_copy(from, &path)?;
            }
        }
    }
    Ok(())
}
