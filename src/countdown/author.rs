//! Traces by a language model: what it is asked, and which of its replies are kept. Asking is the stage's business.

use super::condition::{Answers, Condition};
use super::counter;
use super::gates::{GateFault, check_answer, check_scrambled};
use super::generate::{CountTokens, TraceFault, TraceRecord, complete, dots};
use super::puzzle::Puzzle;
use super::scramble::scramble;
use super::verdict::{Verdict, answer, judge_answer};
use super::{Stream, stream};
use crate::behavior::Behavior;

const PROMPTS: &str = include_str!("../../assets/prompts/countdown-ask.txt");

/// Why a reply is not kept.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ReplyFault {
    #[error("not one thought and one answer")]
    Form,
    #[error("the answer is {0:?}, which is not what was asked for")]
    Verdict(Verdict),
    #[error("{0} statements of the thought are false")]
    FalseStatements(u32),
    #[error("shows {0:?}, which the condition excludes")]
    Excluded(Behavior),
    #[error("shows none of the behaviors of the condition")]
    Plain,
    #[error(transparent)]
    Gate(#[from] GateFault),
}

impl ReplyFault {
    /// A name for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            ReplyFault::Form => "form",
            ReplyFault::Verdict(_) => "verdict",
            ReplyFault::FalseStatements(_) => "false-statements",
            ReplyFault::Excluded(_) => "excluded-behavior",
            ReplyFault::Plain => "plain",
            ReplyFault::Gate(fault) => fault.name(),
        }
    }
}

/// What to send to a model, as one user message. `None` for the conditions that are made from `all-strategies` traces,
/// by [`derive`].
pub fn ask(condition: Condition, puzzle: &Puzzle) -> Option<String> {
    let numbers = format!("{:?}", puzzle.numbers());
    let fill = |text: &str| text.replace("{numbers}", &numbers).replace("{target}", &puzzle.target().to_string());
    Some([section("task")?, section(condition.name())?].map(fill).join("\n\n"))
}

fn section(name: &str) -> Option<&'static str> {
    let (_, after) = PROMPTS.split_once(&format!("\n[{name}]\n"))?;
    Some(after.split("\n[").next().unwrap_or(after).trim())
}

/// Keeps a reply if it shows what its condition asks for, and nothing else, and if its answer is as wanted.
///
/// The record is not paired: `pair_id` tells replies to the same puzzle apart from those to others and nothing more.
pub fn accept(
    puzzle: &Puzzle,
    query: String,
    condition: Condition,
    wanted: Answers,
    reply: &str,
    pair_id: u64,
) -> Result<TraceRecord, ReplyFault> {
    let reply = reply.trim();
    let reply = reply.strip_prefix("<think>").unwrap_or(reply);
    let (thought, rest) = reply.split_once("</think>").ok_or(ReplyFault::Form)?;
    let is_single =
        !thought.contains("<answer>") && !thought.contains("<think>") && rest.matches("<answer>").count() == 1;
    let answer = answer(rest).filter(|answer| is_single && !answer.contains('\n')).ok_or(ReplyFault::Form)?;
    // As every other trace has it: other scorers read ASCII alone.
    let answer = &answer.replace('×', "*").replace('÷', "/").replace('−', "-");
    let verdict = judge_answer(puzzle, answer);
    let is_wanted = match wanted {
        Answers::Correct => verdict == Verdict::Solved,
        Answers::Wrong => !matches!(verdict, Verdict::Solved | Verdict::Missing),
        Answers::Mixed => verdict != Verdict::Missing,
    };
    if !is_wanted {
        return Err(ReplyFault::Verdict(verdict));
    }
    let reading = counter::read(puzzle, thought);
    if verdict == Verdict::Solved && 0 < reading.n_false {
        return Err(ReplyFault::FalseStatements(reading.n_false));
    }
    let shows = |behavior: &Behavior| 0 < reading.counts[behavior.index()];
    let allowed = condition.shows();
    if let Some(behavior) = Behavior::ALL.into_iter().find(|behavior| shows(behavior) && !allowed.contains(behavior)) {
        return Err(ReplyFault::Excluded(behavior));
    }
    if !allowed.is_empty() && !allowed.iter().any(shows) {
        return Err(ReplyFault::Plain);
    }
    let completion = complete(thought.trim(), answer);
    check_answer(puzzle, &query, &completion, verdict)?;
    Ok(TraceRecord {
        query,
        completion,
        puzzle: *puzzle,
        condition,
        verdict,
        stratum: None,
        counts: reading.counts,
        pair_id,
        phrases: Vec::new(),
    })
}

