//! The mathematical web documents of `../shared/data`, for the tests that need real text.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};

pub struct MathDoc {
    pub shard: String,
    /// Row in the shard.
    pub row: usize,
    pub text: String,
}

/// The path of something in `../shared/data`, or `None` after saying that `what` is skipped.
pub fn shared(what: &str, path: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")).join(path);
    if path.exists() {
        return Some(path);
    }
    #[expect(clippy::print_stderr, reason = "a test that did not run says so")]
    {
        eprintln!("skipped: {what} (no ../shared/data)");
    }
    None
}

/// All documents in corpus order.
pub fn math_docs(what: &str) -> Option<Vec<MathDoc>> {
    let folder = shared(what, "math_docs")?;
    let mut shards: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    shards.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    shards.sort();
    let mut documents = Vec::new();
    for path in shards {
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let columns = reader.metadata().file_metadata().schema().get_fields().to_vec();
        let text = columns.iter().position(|column| column.name() == "text").unwrap();
        let shard = path.file_name().unwrap().to_string_lossy().into_owned();
        for (row, values) in reader.get_row_iter(None).unwrap().enumerate() {
            let parquet::record::Field::Str(text) = values.unwrap().into_columns().swap_remove(text).1 else {
                panic!("row {row} of {shard} has no text");
            };
            documents.push(MathDoc { shard: shard.clone(), row, text });
        }
    }
    Some(documents)
}
