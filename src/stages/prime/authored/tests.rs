use super::*;
use crate::countdown::draw::{Draw, PuzzleSpec, Source};
use crate::generation::{Finish, Reply, Unanswered};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Writes good traces, except where its script says otherwise.
struct Scripted {
    identity: GeneratorIdentity,
    batch_size: usize,
    asked: Arc<AtomicU64>,
    fails: fn(u64) -> bool,
}

impl Scripted {
    fn new(batch_size: usize, fails: fn(u64) -> bool) -> (Self, Arc<AtomicU64>) {
        let identity = GeneratorIdentity { kind: "lm".into(), model: "scripted".into(), revision: String::new() };
        let asked = Arc::new(AtomicU64::new(0));
        (Self { identity, batch_size, asked: Arc::clone(&asked), fails }, asked)
    }
}

impl TextGenerator for Scripted {
    fn identity(&self) -> &GeneratorIdentity {
        &self.identity
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn generate(&mut self, prompts: &[Prompt], _: &Sampling) -> anyhow::Result<Vec<Result<Reply, Unanswered>>> {
        self.asked.fetch_add(prompts.len() as u64, Relaxed);
        Ok(prompts
            .iter()
            .map(|prompt| match prompt.seed {
                seed if seed % 7 == 0 => Err(Unanswered("longer than the context".into())),
                seed if (self.fails)(seed) => Ok(reply("I give up.")),
                _ => Ok(reply(&solved(&prompt.messages[0].content))),
            })
            .collect())
    }
}

fn reply(text: &str) -> Reply {
    Reply { text: text.into(), finish: Finish::Stop, prompt_tokens: 10, reply_tokens: 5 }
}

/// A trace with one turn, for the puzzle that a prompt states.
fn solved(prompt: &str) -> String {
    let (_, rest) = prompt.split_once("numbers [").unwrap();
    let (numbers, rest) = rest.split_once(']').unwrap();
    let (_, rest) = rest.split_once("value ").unwrap();
    let target = rest.split('.').next().unwrap().parse().unwrap();
    let puzzle = Puzzle::from_text(numbers, target).unwrap();
    let draw = Draw::new(Source::Given, BTreeSet::new(), None, 0).unwrap();
    let solution = draw.solution(0, &puzzle).unwrap().expression(crate::countdown::derivation::Notation::Spaced);
    let [a, b] = [puzzle.numbers()[0], puzzle.numbers()[1]];
    let turn = if prompt.contains("only the computations") {
        String::new()
    } else {
        format!("{a} + {b} = {}. Let me try something else. ", a + b)
    };
    format!("<think>{turn}{solution} = {target}</think>\n<answer>{solution}</answer>")
}

fn prime(conditions: &str) -> Prime {
    let text = format!("conditions = [{conditions}]\n[author]\nattempts = 3\n");
    toml::from_str(&text).unwrap()
}

fn puzzles(n: u64) -> Vec<Supplied> {
    let draw = Draw::new(Source::Drawn(PuzzleSpec::paper()), BTreeSet::new(), None, 1).unwrap();
    let supplied = |index| draw.puzzle(index).map(|(puzzle, solution)| Supplied { index, puzzle, solution });
    (0..n).filter_map(supplied).collect()
}

type Run = (Vec<Outcome>, Vec<Rejected>, AuthorReport, u64);

/// Writes the traces of 40 puzzles, in two parts. `None`: stopped.
fn run(
    prime: &Prime,
    journal: &Path,
    batch_size: usize,
    fails: fn(u64) -> bool,
    stops: &dyn Fn() -> bool,
) -> Option<Run> {
    let (generator, asked) = Scripted::new(batch_size, fails);
    let (journal, answered, _) = Journal::open::<Answered>(journal, "header").unwrap();
    let author = prime.author.as_ref().unwrap();
    let mut desk = Desk::new((prime, author), Box::new(generator), (journal, answered), stops);
    let query = QueryTemplate::built_in().unwrap();
    let assignment = Assignment { split: "train", seed: 3, query: &query, count_tokens: None };
    let (mut outcomes, mut rejected) = (Vec::new(), Vec::new());
    for part in puzzles(40).chunks(20) {
        let (made, refused) = desk.write(&assignment, part).unwrap()?;
        outcomes.extend(made);
        rejected.extend(refused);
    }
    Some((outcomes, rejected, desk.report, asked.load(Relaxed)))
}

const CONDITIONS: &str = r#""only-backtracking", "scrambled", "all-strategies", "direct", "empty""#;

#[test]
fn replies_become_traces_of_all_conditions_or_are_kept_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let prime = prime(CONDITIONS);
    let fails = |seed: u64| seed.is_multiple_of(3);
    let (outcomes, rejected, report, asked) = run(&prime, &folder.path().join("j"), 8, fails, &|| false).unwrap();
    let n_made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(20 < n_made && n_made < 40, "{n_made}");
    for outcome in &outcomes {
        match outcome {
            Ok(traces) => {
                let conditions: Vec<Condition> = traces.iter().map(|trace| trace.condition).collect();
                assert_eq!(conditions, prime.conditions);
                assert!(
                    traces.iter().all(|trace| trace.pair_id == traces[0].pair_id && trace.verdict.name() == "solved")
                );
            }
            Err(reasons) => assert_eq!(reasons.iter().filter(|reason| **reason == "unpaired").count(), 4),
        }
    }
    let n_passed: u64 = report.passed.values().sum();
    let n_rejected: u64 = report.rejected.values().flat_map(BTreeMap::values).sum();
    assert_eq!((report.replies, n_rejected), (asked, rejected.len() as u64));
    assert_eq!(n_passed + n_rejected, asked);
    let reasons: BTreeSet<&str> = rejected.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, BTreeSet::from(["form", "unanswered"]));
    assert!(rejected.iter().all(|one| one.reply.is_none() == (one.reason == "unanswered")));
    assert_eq!(report.reply_tokens, 5 * (asked - rejected.iter().filter(|one| one.reply.is_none()).count() as u64));
}

#[test]
fn a_model_that_always_fails_is_asked_a_bounded_number_of_times() {
    let folder = tempfile::tempdir().unwrap();
    let prime = prime(CONDITIONS);
    let (outcomes, rejected, _, asked) = run(&prime, &folder.path().join("j"), 8, |_| true, &|| false).unwrap();
    // Three attempts at the first condition, and none at the others.
    assert_eq!((asked, rejected.len()), (120, 120));
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|reasons| reasons[2] == "no-reply-passed")));
}

#[test]
fn a_stopped_run_asks_only_for_the_rest_and_batches_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let prime = prime(CONDITIONS);
    let fails = |seed: u64| seed.is_multiple_of(3);
    let whole = run(&prime, &folder.path().join("whole"), 8, fails, &|| false).unwrap();
    for stop_after in [0, 1, 5, 9] {
        let journal = folder.path().join(format!("stopped-{stop_after}"));
        let batches = AtomicU64::new(0);
        let stops = || batches.fetch_add(1, Relaxed) == stop_after;
        assert!(run(&prime, &journal, 8, fails, &stops).is_none());
        let rest = run(&prime, &journal, 3, fails, &|| false).unwrap();
        assert_eq!((&rest.0, &rest.1, &rest.2), (&whole.0, &whole.1, &whole.2));
        assert!(rest.3 < whole.3 || stop_after == 0, "{} of {}", rest.3, whole.3);
    }
}
