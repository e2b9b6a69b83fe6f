//! `pipeline export`: a finished corpus or model as a folder, and its way to a hub on loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use crate::made_documents::{documents, jsonl};
use crate::program::{Ended, RECIPE, Workplace};
use crate::upload_server::{Fault, READER, SIGNATURE, UploadServer, WRITER};

pub const REPO: &str = "datasets/org/maths";

/// A workplace with a finished run of two corpora.
pub fn finished() -> Workplace {
    let workplace = Workplace::with(RECIPE, &[("a.jsonl", jsonl(&documents(300, 1)))]);
    workplace.run("run", &[]).expect(0);
    workplace
}

pub fn export(workplace: &Workplace, server: &UploadServer, token: Option<&str>, more: &[&str]) -> Ended {
    let mut command = workplace.command(&[&["export"], more].concat());
    command.env("HF_ENDPOINT", server.url()).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    let ended = Ended::of(&command.output().unwrap());
    for secret in [WRITER, READER, SIGNATURE] {
        assert!(!(ended.stdout.clone() + &ended.stderr).contains(secret), "a secret is shown: {ended:?}");
    }
    ended
}

const HUB: &str = "hf://datasets/org/maths";

fn puts(server: &UploadServer) -> Vec<String> {
    server.requests().into_iter().filter(|seen| seen.method == "PUT").map(|seen| seen.path).collect()
}

/// No request outside of the hub's own address carries the token, and files are the folder's.
#[track_caller]
pub fn check_uploaded(server: &UploadServer, folder: &BTreeMap<String, Vec<u8>>) {
    assert!(server.requests().iter().all(|seen| !seen.on_storage || !seen.headers.contains_key("authorization")));
    let files = server.files(REPO);
    assert_eq!(files.keys().collect::<Vec<_>>(), folder.keys().collect::<Vec<_>>());
    for (name, bytes) in folder {
        assert!(files[name] == *bytes, "`{name}` differs");
    }
}

#[test]
fn a_stage_becomes_a_folder_with_a_card() {
    let workplace = finished();
    let said = workplace.call(&["export", "run/curate", "--to", "out", "--license", "odc-by"]).expect(0);
    assert_eq!(said.stderr, "");
    let files = workplace.files("out");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let corpus = |name: &str| ["test", "train"].map(|split| format!("{name}/{split}-00000-of-00001.parquet"));
    let [minimal, rich] = ["minimal", "rich"].map(corpus);
    let expect = [
        ".gitattributes",
        "README.md",
        "decisions.parquet",
        &minimal[0],
        &minimal[1],
        &rich[0],
        &rich[1],
        "statistics.json",
    ];
    assert_eq!(names, expect);
    for name in [&minimal[0], &rich[1]] {
        assert_eq!(files[name.as_str()], std::fs::read(workplace.path("run/curate").join(name)).unwrap());
    }
    let card = String::from_utf8(files["README.md"].clone()).unwrap();
    assert!(card.starts_with("---\npretty_name: recipe\n"), "{card}");
    assert!(card.contains("\nlicense: odc-by\n---\n"), "{card}");
    assert!(
        card.contains("- config_name: rich\n  data_files:\n  - split: train\n    path: rich/train-*.parquet"),
        "{card}"
    );
    assert!(String::from_utf8_lossy(&files[".gitattributes"]).contains("*.parquet filter=lfs"));

    // The same again changes nothing; a folder that was exported is exported as it is; one corpus is one configuration.
    workplace.call(&["export", "run/curate", "--to", "out", "--license", "odc-by"]).expect(0);
    workplace.assert_same("out", &files);
    workplace.call(&["export", "out", "--to", "again"]).expect(0);
    workplace.assert_same("again", &files);
    let said = workplace.call(&["export", "run/curate/rich", "--to", "rich"]).expect(0);
    assert!(said.stderr.contains("names no licence"), "{}", said.stderr);
    let one = workplace.files("rich");
    assert_eq!(one.keys().map(String::as_str).collect::<Vec<_>>(), [".gitattributes", "README.md", &rich[0], &rich[1]]);
    let card = String::from_utf8(one["README.md"].clone()).unwrap();
    assert!(card.contains("config_name: rich") && !card.contains("config_name: minimal"), "{card}");
    workplace.verify("run");
}

