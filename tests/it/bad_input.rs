//! Input that is damaged, empty, absent or changed: one clear sentence or a quarantined row, and every row accounted for.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use four_habits::data::sidecar;

use super::made_documents::{Document, corrupt_page, documents, jsonl, parquet, parquet_groups};
use super::program::{Ended, RECIPE, Workplace};

/// Every document goes into a corpus, whatever it shows.
const ALL: &str = r#"
[fetch]
sources = ["data/*"]
rows-per-unit = 100000
[classify]
max-quarantined-share = 1.0
[classify.cue]
[curate]
test-share = 0.0
deduplicate = { exact = false, near = false }
[curate.corpus.all]
where = "true"
"#;

/// The quarantined rows and why, in order; they must be as many as the manifests say.
fn quarantine(workplace: &Workplace, run: &str) -> Vec<(i64, String)> {
    let folder = workplace.path(run).join("classify/quarantine");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let batch = sidecar::read(&file).unwrap();
        let numbers = batch.column_by_name("source_row").unwrap().as_primitive::<Int64Type>();
        let reasons = batch.column_by_name("reason").unwrap().as_string::<i32>();
        rows.extend(numbers.values().iter().zip(reasons).map(|(row, reason)| (*row, reason.unwrap().to_owned())));
    }
    rows.sort();
    assert_eq!(rows.len() as u64, workplace.counts(run, "classify")[3]);
    rows
}

/// A corpus of one shard runs to the end, every row is accounted for, and these are quarantined.
#[track_caller]
fn check_rows(name: &str, shard: &[u8], rows: u64, quarantined: &[(i64, &str)]) {
    let workplace = Workplace::with(ALL, &[(name, shard.to_vec())]);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    let found = quarantine(&workplace, "run");
    let found: Vec<(i64, &str)> = found.iter().map(|(row, reason)| (*row, reason.as_str())).collect();
    assert_eq!(found, quarantined);
    let kept = rows - quarantined.len() as u64;
    for stage in ["classify", "curate"] {
        assert_eq!(workplace.counts("run", stage), [rows, kept, 0, quarantined.len() as u64], "{stage}");
    }
}

/// A corpus of one shard is refused before anything is made of it.
#[track_caller]
fn check_refused(name: &str, shard: &[u8], exit: i32, sentence: &str) -> Ended {
    let workplace = Workplace::with(ALL, &[(name, shard.to_vec())]);
    let ended = workplace.run("run", &[]).fails(exit, sentence);
    assert!(!workplace.path("run/plan.json").exists(), "nothing was planned");
    workplace.call(&["plan", "recipe.toml"]).fails(exit, sentence);
    ended
}

fn shared_data(what: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")).join(what);
    if !path.exists() {
        eprintln!("skipped: {what} (no ../shared/data)");
        return None;
    }
    Some(path)
}

#[test]
fn lines_that_are_no_documents_are_quarantined() {
    let lines: [&[u8]; 14] = [
        br#"{"text": "Let me check this again."}"#,
        br#"{"text": ""}"#,
        br#"{"text": null}"#,
        br#"{"text": 5}"#,
        b"{\"text\": \"caf\xc3\"}",
        br#"["text"]"#,
        br#""text""#,
        br#"{"text": "cut"#,
        br#"{"url": "https://example.org"}"#,
        b"\xff\xfe\x00",
        br#"{"text": "  \n "}"#,
        br#"{"text": {"en": "nested"}}"#,
        br#"{"text": "a lone \ud800 surrogate"}"#,
        br#"{"text": "The last one is good."}"#,
    ];
    check_rows(
        "a.jsonl",
        &lines.join(&b"\n"[..]),
        14,
        &[
            (1, "empty text"),
            (2, "text is null"),
            (3, "text is a number, expected a string"),
            (4, "invalid UTF-8 at byte 13"),
            (5, "line is not a JSON object"),
            (6, "line is not a JSON object"),
            (7, "line is not JSON: EOF while parsing a string at column 13"),
            (8, "text is missing"),
            (9, "invalid UTF-8 at byte 0"),
            (10, "empty text"),
            (11, "text is an object, expected a string"),
            (12, "text is no valid string: unexpected end of hex escape"),
        ],
    );
}

#[test]
fn cells_that_are_no_text_are_quarantined() {
    let mut made = documents(60, 1);
    made[3].text = None;
    made[30].text = Some(b"caf\xc3 and more".to_vec());
    made[59].text = Some(Vec::new());
    check_rows(
        "a.parquet",
        &parquet(&made, 25),
        60,
        &[(3, "text is null"), (30, "invalid UTF-8 at byte 3"), (59, "empty text")],
    );
}

