//! Shards of every format and state are read, or refused in one sentence.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use four_habits::data::document::{ColumnMap, DocumentBatch, Wanted};
use four_habits::data::shard::{Column, Footer, Format, ShardReader};
use four_habits::error::{Exit, exit_of, hint_of};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

#[expect(clippy::print_stdout, reason = "says which tests had nothing to read")]
fn shared_data(what: &str) -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")).join(what);
    if !folder.exists() {
        println!("skipped: {what} (no ../shared/data)");
        return None;
    }
    Some(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn open(path: &Path, columns: &ColumnMap) -> anyhow::Result<ShardReader> {
    open_as(path, Format::of(path.to_str().unwrap()).unwrap(), columns)
}

fn open_as(path: &Path, format: Format, columns: &ColumnMap) -> anyhow::Result<ShardReader> {
    ShardReader::open(path, format, columns)
}

fn read(reader: &ShardReader, rows: Option<&[u64]>, batch_rows: usize) -> anyhow::Result<Vec<DocumentBatch>> {
    reader.batches(0..reader.footer().row_groups.len(), Wanted::ALL, rows, batch_rows)?.collect()
}

#[test]
fn shards_of_three_writers_read_alike() {
    let Some(folder) = shared_data("math_docs") else { return };
    let mut rows = 0;
    let mut null_dates = 0;
    for path in files(&folder).into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "parquet")) {
        let reader = open(&path, &ColumnMap::default()).unwrap();
        let batches = read(&reader, None, 1000).unwrap();
        let count: usize = batches.iter().map(DocumentBatch::len).sum();
        assert_eq!(Some(count as u64), reader.footer().rows);
        let numbers: Vec<u64> = batches.iter().flat_map(|batch| batch.rows.clone()).collect();
        assert!(numbers.into_iter().eq(0..count as u64));
        for batch in &batches {
            assert!(batch.defects.is_empty() && batch.len() <= 1000);
            null_dates += arrow::array::Array::null_count(&batch.date);
        }
        rows += count;
    }
    assert_eq!((rows, null_dates), (5852, 266));
}

/// Reads every column that can be read, each as text if it can be and else as a date. The number of rows seen, or the
/// first error.
fn read_every_column(path: &Path) -> anyhow::Result<usize> {
    let bytes = std::fs::read(path)?;
    let mut fetch = |range: std::ops::Range<u64>| Ok(bytes[range.start as usize..range.end as usize].to_vec());
    let footer = Footer::read_remote(&path.display().to_string(), bytes.len() as u64, &mut fetch)?;
    let is_text = |column: &&Column| ["string", "binary"].contains(&column.kind.as_str());
    let mut seen = 0;
    for column in &footer.columns {
        let text = if is_text(&column) { Some(column) } else { footer.columns.iter().find(is_text) };
        let Some(text) = text else { continue };
        let columns = ColumnMap { date: Some(column.name.clone()), ..ColumnMap::text_only(&text.name) };
        let reader = open_as(path, Format::Parquet, &columns)?;
        for batch_rows in [1, 1024] {
            let rows: usize = read(&reader, None, batch_rows)?.iter().map(DocumentBatch::len).sum();
            assert_eq!(Some(rows as u64), footer.rows);
            seen = rows;
        }
        let odd: Vec<u64> = (0..footer.rows.unwrap_or(0)).filter(|row| row % 2 == 1).collect();
        read(&reader, Some(&odd), 7)?;
    }
    Ok(seen)
}

fn one_clear_sentence(path: &Path, error: &anyhow::Error) {
    let sentence = format!("{error:#}");
    assert!(!sentence.contains('\n') && sentence.contains(&path.display().to_string()), "{sentence}");
    assert!(matches!(exit_of(error), Exit::BadData | Exit::Usage), "{sentence}");
    assert!(hint_of(error).is_some(), "{sentence}");
}