#[test]
fn what_cannot_be_exported_is_told() {
    let workplace = finished();
    let check = |arguments: &[&str], exit: i32, message: &str, hint: &str| {
        let said = workplace.call(&[&["export"], arguments].concat()).expect(exit).stderr;
        assert!(said.contains(message) && said.contains(hint), "{said}");
    };
    check(&["nowhere", "--to", "x"], 2, "there is no folder `nowhere`", "runs/curate/curate");
    check(&["run", "--to", "x"], 2, "`run` is not a stage's output", "`run/curate`");
    check(&["data", "--to", "x", "--yes"], 2, "`--yes` and `--private` are for uploads", "");
    check(&["run/curate", "--to", "data"], 2, "`data` holds `a.jsonl`", "empty folder");
    check(&["run/curate", "--to", "ftp://x"], 2, "`ftp://x` is not where an export can go", "hf://");
    check(&["run/curate", "--to", "hf://maths"], 2, "`hf://maths`", "hf://datasets/OWNER/REPO[@BRANCH]");
    check(&["run/curate", "--to", "hf://models/org/maths"], 2, "is a dataset", "hf://datasets/org/maths");
    check(&["run/curate", "--to", "x", "--license", "Mine!"], 2, "`Mine!`", "odc-by");

    // Bytes that are not what the manifest says are not passed on.
    let path = "run/curate/rich/train-00000-of-00001.parquet";
    let mut bytes = std::fs::read(workplace.path(path)).unwrap();
    bytes[100] ^= 1;
    workplace.put(path, &bytes);
    check(&["run/curate", "--to", "changed"], 65, "is not what it was", "verify --deep");
    std::fs::remove_file(workplace.path("run/manifests/curate/all.json")).unwrap();
    check(&["run/curate", "--to", "x"], 3, "`run/curate` is not finished", "goes on");
}

#[test]
fn an_upload_is_shown_before_it_is_done_and_done_once() {
    let (workplace, server) = (finished(), UploadServer::start());
    workplace.call(&["export", "run/curate", "--to", "out", "--license", "odc-by"]).expect(0);
    let folder = workplace.files("out");

    let shown =
        export(&workplace, &server, Some(WRITER), &["run/curate", "--to", HUB, "--license", "odc-by"]).expect(0);
    assert!(shown.stdout.contains("rich/train-00000-of-00001.parquet"), "{}", shown.stdout);
    assert!(shown.stdout.ends_with("nothing was sent: add `--yes` to upload\n"), "{}", shown.stdout);
    assert!(server.requests().is_empty());

    let yes = ["run/curate", "--to", HUB, "--license", "odc-by", "--private", "--yes", "--message", "one", "--json"];
    let done = export(&workplace, &server, Some(WRITER), &yes).expect(0).json();
    assert_eq!((&done["uploaded"], &done["unchanged"]), (&folder.len().into(), &0.into()));
    assert_eq!(done["commit"].as_str().map(str::len), Some(40));
    check_uploaded(&server, &folder);
    assert_eq!((server.commits(REPO), server.is_private(REPO)), (vec!["one".to_owned()], Some(true)));

    // Again: nothing is sent, and nothing is committed.
    server.forget_requests();
    let again = export(&workplace, &server, Some(WRITER), &yes).expect(0).json();
    assert_eq!((&again["uploaded"], &again["unchanged"]), (&0.into(), &folder.len().into()));
    assert_eq!((puts(&server).len(), server.commits(REPO).len()), (0, 1));

    // An edited card alone goes.
    let card = [&folder["README.md"][..], b"\nMore.\n"].concat();
    std::fs::remove_file(workplace.path("out/README.md")).unwrap();
    workplace.put("out/README.md", &card);
    let edited = export(&workplace, &server, Some(WRITER), &["out", "--to", HUB, "--yes", "--json"]).expect(0).json();
    assert_eq!((&edited["uploaded"], server.files(REPO)["README.md"] == card), (&1.into(), true));
}

