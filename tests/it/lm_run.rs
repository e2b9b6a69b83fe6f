//! A run whose judge is a language model, told to stop while it judges.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::lm::TinyModel;
use crate::made_documents::{documents, jsonl};
use crate::program::Workplace;

const DOCUMENTS: usize = 500;

/// One unit, and calls of one document each.
fn workplace(model: &TinyModel) -> Workplace {
    let recipe = format!(
        "seed = 7\n[fetch]\nsources = [\"data/*\"]\n\n[classify.lm]\nmodel = \"{}\"\nwindow-tokens = 32\nmax-windows = 2\n\
         batch-tokens = 100\n",
        model.path().display()
    );
    Workplace::with(&recipe, &[("documents.jsonl", jsonl(&documents(DOCUMENTS, 5)))])
}

/// The journal of the only unit; empty before its first batch.
fn journal(workplace: &Workplace, run: &str) -> Vec<u8> {
    let entries = std::fs::read_dir(workplace.path(run).join("classify/journal")).into_iter().flatten();
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).next().unwrap_or_default()
}

/// Batches in a journal, whose first line says what it is of.
fn batches(journal: &[u8]) -> usize {
    journal.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1)
}

#[test]
fn a_signal_while_a_model_judges_keeps_its_labels() {
    let model = TinyModel::new();
    let workplace = workplace(&model);
    workplace.run("whole", &[]).expect(0);
    assert_eq!(workplace.counts("whole", "classify"), [DOCUMENTS as u64, DOCUMENTS as u64, 0, 0]);

    let mut kept = Vec::new();
    for (signal, exit) in [("TERM", 75), ("INT", 130)] {
        let running = workplace.spawn(&["run", "recipe.toml", "--run-dir", "run"]);
        while batches(&journal(&workplace, "run")) < batches(&kept) + 3 {
            std::thread::yield_now();
        }
        running.signal(signal);
        running.end().expect(exit);
        let now = journal(&workplace, "run");
        assert!(now.starts_with(&kept) && now.ends_with(b"\n"), "labels were made again, or cut");
        assert!(batches(&now) < DOCUMENTS, "nothing was left to judge");
        assert_eq!(workplace.counts("run", "classify"), [0; 4]);
        workplace.call(&["status", "run"]).expect(3);
        workplace.call(&["verify", "run"]).expect(3);
        kept = now;
    }
    workplace.run("run", &[]).expect(0);
    workplace.assert_same("run", &workplace.files("whole"));
    workplace.verify("run");
}
