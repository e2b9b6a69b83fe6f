//! `sketch`: what `curate` needs to know of every document without holding its text: sizes, duplicate keys, test-set overlap.

use crate::config::{ByteSize, Curate};
use crate::data::decontaminate::Contamination;
use crate::data::document::Wanted;
use crate::data::minhash::{MinHasher, Shape};
use crate::data::near_duplicates::ExactKey;
use crate::data::parquet_sink::{ParquetSink, Profile};
use crate::data::schema;
use crate::data::shard::ShardReader;
use crate::data::token_count::TokenCounter;
use crate::run::manifest::Counts;
use crate::run::work::{Assignment, Commit, UnitWork, Verdict, WorkContext};
use crate::stages::documents::{read_ahead, unit_batches};
use arrow::array::{Array, ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::Int32Type;
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// Documents sketched together, by all cores.
const BATCH_ROWS: usize = 512;

/// The tools of the stage, made once per run.
pub struct Sketcher {
    counter: TokenCounter,
    minhash: Option<MinHasher>,
    contamination: Option<Contamination>,
}

/// What is kept of a document.
struct Sketched {
    row: u64,
    chars: u64,
    tokens: u32,
    host: Option<String>,
    contaminated_by: Option<String>,
    key: ExactKey,
    bands: Option<Box<[u64]>>,
}

impl Sketcher {
    /// Loads the tokenizer and the test sets that the recipe names.
    pub fn new(curate: &Curate) -> anyhow::Result<Self> {
        let counter = match curate.token_counter.as_str() {
            "pieces" => TokenCounter::Pieces,
            path => TokenCounter::load(Path::new(path))?,
        };
        let minhash = curate
            .deduplicate
            .near
            .then(|| {
                MinHasher::new(Shape {
                    bands: curate.deduplicate.bands,
                    rows: curate.deduplicate.rows,
                    ..Shape::default()
                })
            })
            .transpose()?;
        let contamination = match &curate.decontaminate {
            None => None,
            Some(sets) => Some(super::curate::test_sets::load(sets)?),
        };
        Ok(Self { counter, minhash, contamination })
    }

    /// How many columns of MinHash keys it makes.
    pub fn bands(&self) -> usize {
        self.minhash.as_ref().map_or(0, |minhash| minhash.shape().bands)
    }

    fn sketch(&self, row: u64, url: Option<&str>, text: &str) -> Sketched {
        Sketched {
            row,
            chars: text.chars().count() as u64,
            tokens: self.counter.count(text),
            host: url.and_then(host).map(str::to_owned),
            contaminated_by: self.contamination.as_ref().and_then(|sets| Some(sets.check(text)?.set.to_owned())),
            key: ExactKey::of(text),
            bands: self.minhash.as_ref().and_then(|minhash| minhash.sketch(text)).map(|sketch| sketch.bands),
        }
    }
}

/// The host of a URL, without `www.` and port.
fn host(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    let host = host.strip_prefix("www.").unwrap_or(host);
    (!host.is_empty()).then_some(host)
}

/// Sketches one unit.
pub fn run_unit<'a>(
    cx: &WorkContext<'a, '_>,
    reader: &ShardReader,
    sketcher: &Sketcher,
) -> anyhow::Result<Verdict<'a>> {
    let assignment = cx.assignment;
    let mut sketched: Vec<Sketched> = Vec::new();
    let mut rows_in = 0;
    let finished = read_ahead(unit_batches(reader, assignment.unit, Wanted::ALL, BATCH_ROWS), |batch| {
        if cx.stop.requested() {
            return Ok(false);
        }
        let batch = batch?;
        rows_in += batch.len() as u64;
        let new = (0..batch.len()).into_par_iter().filter_map(|row| {
            let url = batch.url.is_valid(row).then(|| batch.url.value(row));
            Some(sketcher.sketch(batch.rows[row], url, batch.text(row)?))
        });
        sketched.par_extend(new);
        cx.progress.add_documents(batch.len() as u64);
        Ok(true)
    })?;
    if !finished {
        return Ok(Verdict::Stopped);
    }

    let bands = sketcher.bands();
    let write = move || commit(&assignment, &sketched, rows_in, bands);
    Ok(Verdict::Done(Commit { rows: rows_in, write: Box::new(write) }))
}

fn commit(to: &Assignment, sketched: &[Sketched], rows_in: u64, bands: usize) -> anyhow::Result<UnitWork> {
    let path = format!("{}.parquet", to.unit.id);
    let mut sink = ParquetSink::create(
        &to.path(&path),
        schema::sketch(bands),
        Profile::Labels,
        schema::key_values("sketch", &to.stage.key),
    )?;
    sink.write(&batch(sketched, bands)?)?;
    let kept = sketched.len() as u64;
    let counts = Counts { rows_in, kept, quarantined: rows_in - kept, ..Counts::default() };
    Ok(UnitWork { outputs: vec![to.output(&path, sink.finish()?)], counts, labels: None, judge: None })
}

fn batch(sketched: &[Sketched], bands: usize) -> anyhow::Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(sketched.iter().map(|document| document.row as i64))),
        Arc::new(Int64Array::from_iter_values(sketched.iter().map(|document| document.chars as i64))),
        Arc::new(Int32Array::from_iter_values(
            sketched.iter().map(|document| document.tokens.min(i32::MAX as u32) as i32),
        )),
        Arc::new(sketched.iter().map(|document| document.host.as_deref()).collect::<DictionaryArray<Int32Type>>()),
        Arc::new(StringArray::from_iter(sketched.iter().map(|document| document.contaminated_by.as_deref()))),
        Arc::new(UInt64Array::from_iter_values(sketched.iter().map(|document| document.key.high()))),
        Arc::new(UInt64Array::from_iter_values(sketched.iter().map(|document| document.key.low()))),
    ];
    for band in 0..bands {
        columns.push(Arc::new(UInt64Array::from_iter(
            sketched.iter().map(|document| Some(document.bands.as_ref()?[band])),
        )));
    }
    Ok(RecordBatch::try_new(schema::sketch(bands), columns)?)
}

/// Bytes that a sidecar takes per document, about; for the plan's estimate.
pub fn bytes_per_document(bands: usize) -> ByteSize {
    ByteSize(36 + 8 * bands as u64)
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn hosts_are_bare() {
        let check = |url, expect| assert_eq!(host(url), expect, "{url}");
        check("https://www.example.org:8080/a?b", Some("example.org"));
        check("http://user@forum.example.net#top", Some("forum.example.net"));
        check("example.org/a", Some("example.org"));
        check("", None);
        check("https:///a", None);
    }
}
