//! Documents in columns, as every source yields them and every stage reads them.
//!
//! A row whose text cannot be had is still a row: it carries a [`Defect`] that says why, and counts.

use arrow::array::{Array, StringViewArray};

/// The source's names for a document's columns. The default is OpenWebMath's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnMap {
    pub text: String,
    /// A column without a name is null in every row.
    pub url: Option<String>,
    pub date: Option<String>,
    pub metadata: Option<String>,
}

impl Default for ColumnMap {
    fn default() -> Self {
        let [url, text, date, metadata] = ["url", "text", "date", "metadata"].map(str::to_owned);
        Self { text, url: Some(url), date: Some(date), metadata: Some(metadata) }
    }
}

impl ColumnMap {
    /// The text alone, from the column `text`.
    pub fn text_only(text: impl Into<String>) -> Self {
        Self { text: text.into(), url: None, date: None, metadata: None }
    }
}

/// Which columns to read; the others are null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub url: bool,
    pub text: bool,
    pub date: bool,
    pub metadata: bool,
}

impl Wanted {
    pub const ALL: Self = Self { url: true, text: true, date: true, metadata: true };
    pub const TEXT: Self = Self { url: false, text: true, date: false, metadata: false };
}

/// Consecutive documents of a shard, or the selected ones among them. The four arrays and `rows` are equally long.
#[derive(Debug, Clone)]
pub struct DocumentBatch {
    /// Each document's row in its shard, ascending.
    pub rows: Vec<u64>,
    pub url: StringViewArray,
    /// Null exactly where there is a defect (when text was asked for).
    pub text: StringViewArray,
    pub date: StringViewArray,
    pub metadata: StringViewArray,
    /// In row order, at most one per row.
    pub defects: Vec<Defect>,
}

impl DocumentBatch {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The document's text; `None` where it has a defect.
    pub fn text(&self, row_in_batch: usize) -> Option<&str> {
        self.text.is_valid(row_in_batch).then(|| self.text.value(row_in_batch))
    }
}

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// Index into the batch's arrays.
    pub row_in_batch: usize,
    /// For example `text is null` or `invalid UTF-8 at byte 17`.
    pub reason: String,
}

/// A document's name, stable for as long as its shard's content is: 16 lowercase hexadecimal digits of
/// BLAKE3(identity, row as little-endian u64). Equal texts in different rows have different ids.
pub fn document_id(shard_identity: &str, row: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(shard_identity.as_bytes()).update(&row.to_le_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_distinct() {
        let id = document_id("sha256:00", 7);
        assert_eq!(id, "9ad76ce45f4080d8");
        assert_ne!(id, document_id("sha256:00", 8));
        assert_ne!(id, document_id("sha256:01", 7));
    }
}