#[test]
fn conformance_files_are_read_or_refused() {
    let Some(folder) = shared_data("oracles/parquet_testing") else { return };
    let (mut read, mut refused) = (0, Vec::new());
    for path in files(&folder.join("data")).into_iter().chain(files(&folder.join("bad_data"))) {
        if path.extension().is_none_or(|ext| ext != "parquet") {
            continue;
        }
        match read_every_column(&path) {
            Ok(_) => read += 1,
            Err(error) => {
                one_clear_sentence(&path, &error);
                refused.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let expect = [
        // A list where a date is asked for.
        "datapage_v2.snappy",
        // A list whose elements are not of the type that the format says.
        "dict-page-offset-zero",
        "nation.dict-malformed",
        // No rows according to the file, six according to its row groups.
        "repeated_no_annotation",
        "ARROW-GH-41317",
        "ARROW-GH-41321",
        "ARROW-RS-GH-6229-DICTHEADER",
        "PARQUET-1481",
    ];
    assert_eq!((read, refused), (62, expect.map(str::to_owned).to_vec()));
}

/// What a shard holds, row by row: its text or the reason why there is none.
fn texts(batches: &[DocumentBatch]) -> Vec<Result<String, String>> {
    let mut texts = Vec::new();
    for batch in batches {
        let mut defects = batch.defects.iter().peekable();
        for row in 0..batch.len() {
            let defect = defects.next_if(|defect| defect.row_in_batch == row);
            assert_eq!(batch.text(row).is_none(), defect.is_some());
            texts.push(match defect {
                Some(defect) => Err(defect.reason.clone()),
                None => Ok(batch.text(row).unwrap().to_owned()),
            });
        }
        assert!(defects.next().is_none());
    }
    texts
}

/// `content` as a file called `name`, opened and read: what it holds, or the error without the file's name.
fn read_content(name: &str, content: &[u8]) -> Result<Vec<Result<String, String>>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    File::create_new(&path).unwrap().write_all(content).unwrap();
    let outcome = open(&path, &text_only()).and_then(|reader| read(&reader, None, 3));
    outcome.map(|batches| texts(&batches)).map_err(|error| {
        one_clear_sentence(&path, &error);
        format!("{error:#}").replace(path.to_str().unwrap(), name)
    })
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}

#[test]
fn jsonl_rows_are_lines_that_are_not_blank() {
    let check = |content: &[u8], expect: &[Result<&str, &str>]| {
        let expect: Vec<_> = expect.iter().map(|row| row.map(str::to_owned).map_err(str::to_owned)).collect();
        for (name, content) in [
            ("a.jsonl", content.to_vec()),
            ("a.json.gz", gzip(content)),
            ("a.jsonl.zst", zstd(content)),
            // Two members and two frames: tools append.
            ("a.jsonl.gz", [gzip(&content[..content.len() / 2]), gzip(&content[content.len() / 2..])].concat()),
            ("a.ndjson.zst", [zstd(&content[..content.len() / 2]), zstd(&content[content.len() / 2..])].concat()),
        ] {
            assert_eq!(read_content(name, &content), Ok(expect.clone()), "{name}: {}", content.escape_ascii());
        }
    };
    check(b"", &[]);
    check(b"\n \r\n\n", &[]);
    check(b"{\"text\":\"a\"}", &[Ok("a")]);
    check(b"\xef\xbb\xbf{\"text\":\"a\"}\r\n\r\n{\"text\":\"b\"}\r\n", &[Ok("a"), Ok("b")]);
    check(
        b"{\"text\":\"a\"}\n{\"text\":\"caf\xe9\"}\n{\"text\":null}\n{\"url\":\"u\"}\n[1]\nnot json\n{\"text\":7}\n{\"text\":\"\"}",
        &[
            Ok("a"),
            Err("invalid UTF-8 at byte 12"),
            Err("text is null"),
            Err("text is missing"),
            Err("line is not a JSON object"),
            Err("line is not JSON: expected ident at column 2"),
            Err("text is a number, expected a string"),
            Ok(""),
        ],
    );
}

#[test]
fn damaged_jsonl_is_refused() {
    let check =
        |name: &str, content: &[u8], expect: &str| assert_eq!(read_content(name, content), Err(expect.to_owned()));
    // Lines that hardly compress.
    let line = |row: u32| format!("{{\"text\":\"{}\"}}\n", blake3::hash(&row.to_le_bytes()).to_hex());
    let lines: String = (0..20_000).map(line).collect();
    let (gz, zst) = (gzip(lines.as_bytes()), zstd(lines.as_bytes()));
    for length in [gz.len() - 1, gz.len() - 8, gz.len() / 2, 11] {
        let error = read_content("a.jsonl.gz", &gz[..length]).unwrap_err();
        assert!(error.starts_with("cannot read `a.jsonl.gz`: its compressed data is cut short in line "), "{error}");
    }
    for length in [zst.len() - 1, zst.len() / 2, 11] {
        let error = read_content("a.jsonl.zst", &zst[..length]).unwrap_err();
        assert!(error.starts_with("cannot read `a.jsonl.zst`: its compressed data is cut short in line "), "{error}");
    }
    check("a.jsonl", &gz, "cannot read `a.jsonl`: its name promises uncompressed data and its content is gzip");
    check("a.jsonl.zst", &gz, "cannot read `a.jsonl.zst`: its name promises zstd data and its content is gzip");
    check("a.json", b"[\n{\"text\":\"a\"}\n]", "cannot read `a.json`: it is a JSON array, expected one object a line");
    check("a.jsonl", b"{\"content\":\"a\",\"id\":1}\n", "`a.jsonl` has no column `text`; it has `content`, `id`");
    check(
        "a.parquet",
        b"{\"text\":\"a\"}",
        "cannot read `a.parquet`: it does not end as a Parquet file does: it is cut short or of another format",
    );
    check("a.parquet", b"", "cannot read `a.parquet`: it has 0 bytes, too few for a Parquet file");
}

#[test]
fn decompression_bombs_are_refused() {
    let bomb = |chunk: &[u8], chunks: usize| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        (0..chunks).for_each(|_| encoder.write_all(chunk).unwrap());
        encoder.finish().unwrap()
    };
    let mib = 1 << 20;
    for byte in [b' ', b'\n'] {
        let error = read_content("a.jsonl.zst", &bomb(&vec![byte; mib], 100)).unwrap_err();
        assert!(error.starts_with("cannot read `a.jsonl.zst`: it expands more than 1000 times"), "{error}");
    }
    // No bomb, but no documents either.
    let error = read_content("a.jsonl", &vec![b' '; 257 * mib]).unwrap_err();
    assert_eq!(error, "cannot read `a.jsonl`: line 1 is longer than 256 MiB");
}

#[test]
fn documents_of_dolma_are_read() {
    let Some(folder) = shared_data("oracles/dolma/multiple_files") else { return };
    let columns = ColumnMap { url: Some("id".to_owned()), date: Some("created".to_owned()), ..ColumnMap::default() };
    for plain in files(&folder).into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "jsonl")) {
        let compressed = plain.with_extension("jsonl.gz");
        let [a, b] = [&plain, &compressed].map(|path| read(&open(path, &columns).unwrap(), None, 100).unwrap());
        assert_eq!(texts(&a), texts(&b));
        let lines = std::fs::read_to_string(&plain).unwrap().lines().count();
        assert_eq!(a.iter().map(DocumentBatch::len).sum::<usize>(), lines);
        for batch in &a {
            assert!(batch.defects.is_empty() && batch.metadata.value(0).starts_with("{\""));
        }
    }
}

