//! A hub that misbehaves: what is sat out, what is continued, what is refused, and in which words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use four_habits::data::hub::{Hub, HubConfig, Stop};
use four_habits::error::{Exit, exit_of, hint_of};

use super::hub::{Desk, TOKEN, bytes, content_requests, list, one_shard, put};
use super::hub_server::{At, COMMIT, Fault, HubServer, REPO, SIGNATURE, sha256};

/// The whole of an error as a user may see it, with `Debug` on top.
fn everything_said(error: &anyhow::Error) -> String {
    format!("{error:#} {error:?} {:?}", hint_of(error))
}

#[test]
fn no_message_holds_the_token_or_a_signature() {
    let faults = [
        (At::Content, Fault::Refuse(403, ""), 99),
        (At::Content, Fault::Refuse(400, ""), 99),
        (At::Content, Fault::Refuse(503, ""), 99),
        (At::Content, Fault::WrongBytes, 99),
        (At::Content, Fault::Reset, 99),
        (At::Resolve, Fault::Refuse(403, "GatedRepo"), 99),
        (At::Resolve, Fault::RateLimited(9999), 99),
    ];
    for (at, fault, times) in faults {
        let (server, desk, hub, file, _) = one_shard();
        server.fault_at(at, fault.clone(), times);
        let error = desk.fetch(&hub, &file).unwrap_err();
        let said = format!("{} {}", everything_said(&error), desk.said().join(" "));
        assert!(!said.contains(TOKEN) && !said.contains(SIGNATURE), "{fault:?}: {said}");
        let error = hub.head(&server.plain("no/such.parquet?X-Signature=s3cret")).unwrap_err();
        assert!(!everything_said(&error).contains("s3cret"), "{error:?}");
    }
}

#[test]
fn a_cut_body_is_continued_where_it_broke() {
    let (server, desk, hub, file, shard) = one_shard();
    server.fault(Fault::CutAfter(30_000), 3);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);

    let asked = content_requests(&server);
    let ranges: Vec<_> = asked.iter().map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=30000-"), Some("bytes=60000-"), Some("bytes=90000-")]);
    assert!(asked[1..].iter().all(|seen| seen.header("if-range") == Some("\"s-100000\"")), "{asked:?}");
    // One request to the hub itself: its redirect is used again.
    assert_eq!(server.requests().iter().filter(|seen| seen.method == "HEAD").count(), 1);

    let said = desk.said();
    assert_eq!(said.len(), 3);
    assert!(
        said[0].starts_with("the connection to `localhost:") && said[0].ends_with("; waiting 1 s (attempt 2)"),
        "{said:?}"
    );
}

#[test]
fn what_a_killed_process_left_is_continued() {
    let (server, desk, hub, file, shard) = one_shard();
    let blobs = desk.cache().join("datasets--org--maths/blobs");
    let incomplete = blobs.join(format!("{}.incomplete", sha256(&shard)));
    let check = |left: &[u8], range: Option<&str>| {
        std::fs::remove_dir_all(desk.cache().join("datasets--org--maths/snapshots")).ok();
        std::fs::remove_file(blobs.join(sha256(&shard))).ok();
        put(&incomplete, left);
        let before = content_requests(&server).len();
        assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
        assert_eq!(content_requests(&server)[before].header("range"), range);
        assert!(!incomplete.exists());
    };
    check(&shard[..12_345], Some("bytes=12345-"));
    // Too long, or whole but wrong, or wrong at its beginning: it is noticed, and fetched from zero.
    check(&[shard.clone(), vec![0]].concat(), None);
    check(&vec![0; shard.len()], None);
    check(&[0; 500], Some("bytes=500-"));
    assert_eq!(desk.said().iter().filter(|line| line.ends_with("; fetching it again")).count(), 2);
}

#[test]
fn a_host_without_ranges_starts_over() {
    let (server, desk, hub, file, shard) = one_shard();
    server.fault(Fault::CutAfter(30_000), 1);
    server.fault(Fault::IgnoreRange, 1);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(content_requests(&server).len(), 2);
}

#[test]
fn a_host_that_always_cuts_at_the_same_byte_is_given_up() {
    // Without ranges every attempt repeats the same bytes, and that is no progress.
    let (server, desk, hub, file, _) = one_shard();
    server.fault(Fault::CutWholeAfter(30_000), 999);
    let error = desk.fetch(&hub, &file).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Unavailable);
    assert_eq!(desk.clock.naps.lock().unwrap().iter().sum::<Duration>(), Duration::from_secs(600));
}

