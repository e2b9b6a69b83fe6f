//! The same test hub, used by the Hugging Face client: run when Python's `huggingface_hub` is there.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says when it is skipped")]

use std::path::Path;
use std::process::Command;

use crate::export::{REPO, check_uploaded, export, finished};
use crate::hub_peer::python;
use crate::upload_server::{UploadServer, WRITER};

/// The client uploads a folder as [`REPO`].
fn client(server: &UploadServer, folder: &Path, home: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/hub_upload.py");
    let output = Command::new(python())
        .args([script, folder.to_str().unwrap(), REPO.trim_start_matches("datasets/"), "dataset"])
        .env("HF_ENDPOINT", server.url())
        .env("HF_TOKEN", WRITER)
        .env("HF_HOME", home)
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_hugging_face_client_and_this_program_leave_the_same_repository() {
    let installed = Command::new(python()).args(["-c", "import huggingface_hub"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("skipped: the client's upload (no Python with `huggingface_hub`)");
        return;
    }
    let workplace = finished();
    workplace.call(&["export", "run/curate", "--to", "out", "--license", "odc-by"]).expect(0);
    let (folder, arguments) = (workplace.files("out"), ["out", "--to", "hf://datasets/org/maths", "--yes", "--json"]);
    for part_size in [1 << 30, 4000] {
        // The client first: its calls satisfy the test hub, and we find nothing left to do.
        let server = UploadServer::start();
        server.parts_of(part_size);
        client(&server, &workplace.path("out"), &workplace.path("client"));
        check_uploaded(&server, &folder);
        let done = export(&workplace, &server, Some(WRITER), &arguments).expect(0).json();
        assert_eq!((&done["uploaded"], server.commits(REPO)), (&0.into(), vec!["by the client".to_owned()]));

        // We first: the client finds nothing left to do.
        let server = UploadServer::start();
        server.parts_of(part_size);
        export(&workplace, &server, Some(WRITER), &arguments).expect(0);
        check_uploaded(&server, &folder);
        client(&server, &workplace.path("out"), &workplace.path("client"));
        assert_eq!(server.commits(REPO).len(), 1);
    }
}