#[test]
fn a_document_of_megabytes_is_a_row_like_others() {
    let Some(path) = shared_data("math_docs/very_long_doc_stacks_algebra.tex") else { return };
    let long = std::fs::read_to_string(path).unwrap();
    let lines: String =
        [&long, "short", &long].map(|text| serde_json::json!({ "text": text }).to_string() + "\n").concat();
    let expect = vec![Ok(long.clone()), Ok("short".to_owned()), Ok(long.clone())];
    // Not assert_eq, which would print them.
    assert!(read_content("a.jsonl.zst", &zstd(lines.as_bytes())) == Ok(expect.clone()));
    let parquet = parquet_of("STRING", &[Some(long.as_bytes()), Some(b"short"), Some(long.as_bytes())], 2);
    assert!(read_content("a.parquet", &parquet) == Ok(expect));
}

/// A Parquet file of one column `text`, annotated or not, in row groups of `group_rows`, with a page for every 5 rows.
fn parquet_of(annotation: &str, rows: &[Option<&[u8]>], group_rows: usize) -> Vec<u8> {
    let annotation = if annotation.is_empty() { String::new() } else { format!(" ({annotation})") };
    let schema = format!("message schema {{ optional binary text{annotation}; }}");
    let schema = parquet::schema::parser::parse_message_type(&schema).unwrap();
    let properties = WriterProperties::builder().set_data_page_row_count_limit(5).set_write_batch_size(5).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema.into(), properties.into()).unwrap();
    for rows in rows.chunks(group_rows) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|row| ByteArray::from(row.to_vec())).collect();
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn text_only() -> ColumnMap {
    ColumnMap::text_only("text")
}