/// What a condition that is not asked for makes of an `all-strategies` trace: its answer, and another thought or none.
pub fn derive(
    original: &TraceRecord,
    condition: Condition,
    count_tokens: Option<&CountTokens>,
    seed: u64,
    index: u64,
) -> Result<TraceRecord, TraceFault> {
    let before = counter::thought(&original.completion).trim();
    let (thought, counts) = match condition {
        Condition::Scrambled => {
            let thought = scramble(before, &mut stream(seed, index, Stream::Scramble));
            let counts =
                check_scrambled(&original.puzzle, &thought, before, counter::read(&original.puzzle, before).n_false)?
                    .counts;
            (thought, counts)
        }
        Condition::Empty => (String::new(), [0; 4]),
        Condition::Dots => (dots(before, count_tokens.ok_or(TraceFault::Dots)?)?, [0; 4]),
        _ => return Ok(TraceRecord { condition, ..original.clone() }),
    };
    let completion = complete(&thought, answer(&original.completion).unwrap_or_default());
    check_answer(&original.puzzle, &original.query, &completion, original.verdict)?;
    Ok(TraceRecord { completion, condition, counts, ..original.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn puzzle() -> Puzzle {
        Puzzle::new(&[3, 5, 7], 36).unwrap()
    }

    #[test]
    fn a_prompt_for_each_condition_that_is_asked_for() {
        for condition in Condition::ALL {
            let asked = ask(condition, &puzzle());
            let is_made = matches!(condition, Condition::Scrambled | Condition::Empty | Condition::Dots);
            assert_eq!(asked.is_none(), is_made, "{condition:?}");
            assert!(
                asked.is_none_or(|text| text.contains("[3, 5, 7]") && text.contains("36") && !text.contains("\n["))
            );
        }
    }

    #[test]
    fn replies_are_filtered() {
        let check = |condition: Condition, wanted: Answers, reply: &str, expect: Result<[u32; 4], &str>| {
            let found = accept(&puzzle(), "q".to_owned(), condition, wanted, reply, 1);
            assert_eq!(found.map(|record| record.counts).map_err(|fault| fault.name()), expect, "{reply}");
        };
        use Answers::{Correct, Wrong};
        use Condition::{AllStrategies, Direct, OnlyBacktracking};
        let searched =
            "<think>3 + 5 = 8. Trying something else. 5 + 7 = 12, 12 * 3 = 36.</think>\n<answer>(5 + 7) * 3</answer>";
        check(OnlyBacktracking, Correct, searched, Ok([0, 1, 0, 0]));
        check(AllStrategies, Correct, searched, Ok([0, 1, 0, 0]));
        check(Direct, Correct, searched, Err("excluded-behavior"));
        check(OnlyBacktracking, Wrong, searched, Err("verdict"));
        let plain = "5 + 7 = 12, 12 * 3 = 36.</think><answer>(5 + 7) * 3</answer>";
        check(Direct, Correct, plain, Ok([0; 4]));
        check(OnlyBacktracking, Correct, plain, Err("plain"));
        check(Direct, Correct, "5 + 7 = 13, 12 * 3 = 36.</think><answer>(5 + 7) * 3</answer>", Err("false-statements"));
        check(Direct, Correct, "<answer>(5 + 7) * 3</answer>", Err("form"));
        check(Direct, Correct, "a</think><answer>b</answer><answer>(5 + 7) * 3</answer>", Err("form"));
        check(Direct, Wrong, "5 + 7 = 12.</think><answer>5 + 7</answer>", Ok([0; 4]));
        check(Direct, Wrong, "5 + 7 = 12.</think>", Err("form"));
        check(Direct, Correct, "5 + 7 = 12, 12 × 3 = 36.</think><answer>(5 + 7) × 3</answer>", Ok([0; 4]));
        check(Direct, Correct, "a </answer> b</think><answer>(5 + 7) * 3</answer>", Err("form"));
    }

    #[test]
    fn conditions_that_are_not_asked_for_are_made_of_all_strategies() {
        let reply = "<think>3 + 5 = 8. Too low. Trying something else. 5 + 7 = 12. So 12 * 3 = 36.</think>\n<answer>(5 + 7) * 3</answer>";
        let original = accept(&puzzle(), "q".to_owned(), Condition::AllStrategies, Answers::Correct, reply, 1).unwrap();
        let words: CountTokens = std::sync::Arc::new(|text| text.split_whitespace().count());
        let made = |condition| derive(&original, condition, Some(&words), 1, 1).unwrap();
        assert_eq!(made(Condition::Empty).completion, " </think>\n<answer> (5 + 7) * 3 </answer>");
        let n_dots = made(Condition::Dots).completion.matches('.').count();
        assert_eq!(n_dots, counter::thought(&original.completion).split_whitespace().count());
        let scrambled = made(Condition::Scrambled);
        assert_eq!(scrambled.completion.len(), original.completion.len());
        assert_ne!(scrambled.completion, original.completion);
        assert_eq!(derive(&original, Condition::Dots, None, 1, 1), Err(TraceFault::Dots));
    }
}
