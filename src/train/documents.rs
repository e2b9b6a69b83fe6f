//! Rows of Parquet and JSONL files as training documents: text, or a query with its completion, tokenised into a token file.

use super::token_file::{TokenDocument, TokenFacts, TokenWriter};
use super::vocabulary::Vocabulary;
use crate::data::document::{ColumnMap, DocumentBatch, Wanted};
use crate::data::shard::{Format, ShardReader};
use crate::error::{Exit, Failure};
use arrow::array::Array;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Rows that are read and tokenised at a time.
const BATCH_ROWS: usize = 1024;

/// A file of training documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// What people call it; its ending tells the format.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// The columns that make a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    /// Every token is learned.
    Text(String),
    /// The completion and the end behind it are learned, its first token included; the query is not.
    Completion { query: String, completion: String },
}

impl Columns {
    /// What a file's rows are: completions if it has both columns, else text.
    pub fn detect(file: &DataFile, text: &str, query: &str, completion: &str) -> anyhow::Result<Self> {
        let completions = Self::Completion { query: query.to_owned(), completion: completion.to_owned() };
        let has_both = match format(file)? {
            Format::Parquet => {
                let table = crate::data::parquet_table::ParquetTable::open(&file.path)?;
                let has = |name: &str| table.schema().fields().iter().any(|field| field.name() == name);
                has(query) && has(completion)
            }
            // What cannot be opened so is opened as text, and told then if that fails, too.
            Format::Jsonl(_) => match reader(file, &completions) {
                Ok(reader) => {
                    let first = reader.batches(0..1, completions.wanted(), None, 1)?.next().transpose()?;
                    first.is_some_and(|batch| !batch.is_empty() && batch.text(0).is_some() && batch.url.is_valid(0))
                }
                Err(_) => false,
            },
        };
        Ok(if has_both { completions } else { Self::Text(text.to_owned()) })
    }

    /// The reader of documents knows addresses; a query takes that place.
    fn map(&self) -> ColumnMap {
        match self {
            Self::Text(text) => ColumnMap::text_only(text),
            Self::Completion { query, completion } => {
                ColumnMap { url: Some(query.clone()), ..ColumnMap::text_only(completion) }
            }
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted { url: matches!(self, Self::Completion { .. }), ..Wanted::TEXT }
    }
}

/// A row of a file.
pub struct Row<'a> {
    /// Its place among the files that are read.
    pub file: usize,
    pub row: u64,
    pub content: Content<'a>,
}

/// What a row holds.
pub enum Content<'a> {
    Text(&'a str),
    Completion {
        query: &'a str,
        completion: &'a str,
    },
    /// Nothing to learn from, for this reason.
    Unusable(String),
}

/// Goes through the rows of some files in order, a batch at a time. `visit` returns whether to go on.
pub fn each_batch(
    files: &[DataFile],
    columns: &Columns,
    mut visit: impl FnMut(&[Row]) -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    for (index, file) in files.iter().enumerate() {
        let reader = reader(file, columns)?;
        let groups = 0..reader.footer().row_groups.len();
        for batch in reader.batches(groups, columns.wanted(), None, BATCH_ROWS)? {
            let batch = batch?;
            let rows: Vec<Row> = (0..batch.len())
                .map(|at| Row { file: index, row: batch.rows[at], content: content(&batch, at, columns) })
                .collect();
            if !visit(&rows)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn reader(file: &DataFile, columns: &Columns) -> anyhow::Result<ShardReader> {
    ShardReader::open(&file.path, format(file)?, &columns.map())
}

fn format(file: &DataFile) -> anyhow::Result<Format> {
    Ok(Format::of(&file.name).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("`{}` is of no known format", file.name))
            .hint("known by name: `.parquet`, `.jsonl`, `.jsonl.gz`, `.jsonl.zst`")
    })?)
}

fn content<'a>(batch: &'a DocumentBatch, at: usize, columns: &Columns) -> Content<'a> {
    let Some(text) = batch.text(at) else {
        let defect = batch.defects.iter().find(|defect| defect.row_in_batch == at);
        return Content::Unusable(defect.map_or("unreadable".to_owned(), |defect| defect.reason.clone()));
    };
    if text.trim().is_empty() {
        return Content::Unusable("empty".into());
    }
    match columns {
        Columns::Text(_) => Content::Text(text),
        Columns::Completion { .. } if batch.url.is_valid(at) => {
            Content::Completion { query: batch.url.value(at), completion: text }
        }
        Columns::Completion { query, .. } => Content::Unusable(format!("{query} is missing")),
    }
}