#[test]
fn bad_rows_of_parquet_are_defects_of_those_rows() {
    let rows: [Option<&[u8]>; 5] =
        [Some(b"a"), None, Some(b"0123456789abcdefg\xffh"), Some(b"caf\xc3\xa9"), Some(b"\xed\xa0\x80")];
    let expect = [
        Ok("a".to_owned()),
        Err("text is null".to_owned()),
        Err("invalid UTF-8 at byte 17".to_owned()),
        Ok("café".to_owned()),
        Err("invalid UTF-8 at byte 0".to_owned()),
    ];
    // However the writer annotated the bytes.
    for annotation in ["STRING", "UTF8", "JSON", "ENUM", ""] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        File::create_new(&path).unwrap().write_all(&parquet_of(annotation, &rows, 2)).unwrap();
        for batch_rows in [1, 2, 100] {
            let batches = read(&open(&path, &text_only()).unwrap(), None, batch_rows).unwrap();
            assert_eq!(texts(&batches), expect, "{annotation}");
        }
    }
}

#[test]
fn columns_that_cannot_serve_are_named() {
    let Some(folder) = shared_data("oracles/parquet_testing/data") else { return };
    let check = |file: &str, columns: ColumnMap, expect: &str, hint: &str| {
        let path = folder.join(file);
        let error = open(&path, &columns).unwrap_err();
        one_clear_sentence(&path, &error);
        assert_eq!(format!("{error:#}").replace(path.to_str().unwrap(), file), expect);
        assert_eq!(hint_of(&error), Some(hint));
        assert_eq!(exit_of(&error), Exit::Usage);
    };
    check(
        "nested_lists.snappy.parquet",
        ColumnMap::text_only("A"),
        "`nested_lists.snappy.parquet` has no column `A`; it has `a`, `b`",
        "did you mean `a`? Name the column in the recipe",
    );
    check(
        "alltypes_plain.parquet",
        ColumnMap::text_only("id"),
        "column `id` of `alltypes_plain.parquet` is Int32, expected string",
        "name a column of text in the recipe",
    );
    check(
        "alltypes_plain.parquet",
        ColumnMap { date: Some("day".to_owned()), ..ColumnMap::text_only("string_col") },
        "`alltypes_plain.parquet` has no column `day`; it has `id`, `bool_col`, `tinyint_col`, `smallint_col`, `int_col`, \
         `bigint_col`, `float_col`, `double_col`, `date_string_col`, `string_col`, `timestamp_col`",
        "name the column in the recipe",
    );
    // A date need not be text.
    let columns = ColumnMap { date: Some("timestamp_col".to_owned()), ..ColumnMap::text_only("string_col") };
    let batches = read(&open(&folder.join("alltypes_plain.parquet"), &columns).unwrap(), None, 100).unwrap();
    assert_eq!((batches[0].text.value(1), batches[0].date.value(1)), ("1", "2009-03-01T00:01:00"));
}

