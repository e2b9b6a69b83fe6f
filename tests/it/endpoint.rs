//! Judging behind an endpoint that misbehaves: the program as a process, a server that can do anything wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int32Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::chat_server::ChatServer;
use crate::model_server::{Constraints, Fault, Manners, ModelServer, Shape};
use crate::program::{Ended, Workplace};

const DOCUMENTS: usize = 30;

/// A recipe with more lines in its `[classify.endpoint]` table.
fn recipe(url: &str, more: &str) -> String {
    format!(
        "[fetch]\nsources = [\"data/*\"]\n\n[classify]\nmax-quarantined-share = 0.5\n\n\
         [classify.endpoint]\nurl = \"{url}\"\nconcurrency = 4\npatience-seconds = 20\n{more}"
    )
}

fn documents() -> Vec<u8> {
    let text = |i: usize| format!("Document {i}. Let me check: {i} + {i} = {}.", 2 * i);
    let line = |i: usize| serde_json::json!({"url": format!("u{i}"), "text": text(i)}).to_string() + "\n";
    (0..DOCUMENTS).map(line).collect::<String>().into_bytes()
}

fn workplace(server: &ModelServer, more: &str) -> Workplace {
    Workplace::with(&recipe(&server.url(), more), &[("documents.jsonl", documents())])
}

/// The four scores of every labeled row.
fn scores(workplace: &Workplace, run: &str) -> BTreeMap<i64, [f32; 4]> {
    let mut scores = BTreeMap::new();
    for entry in std::fs::read_dir(workplace.path(format!("{run}/classify/labels"))).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let rows =
                batch.column_by_name("source_row").unwrap().as_primitive::<arrow::datatypes::Int64Type>().clone();
            let column =
                |name: &str| batch.column_by_name(&format!("{name}_score")).unwrap().as_primitive::<Float32Type>();
            let columns = ["verification", "backtracking", "subgoal_setting", "backward_chaining"].map(column);
            for row in 0..batch.num_rows() {
                scores.insert(rows.value(row), columns.map(|column| column.value(row)));
            }
        }
    }
    scores
}

/// The labels of a run that nothing disturbed.
fn undisturbed() -> BTreeMap<i64, [f32; 4]> {
    let server = ModelServer::start(Manners::default());
    let workplace = workplace(&server, "");
    workplace.run("run", &[]).expect(0);
    scores(&workplace, "run")
}

fn assert_nowhere(secret: &str, workplace: &Workplace, ended: &[&Ended]) {
    for ended in ended {
        assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret), "{}", ended.stderr);
    }
    let mut folders = vec![workplace.path("")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path != workplace.path("recipe.toml") {
                assert!(!contains(&path, secret), "`{}` holds the secret", path.display());
            }
        }
    }
}

