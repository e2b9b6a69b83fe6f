//! The report: its numbers are the run's, its bytes depend on nothing else, and no document can break its page.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::small_run::{RECIPE, SmallRun, files};
use serde_json::Value;
use std::collections::BTreeSet;

/// Tags that the page and its pictures consist of.
const TAGS: &str = "!doctype html head meta title style body main header h1 h2 h3 h4 p cite nav ul li a section div dl dt dd table thead \
                    tbody tr th td code br span figure figcaption svg desc rect text path bdi article mark pre em footer";

/// Reads every tag of a page or picture, and checks that they nest and that none is one that a document brought.
#[track_caller]
fn check_markup(page: &str) {
    let known: BTreeSet<&str> = TAGS.split_whitespace().collect();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = rest[start..].find('>').expect("a tag ends") + start;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        assert!(known.contains(name), "<{tag}>");
        assert!(!tag.contains(" on") && !tag.contains("src=") && !tag.contains('<'), "<{tag}>");
        assert!(!tag.contains("href=") || tag.contains("href=\"#"), "a link out of the page: <{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "near {}", &rest[..rest.len().min(200)]);
        } else if !tag.ends_with('/') && !["!doctype", "meta", "br"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    let control = |c: &char| c.is_control() && *c != '\n' && *c != '\t';
    assert_eq!(page.chars().find(control), None, "control characters");
    for word in ["url(", "@import", "javascript:alert(3)\"", "expression("] {
        assert!(!page.contains(word), "{word}");
    }
}

fn summary(run: &SmallRun, folder: &str) -> Value {
    serde_json::from_str(&run.read(&format!("{folder}/summary.json"))).unwrap()
}

#[test]
fn a_run_ends_with_a_page_its_pictures_and_its_numbers() {
    let run = SmallRun::done(RECIPE);
    let folder = "runs/small/report";
    assert_eq!(
        files(&run.path(folder)),
        [
            "pictures/corpora.svg",
            "pictures/instances.svg",
            "pictures/lengths.svg",
            "pictures/rates.svg",
            "pictures/together.svg",
            "report.html",
            "summary.json"
        ]
    );
    assert!(run.ok(&["verify", "runs/small", "--deep"]).starts_with("verified"));
    for picture in ["corpora", "instances", "lengths", "rates", "together"] {
        let svg = run.read(&format!("{folder}/pictures/{picture}.svg"));
        check_markup(&svg);
        let page = run.read("runs/small/report/report.html");
        assert!(page.contains(&format!("id=\"{picture}-title\"")), "{picture} is in the page");
    }

    let summary = summary(&run, folder);
    let one = &summary["runs"][0]["summary"];
    let counts = &one["stages"][0]["counts"];
    assert_eq!((&counts["rows_in"], &counts["kept"], &counts["quarantined"]), (&12.into(), &10.into(), &2.into()));
    let judged = &one["judged"][0];
    let shown: Vec<(&str, u64, u64)> = judged["behaviors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            (
                found["behavior"].as_str().unwrap(),
                found["documents"].as_u64().unwrap(),
                found["instances"].as_u64().unwrap(),
            )
        })
        .collect();
    let expect =
        [("verification", 5, 7), ("backtracking", 3, 5), ("subgoal_setting", 1, 1), ("backward_chaining", 1, 1)];
    assert_eq!(shown, expect);
    assert_eq!((&judged["documents"], &judged["none"]), (&10.into(), &2.into()));
    assert_eq!(judged["together"][0], serde_json::json!([5, 1, 0, 0]));
    let findings = &summary["runs"][0]["findings"];
    assert_eq!(findings["judged"][0]["instances"][0], serde_json::json!([3, 2, 0, 0, 0, 0]));
    let reasons = findings["judged"][0]["quarantine"].to_string();
    assert_eq!(reasons, r##"[{"reason":"empty text","rows":1},{"reason":"text is null","rows":1}]"##);
    let lengths = &findings["curated"][0]["lengths"];
    for (corpus, expect) in [("rich", 6), ("plain", 3)] {
        let bins = lengths[corpus].as_array().unwrap();
        assert_eq!(bins.iter().map(|bin| bin["documents"].as_u64().unwrap()).sum::<u64>(), expect, "{bins:?}");
    }
}