#[test]
fn a_document_without_a_readable_url_is_quarantined_everywhere() {
    // Written as bytes, so that the URL may be anything.
    let mut made = documents(40, 2);
    made[7].url = "\u{fffd}".repeat(3);
    let mut shard = parquet_groups(&[&made]);
    let marker = "\u{fffd}".repeat(3).into_bytes();
    let mut at = 0;
    while let Some(found) = shard[at..].windows(9).position(|window| window == marker) {
        shard[at + found..at + found + 9].fill(0xfe);
        at += found + 9;
    }
    check_rows("a.parquet", &shard, 40, &[(7, "`url` has invalid UTF-8 at byte 0")]);
}

#[test]
fn no_documents_make_empty_corpora() {
    let one = documents(1, 3);
    check_rows("a.jsonl", b"", 0, &[]);
    check_rows("a.jsonl", b"\n  \n\r\n", 0, &[]);
    check_rows("a.parquet", &parquet(&[], 10), 0, &[]);
    check_rows("a.parquet", &parquet_groups(&[&[]]), 0, &[]);
    check_rows("a.parquet", &parquet_groups(&[&[], &one, &[], &[], &one, &[]]), 2, &[]);
}

#[test]
fn empty_and_full_shards_stand_together() {
    let data = [
        ("a.parquet", parquet(&[], 10)),
        ("b.jsonl", Vec::new()),
        ("c.parquet", parquet_groups(&[&[], &documents(30, 4), &[]])),
        ("d.jsonl", jsonl(&documents(20, 5))),
    ];
    let workplace = Workplace::with(RECIPE, &data);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "classify"), [50, 50, 0, 0]);
}

#[test]
fn a_damaged_page_costs_its_rows_and_no_others() {
    // Pages of 20 rows in three row groups of 1000, one unit: damage in the middle of the second.
    let made = documents(3000, 6);
    let whole = parquet(&made, 1000);
    for (column, name) in ["url", "text", "metadata"].iter().zip([0, 1, 3]).map(|(name, column)| (column, name)) {
        let mut shard = whole.clone();
        corrupt_page(&mut shard, 1, column, 607);
        let workplace = Workplace::with(ALL, &[("a.parquet", shard)]);
        workplace.run("run", &[]).expect(0);
        workplace.verify("run");
        let quarantined = quarantine(&workplace, "run");
        let rows: Vec<i64> = quarantined.iter().map(|(row, _)| *row).collect();
        // What follows in the same row group cannot be told apart; the next row group is whole.
        assert_eq!(rows, (1600..2000).collect::<Vec<_>>(), "{name}");
        for (_, reason) in &quarantined {
            assert!(reason.starts_with("the shard is damaged: cannot read `data/a.parquet`"), "{reason}");
        }
        assert_eq!(workplace.counts("run", "curate"), [3000, 2600, 0, 400], "{name}");
        assert_eq!(workplace.counts("run", "sketch"), [3000, 2600, 0, 400], "{name}");
    }
}

#[test]
fn a_damaged_page_is_survived_by_conditions_on_text_and_by_kills() {
    let recipe = ALL.replace("\"true\"", "\"text like '%check%' and url is not null\"");
    let mut shard = parquet(&documents(1500, 7), 500);
    corrupt_page(&mut shard, 0, 1, 470);
    corrupt_page(&mut shard, 2, 0, 5);
    let workplace = Workplace::with(&recipe, &[("a.parquet", shard)]);
    workplace.run("whole", &[]).expect(0);
    workplace.verify("whole");
    assert_eq!(workplace.counts("whole", "classify"), [1500, 960, 0, 540]);
    let whole = workplace.files("whole");
    assert!((1..).take_while(|&point| workplace.run_killed_at(point, "run", &[]).exit == 134).count() > 10);
    workplace.assert_same("run", &whole);
}