fn contains(path: &Path, text: &str) -> bool {
    std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn labels_are_the_probabilities_and_documents_come_first() {
    let server = ModelServer::start(Manners::default());
    let workplace = workplace(&server, "");
    let said = workplace.run("run", &["--json"]).expect(0).stdout;
    assert!(said.contains("no constraint is honoured, so plain logprobs are read"), "{said}");
    assert_eq!(workplace.counts("run", "classify"), [DOCUMENTS as u64, DOCUMENTS as u64, 0, 0]);

    let questions = server.questions();
    assert_eq!(questions.len(), 4 * DOCUMENTS);
    assert!(questions.iter().all(|prompt| prompt.starts_with("Text:\nDocument ")));
    assert!((2..=4).contains(&server.most_at_once()), "{}", server.most_at_once());
    for (row, scores) in scores(&workplace, "run") {
        let asked: Vec<&String> =
            questions.iter().filter(|prompt| prompt.contains(&format!("Document {row}. "))).collect();
        assert_eq!(asked.len(), 4);
        for (prompt, score) in asked.iter().zip(scores) {
            let expect = crate::model_server::probability(prompt);
            assert!((f64::from(score) - expect).abs() < 1e-5, "row {row}: {score} {expect}");
        }
    }
}

#[test]
fn troubles_that_pass_change_nothing() {
    let expect = undisturbed();
    let troubles =
        [Fault::Refuse(429, Some(0)), Fault::Refuse(503, None), Fault::Refuse(408, None), Fault::Cut, Fault::Reset];
    for fault in troubles {
        let server = ModelServer::start(Manners::default());
        server.fault(fault.clone(), 3);
        let workplace = workplace(&server, "");
        let said = workplace.run("run", &["--json"]).expect(0).stdout;
        assert!(said.contains("trying again for up to 20 s"), "{fault:?}: {said}");
        assert_eq!(scores(&workplace, "run"), expect, "{fault:?}");
    }
}

#[test]
fn an_answer_past_its_deadline_is_asked_for_again() {
    let server = ModelServer::start(Manners::default());
    server.fault(Fault::Hang, 1);
    let workplace = workplace(&server, "deadline-seconds = 4\n");
    let said = workplace.run("run", &["--json"]).expect(0).stdout;
    assert!(said.contains("did not answer within 4 s"), "{said}");
    assert_eq!(server.questions().len(), 4 * DOCUMENTS + 1);
}

#[test]
fn a_server_that_dies_half_way_costs_the_batch_in_hand() {
    let expect = undisturbed();
    let server = ModelServer::start(Manners::default());
    server.dies_after(4 * 17);
    let workplace = workplace(&server, "");
    let short = recipe(&server.url(), "").replace("patience-seconds = 20", "patience-seconds = 1");
    workplace.put("recipe.toml", short.as_bytes());
    workplace.run("run", &[]).fails(69, "stayed away for 1 s").hints("run the same command again");

    // Two batches of eight documents are journaled; another server, another address, the same run.
    let second = ModelServer::start(Manners::default());
    workplace.put("recipe.toml", recipe(&second.url(), "").as_bytes());
    workplace.run("run", &[]).expect(0);
    assert_eq!(scores(&workplace, "run"), expect);
    let asked = second.questions();
    assert_eq!(asked.len(), 4 * (DOCUMENTS - 16));
    assert!(!asked.iter().any(|prompt| prompt.contains("Document 15. ")));
    workplace.verify("run");
}

#[test]
fn an_interrupt_does_not_wait_for_the_server() {
    let server = ModelServer::start(Manners::default());
    server.fault(Fault::Hang, usize::MAX);
    let workplace = workplace(&server, "");
    let running = workplace.spawn(&["run", "recipe.toml", "--run-dir", "run"]);
    while server.questions().is_empty() {
        std::thread::yield_now();
    }
    running.signal("INT");
    running.end().fails(130, "stopped while asking");
}

#[test]
fn garbage_is_one_clear_error_and_keeps_labels() {
    for garbage in
        ["<html><body>Bad gateway</body></html>", "", "[]", "{\"choices\": []}", "{\"choices\": [{\"text\": \"yes\"}]}"]
    {
        let server = ModelServer::start(Manners::default());
        let workplace = workplace(&server, "");
        server.fault(Fault::Garbage(garbage), 1);
        workplace.run("run", &[]).fails(69, &format!("`{}/v1/completions` answers with", server.url()));
        workplace.run("run", &[]).expect(0);
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let workplace = Workplace::with(&recipe(&format!("http://{closed}"), ""), &[("documents.jsonl", documents())]);
    let recipe = recipe(&format!("http://{closed}"), "").replace("patience-seconds = 20", "patience-seconds = 1");
    workplace.put("recipe.toml", recipe.as_bytes());
    workplace.run("run", &[]).fails(69, "cannot be reached");
}

#[test]
fn a_wait_beyond_the_patience_is_told_at_once() {
    let server = ModelServer::start(Manners::default());
    server.fault(Fault::Refuse(429, Some(3600)), usize::MAX);
    workplace(&server, "").run("run", &[]).fails(75, "asks to wait 3600 s, longer than the 20 s");
}

#[test]
fn what_a_server_cannot_do_is_said_at_the_start() {
    let check = |manners: Manners, more: &str, exit: i32, sentence: &str| {
        let server = ModelServer::start(manners);
        workplace(&server, more).run("run", &[]).fails(exit, sentence);
        assert_eq!(server.questions().len(), 0, "{sentence}");
    };
    let usual = Manners::default;
    check(usual(), "model = \"other\"\n", 2, "has no model `other`: it has `judge-7b`");
    check(Manners { models: vec!["a", "b"], ..usual() }, "", 2, "has several models: `a`, `b`");
    check(Manners { models: vec![], ..usual() }, "", 69, "lists no model");
    check(Manners { shape: Shape::Missing, ..usual() }, "", 69, "answers without `logprobs`");
    check(Manners { silent_about: "seven", ..usual() }, "", 2, "neither yes nor no is among its 3 likeliest tokens");
    check(Manners { context: 3, ..usual() }, "", 2, "refuses a one-token question with logprobs (status 400)");
}

#[test]
fn a_constraint_is_used_where_it_shows() {
    let expect = undisturbed();
    for (constraints, told, used) in [
        (Constraints::Ignored, "no constraint is honoured", false),
        (Constraints::Honoured, "is honoured but logprobs are taken before it", false),
        (Constraints::Shown, "keeps answers to yes and no, and logprobs show it", true),
    ] {
        for api in ["completions", "chat"] {
            let server = ModelServer::start(Manners { constraints, shape: Shape::List, ..Manners::default() });
            let workplace = workplace(&server, &format!("api = \"{api}\"\n"));
            let said = workplace.run("run", &["--json"]).expect(0).stdout;
            assert!(said.contains(told), "{told}: {said}");
            let asked = server.requests().into_iter().filter(crate::model_server::Seen::is_about_a_document);
            assert!(asked.into_iter().all(|seen| seen.body["structured_outputs"].is_null() != used));
            for (row, found) in scores(&workplace, "run") {
                let near = found.iter().zip(expect[&row]).all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(near, "{told}, {api}, row {row}: {found:?} {:?}", expect[&row]);
            }
        }
    }
}

#[test]
fn documents_without_an_answer_are_quarantined_with_the_reason() {
    let server = ModelServer::start(Manners { silent_about: "Document 7. ", context: 250, ..Manners::default() });
    let workplace = workplace(&server, "");
    let long = serde_json::json!({"url": "long", "text": "x".repeat(300)}).to_string();
    workplace.put("data/documents.jsonl", &[documents(), long.into_bytes()].concat());
    workplace.run("run", &[]).expect(0);
    assert_eq!(workplace.counts("run", "classify"), [31, 29, 0, 2]);
    let quarantine =
        std::fs::read_dir(workplace.path("run/classify/quarantine")).unwrap().next().unwrap().unwrap().path();
    let found = workplace.call(&["inspect", &quarantine.to_string_lossy(), "--row", "0"]).expect(0).stdout;
    assert!(found.contains("verification: neither yes nor no is among the 3 likeliest answers"), "{found}");
    let found = workplace.call(&["inspect", &quarantine.to_string_lossy(), "--row", "1"]).expect(0).stdout;
    assert!(found.contains("the endpoint refuses it (status 400)"), "{found}");
}

#[test]
fn the_key_goes_to_the_server_and_nowhere_else() {
    const KEY: &str = "sk-7d1f0aa9c3";
    let server = ModelServer::start(Manners { key: Some(KEY), context: 150, ..Manners::default() });
    let workplace = workplace(&server, "api-key-env = \"JUDGE_KEY\"\n");
    let run = |key: Option<&str>| {
        let mut command = workplace.command(&["run", "recipe.toml", "--run-dir", "run", "--json"]);
        match key {
            Some(key) => command.env("JUDGE_KEY", key),
            None => command.env_remove("JUDGE_KEY"),
        };
        Ended::of(&command.output().unwrap())
    };
    let without = run(None).expect(2);
    assert!(without.stderr.contains("`JUDGE_KEY` does not hold an API key"), "{}", without.stderr);
    let wrong = run(Some("sk-wrong")).expect(2);
    assert!(wrong.stderr.contains("does not let us in (status 401)"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("sk-wrong"), "{}", wrong.stderr);
    // Every prompt is too long, and the refusals repeat the key: they are quarantined with it masked.
    let right = run(Some(KEY)).expect(65);
    let later = run(Some(KEY)).expect(65);
    let quarantine =
        std::fs::read_dir(workplace.path("run/classify/quarantine")).unwrap().next().unwrap().unwrap().path();
    let reason = workplace.call(&["inspect", &quarantine.to_string_lossy(), "--row", "0"]).expect(0);
    assert!(reason.stdout.contains("is too long; Bearer") && reason.stdout.contains("***"), "{}", reason.stdout);
    assert_nowhere(KEY, &workplace, &[&without, &right, &later, &reason]);
    assert!(server.requests().iter().any(|seen| seen.headers["authorization"] == format!("Bearer {KEY}")));
}

#[test]
fn recipes_hold_no_secret() {
    let check = |url: &str, more: &str, expect: &str| {
        let workplace = Workplace::with(&recipe(url, more), &[("documents.jsonl", documents())]);
        let ended = workplace.run("run", &[]).fails(2, expect);
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    };
    check("http://me:s3cret@localhost:1", "", "holds a user name or password");
    check("http://localhost:1/v1?key=s3cret", "", "expected an address without `?`");
    check("http://localhost:1", "api-key-env = \"sk-s3cret\"\n", "and not the key itself");
    check("localhost:1", "", "expected an address such as");
    check("http://localhost:1", "deadline-seconds = 0\n", "expected seconds from 1 to 86,400");
    check("http://localhost:1", "top-logprobs = 1\n", "expected a number from 2");
    check("http://localhost:1", "samples = 1\n", "`classify.endpoint.samples`: belongs to `mode = \"generate\"`");
    let generate = |more: &str| format!("mode = \"generate\"\n{more}\n");
    check("http://localhost:1", &generate("top-logprobs = 5"), "`classify.endpoint.top-logprobs`: belongs to");
    check(
        "http://localhost:1",
        &generate("thresholds.verification = 0.4"),
        "`classify.endpoint.thresholds`: belongs to",
    );
    check("http://localhost:1", &generate("tokenizer = \"t\""), "`classify.endpoint.tokenizer`: belongs to");
    check("http://localhost:1", &generate("samples = 2"), "more than one sample needs a `temperature` above 0");
    check("http://localhost:1", "\n[classify.cue]\n", "expected one judge");
    let ended =
        Workplace::with("", &[]).call(&["evaluate", "--labels", "/dev/null", "--judge", "endpoint:http://a:s3cret@b"]);
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
}

#[test]
fn the_plan_knows_what_changes_labels() {
    let plan = |url: &str, more: &str| {
        let workplace = Workplace::with(&recipe(url, more), &[("documents.jsonl", documents())]);
        workplace.call(&["plan", "recipe.toml", "--json"]).expect(0).json()["plan_id"].clone()
    };
    let base = plan("http://a:1", "");
    for (url, more) in
        [("http://b:2/v1", ""), ("http://a:1", "deadline-seconds = 7\n"), ("http://a:1", "api-key-env = \"K\"\n")]
    {
        assert_eq!(plan(url, more), base, "{url} {more}");
    }
    let generate = "mode = \"generate\"\n";
    for more in ["temperature = 0.5\n", "max-reply-tokens = 9\n", "temperature = 0.5\nsamples = 3\n"] {
        assert_ne!(plan("http://a:1", &format!("{generate}{more}")), plan("http://a:1", generate), "{more}");
    }
    for more in [
        generate,
        "model = \"m\"\n",
        "api = \"chat\"\n",
        "window-tokens = 512\n",
        "max-windows = 2\n",
        "top-logprobs = 5\n",
        "thresholds = { verification = 0.3 }\n",
    ] {
        assert_ne!(plan("http://a:1", more), base, "{more}");
    }
}

/// What a model writes that is asked to count: as many checks as the document has, and no number for one document.
fn counted(prompt: &str, _: u64) -> String {
    let verification = prompt.contains(include_str!("../../assets/prompts/count_verification.txt").trim());
    match prompt.matches("I check.").count() {
        _ if prompt.starts_with("Answer with this") => "<count>3</count>".into(),
        _ if prompt.contains("Document 6:") => "There may be some.".into(),
        checks if verification => format!("Here and there. <count>{checks}</count>"),
        _ => "None. <count>0</count>".into(),
    }
}

#[test]
fn a_model_that_writes_counts_is_a_judge() {
    let server = ChatServer::start(counted);
    let line = |i: usize| serde_json::json!({"text": format!("Document {i}:{}", " I check.".repeat(i))}).to_string();
    let documents = (0..8).map(line).collect::<Vec<_>>().join("\n");
    let recipe = recipe(&server.url, "mode = \"generate\"\nmax-reply-tokens = 50\n");
    let workplace = Workplace::with(&recipe, &[("documents.jsonl", documents.into_bytes())]);
    let ended = workplace.run("run", &[]).expect(0);
    assert!(ended.stderr.contains("`writer` writes a count when asked to"), "{}", ended.stderr);
    // The probe, four questions about each document, and again where no number came back.
    assert_eq!(server.replies.load(Ordering::Relaxed), 1 + 4 * 8 + 4);
    assert_eq!(workplace.counts("run", "classify"), [8, 7, 0, 1]);
    workplace.verify("run");
    let quarantine =
        std::fs::read_dir(workplace.path("run/classify/quarantine")).unwrap().next().unwrap().unwrap().path();
    let found = workplace.call(&["inspect", &quarantine.to_string_lossy(), "--row", "0"]).expect(0).stdout;
    assert!(found.contains("verification: no count in the reply, twice (it ended by itself)"), "{found}");

    let labels = std::fs::read_dir(workplace.path("run/classify/labels")).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::File::open(labels).unwrap();
    let mut counts = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int32Type>().values().to_vec();
        counts.extend(column("verification_count").into_iter().zip(column("backtracking_count")));
    }
    assert_eq!(counts, [0, 1, 2, 3, 4, 5, 7].map(|checks| (checks, 0)));

    workplace.run("run", &[]).expect(0);
    assert_eq!(server.replies.load(Ordering::Relaxed), 37, "a finished run asks nothing");

    // On the command line the same judge, and what it could not judge is counted.
    let gold = |i: usize| {
        let text = format!("Document {i}: I check.");
        serde_json::json!({"id": i.to_string(), "source": "made", "text": text, "verification": 1, "backtracking": 0,
            "subgoal_setting": 0, "backward_chaining": 0})
        .to_string()
    };
    workplace.put("labels.jsonl", (4..8).map(gold).collect::<Vec<_>>().join("\n").as_bytes());
    let judge = format!("endpoint:{},mode=generate", server.url);
    let call = ["evaluate", "--labels", "labels.jsonl", "--judge", &judge, "--json", "--resamples", "10"];
    let found = workplace.call(&call).expect(0).json();
    assert_eq!(found["unjudged"], 1);
}