#[test]
fn wrong_bytes_are_fetched_once_more_and_then_refused() {
    let (server, desk, hub, file, shard) = one_shard();
    server.fault(Fault::WrongBytes, 1);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(content_requests(&server).len(), 2);

    let (server, desk, hub, file, shard) = one_shard();
    server.fault(Fault::WrongBytes, 2);
    let error = desk.fetch(&hub, &file).unwrap_err();
    assert!(error.to_string().contains(&format!("`{REPO}/data/a.parquet` are wrong")), "{error:#}");
    assert!(error.to_string().contains(&sha256(&shard)), "{error:#}");
    assert_eq!(content_requests(&server).len(), 2);
    assert!(!desk.cache().join("datasets--org--maths/snapshots").join(COMMIT).join("data/a.parquet").exists());
    // The next run starts from zero.
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
}

#[test]
fn another_version_on_the_storage_host_starts_over() {
    let (server, desk, hub, file, shard) = one_shard();
    server.fault(Fault::CutAfter(30_000), 1);
    server.fault(Fault::NewEtag, 1);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
}

#[test]
fn a_hub_that_means_another_file_by_the_same_name_is_an_error() {
    let (server, desk, hub, file, _) = one_shard();
    server.fault_at(At::Resolve, Fault::NewEtag, 1);
    let error = desk.fetch(&hub, &file).unwrap_err();
    assert!(error.to_string().contains("has changed since it was listed: its ETag was"), "{error:#}");
    assert_eq!(content_requests(&server).len(), 0);
}

#[test]
fn another_version_of_a_plain_file_is_an_error() {
    let shard = bytes(50_000, 9);
    let check = |faults: &[Fault], expect_error: bool| {
        let server = HubServer::start(&[("x/a.jsonl", shard.clone())]);
        let desk = Desk::new();
        let hub = desk.hub(&server);
        let file = hub.head(&server.plain("x/a.jsonl")).unwrap();
        assert_eq!((file.path.as_str(), file.size, file.etag.len()), ("a.jsonl", 50_000, 18));
        faults.iter().for_each(|fault| _ = server.fault(fault.clone(), 1));
        match desk.fetch(&hub, &file) {
            Ok(found) => assert!(!expect_error && found == shard),
            Err(error) => {
                assert!(expect_error && error.to_string().contains("has changed since it was listed"), "{error:#}");
                assert!(hint_of(&error).is_some());
            }
        }
        (server, desk)
    };
    check(&[Fault::NewEtag], true);
    check(&[Fault::CutAfter(20_000), Fault::NewEtag], true);
    let (server, desk) = check(&[Fault::CutAfter(20_000), Fault::CutAfter(20_000)], false);
    let asked = content_requests(&server);
    assert_eq!(asked[2].header("range"), Some("bytes=40000-"));
    assert!(asked[2].header("if-range").is_some());
    assert!(asked.iter().all(|seen| !seen.on_storage));
    assert!(std::fs::read_dir(desk.http_cache()).unwrap().count() == 1);
    assert!(!desk.cache().exists());
}

#[test]
fn a_rate_limit_is_waited_for_as_long_as_it_says() {
    let (server, desk, hub, file, shard) = one_shard();
    server.fault_at(At::Resolve, Fault::RateLimited(55), 1);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(*desk.clock.naps.lock().unwrap(), [Duration::from_secs(56)]);
    assert_eq!(desk.said(), ["hub rate limit reached; waiting 56 s (attempt 2)"]);
}

#[test]
fn a_rate_limit_past_the_budget_is_for_later() {
    let (server, desk, hub, _, _) = one_shard();
    server.fault(Fault::RateLimited(300), 99);
    let error = list(&hub, "**").unwrap_err();
    // Twice 301 seconds do not fit into ten minutes.
    assert_eq!(*desk.clock.naps.lock().unwrap(), [Duration::from_secs(301)]);
    assert_eq!(exit_of(&error), Exit::TryAgain);
    assert!(error.to_string().contains("hub rate limit reached"), "{error:#}");
}

#[test]
fn outages_are_sat_out_for_minutes_and_not_longer() {
    for fault in [Fault::Refuse(503, ""), Fault::Refuse(502, ""), Fault::Refuse(408, ""), Fault::Reset] {
        let (server, desk, hub, file, shard) = one_shard();
        server.fault(fault.clone(), 6);
        assert_eq!(desk.fetch(&hub, &file).unwrap(), shard, "{fault:?}");
        assert_eq!(desk.said().len(), 6);

        let (server, desk, hub, file, _) = one_shard();
        server.fault(fault.clone(), 999);
        let error = desk.fetch(&hub, &file).unwrap_err();
        assert_eq!(exit_of(&error), Exit::Unavailable, "{fault:?}");
        let waited: Duration = desk.clock.naps.lock().unwrap().iter().sum();
        assert_eq!(waited, Duration::from_secs(600), "{fault:?}");
    }
}