#[test]
fn compressed_lines_that_are_cut_short_cost_the_rest_of_the_file() {
    use std::io::Write;
    let text = jsonl(&documents(700, 8));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(text.as_slice(), 1).unwrap();
    for (name, shard) in [("a.jsonl.gz", gzip), ("a.jsonl.zst", zstd)] {
        let workplace = Workplace::with(ALL, &[(name, shard[..shard.len() / 2].to_vec())]);
        workplace.run("run", &[]).expect(0);
        workplace.verify("run");
        let quarantined = quarantine(&workplace, "run");
        assert_eq!(quarantined.len(), 1, "one row stands for the rest: {quarantined:?}");
        let (row, reason) = &quarantined[0];
        assert!(*row > 100 && reason.contains("cut short"), "{reason}");
        let rows = *row as u64;
        assert_eq!(workplace.counts("run", "classify"), [rows + 1, rows, 0, 1]);
        assert_eq!(workplace.counts("run", "curate"), [rows + 1, rows, 0, 1]);
    }
}

#[test]
fn shards_that_cannot_be_opened_are_refused() {
    let good = parquet(&documents(50, 9), 20);
    check_refused("a.parquet", b"", 65, "`data/a.parquet`: it has 0 bytes");
    check_refused("a.parquet", b"PAR1PAR1", 65, "`data/a.parquet`");
    check_refused("a.parquet", &good[..good.len() - 1], 65, "it is cut short or of another format");
    check_refused("a.parquet", &good[..good.len() / 2], 65, "it is cut short or of another format");
    check_refused("a.parquet", &good[good.len() / 2..], 65, "`data/a.parquet`");
    check_refused("a.parquet", b"{\"text\": \"not Parquet at all\"}", 65, "of another format");
    check_refused("a.jsonl", &good, 65, "it is a Parquet file by another name");
    check_refused("a.jsonl.gz", b"{\"text\": \"a\"}", 65, "its name promises gzip data");
    check_refused("a.jsonl", b"{\"content\": \"a\"}\n", 2, "has no column `text`; it has `content`");
    check_refused("a.csv", b"text\na\n", 2, "`data/a.csv` is of no known format").hints(".parquet");
    check_refused("a.jsonl", b"[{\"text\": \"a\"}]", 65, "it is a JSON array, expected one object a line");
}

#[test]
fn a_shard_cut_anywhere_is_refused_or_accounted_for() {
    let shard = parquet(&documents(60, 10), 20);
    let lines = jsonl(&documents(40, 10));
    let workplace = Workplace::with(ALL, &[]);
    for part in 1..12 {
        workplace.put("data/a.parquet", &shard[..shard.len() * part / 12]);
        workplace.run("parquet", &[]).fails(65, "cannot read `data/a.parquet`");
        std::fs::remove_file(workplace.path("data/a.parquet")).unwrap();

        let run = format!("run-{part}");
        workplace.put("data/a.jsonl", &lines[..lines.len() * part / 12]);
        workplace.run(&run, &[]).expect(0);
        workplace.verify(&run);
        assert!(quarantine(&workplace, &run).len() <= 1);
        std::fs::remove_file(workplace.path("data/a.jsonl")).unwrap();
    }
}

#[test]
fn flipped_bytes_never_lose_a_row() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let shard = parquet(&documents(200, 11), 50);
    let mut ran = 0;
    for _ in 0..40 {
        let mut damaged = shard.clone();
        for _ in 0..3 {
            let at = random.random_range(4..damaged.len() - 8);
            damaged[at] ^= 1 << random.random_range(0..8);
        }
        let workplace = Workplace::with(ALL, &[("a.parquet", damaged)]);
        let ended = workplace.run("run", &[]);
        if ended.exit == 0 {
            ran += 1;
            workplace.verify("run");
            assert_eq!(quarantine(&workplace, "run").len() as u64, workplace.counts("run", "curate")[3]);
        } else {
            assert!([2, 65].contains(&ended.exit), "{}", ended.stderr);
            ended.clone().fails(ended.exit, "`data/a.parquet`");
        }
    }
    assert!(ran > 0);
}

#[test]
fn the_oracles_bad_files_are_refused_in_one_sentence() {
    let Some(folder) = shared_data("oracles/parquet_testing/bad_data") else { return };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    assert!(files.len() >= 8);
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let workplace = Workplace::with(ALL, &[(name, std::fs::read(&file).unwrap())]);
        for column in ["text", "name", "utf8", "c", "x", "outer"] {
            let columns = format!(
                "sources = [\"data/*\"]\ncolumns = {{ text = \"{column}\", url = \"\", date = \"\", metadata = \"\" }}"
            );
            workplace.put("recipe.toml", ALL.replace("sources = [\"data/*\"]", &columns).as_bytes());
            let ended = workplace.run("run", &[]);
            if ended.exit == 0 {
                workplace.verify("run");
                std::fs::remove_dir_all(workplace.path("run")).unwrap();
            } else {
                assert!([2, 65].contains(&ended.exit), "{name}, column {column}: {}", ended.stderr);
                ended.clone().fails(ended.exit, &format!("`data/{name}`"));
            }
        }
    }
}

