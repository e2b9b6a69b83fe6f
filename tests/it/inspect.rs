//! `pipeline inspect`: runs, files, rows and documents, and what it says of things that are none of these.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::small_run::{RECIPE, SmallRun};
use std::path::Path;

/// Bytes and versions may change with the libraries.
fn steady(text: &str) -> String {
    let sizes = regex::Regex::new(r"\d+(\.\d+)? (B|KiB|times)|\b\d+\.\d+\.\d+\b").unwrap();
    let hashes = regex::Regex::new(r"\b[0-9a-f]{32}\b").unwrap();
    let blanks = regex::Regex::new(r" {2,}").unwrap();
    let text = hashes.replace_all(text, "HASH");
    blanks.replace_all(&sizes.replace_all(&text, "SIZE"), "  ").into_owned()
}

#[test]
fn a_run_is_told_in_a_screenful() {
    let run = SmallRun::done(RECIPE);
    insta::assert_snapshot!(steady(&run.ok(&["inspect", "runs/small"])), @r#"
    small · plan HASH · runs/small
    from documents.jsonl (1 shard, SIZE)

    stage  units  rows  kept  dropped  quarantined  files  size  in
    classify  1/1  12  10  0  2  2  SIZE  runs/small/classify
    sketch  1/1  12  11  0  1  1  SIZE  runs/small/sketch
    curate  1/1  12  9  1  2  5  SIZE  runs/small/curate

    classify: 10 documents judged by four-habits-cues (cue), 2 quarantined
      verification  5 documents  50.0 %  7 instances
      backtracking  3 documents  30.0 %  5 instances
      subgoal_setting  1 documents  10.0 %  1 instances
      backward_chaining  1 documents  10.0 %  1 instances
      none  2 documents  20.0 %
    plain  3 documents, 35 tokens → runs/small/curate/plain
    rich  6 documents, 1,104 tokens → runs/small/curate/rich
    report  runs/small/report/report.html

    look closer:
      pipeline inspect runs/small/curate/rich/train-00000-of-00001.parquet
      pipeline inspect runs/small/curate/rich/train-00000-of-00001.parquet --row 0
      pipeline inspect runs/small --id ID
    "#);
    let json = run.json(&["inspect", "runs/small", "--json"]);
    assert_eq!(json["curated"][0]["corpora"][1]["name"], "rich");
}

#[test]
fn a_file_tells_its_kind_columns_and_statistics() {
    let run = SmallRun::done(RECIPE);
    insta::assert_snapshot!(steady(&run.ok(&["inspect", &run.corpus("rich")])), @r#"
    runs/small/curate/rich/train-00000-of-00001.parquet
    kind  corpus, schema version 1
    size  SIZE (SIZE of values, SIZE compressed)
    rows  6 in 1 row group
    writer  four-habits

    column  type  compression  on disk  nulls  min  max
    url  string  zstd  SIZE  0  https://<b>host</b>…  javascript:alert(3)
    text  string  zstd  SIZE  0  <script>alert(1)</s…  دعنا نتحقق من النتي…
    date  string  zstd  SIZE  0  2024-01-01  2024-01-01
    metadata  string  zstd  SIZE  0  {}  {}
    id  string  zstd  SIZE  0  34f783b8f24e5c09  f60703b5028256c6
    token_count  Int32  zstd  SIZE  0  17  943
    char_count  Int32  zstd  SIZE  0  39  3030
    verification_score  Float32  zstd  SIZE  0  0.26894143  0.7680307
    verification_count  Int32  zstd  SIZE  0  0  2
    backtracking_score  Float32  zstd  SIZE  0  0.26894143  0.7680307
    backtracking_count  Int32  zstd  SIZE  0  0  2
    subgoal_setting_score  Float32  zstd  SIZE  0  0.26894143  0.26894143
    subgoal_setting_count  Int32  zstd  SIZE  0  0  0
    backward_chaining_score  Float32  zstd  SIZE  0  0.26894143  0.26894143
    backward_chaining_count  Int32  zstd  SIZE  0  0  0
    source_file  string  zstd  SIZE  0  documents.jsonl  documents.jsonl
    source_row  Int64  zstd  SIZE  0  0  8

    row group  rows  on disk  values
    0  6  SIZE  SIZE

    content_defined_chunking  {"min_chunk_size":262144,"max_chunk_size":1048576,"norm_level":0}
    four-habits.kind  corpus
    four-habits.schema-version  1
    four-habits.stage-key  HASH
    four-habits.version  SIZE
    "#);
    let json = run.json(&["inspect", &run.corpus("rich"), "--json"]);
    assert_eq!((&json["kind"], &json["rows"]), (&"corpus".into(), &6.into()));
    let column =
        json["columns"].as_array().unwrap().iter().find(|column| column["name"] == "verification_count").unwrap();
    assert_eq!((&column["nulls"], &column["min"], &column["max"]), (&0.into(), &0.into(), &2.into()));
}

#[test]
fn a_row_is_shown_with_the_reasons_for_its_labels() {
    let run = SmallRun::done(RECIPE);
    let rows: Vec<String> =
        (0..6).map(|row| run.ok(&["inspect", &run.corpus("rich"), "--row", &row.to_string()])).collect();
    let row = rows.iter().find(|row| row.contains("We try 7")).unwrap();
    let (fields, evidence) = row.split_once("\nevidence of the cue judge (the embedded lexicon)\n").unwrap();
    assert!(evidence.contains("We try 7. That fails. We try 8, and «let me check» it: 8 works."), "{evidence}");
    insta::assert_snapshot!(fields, @r#"
    runs/small/curate/rich/train-00000-of-00001.parquet, row 5 of 6

    url                      https://sums.example.org/b
    text                     We try 7. That fails. We try 8, and let me check it: 8 works.
    date                     2024-01-01
    metadata                 {}
    id                       bbcb5653acf60205
    token_count              23
    char_count               61
    verification_score       0.5953903
    verification_count       1
    backtracking_score       0.5953903
    backtracking_count       1
    subgoal_setting_score    0.26894143
    subgoal_setting_count    0
    backward_chaining_score  0.26894143
    backward_chaining_count  0
    source_file              documents.jsonl
    source_row               1
    "#);
    let long = rows.iter().find(|row| row.contains("xxxx")).unwrap();
    assert!(long.contains("of 3030 characters left out; `--json` prints all"), "{long}");
    assert!(long.lines().all(|line| line.chars().count() <= 100), "{long}");
    // A document cannot speak to the terminal.
    let escapes = rows.iter().find(|row| row.contains("Colour")).unwrap();
    assert!(
        escapes.contains(r"Colour \u{1b}[31mred\u{1b}[0m, a bell \u{7}, a null \u{0}, \u{202e}turned\u{202c}"),
        "{escapes}"
    );
    assert!(rows.concat().chars().all(|c| c == '\n' || !c.is_control()));

    let place = rows.iter().position(|row| row.contains("xxxx")).unwrap();
    let json = run.json(&["inspect", &run.corpus("rich"), "--row", &place.to_string(), "--json"]);
    assert_eq!(json["fields"]["text"].as_str().unwrap().len(), 3030);
    assert_eq!(json["evidence"]["lexicon"], "the embedded lexicon");
}

#[test]
fn a_document_is_told_with_all_that_became_of_it() {
    let run = SmallRun::done(RECIPE);
    let shard = std::fs::read(run.path("documents.jsonl")).unwrap();
    let identity = format!("{:x}", <sha2::Sha256 as sha2::Digest>::digest(shard));
    let id = |row: u64| four_habits::data::document::document_id(&identity, row);
    insta::assert_snapshot!(run.ok(&["inspect", "runs/small", "--id", &id(1)]), @r#"
    id        bbcb5653acf60205
    source    documents.jsonl, row 1 (unit 9d8ec9f052b2c842)
    url       https://sums.example.org/b
    date      2024-01-01
    metadata  {}
    text      61 characters
      We try 7. That fails. We try 8, and let me check it: 8 works.

    classify: labels by four-habits-cues (cue)
      verification        score 0.60  1 instance
      backtracking        score 0.60  1 instance
      subgoal_setting     score 0.27  0 instances
      backward_chaining   score 0.27  0 instances
      read 61 of 61 characters in 1 window

    curate: what each corpus did with it
      plain   not-selected: its condition is false: verification_count + backtracking_count = 0
      rich    train: kept, in this split
      tokens  23

    evidence of the cue judge (lexicon.txt)
      verification        1 cue, weight 1.0
          1.0 at byte 36: We try 7. That fails. We try 8, and «let me check» it: 8 works.
      backtracking        1 cue, weight 1.0
          1.0 at byte 10: We try 7. «That fails». We try 8, and let me check it: 8 works.
      subgoal_setting     no cue
      backward_chaining   no cue
    "#);
    insta::assert_snapshot!(run.ok(&["inspect", "runs/small", "--id", &id(3)]), @r#"
    id           204dcba81e1281ce
    source       documents.jsonl, row 3 (unit 9d8ec9f052b2c842)
    url          (null)
    date         (null)
    metadata     (null)
    text         text is null
    quarantined  text is null (classify)
    "#);
    let copy = run.ok(&["inspect", "runs/small", "--id", &id(2)]);
    assert!(copy.contains("exact-duplicate: a selected document before it has the same text"), "{copy}");
    assert!(copy.contains(&format!("duplicate of  {}, the first of its group", id(0))), "{copy}");
    let json = run.json(&["inspect", "runs/small", "--id", &id(2), "--json"]);
    assert_eq!(json["decisions"][0]["duplicate_of"], id(0));
    assert_eq!(json["evidence"]["cues"][0]["quote"], "Let me check");

    // Without its shard, a document is read from a corpus, or its labels are all there is.
    std::fs::remove_file(run.path("documents.jsonl")).unwrap();
    let kept = run.ok(&["inspect", "runs/small", "--id", &id(1)]);
    assert!(kept.contains("We try 7."), "{kept}");
    let dropped = run.ok(&["inspect", "runs/small", "--id", &id(2)]);
    assert!(dropped.contains("not at hand: shard `documents.jsonl` is not on this disk"), "{dropped}");
    assert!(dropped.contains("verification"), "{dropped}");
}

#[test]
fn what_cannot_be_shown_is_refused_in_one_sentence() {
    let run = SmallRun::done(RECIPE);
    let corpus = run.corpus("rich");
    let check = |args: &[&str], code: i32, message: &str| {
        let args: Vec<&str> = ["inspect"].iter().chain(args).copied().collect();
        let (found, said) = run.fails(&args);
        assert_eq!((found, said.lines().next().unwrap()), (code, message));
        assert!(said.lines().count() <= 2 && said.contains("\nhint: "), "{said}");
    };
    check(&["nowhere"], 2, "error: `nowhere` does not exist");
    check(&["runs"], 2, "error: `runs` is not a run folder: it has no `plan.json`");
    check(&["lexicon.txt"], 2, "error: `lexicon.txt` is neither a run folder nor a Parquet file");
    check(&["runs/small", "--row", "0"], 2, "error: `--row` is of a Parquet file, and `runs/small` is a run folder");
    check(&["runs/small", "--id", "12"], 2, "error: `12` is not a document's id");
    check(&["runs/small", "--id", "0123456789abcdef"], 2, "error: `runs/small` has no document `0123456789abcdef`");
    check(&[&corpus, "--row", "6"], 2, &format!("error: row 6 is out of range: `{corpus}` has 6 rows"));
    check(
        &[&corpus, "--id", "0123456789abcdef"],
        2,
        &format!("error: `--id` is of a run folder, and `{corpus}` is a file"),
    );
    let bytes = std::fs::read(run.path(&corpus)).unwrap();
    std::fs::File::create_new(run.path("short.parquet")).unwrap();
    check(&["short.parquet"], 65, "error: cannot read `short.parquet`: it has 0 bytes, too few for a Parquet file");
    std::io::Write::write_all(
        &mut std::fs::File::create_new(run.path("cut.parquet")).unwrap(),
        &bytes[..bytes.len() - 100],
    )
    .unwrap();
    check(
        &["cut.parquet"],
        65,
        "error: cannot read `cut.parquet`: it does not end as a Parquet file does: it is cut short or of another format",
    );
}

/// Whatever a file is, it is told or refused; nothing hangs or falls over.
#[test]
fn files_of_other_writers_are_told_or_refused() {
    let Some(folder) = crate::math_docs::shared("files of other writers", "oracles/parquet_testing") else { return };
    let run = SmallRun::new(RECIPE);
    let mut told = 0;
    for part in ["data", "bad_data"] {
        let mut files: Vec<_> =
            std::fs::read_dir(folder.join(part)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        files.sort();
        for path in files {
            told += u32::from(check_file(&run, &path, &[]));
            check_file(&run, &path, &["--row", "0"]);
        }
    }
    assert!(told >= 60, "{told}");
}

fn check_file(run: &SmallRun, path: &Path, more: &[&str]) -> bool {
    let args: Vec<&str> = ["inspect", path.to_str().unwrap()].iter().chain(more).copied().collect();
    let output = run.pipeline(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => assert_eq!(said, "", "{path:?}"),
        Some(2 | 65) => assert!(said.starts_with("error: ") && said.lines().count() <= 2, "{path:?}: {said}"),
        other => panic!("{path:?}: {other:?} {said}"),
    }
    output.status.success()
}
