//! `s3://`: a run that reads its shards from an object store on loopback, and an export into one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::export::finished;
use crate::made_documents::{documents, jsonl, parquet};
use crate::program::{Ended, RECIPE, Workplace};
use crate::s3_server::{BUCKET, KEY, S3Server, SECRET};

fn call(workplace: &Workplace, server: &S3Server, arguments: &[&str]) -> Ended {
    let mut command = workplace.command(arguments);
    command.env("AWS_ENDPOINT_URL", server.url()).env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
    let ended = Ended::of(&command.output().unwrap());
    for secret in [SECRET, "X-Amz-Signature"] {
        assert!(!(ended.stdout.clone() + &ended.stderr).contains(secret), "a secret is shown: {ended:?}");
    }
    ended
}

#[test]
fn a_run_reads_shards_from_a_bucket() {
    let (server, shards) = (S3Server::start(), [1, 2, 3].map(|seed| documents(120, seed)));
    let local = Workplace::with(RECIPE, &[]);
    for (number, shard) in shards.iter().enumerate() {
        let (name, bytes) = if number < 2 {
            (format!("part {number}.parquet"), parquet(shard, 40))
        } else {
            ("z.jsonl".to_owned(), jsonl(shard))
        };
        local.put(&format!("data/{name}"), &bytes);
        server.put(&format!("corpus/deep/{name}"), bytes);
    }
    server.put("corpus/other.txt", b"no shard".to_vec());
    local.run("run", &[]).expect(0);

    let remote = Workplace::with(&RECIPE.replace("data/*", "s3://bucket/corpus/**/*.{parquet,jsonl}"), &[]);
    // An outage on the way is waited out.
    server.fault("GET", "part 0.parquet", 503, 1);
    call(&remote, &server, &["run", "recipe.toml", "--run-dir", "run"]).expect(0);
    remote.verify("run");
    assert_eq!(remote.counts("run", "classify"), local.counts("run", "classify"));
    let plan = remote.json("run/plan.json");
    assert_eq!(plan["inputs"][0]["shards"][0]["location"]["remote"]["url"], "s3://bucket/corpus/deep/part 0.parquet");
    for (name, bytes) in remote.files("run") {
        for secret in [SECRET, "X-Amz-Signature"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "a secret is in `{name}`");
        }
    }
    let said = call(&remote, &server, &["plan", "recipe.toml", "--run-dir", "run"]).expect(0);
    assert!(said.stdout.contains("3 shards"), "{}", said.stdout);
}

#[test]
fn an_export_is_written_once_and_its_list_last() {
    let (workplace, server) = (finished(), S3Server::start());
    let export = ["export", "run/curate", "--to", "s3://bucket/out/v1", "--license", "odc-by"];
    let shown = call(&workplace, &server, &export).expect(0);
    assert!(shown.stdout.ends_with("nothing was sent: add `--yes` to upload\n") && server.requests().is_empty());

    // The server fails at the third file: no list, so no export. The same command ends it.
    let yes = [&export[..], &["--yes", "--json"]].concat();
    server.fault("PUT", "minimal/train", 403, 99);
    let failed = call(&workplace, &server, &yes).expect(2);
    assert!(failed.stderr.contains("may not do this"), "{}", failed.stderr);
    assert!(!server.objects().contains_key("out/v1/_files.json") && !server.objects().is_empty());
    let server = {
        let fresh = S3Server::start();
        for (key, object) in server.objects() {
            fresh.put(&key, object.bytes);
        }
        fresh
    };
    // Those objects came without the metadata that names their hash: they are not taken for ours.
    let refused = call(&workplace, &server, &yes).expect(2);
    assert!(refused.stderr.contains("with other content"), "{}", refused.stderr);

    let server = S3Server::start();
    server.fault("PUT", "minimal/train", 403, 1);
    call(&workplace, &server, &yes).expect(2);
    let before = server.objects().len();
    let done = call(&workplace, &server, &yes).expect(0).json();
    assert_eq!(done["unchanged"], before);
    workplace.call(&["export", "run/curate", "--to", "out", "--license", "odc-by"]).expect(0);
    let objects = server.objects();
    let files = workplace.files("out");
    assert_eq!(objects.len(), files.len() + 1);
    for (name, bytes) in &files {
        assert!(objects[&format!("out/v1/{name}")].bytes == *bytes, "`{name}` differs");
    }
    let list: serde_json::Value = serde_json::from_slice(&objects["out/v1/_files.json"].bytes).unwrap();
    assert_eq!(list["files"].as_array().unwrap().len(), files.len());
    let puts: Vec<String> =
        server.requests().into_iter().filter(|(method, _)| method == "PUT").map(|(_, key)| key).collect();
    assert_eq!(puts.last().unwrap(), "out/v1/_files.json");

    // Again: one request. Another export does not replace it.
    let (requests, again) = (server.requests().len(), call(&workplace, &server, &yes).expect(0).json());
    assert_eq!((&again["uploaded"], server.requests().len()), (&0.into(), requests + 1));
    let other = ["export", "run/curate/rich", "--to", "s3://bucket/out/v1", "--yes"];
    let said = call(&workplace, &server, &other).expect(2).stderr;
    assert!(said.contains("lists another export") && said.contains("nothing is replaced"), "{said}");
    assert_eq!(server.objects().len(), objects.len());
    assert_eq!(server.requests()[0].1.split('/').next(), Some("out"), "{BUCKET} is asked by path");
}

#[test]
fn large_files_go_in_parts() {
    let (workplace, server) = (Workplace::new(), S3Server::start());
    let weights = crate::hub::bytes((40 << 20) + 7, 5);
    workplace.put("model/config.json", b"{}");
    workplace.put("model/model.safetensors", &weights);
    let arguments = ["export", "model", "--to", "s3://bucket/m", "--license", "mit", "--yes", "--json"];
    // A part that the server does not take ends the upload, and leaves nothing of it behind.
    server.fault("PUT", "model.safetensors", 403, 1);
    call(&workplace, &server, &arguments).expect(2);
    assert_eq!((server.unfinished(), server.objects().contains_key("m/model.safetensors")), (0, false));
    call(&workplace, &server, &arguments).expect(0);
    assert!(server.objects()["m/model.safetensors"].bytes == weights);
    let done = call(&workplace, &server, &arguments).expect(0).json();
    assert_eq!(done["uploaded"], 0);
}

#[test]
fn what_is_wrong_with_a_bucket_is_told() {
    let (workplace, server) = (Workplace::with(&RECIPE.replace("data/*", "s3://bucket/no/*"), &[]), S3Server::start());
    let said = call(&workplace, &server, &["plan", "recipe.toml"]).expect(2).stderr;
    assert!(said.contains("no object of `s3://bucket` matches `no/*`"), "{said}");
    let mut command = workplace.command(&["plan", "recipe.toml"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let said = Ended::of(&command.output().unwrap()).expect(2).stderr;
    assert!(said.contains("no credentials for `s3://bucket`") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    server.fault("GET", "", 403, 99);
    let said = call(&workplace, &server, &["plan", "recipe.toml"]).expect(2).stderr;
    assert!(said.contains("may not do this"), "{said}");
}