#[test]
fn truncated_parquet_is_refused() {
    let Some(folder) = shared_data("math_docs") else { return };
    let path = folder.join("train-00001-of-00003-5ac6747bd1c97370.parquet");
    let whole = std::fs::read(path).unwrap();
    for length in [0, 1, 4, 8, 11, 12, 1000, whole.len() / 2, whole.len() - 9, whole.len() - 4, whole.len() - 1] {
        read_content("a.parquet", &whole[..length]).unwrap_err();
    }
    // The middle is missing, the footer is there.
    let cut = [&whole[..whole.len() / 4], &whole[whole.len() / 2..]].concat();
    read_content("a.parquet", &cut).unwrap_err();
    // Pages are overwritten.
    for (at, length) in [(4, 100), (5000, 1), (whole.len() / 2, 5000)] {
        let mut overwritten = whole.clone();
        overwritten[at..at + length].iter_mut().for_each(|byte| *byte ^= 0x55);
        let _ = read_content("a.parquet", &overwritten);
    }
}

#[test]
fn remote_footers_take_one_or_two_ranges() {
    let Some(folder) = shared_data("math_docs") else { return };
    for path in files(&folder).into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "parquet")) {
        let bytes = std::fs::read(&path).unwrap();
        let mut fetched = Vec::new();
        let footer = Footer::read_remote("remote", bytes.len() as u64, &mut |range| {
            fetched.push(range.clone());
            Ok(bytes[range.start as usize..range.end as usize].to_vec())
        });
        // Equal but for types: a reader has declared its text columns as bytes.
        let local = open(&path, &ColumnMap::default()).unwrap();
        assert_eq!(footer.unwrap().row_groups, local.footer().row_groups);
        assert!(fetched.len() == 1 && fetched[0].end == bytes.len() as u64);
    }
}

mod selection {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Range;

    const ROWS: usize = 230;

    fn text_of(row: usize) -> Option<String> {
        (row % 13 != 5).then(|| format!("document {row} ").repeat(row % 7))
    }

    /// The same documents in Parquet (with a page index) and in JSONL.
    fn shards(folder: &Path) -> [ShardReader; 2] {
        let texts: Vec<_> = (0..ROWS).map(text_of).collect();
        let rows: Vec<_> = texts.iter().map(|text| text.as_deref().map(str::as_bytes)).collect();
        let lines: String = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n\n").collect();
        [("a.parquet", parquet_of("STRING", &rows, 60)), ("a.jsonl.gz", gzip(lines.as_bytes()))].map(
            |(name, content)| {
                let path = folder.join(name);
                File::create_new(&path).unwrap().write_all(&content).unwrap();
                open(&path, &text_only()).unwrap()
            },
        )
    }

    fn read_rows(
        reader: &ShardReader,
        groups: Range<usize>,
        rows: &[u64],
        batch_rows: usize,
    ) -> Vec<(u64, Option<String>)> {
        let batches = reader.batches(groups, Wanted::TEXT, Some(rows), batch_rows).unwrap();
        let batches = batches.map(Result::unwrap).inspect(|batch| assert!(batch.len() <= batch_rows));
        batches
            .flat_map(|batch| {
                let texts: Vec<_> = (0..batch.len()).map(|row| batch.text(row).map(str::to_owned)).collect();
                batch.rows.into_iter().zip(texts).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn equals_filtering_after_the_fact() {
        let folder = tempfile::tempdir().unwrap();
        let [parquet, jsonl] = shards(folder.path());
        proptest!(|(
            wanted in proptest::collection::btree_set(0..ROWS as u64, 0..ROWS),
            start in 0..5usize,
            groups in 0..5usize,
            batch_rows in 1..100usize,
        )| {
            let end = (start + groups).min(parquet.footer().row_groups.len());
            let start = start.min(end);
            let wanted: Vec<u64> = wanted.into_iter().collect();
            let expect: Vec<_> = wanted.iter().map(|row| (*row, text_of(*row as usize))).collect();
            prop_assert_eq!(&read_rows(&jsonl, 0..1, &wanted, batch_rows), &expect);
            let within: Vec<_> =
                expect.into_iter().filter(|(row, _)| (start * 60..end * 60).contains(&(*row as usize))).collect();
            prop_assert_eq!(read_rows(&parquet, start..end, &wanted, batch_rows), within);
        });
    }
}
