//! Gathers what selection needs of every judged document: labels joined with sketches, conditions evaluated, duplicates clustered.

use super::condition::{Condition, number_column, string_column};
use super::select::Facts;
use crate::behavior::Behavior;
use crate::config::Curate;
use crate::data::document::{DocumentBatch, Wanted};
use crate::data::near_duplicates::Clusters;
use crate::data::schema;
use crate::data::sidecar;
use crate::plan::{Plan, Stage, Unit};
use crate::run::Runner;
use crate::stages::documents::unit_batches;
use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch, StringViewArray, UInt32Array};
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, UInt64Type};
use polars::prelude::{Column, DataFrame};
use std::collections::BTreeMap;

/// How documents of one source (the host of their URL) are distributed over behaviors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostStatistics {
    pub documents: u64,
    /// Documents that show each behavior.
    pub shown: [u64; 4],
}

/// Everything that was gathered.
pub struct Gathered {
    pub facts: Vec<Facts>,
    pub hosts: BTreeMap<String, HostStatistics>,
}

/// A unit's labels and sketch, row by row of the judged documents.
pub struct UnitTable {
    pub labels: RecordBatch,
    pub sketch: RecordBatch,
}

/// Gathers the facts of all documents, or nothing if a signal stopped it.
pub fn gather(runner: &Runner, stage: &Stage, curate: &Curate) -> anyhow::Result<Option<Gathered>> {
    let plan = runner.plan;
    let conditions = curate
        .corpus
        .values()
        .map(|corpus| Condition::parse(&corpus.condition).map_err(anyhow::Error::msg))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let wanted = wanted_columns(&conditions);
    let mut gathered = Gathered { facts: Vec::new(), hosts: BTreeMap::new() };
    let mut keys = Keys {
        exact: Vec::new(),
        bands: vec![Vec::new(); if curate.deduplicate.near { curate.deduplicate.bands } else { 0 }],
    };

    let units = &plan.inputs[stage.input].units;
    let mut visit = |unit: usize, documents: Option<Vec<DocumentBatch>>| -> anyhow::Result<()> {
        let table = read_unit(runner, stage, &units[unit])?;
        add_unit(&mut gathered, &mut keys, unit as u32, &table, &conditions, documents.as_deref())
    };
    if wanted == NONE {
        for unit in 0..units.len() {
            if runner.stop.requested() {
                return Ok(None);
            }
            visit(unit, None)?;
        }
    } else {
        let all: Vec<usize> = (0..units.len()).collect();
        let finished = runner.over_shards(stage.input, &all, |unit, reader| {
            let batches = unit_batches(reader, &units[unit], wanted, 4096).collect::<anyhow::Result<Vec<_>>>()?;
            visit(unit, Some(batches))?;
            Ok(true)
        })?;
        if !finished {
            return Ok(None);
        }
    }
    cluster(&mut gathered.facts, keys, curate);
    Ok(Some(gathered))
}

const NONE: Wanted = Wanted { url: false, text: false, date: false, metadata: false };

fn wanted_columns(conditions: &[Condition]) -> Wanted {
    let mut wanted = NONE;
    for column in conditions.iter().flat_map(Condition::document_columns) {
        match column {
            "url" => wanted.url = true,
            "text" => wanted.text = true,
            "date" => wanted.date = true,
            _ => wanted.metadata = true,
        }
    }
    wanted
}