#[test]
fn a_very_long_document_is_judged_whole() {
    let Some(path) = shared_data("math_docs/very_long_doc_stacks_algebra.tex") else { return };
    let text = std::fs::read(path).unwrap();
    assert!(text.len() > 1_700_000);
    let mut made = documents(3, 12);
    made.insert(1, Document { url: "https://stacks.math.columbia.edu/algebra".to_owned(), text: Some(text.clone()) });
    let workplace = Workplace::with(ALL, &[("a.jsonl", jsonl(&made)), ("b.parquet", parquet(&made, 2))]);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "curate"), [8, 8, 0, 0]);
    let corpus = sidecar::read(&workplace.path("run/curate/all/train-00000-of-00001.parquet")).unwrap();
    let texts = corpus.column_by_name("text").unwrap();
    let texts = arrow::compute::cast(texts, &arrow::datatypes::DataType::LargeUtf8).unwrap();
    assert_eq!(texts.as_string::<i64>().iter().filter(|found| found.unwrap().as_bytes() == text).count(), 2);
}

#[test]
fn too_many_bad_rows_end_the_run_and_every_later_one() {
    let mut made = documents(400, 13);
    for document in &mut made[260..290] {
        document.text = None;
    }
    let recipe = RECIPE.replace("max-quarantined-share = 0.1", "max-quarantined-share = 0.05");
    let workplace = Workplace::with(&recipe, &[("a.jsonl", jsonl(&made)), ("b.jsonl", jsonl(&documents(50, 14)))]);
    for _ in 0..3 {
        workplace
            .run("run", &[])
            .fails(65, "`classify` could not judge 30 of 4")
            .hints("`classify.max-quarantined-share`");
        assert!(!workplace.path("run/curate").exists());
    }
    workplace.call(&["status", "run"]).expect(3);
    // The knob changes no bytes: the same run goes on with what it has.
    workplace.put("recipe.toml", RECIPE.as_bytes());
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "classify"), [450, 420, 0, 30]);
    workplace.put("recipe.toml", RECIPE.as_bytes());
    workplace.run("undisturbed", &[]).expect(0);
    let mut expect = workplace.files("undisturbed");
    let mut found = workplace.files("run");
    // The plan was written with the first allowance.
    expect.remove("plan.json");
    found.remove("plan.json");
    assert!(found == expect);
}

#[test]
fn the_share_is_checked_when_the_last_unit_is_done_before() {
    // Few rows in many units: only the whole says that it is too many.
    let mut bad = documents(60, 15);
    bad.iter_mut().take(20).for_each(|document| document.text = None);
    let workplace = Workplace::with(RECIPE, &[("a.jsonl", jsonl(&bad)), ("b.jsonl", jsonl(&documents(60, 16)))]);
    for _ in 0..2 {
        workplace.run("run", &[]).fails(65, "`classify` could not judge 20 of 120 documents");
        assert!(!workplace.path("run/curate").exists());
    }
    // Tasks see a part; the run that finishes sees all.
    for index in ["0", "1"] {
        let ended = workplace.run("tasks", &["--task-index", index, "--task-count", "2"]);
        assert!([0, 65].contains(&ended.exit), "{}", ended.stderr);
    }
    workplace.run("tasks", &[]).fails(65, "`classify` could not judge 20 of 120 documents");
}

#[test]
fn sources_that_do_not_exist_are_named() {
    let check = |sources: &str, exit: i32, sentence: &str| {
        let workplace = Workplace::with(ALL, &[("a.jsonl", jsonl(&documents(2, 17)))]);
        workplace.put("recipe.toml", ALL.replace("\"data/*\"", sources).as_bytes());
        let ended = workplace.run("run", &[]).fails(exit, sentence);
        assert!(!workplace.path("run/plan.json").exists());
        ended
    };
    check("\"data/b.jsonl\"", 2, "`recipe.toml` line 3, key `fetch.sources[0]`: `data/b.jsonl` matches no file");
    check("\"data/*.parquet\"", 2, "`data/*.parquet` matches no file").hints("working directory");
    check("\"data/a.jsonl\", \"data/**/x*\"", 2, "key `fetch.sources[1]`: `data/**/x*` matches no file");
    check("\"data\"", 2, "`data` is a folder; expected a file or a glob such as `data/*.parquet`");
    check("\"data/[a\"", 2, "`data/[a` is not a glob");
    check("\"recipe.toml\"", 2, "`recipe.toml` is of no known format");
    check("\"\"", 2, "`` matches no file");
    check("\"ftp://example.org/a.jsonl\"", 2, "`ftp://example.org/a.jsonl` matches no file");
}

