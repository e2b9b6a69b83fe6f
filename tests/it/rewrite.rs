//! Curated documents as question, thoughts and answer, by a model behind a server on loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::Ordering;

use arrow::array::{AsArray, RecordBatch};
use four_habits::data::sidecar;

use super::chat_server::ChatServer;
use super::made_documents::{documents, parquet};
use super::program::{RECIPE, Workplace};

/// What a fair writer replies: mostly the right form, sometimes not at the first attempt, sometimes that there is no question.
fn written(prompt: &str, seed: u64) -> String {
    let (_, document) = prompt.split_once("The text:").unwrap();
    match document.bytes().map(u64::from).sum::<u64>() % 7 {
        0 => "NO QUESTION".to_owned(),
        // Wrong, whatever the seed.
        1 => "I would rather not.".to_owned(),
        _ if seed.is_multiple_of(4) => "<question>What?</question>".to_owned(),
        _ => format!(
            "<question>How long is it?</question>\n<thoughts>I count. Let me check: {}.</thoughts>\n<answer>{}</answer>",
            document.len(),
            document.len()
        ),
    }
}

fn workplace(server: &ChatServer) -> Workplace {
    let rewrite = format!(
        "\n[rewrite]\nattempts = 3\n\n[rewrite.corpus]\nrich = \"reasoning\"\nminimal = \"plain\"\n\n[rewrite.endpoint]\nurl = \"{}\"\nconcurrency = 4\n",
        server.url
    );
    let recipe = RECIPE.replace("\n[report]\n", &(rewrite + "\n[report]\n"));
    Workplace::with(&recipe, &[("a.parquet", parquet(&documents(300, 1), 100))])
}

fn table(workplace: &Workplace, run: &str, name: &str) -> RecordBatch {
    sidecar::read(&workplace.path(run).join("rewrite").join(name)).unwrap()
}

#[test]
fn every_document_is_rewritten_dropped_or_kept_with_its_reply() {
    let server = ChatServer::start(written);
    let workplace = workplace(&server);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    let [rows, kept, dropped, quarantined] = workplace.counts("run", "rewrite");
    assert_eq!(rows, kept + dropped + quarantined);
    assert!(kept > 0 && dropped > 0 && quarantined > 0, "{kept} {dropped} {quarantined}");
    let mut found = 0;
    for corpus in ["rich", "minimal"] {
        for split in ["train", "test"] {
            let table = table(&workplace, "run", &format!("{corpus}/{split}.parquet"));
            found += table.num_rows() as u64;
            for row in 0..table.num_rows() {
                let text = |name: &str| table.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
                assert!(text("query").ends_with("<think>") && text("query").contains("How long is it?"));
                assert_eq!(
                    text("completion"),
                    format!("{}</think>\n<answer> {} </answer>", text("thoughts"), text("answer"))
                );
            }
        }
    }
    assert_eq!(found, kept);
    let refused = table(&workplace, "run", "rich/quarantine.parquet");
    let replies = refused.column_by_name("reply").unwrap().as_string::<i32>();
    assert!(refused.num_rows() > 0 && replies.iter().all(|reply| reply.is_some()));
    let card = std::fs::read_to_string(workplace.path("run/rewrite/README.md")).unwrap();
    assert!(card.contains("| `rich` | reasoning |") && card.contains("Instances of each behavior"), "{card}");
}

#[test]
fn a_killed_run_pays_for_no_batch_twice_and_ends_as_one_that_was_not() {
    let server = ChatServer::start(written);
    let workplace = workplace(&server);
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    let paid = server.replies.swap(0, Ordering::Relaxed);
    let mut kills = 0;
    for point in (1..400).step_by(5) {
        let ended = workplace.run_killed_at(point, "run", &[]);
        if ended.exit == 0 {
            break;
        }
        kills += 1;
    }
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &whole);
    workplace.verify("run");
    // A kill loses at most the batch in hand, which is not larger than twice the concurrency, three attempts each.
    let asked = server.replies.load(Ordering::Relaxed);
    assert!(kills > 3 && asked <= paid + kills * 24, "{asked} replies for {paid} after {kills} kills");
}