/// Tokenises all rows of some files into a token file. False: `go_on` said stop, and there is no file.
///
/// A text becomes start, tokens, end; a completion start, query, completion, end, each tokenised by itself so that where one ends and
/// the other begins does not depend on what merges.
pub fn tokenise(
    files: &[DataFile],
    columns: &Columns,
    vocabulary: &Vocabulary,
    path: &Path,
    go_on: &dyn Fn(u64) -> bool,
) -> anyhow::Result<bool> {
    let mut writer = TokenWriter::create(path)?;
    let names = files.iter().map(|file| file.name.clone()).collect();
    let mut facts = TokenFacts { files: names, ..TokenFacts::default() };
    let whole = each_batch(files, columns, |rows| {
        let tokenised: Vec<_> = rows.par_iter().map(|row| tokens(&row.content, vocabulary)).collect();
        for (row, tokenised) in rows.iter().zip(tokenised) {
            facts.rows += 1;
            if let Content::Unusable(reason) = &row.content {
                *facts.unusable.entry(reason.clone()).or_default() += 1;
                continue;
            }
            let (tokens, learned_from) = tokenised?;
            let unknown = vocabulary.unknown();
            facts.unknown_tokens += tokens.iter().filter(|&&token| Some(token) == unknown).count() as u64;
            let document = TokenDocument { file: row.file as u32, row: row.row, learned_from: learned_from as u32 };
            writer.push(document, &tokens)?;
        }
        Ok(go_on(facts.rows))
    })?;
    if whole {
        writer.finish(&facts)?;
    }
    Ok(whole)
}

/// A document's tokens, and the first of them that is learned.
fn tokens(content: &Content, vocabulary: &Vocabulary) -> anyhow::Result<(Vec<u32>, usize)> {
    let tokenizer = vocabulary.tokenizer();
    let mut tokens = tokenizer.start().to_vec();
    let mut learned_from = 1;
    match content {
        Content::Text(text) => tokens.extend(tokenizer.encode(text)?),
        Content::Completion { query, completion } => {
            tokens.extend(tokenizer.encode(query)?);
            learned_from = tokens.len().max(1);
            tokens.extend(tokenizer.encode(completion)?);
        }
        Content::Unusable(_) => return Ok((Vec::new(), 1)),
    }
    tokens.push(vocabulary.end());
    Ok((tokens, learned_from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::token_file::TokenFile;
    use crate::train::vocabulary::Making;

    fn file(folder: &Path, name: &str, text: &str) -> DataFile {
        let path = folder.join(name);
        crate::run::commit::write_atomic(&path, text.as_bytes()).unwrap();
        DataFile { name: name.into(), path }
    }

    #[test]
    fn a_completion_is_learned_from_its_first_token_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let rows = "{\"query\": \"a b\", \"completion\": \" c d\"}\n{\"query\": null, \"completion\": \"c\"}\n";
        let file = file(folder.path(), "a.jsonl", rows);
        let columns = Columns::detect(&file, "text", "query", "completion").unwrap();
        assert_eq!(columns, Columns::Completion { query: "query".into(), completion: "completion".into() });
        let data = vec![(vec![file.clone()], columns.clone())];
        let vocabulary = Vocabulary::make(Making::Words, 300, &data, &[], "").unwrap();
        let path = folder.path().join("a.tokens");
        assert!(tokenise(&[file], &columns, &vocabulary, &path, &|_| true).unwrap());
        let tokens = TokenFile::open(&path).unwrap();
        let names: Vec<String> =
            tokens.slice(0, 0..5).map(|token| vocabulary.tokenizer().token(token).unwrap()).collect();
        assert_eq!(names, ["a", " b", " c", " d", "<|endoftext|>"]);
        assert_eq!((tokens.document(0).learned_from, tokens.len()), (2, 1));
        assert_eq!(tokens.facts().unusable["query is missing"], 1);
    }

    #[test]
    fn what_is_no_completion_is_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path(), "a.jsonl", "{\"text\": \"a\"}\n");
        assert_eq!(Columns::detect(&file, "text", "query", "completion").unwrap(), Columns::Text("text".into()));
        let other = DataFile { name: "a.csv".into(), path: file.path };
        assert!(Columns::detect(&other, "text", "query", "completion").is_err());
    }

    #[test]
    fn a_stop_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path(), "a.jsonl", "{\"text\": \"a b\"}\n");
        let columns = Columns::Text("text".into());
        let vocabulary =
            Vocabulary::make(Making::Words, 300, &[(vec![file.clone()], columns.clone())], &[], "").unwrap();
        let path = folder.path().join("a.tokens");
        assert!(!tokenise(&[file], &columns, &vocabulary, &path, &|_| false).unwrap());
        assert!(!path.exists());
    }
}