#[test]
fn a_silent_host_is_left_and_the_rest_asked_again() {
    let (server, desk, _, file, shard) = one_shard();
    let hub = desk.hub_with(HubConfig { idle_timeout: Duration::from_secs(2), ..desk.config(&server) });
    server.fault(Fault::StallAfter(40_000), 1);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(content_requests(&server)[1].header("range"), Some("bytes=40000-"));
    assert!(desk.said()[0].contains("was silent for 2s"), "{:?}", desk.said());

    // Slow is not silent.
    let (server, desk, hub, file, shard) = one_shard();
    server.fault(Fault::Slow, 1);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(desk.said(), [""; 0]);
}

#[test]
fn an_unreachable_host_is_an_outage() {
    let desk = Desk::new();
    let gone = HubServer::start(&[]);
    let config = desk.config(&gone);
    drop(gone);
    let error = list(&desk.hub_with(config), "**").unwrap_err();
    assert_eq!(exit_of(&error), Exit::Unavailable);
    assert!(error.to_string().contains("cannot be reached"), "{error:#}");
}

#[test]
fn closed_doors_and_wrong_names_are_told_at_once() {
    let check = |at: At, fault: Fault, message: &str, hint: &str| {
        let (server, desk, _, file, _) = one_shard();
        let mut config = desk.config(&server);
        config.token = None;
        let hub = desk.hub_with(config);
        server.fault_at(at, fault, 99);
        let before = server.requests().len();
        let error = if at == At::Api { list(&hub, "**").unwrap_err() } else { desk.fetch(&hub, &file).unwrap_err() };
        assert_eq!(server.requests().len(), before + 1);
        assert_eq!(exit_of(&error), Exit::Usage);
        assert!(error.to_string().contains(message), "{error:#}");
        assert!(hint_of(&error).unwrap().contains(hint), "{:?}", hint_of(&error));
    };
    check(At::Api, Fault::Refuse(401, ""), "shows no repository `datasets/org/maths`", "HF_TOKEN");
    check(At::Api, Fault::Refuse(404, "RepoNotFound"), "shows no repository `datasets/org/maths`", "spelling");
    check(At::Api, Fault::Refuse(404, "RevisionNotFound"), "`datasets/org/maths@main`", "misspelt");
    check(At::Api, Fault::Refuse(403, ""), "refuses access", "HF_TOKEN");
    check(At::Api, Fault::Refuse(403, "GatedRepo"), "`datasets/org/maths` is gated", "/datasets/org/maths");
    check(At::Resolve, Fault::Refuse(403, "GatedRepo"), "is gated", "accept its terms");
    check(At::Resolve, Fault::Refuse(404, "EntryNotFound"), "`datasets/org/maths/data/a.parquet`", "again");
    check(At::Resolve, Fault::Refuse(418, ""), "answered 418", "HF_ENDPOINT");
}

#[test]
fn an_expired_link_is_replaced_and_a_barred_storage_host_is_named() {
    let (server, desk, hub, file, shard) = one_shard();
    server.fault_at(At::Content, Fault::CutAfter(20_000), 1);
    server.fault_at(At::Content, Fault::Refuse(403, ""), 1);
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(server.requests().iter().filter(|seen| seen.method == "HEAD").count(), 2);
    assert_eq!(content_requests(&server)[2].header("range"), Some("bytes=20000-"));

    let (server, desk, hub, file, _) = one_shard();
    server.fault_at(At::Content, Fault::Refuse(403, ""), 99);
    let error = desk.fetch(&hub, &file).unwrap_err();
    assert_eq!(content_requests(&server).len(), 3);
    assert!(hint_of(&error).unwrap().contains("firewall"), "{error:#}");
}

#[test]
fn a_stop_ends_a_wait_and_a_download() {
    let (server, desk, _, file, _) = one_shard();
    server.fault(Fault::StallAfter(10), 99);
    let flag = Arc::new(AtomicBool::new(false));
    let mut config = desk.config(&server);
    config.idle_timeout = Duration::from_secs(3600);
    let hub = Hub::new(config, Arc::new(|_| {})).stopped_by(Stop::on(Arc::clone(&flag)));
    let set_when_stalled = |bytes: u64| flag.fetch_or(bytes == 10, Ordering::Relaxed);
    let error = hub
        .fetch(&file, &desk.http_cache(), &|bytes| {
            set_when_stalled(bytes);
        })
        .unwrap_err();
    assert_eq!(exit_of(&error), Exit::Interrupted);
}