/// A unit's labels with the sketches of the same documents. Documents that the judge quarantined have no labels and are left out.
pub fn read_unit(runner: &Runner, stage: &Stage, unit: &Unit) -> anyhow::Result<UnitTable> {
    let (classify, sketch) = sources(runner.plan, stage)?;
    let labels = sidecar::read(&runner.dir.path(format!("{}/labels/{}.parquet", classify.folder, unit.id)))?;
    let sketch = sidecar::read(&runner.dir.path(format!("{}/{}.parquet", sketch.folder, unit.id)))?;
    let label_rows =
        labels.column_by_name("source_row").context("labels lack `source_row`")?.as_primitive::<Int64Type>();
    let sketch_rows =
        sketch.column_by_name("source_row").context("the sketch lacks `source_row`")?.as_primitive::<Int64Type>();
    let mut places = Vec::with_capacity(label_rows.len());
    let mut place = 0;
    for &row in label_rows.values() {
        while place < sketch_rows.len() && sketch_rows.value(place) < row {
            place += 1;
        }
        anyhow::ensure!(
            place < sketch_rows.len() && sketch_rows.value(place) == row,
            "row {row} of unit `{}` has labels and no sketch",
            unit.id
        );
        places.push(place as u32);
    }
    let sketch = arrow::compute::take_record_batch(&sketch, &UInt32Array::from(places))?;
    Ok(UnitTable { labels, sketch })
}

/// The stages whose sidecars a curate stage joins.
fn sources<'p>(plan: &'p Plan, stage: &Stage) -> anyhow::Result<(&'p Stage, &'p Stage)> {
    let find = |name: &str| {
        stage
            .reads
            .iter()
            .map(|&index| &plan.stages[index])
            .find(|stage| stage.work.name() == name)
            .with_context(|| format!("the plan has no `{name}` stage to read"))
    };
    Ok((find("classify")?, find("sketch")?))
}

/// What duplicates are found by: (key, document) pairs.
struct Keys {
    exact: Vec<[u64; 2]>,
    bands: Vec<Vec<(u64, u32)>>,
}

fn add_unit(
    gathered: &mut Gathered,
    keys: &mut Keys,
    unit: u32,
    table: &UnitTable,
    conditions: &[Condition],
    documents: Option<&[DocumentBatch]>,
) -> anyhow::Result<()> {
    let labels = &table.labels;
    let sketch = &table.sketch;
    let column = |batch: &RecordBatch, name: &str| {
        batch.column_by_name(name).cloned().with_context(|| format!("a sidecar lacks the column `{name}`"))
    };
    let ids = column(labels, "id")?;
    let rows = column(labels, "source_row")?;
    let chars = column(sketch, "char_count")?;
    let tokens = column(sketch, "token_count")?;
    let contaminated = column(sketch, "contaminated_by")?;
    let hosts = column(sketch, "host")?;
    let (ids, rows, chars, tokens) = (
        ids.as_string::<i32>(),
        rows.as_primitive::<Int64Type>(),
        chars.as_primitive::<Int64Type>(),
        tokens.as_primitive::<Int32Type>(),
    );
    let counts = Behavior::ALL.map(|behavior| column(labels, &format!("{}_count", behavior.name())));
    let counts: Vec<_> = counts.into_iter().collect::<anyhow::Result<_>>()?;

    let mut columns: Vec<Column> = vec![
        string_column("id", ids.iter()),
        number_column("char_count", chars.values()),
        number_column("token_count", &tokens.values().iter().map(|&tokens| i64::from(tokens)).collect::<Vec<_>>()),
    ];
    for (behavior, counts) in Behavior::ALL.into_iter().zip(&counts) {
        let score = format!("{}_score", behavior.name());
        columns.push(number_column(&score, column(labels, &score)?.as_primitive::<Float32Type>().values()));
        columns.push(number_column(&format!("{}_count", behavior.name()), counts.as_primitive::<Int32Type>().values()));
    }
    if let Some(documents) = documents {
        columns.extend(document_columns(documents, rows.values()));
    }
    let table = DataFrame::new(ids.len(), columns)?;
    let selected = conditions
        .iter()
        .map(|condition| condition.evaluate(&table).map_err(anyhow::Error::msg))
        .collect::<anyhow::Result<Vec<_>>>()?;

    let first = gathered.facts.len() as u32;
    let host_names = arrow::compute::cast(&hosts, &arrow::datatypes::DataType::Utf8)?;
    let host_names = host_names.as_string::<i32>();
    for row in 0..ids.len() {
        let index = first + row as u32;
        gathered.facts.push(Facts {
            unit,
            row: rows.value(row) as u64,
            id: u64::from_str_radix(ids.value(row), 16).context("a document id is not hexadecimal")?,
            tokens: tokens.value(row) as u32,
            chars: chars.value(row).min(i64::from(u32::MAX)) as u32,
            selected: selected.iter().zip(0..).map(|(selected, bit)| u32::from(selected[row]) << bit).sum(),
            shown: counts
                .iter()
                .zip(0..)
                .map(|(counts, bit)| u8::from(counts.as_primitive::<Int32Type>().value(row) > 0) << bit)
                .sum(),
            contaminated: contaminated.is_valid(row),
            same_text: index,
            cluster: index,
        });
        let host = if host_names.is_valid(row) { host_names.value(row) } else { "" };
        // Look before inserting, so that the common case allocates nothing.
        if !gathered.hosts.contains_key(host) {
            gathered.hosts.insert(host.to_owned(), HostStatistics::default());
        }
        if let Some(statistics) = gathered.hosts.get_mut(host) {
            statistics.documents += 1;
            for (shown, counts) in statistics.shown.iter_mut().zip(&counts) {
                *shown += u64::from(counts.as_primitive::<Int32Type>().value(row) > 0);
            }
        }
    }

    let high = column(sketch, "text_key_high")?;
    let low = column(sketch, "text_key_low")?;
    let pairs = high.as_primitive::<UInt64Type>().values().iter().zip(low.as_primitive::<UInt64Type>().values());
    keys.exact.extend(pairs.map(|(&high, &low)| [high, low]));
    for (band, keys) in keys.bands.iter_mut().enumerate() {
        let column = column(sketch, &schema::band_name(band))?;
        let values = column.as_primitive::<UInt64Type>();
        keys.extend(
            (0..values.len()).filter(|&row| values.is_valid(row)).map(|row| (values.value(row), first + row as u32)),
        );
    }
    Ok(())
}