#[test]
fn an_upload_that_failed_half_way_goes_on() {
    let (workplace, server) = (finished(), UploadServer::start());
    let parquet = workplace.files("run/curate").keys().filter(|name| name.ends_with(".parquet")).count();
    let yes = ["run/curate", "--to", HUB, "--license", "odc-by", "--yes"];
    // A storage host that takes two objects and refuses all others for good.
    server.fault("PUT", "/whole/", Fault::LoseAnswer, 0).parts_of(1 << 30);
    server.fault("POST", "/commit/", Fault::Refuse(422), 1);
    let failed = export(&workplace, &server, Some(WRITER), &yes).expect(2);
    assert!(failed.stderr.contains("refused on demand"), "{}", failed.stderr);
    assert_eq!((puts(&server).len(), server.commits(REPO).len(), server.files(REPO).len()), (parquet, 0, 0));

    server.forget_requests();
    server.fault("PUT", "/whole/", Fault::Refuse(400), 99);
    export(&workplace, &server, Some(WRITER), &yes).expect(0);
    assert_eq!((puts(&server).len(), server.commits(REPO).len()), (0, 1), "stored objects are sent again");

    // Now one object fails: nothing is committed, and the rerun sends what is missing.
    let (workplace, server) = (finished(), UploadServer::start());
    server.fault("PUT", "/whole/", Fault::Refuse(400), 1);
    let failed = export(&workplace, &server, Some(WRITER), &yes).expect(69);
    assert!(failed.stderr.contains("does not take `"), "{}", failed.stderr);
    let taken = puts(&server).len() - 1;
    assert!(taken < parquet && server.commits(REPO).is_empty());
    server.forget_requests();
    export(&workplace, &server, Some(WRITER), &yes).expect(0);
    assert_eq!((puts(&server).len(), server.commits(REPO).len()), (parquet - taken, 1));
}

#[test]
fn closed_doors_are_told_before_anything_is_sent() {
    let workplace = finished();
    let check = |server: &UploadServer, token: Option<&str>, more: &[&str], message: &str, hint: &str| {
        let arguments = [&["run/curate", "--yes", "--to"], more].concat();
        let said = export(&workplace, server, token, &arguments).expect(2).stderr;
        assert!(said.contains(message) && said.contains(hint), "{said}");
        assert!(puts(server).is_empty(), "{said}");
    };
    let server = UploadServer::start();
    check(&server, None, &[HUB], "no token to write to `datasets/org/maths`", "HF_TOKEN");
    check(&server, Some(READER), &[HUB], "does not let this token write", "write permission");
    check(&server, Some("hf_wrong"), &[HUB], "does not let this token write", "write permission");
    check(&server, Some(WRITER), &["hf://datasets/else/maths"], "you are not of this organisation", "");
    check(&server, Some(WRITER), &[HUB, "--license", "cc-x"], "must be one of", "correct it");
    assert_eq!(server.is_private(REPO), None, "a repository was created for a card that is refused");
    check(&server, Some(WRITER), &["hf://datasets/org/maths@draft"], "has no branch `draft`", "@BRANCH");
    server.with_repo("datasets/org/open", false);
    check(&server, Some(WRITER), &["hf://datasets/org/open", "--private"], "it is public", "another name");
}

#[test]
fn a_checkpoint_becomes_a_model_repository() {
    let (workplace, server) = (Workplace::new(), UploadServer::start());
    for (name, bytes) in [
        ("config.json", &br#"{"model_type": "llama"}"#[..]),
        ("model.safetensors", &[0, 1, 2, 3, 255, 0, 0, 9]),
        ("tokenizer.json", b"{}"),
        ("trainer/moments.safetensors", b"not for others"),
    ] {
        workplace.put(&format!("model/{name}"), bytes);
    }
    workplace.put("model/README.md", b"# M\n\n```\nfrom_pretrained(\"model\")\n```\n");
    let to = "hf://models/org/small";
    export(&workplace, &server, Some(WRITER), &["model", "--to", to, "--license", "mit", "--yes"]).expect(0);
    let files = server.files("models/org/small");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, [".gitattributes", "README.md", "config.json", "model.safetensors", "tokenizer.json"]);
    let card = String::from_utf8_lossy(&files["README.md"]).into_owned();
    assert!(card.contains("license: mit\nlibrary_name: transformers\n"), "{card}");
    assert!(card.contains("from_pretrained(\"org/small\")"), "{card}");
    assert!(Path::new(&workplace.path("model/trainer")).is_dir());
}
