//! Documents that tests make up, as JSONL and Parquet in shapes that real shards have, and damage to them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use rand::Rng;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// One document. `text` may be anything, as it may be in a shard.
#[derive(Debug, Clone)]
pub struct Document {
    pub url: String,
    pub text: Option<Vec<u8>>,
}

const SENTENCES: [&str; 8] = [
    "Let me check this against the definition.",
    "Wait, that is not right, so we go back and try another substitution.",
    "First we need to bound the sum, then we compare it with the integral.",
    "It suffices to show that the sequence is bounded.",
    "The determinant of this matrix is not zero.",
    "Every compact subset of a metric space is closed.",
    "The polynomial splits over the field of complex numbers.",
    "We multiply both sides by the common denominator.",
];

/// `count` documents of a few sentences; every 17th repeats the one before.
pub fn documents(count: usize, seed: u64) -> Vec<Document> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut documents: Vec<Document> = Vec::with_capacity(count);
    for number in 0..count {
        let text = match documents.last() {
            Some(last) if number % 17 == 16 => last.text.clone(),
            _ => {
                let sentences = (0..random.random_range(3..30)).map(|_| {
                    let sentence = SENTENCES.choose(&mut random).unwrap();
                    format!(
                        "{sentence} Here x{} equals {}.",
                        random.random_range(0..1000),
                        random.random_range(0..1000)
                    )
                });
                Some(sentences.collect::<Vec<_>>().join(" ").into_bytes())
            }
        };
        documents.push(Document { url: format!("https://www.host{}.org/{seed}/{number}", number % 5), text });
    }
    documents
}

/// One object a line. Text that is not UTF-8 is written as it is.
pub fn jsonl(documents: &[Document]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for document in documents {
        let text = match &document.text {
            None => b"null".to_vec(),
            Some(text) => match std::str::from_utf8(text) {
                Ok(text) => json!(text).to_string().into_bytes(),
                Err(_) => [b"\"", text.as_slice(), b"\""].concat(),
            },
        };
        bytes.extend(format!("{{\"url\": {}, \"date\": null, \"text\": ", json!(document.url)).bytes());
        bytes.extend(text);
        bytes.extend(b", \"metadata\": {\"made\": true}}\n");
    }
    bytes
}

/// A Parquet file in row groups of so many rows, its pages small, as plain as its readers' messages need.
pub fn parquet(documents: &[Document], group_rows: usize) -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("url", DataType::Utf8, true),
        Field::new("text", DataType::Binary, true),
        Field::new("date", DataType::Utf8, true),
        Field::new("metadata", DataType::Utf8, true),
    ]));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(group_rows))
        .set_data_page_row_count_limit(20)
        .set_write_batch_size(20)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties)).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(documents.iter().map(|document| &document.url))),
        Arc::new(documents.iter().map(|document| document.text.as_deref()).collect::<BinaryArray>()),
        Arc::new(StringArray::new_null(documents.len())),
        Arc::new(StringArray::from_iter_values(documents.iter().map(|_| "{\"made\": true}"))),
    ];
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.into_inner().unwrap()
}

/// A Parquet file of one row group for each list, empty lists included.
pub fn parquet_groups(groups: &[&[Document]]) -> Vec<u8> {
    use parquet::column::writer::ColumnWriter;
    use parquet::data_type::ByteArray;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    let schema = "message documents { optional binary url (UTF8); optional binary text (UTF8);
        optional binary date (UTF8); optional binary metadata (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    for documents in groups {
        let mut group = writer.next_row_group().unwrap();
        for column in 0..4 {
            let mut chunk = group.next_column().unwrap().unwrap();
            let ColumnWriter::ByteArrayColumnWriter(values) = chunk.untyped() else { unreachable!() };
            let cells = documents.iter().map(|document| match column {
                0 => Some(document.url.clone().into_bytes()),
                1 => document.text.clone(),
                _ => None,
            });
            let cells: Vec<Option<Vec<u8>>> = cells.collect();
            let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
            let present: Vec<ByteArray> = cells.into_iter().flatten().map(ByteArray::from).collect();
            values.write_batch(&present, Some(&levels), None).unwrap();
            chunk.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// Damages the page that holds row `row` of a row group's column, its header left as it is.
pub fn corrupt_page(file: &mut [u8], group: usize, column: usize, row: i64) {
    let metadata = metadata(file);
    let index = metadata.page_index().unwrap();
    let pages = index.offset_index(group, column).unwrap().page_locations();
    let page = pages.iter().rfind(|page| page.first_row_index <= row).unwrap();
    let (start, length) = (page.offset as usize, page.compressed_page_size as usize);
    // Behind the header, which takes a few dozen bytes.
    file[start + length / 2..start + length].fill(0xff);
}

fn metadata(file: &[u8]) -> ParquetMetaData {
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.try_parse(&bytes::Bytes::copy_from_slice(file)).unwrap();
    reader.finish().unwrap()
}