/// The document columns of the judged rows alone; `rows` are ascending.
fn document_columns(documents: &[DocumentBatch], rows: &[i64]) -> Vec<Column> {
    let places: Vec<(&DocumentBatch, usize)> = {
        let mut all = documents.iter().flat_map(|batch| (0..batch.len()).map(move |row| (batch, row)));
        rows.iter().filter_map(|&wanted| all.find(|(batch, row)| batch.rows[*row] == wanted as u64)).collect()
    };
    let column = |name: &str, of: fn(&DocumentBatch) -> &StringViewArray| {
        string_column(name, places.iter().map(|&(batch, row)| of(batch).is_valid(row).then(|| of(batch).value(row))))
    };
    vec![
        column("url", |batch| &batch.url),
        column("text", |batch| &batch.text),
        column("date", |batch| &batch.date),
        column("metadata", |batch| &batch.metadata),
    ]
}

/// Fills in each document's first equal text and first near duplicate.
fn cluster(facts: &mut [Facts], keys: Keys, curate: &Curate) {
    let mut equal = Clusters::new(facts.len() as u32);
    let mut near = Clusters::new(facts.len() as u32);
    if curate.deduplicate.exact || curate.deduplicate.near {
        let mut pairs: Vec<([u64; 2], u32)> = keys.exact.into_iter().zip(0..).collect();
        equal.add_band(&mut pairs);
        near.add_band(&mut pairs);
    }
    for mut band in keys.bands {
        near.add_band(&mut band);
    }
    for (document, index) in facts.iter_mut().zip(0..) {
        document.same_text = equal.representative(index);
        document.cluster =
            if curate.deduplicate.near || curate.deduplicate.exact { near.representative(index) } else { index };
    }
}