#[test]
fn documents_cannot_break_the_page() {
    let run = SmallRun::done(RECIPE);
    let page = run.read("runs/small/report/report.html");
    check_markup(&page);
    // The hostile documents have the highest scores and are among the samples, as text.
    assert!(page.contains("Colour ␛[31mred␛[0m, a bell ␇, a null ␀"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;"));
    assert!(page.contains("<title>Small &lt;run&gt;</title>"));
    assert!(page.contains("dir=\"auto\""));
    assert!(page.contains("دعنا نتحقق"));
}

#[test]
fn equal_runs_give_equal_bytes_wherever_they_lie() {
    let (one, other) = (SmallRun::done(RECIPE), SmallRun::new(RECIPE));
    other.ok(&["run", "small.toml", "--run-dir", "elsewhere/again", "--threads", "1"]);
    for file in files(&one.path("runs/small/report")) {
        let (a, b) = (format!("runs/small/report/{file}"), format!("elsewhere/again/report/{file}"));
        assert_eq!(one.read(&a), other.read(&b), "{file}");
    }
}

#[test]
fn arms_stand_side_by_side_in_one_report() {
    let recipe = RECIPE.replace(
        "[report]",
        "[arm.wide]\n[arm.strict.curate.corpus.rich]\nwhere = \"backtracking_count >= 1\"\n[arm.nothing]\nseed = 7\n[report]",
    );
    let run = SmallRun::done(&recipe);
    let page = run.read("runs/small/report/report.html");
    check_markup(&page);
    let summary = summary(&run, "runs/small/report");
    let one = &summary["runs"][0]["summary"];
    assert_eq!(one["arms"], serde_json::json!(["nothing", "strict", "wide"]));
    assert!(page.contains("Side by side") && page.contains("id=\"compared-corpora-title\""));
    // All arms share the labels, and each selects for itself.
    assert_eq!(one["judged"].as_array().unwrap().len(), 1);
    let documents: Vec<(String, u64)> = one["curated"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|made| made["corpora"].as_array().unwrap())
        .filter(|corpus| corpus["name"] == "rich")
        .map(|corpus| (corpus["where"].as_str().unwrap().to_owned(), corpus["documents"].as_u64().unwrap()))
        .collect();
    let wide = ("verification_count + backtracking_count >= 1".to_owned(), 6);
    assert_eq!(documents.len(), 3, "{documents:?}");
    assert!(documents.contains(&("backtracking_count >= 1".to_owned(), 3)) && documents.contains(&wide));
    assert!(run.ok(&["status", "runs/small"]).contains("report   done"));
}

#[test]
fn runs_stand_side_by_side() {
    let run = SmallRun::done(RECIPE);
    run.put("other.toml", &RECIPE.replace("backtracking_count >= 1", "backtracking_count >= 2"));
    run.ok(&["run", "other.toml"]);
    let printed = run.ok(&["report", "runs/small", "runs/other", "--out", "both"]);
    assert!(
        printed.contains("both/report.html\n") && printed.contains("both/pictures/compared-rates.svg\n"),
        "{printed}"
    );
    let page = run.read("both/report.html");
    check_markup(&page);
    assert!(page.contains("Side by side") && page.contains("id=\"run2-rows\""));
    // Settings that differ stand in both columns; paths are those that were typed.
    assert!(page.contains("<tr class=\"differs\"><th scope=\"row\"><code>curate.corpus.rich.where</code>"));
    assert!(page.contains("runs/small/curate/rich/*.parquet") || page.contains("runs&#x2f;small&#x2f;curate"));

    let one = run.json(&["report", "runs/small", "--json"]);
    assert_eq!(one["report"], "runs/small/report.html");
    assert!(run.read("runs/small/report.html").contains("<h1>Small &lt;run&gt;</h1>"));
    assert!(run.ok(&["verify", "runs/small", "--deep"]).starts_with("verified"), "the run's own report is untouched");
}

#[test]
fn an_unfinished_run_says_so() {
    let run = SmallRun::done(RECIPE);
    std::fs::remove_dir_all(run.path("runs/small/manifests/curate")).unwrap();
    run.ok(&["report", "runs/small", "--out", "part"]);
    let page = run.read("part/report.html");
    check_markup(&page);
    assert!(page.contains("This run is not complete: curate has 0 of 1 units"));
}

#[test]
fn a_run_without_corpora_shows_documents_of_its_shards() {
    let classify_alone = RECIPE.split("[curate]").next().unwrap().to_owned() + "[report]\n";
    let run = SmallRun::done(&classify_alone);
    let page = run.read("runs/small/report/report.html");
    check_markup(&page);
    assert!(page.contains("This run writes no corpora") && page.contains("Colour ␛[31mred"));
    // A shard that is gone costs its samples alone.
    std::fs::remove_file(run.path("documents.jsonl")).unwrap();
    run.ok(&["report", "runs/small", "--out", "later"]);
    assert!(run.read("later/report.html").contains("No document at hand"));
}

#[test]
fn what_is_no_run_is_refused_in_one_sentence() {
    let run = SmallRun::new(RECIPE);
    let (code, said) = run.fails(&["report", "nowhere"]);
    assert_eq!(code, 2);
    assert_eq!(
        said,
        "error: `nowhere` is not a run folder: it has no `plan.json`\nhint: `pipeline run RECIPE` makes one under `runs/`\n"
    );
}

/// Two arms of reinforcement on tiny models: curves, intervals, responses before and after, and the paper's numbers beside them.
#[test]
fn reinforcement_is_told_arm_by_arm() {
    let recipe =
        format!("{}\n[report]\n\n[arm.slow]\n\n[arm.fast.ppo.actor]\nlearning-rate = 5e-3\n", super::ppo::RECIPE);
    let workplace = super::ppo::workplace(&recipe);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    let summary = workplace.json("run/report/summary.json");
    let found = summary["runs"][0]["findings"]["reinforced"].as_array().unwrap();
    let arms: Vec<&str> = found.iter().map(|one| one["arms"][0].as_str().unwrap()).collect();
    assert_eq!(arms, ["slow", "fast"]);
    for one in found {
        let steps: Vec<u64> =
            one["looks"].as_array().unwrap().iter().map(|look| look["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 2, 4, 5]);
        assert_eq!((one["steps"].as_u64(), one["learning"].as_array().unwrap().len()), (Some(5), 5));
        for when in ["before", "after"] {
            assert_eq!(one[when].as_array().unwrap().len(), 3, "{when}");
        }
        assert_eq!(one["before"][0]["numbers"], one["after"][0]["numbers"]);
    }
    let page = std::fs::read_to_string(workplace.path("run/report/report.html")).unwrap();
    for part in ["Reinforcement learning", "compared-success-title", "fast-success-title", "35.2 % → 73.6 %"] {
        assert!(page.contains(part), "{part}");
    }
}