#[test]
fn a_shard_that_a_glob_finds_and_nobody_can_read_is_named() {
    let workplace = Workplace::with(ALL, &[("a.jsonl", jsonl(&documents(2, 17)))]);
    std::fs::create_dir(workplace.path("data/folder.jsonl")).unwrap();
    workplace.run("run", &[]).expect(0);
    std::os::unix::fs::symlink("gone.jsonl", workplace.path("data/b.jsonl")).unwrap();
    workplace.run("other", &[]).fails(2, "key `fetch.sources[0]`: cannot read `data/b.jsonl`: No such file");
    std::fs::remove_file(workplace.path("data/b.jsonl")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", workplace.path("data/b.jsonl")).unwrap();
    workplace.run("other", &[]).fails(2, "`data/b.jsonl` is no regular file");
}

#[test]
fn columns_that_do_not_exist_are_named() {
    let check = |column: &str, name: &str, shard: Vec<u8>, sentence: &str| {
        let columns = format!("sources = [\"data/*\"]\ncolumns.text = \"{column}\"");
        let recipe = ALL.replace("sources = [\"data/*\"]", &columns);
        Workplace::with(&recipe, &[(name, shard)]).run("run", &[]).fails(2, sentence)
    };
    let made = documents(5, 18);
    check("txt", "a.parquet", parquet(&made, 5), "`data/a.parquet` has no column `txt`; it has `url`, `text`")
        .hints("did you mean `text`?");
    check("content", "a.jsonl", jsonl(&made), "`data/a.jsonl` has no column `content`");
    let number = parquet_of_numbers();
    check("n", "a.parquet", number, "column `n` of `data/a.parquet` is Int64, expected string");
}

fn parquet_of_numbers() -> Vec<u8> {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    let numbers: ArrayRef = std::sync::Arc::new(Int64Array::from_iter_values(0..3));
    let columns = ["n", "url", "date", "metadata"].map(|name| (name, numbers.clone()));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// A run of two JSONL units that was killed when the first was judged, and what an undisturbed one makes.
fn half_done() -> (Workplace, BTreeMap<String, Vec<u8>>) {
    let data = [("a.jsonl", jsonl(&documents(300, 19))), ("b.jsonl", jsonl(&documents(300, 20)))];
    let workplace = Workplace::with(RECIPE, &data);
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    workplace.run("run", &["--task-index", "0", "--task-count", "2"]).expect(0);
    (workplace, whole)
}

#[test]
fn shards_that_change_after_planning_are_noticed() {
    let (workplace, whole) = half_done();
    let original = std::fs::read(workplace.path("data/b.jsonl")).unwrap();

    workplace.put("data/b.jsonl", &[original.as_slice(), b"{\"text\": \"one more\"}\n"].concat());
    workplace.run("run", &[]).fails(65, "`data/b.jsonl`").hints("--replan");

    // Another document of the same length.
    let mut same_length = original.clone();
    let at = same_length.windows(4).position(|window| window == b"Here").unwrap();
    same_length[at..at + 4].copy_from_slice(b"HERE");
    workplace.put("data/b.jsonl", &same_length);
    workplace.run("run", &[]).fails(65, "`data/b.jsonl`").hints("--replan");

    std::fs::remove_file(workplace.path("data/b.jsonl")).unwrap();
    workplace.run("run", &[]).fails(2, "`data/b.jsonl`");

    workplace.put("data/b.jsonl", &original);
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &whole);

    // Also when only the corpora are left to make.
    std::fs::remove_file(workplace.path("run/manifests/curate/all.json")).unwrap();
    workplace.put("data/b.jsonl", &same_length);
    workplace.run("run", &[]).fails(65, "`data/b.jsonl`");
    let found = workplace.call(&["verify", "--deep", "run"]).expect(65).stdout;
    assert!(found.contains("shard `data/b.jsonl` was changed since it was planned"), "{found}");
    workplace.put("data/b.jsonl", &original);
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &whole);
}

#[test]
fn a_changed_shard_is_adopted_by_a_new_plan() {
    let (workplace, _) = half_done();
    workplace.run("run", &[]).expect(0);
    workplace.put("data/b.jsonl", &jsonl(&documents(200, 21)));
    workplace.run("run", &["--replan"]).expect(0);
    workplace.run("anew", &[]).expect(0);
    let parquet = |run: &str| {
        let mut files = workplace.files(run);
        files.retain(|name, _| name.starts_with("curate/") && name.ends_with(".parquet"));
        files
    };
    assert!(parquet("run") == parquet("anew"));
    workplace.call(&["verify", "--deep", "run"]).expect(0);
}

#[test]
fn files_of_the_run_that_are_damaged_are_named() {
    let (workplace, whole) = half_done();
    workplace.run("run", &[]).expect(0);
    let unit = &workplace.units("run")[0];
    let problem = |sentence: &str| {
        let found = workplace.call(&["verify", "--deep", "run"]).expect(65).stdout;
        assert!(found.contains("problem: ") && found.contains(sentence), "expected `{sentence}` in: {found}");
    };
    let restore = |name: &str| workplace.put(&format!("run/{name}"), &whole[name]);

    let labels = format!("classify/labels/{unit}.parquet");
    let damages: [(&str, Vec<u8>); 3] = [
        ("cut", whole[&labels][..whole[&labels].len() / 2].to_vec()),
        ("zeroed", vec![0; whole[&labels].len()]),
        ("emptied", Vec::new()),
    ];
    for (how, bytes) in damages {
        workplace.put(&format!("run/{labels}"), &bytes);
        problem(&format!("`{labels}`"));
        // The corpora cannot be made of it.
        std::fs::remove_file(workplace.path("run/manifests/curate/all.json")).unwrap();
        let ended = workplace.run("run", &[]).fails(65, &format!("`run/{labels}`"));
        assert!(ended.stderr.contains("hint: "), "{how}");
        restore(&labels);
        restore("manifests/curate/all.json");
    }

    // A deleted output is missed, and made again once its manifest is gone, too.
    std::fs::remove_file(workplace.path(format!("run/{labels}"))).unwrap();
    problem(&format!("`{labels}` is missing"));
    std::fs::remove_file(workplace.path(format!("run/manifests/classify/{unit}.json"))).unwrap();
    workplace.call(&["verify", "run"]).expect(3);
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &whole);

    let manifest = format!("manifests/classify/{unit}.json");
    for bytes in [&b""[..], b"{", b"{}", b"null", b"\xff\xff"] {
        workplace.put(&format!("run/{manifest}"), bytes);
        problem(&format!("`run/{manifest}`"));
        for command in [
            &["run", "recipe.toml", "--run-dir", "run"][..],
            &["status", "run"],
            &["plan", "recipe.toml", "--run-dir", "run"],
        ] {
            workplace.call(command).fails(65, &format!("manifest `run/{manifest}` is damaged")).hints("remove it");
        }
    }
    std::fs::remove_file(workplace.path(format!("run/{manifest}"))).unwrap();
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &whole);

    // A manifest that lies about its rows.
    let mut lie: serde_json::Value = workplace.json(&format!("run/{manifest}"));
    lie["counts"]["kept"] = 299.into();
    workplace.put(&format!("run/{manifest}"), lie.to_string().as_bytes());
    problem("does not account for every row");
    restore(&manifest);

    for bytes in [&b""[..], b"{", b"{}", b"[]"] {
        workplace.put("run/plan.json", bytes);
        for command in [&["run", "recipe.toml", "--run-dir", "run"][..], &["status", "run"], &["verify", "run"]] {
            workplace.call(command).fails(2, "`run/plan.json` is not a plan").hints("--fresh");
        }
    }
    workplace.run("run", &["--fresh"]).expect(0);
    workplace.assert_same("run", &whole);
}

#[test]
fn what_is_no_run_folder_is_refused() {
    let workplace = Workplace::with(ALL, &[("a.jsonl", jsonl(&documents(2, 22)))]);
    for command in ["status", "verify"] {
        workplace.call(&[command, "data"]).fails(2, "`data` is not a run folder");
        workplace.call(&[command, "nowhere"]).fails(2, "`nowhere` is not a run folder");
        workplace.call(&[command, "recipe.toml"]).fails(2, "`recipe.toml");
    }
    workplace.run("recipe.toml", &[]).fails(1, "`recipe.toml`").hints("move it away");
    let panic = |error| panic!("{error}");
    std::fs::metadata(workplace.path("recipe.toml")).unwrap_or_else(panic);
}
