//! Rewards from a program of the user's: JSON lines in, JSON lines out.
//!
//! The program is started once and asked for each step's responses. For every line that it gets,
//! `{"id": 3, "prompt": "…", "response": "…", "truncated": false, "problem": {"numbers": [3, 5, 7], "target": 36}}`, it answers with a
//! line `{"id": 3, "reward": 1.0}`, in any order, and may add `"verdict": "a-name"` and `"solved": true`. Its standard error is not read
//! as data; its end is shown when something goes wrong.

use crate::error::{Exit, Failure};
use crate::rl::reward::{Outcome, Problem};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// How much of what the program says on its standard error is kept, in bytes.
const MAX_SAID: usize = 2048;
/// How long its last words are waited for once it has ended: something that it started may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One response to be judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub problem: &'a Problem,
    pub prompt: &'a str,
    pub response: &'a str,
    pub is_truncated: bool,
}

#[derive(Serialize)]
struct Question<'a> {
    id: usize,
    prompt: &'a str,
    response: &'a str,
    truncated: bool,
    problem: serde_json::Value,
}

#[derive(Deserialize)]
struct Answer {
    id: usize,
    reward: f64,
    verdict: Option<String>,
    solved: Option<bool>,
}

/// A running reward program. It ends with this value.
pub(super) struct CommandReward {
    /// As the recipe has it, for messages.
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<std::io::Result<Vec<u8>>>,
    said: Arc<Mutex<VecDeque<u8>>>,
    /// Closed when everything that the program said has been read.
    said_all: Receiver<Infallible>,
    timeout: Duration,
}

impl CommandReward {
    /// Starts the program; `timeout` is how long it may take from one answer to the next.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] if it cannot be started.
    pub(super) fn start(command: &[String], timeout: Duration) -> anyhow::Result<Self> {
        let name = command.join(" ");
        let Some((program, arguments)) = command.split_first() else {
            return Err(Failure::new(Exit::Usage, "the reward command is empty").into());
        };
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = started.map_err(|error| {
            Failure::new(Exit::Usage, format!("cannot start the reward command `{name}`: {error}"))
                .hint("give the program and its arguments as a list, such as `[\"python3\", \"reward.py\"]`")
        })?;
        let (sender, lines) = sync_channel(1024);
        if let Some(output) = child.stdout.take() {
            let mut output = BufReader::new(output);
            std::thread::spawn(move || {
                loop {
                    let mut line = Vec::new();
                    let read = output.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
                    let is_last = read.is_err();
                    if matches!(read, Ok(0)) || sender.send(read.map(|_| line)).is_err() || is_last {
                        break;
                    }
                }
            });
        }
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (listening, said_all) = sync_channel(0);
        if let Some(mut errors) = child.stderr.take() {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut buffer = [0; 512];
                while let Ok(count @ 1..) = errors.read(&mut buffer) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.extend(&buffer[..count]);
                    let excess = said.len().saturating_sub(MAX_SAID);
                    said.drain(..excess);
                }
                drop(listening);
            });
        }
        let input = child.stdin.take();
        Ok(Self { name, child, input, lines, said, said_all, timeout })
    }

    /// Asks for a step's rewards.
    ///
    /// # Errors
    /// One [`Failure`] for a program that ended, that takes too long, or whose answer is none. It is not asked again.
    pub(super) fn judge(&mut self, asked: &[Asked<'_>]) -> anyhow::Result<Vec<Outcome>> {
        let mut questions = Vec::new();
        for (id, asked) in asked.iter().enumerate() {
            let problem = match asked.problem {
                Problem::Countdown(puzzle) => serde_json::to_value(puzzle)?,
                Problem::Question { answer } => serde_json::json!({ "answer": answer }),
            };
            let Asked { prompt, response, is_truncated: truncated, .. } = *asked;
            serde_json::to_writer(&mut questions, &Question { id, prompt, response, truncated, problem })?;
            questions.push(b'\n');
        }
        let Some(mut input) = self.input.take() else { return Err(self.failure("has ended".into())) };
        // Who writes everything before reading anything waits forever once both pipes are full.
        let writer =
            std::thread::spawn(move || input.write_all(&questions).and_then(|()| input.flush()).map(|()| input));
        let outcomes = self.answers(asked.len())?;
        match writer.join() {
            Ok(Ok(input)) => self.input = Some(input),
            _ => return Err(self.failure("closed its input".into())),
        }
        Ok(outcomes)
    }

    fn answers(&mut self, count: usize) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; count];
        for answered in 0..count {
            let line = match self.lines.recv_timeout(self.timeout) {
                Ok(Ok(line)) => line,
                Ok(Err(error)) => return Err(self.failure(format!("cannot be read: {error}"))),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = self.timeout.as_secs_f64();
                    return Err(
                        self.failure(format!("gave {answered} of {count} answers and then none for {seconds} s"))
                    );
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failure(format!("ended after {answered} of {count} answers")));
                }
            };
            let shown = || String::from_utf8_lossy(&line).trim_end().chars().take(80).collect::<String>();
            let Ok(answer) = serde_json::from_slice::<Answer>(&line) else {
                return Err(
                    self.failure(format!("answered `{}`, which is no `{{\"id\": 0, \"reward\": 1.0}}`", shown()))
                );
            };
            let Some(place @ None) = outcomes.get_mut(answer.id) else {
                return Err(self.failure(format!("answered `{}`, which was not asked or is answered", shown())));
            };
            if !answer.reward.is_finite() {
                return Err(self.failure(format!("gave the reward {}", answer.reward)));
            }
            let is_solved = answer.solved.unwrap_or(1.0 <= answer.reward);
            let verdict =
                answer.verdict.map_or(if is_solved { "solved".into() } else { "unsolved".into() }, Into::into);
            *place = Some(Outcome { reward: answer.reward, verdict, is_solved });
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Ends the program and says what was wrong with it.
    fn failure(&mut self, what: String) -> anyhow::Error {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => format!(" ({status})"),
            _ => String::new(),
        };
        self.end();
        // Its end says nothing of what lies unread in the pipe.
        let _ = self.said_all.recv_timeout(LAST_WORDS);
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<u8> = said.iter().copied().collect();
        let said = String::from_utf8_lossy(&said);
        let last: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let hint = match last.last() {
            Some(line) => format!("its last words: {}; the run goes on from its last checkpoint", line.trim()),
            None => "the run goes on from its last checkpoint".to_owned(),
        };
        Failure::new(Exit::Failed, format!("the reward command `{}` {what}{status}", self.name)).hint(hint).into()
    }

    fn end(&mut self) {
        self.input = None;
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for CommandReward {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countdown::puzzle::Puzzle;
    use crate::error::hint_of;

    fn ask(script: &str, count: usize, timeout: Duration) -> anyhow::Result<Vec<Outcome>> {
        let command: Vec<String> = ["sh", "-c", script].iter().map(|&word| word.to_owned()).collect();
        let problem = Problem::Countdown(Puzzle::new(&[3, 5, 7], 36)?);
        let asked = Asked { problem: &problem, prompt: "p", response: "r", is_truncated: false };
        let mut reward = CommandReward::start(&command, timeout)?;
        reward.judge(&vec![asked; count])?;
        // The same program answers the next step.
        reward.judge(&vec![asked; count])
    }

    /// Longer than any machine that is busy with other tests takes.
    const PATIENT: Duration = Duration::from_secs(60);

    fn check_fault(script: &str, timeout: Duration, expect: &str, hint: &str) {
        let error = ask(script, 3, timeout).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
        let given = hint_of(&error).unwrap_or_default();
        assert!(given.contains(hint) && given.contains("checkpoint"), "{given}");
    }

    #[test]
    fn answers_come_in_any_order_and_again() {
        let script = r#"while read a && read b; do
            case $a in *'"target":36'*) ;; *) exit 3;; esac
            echo '{"id": 1, "reward": 0.25, "verdict": "half"}'; echo '{"id": 0, "reward": 1}'
        done"#;
        let outcomes = ask(script, 2, PATIENT).unwrap();
        assert_eq!(outcomes[0], Outcome { reward: 1.0, verdict: "solved".into(), is_solved: true });
        assert_eq!(outcomes[1], Outcome { reward: 0.25, verdict: "half".into(), is_solved: false });
    }

    #[test]
    fn full_pipes_do_not_block() {
        let script = r#"i=0; while read line; do echo "{\"id\": $((i % 3000)), \"reward\": 0}"; i=$((i + 1)); done"#;
        assert_eq!(ask(script, 3000, PATIENT).unwrap().len(), 3000);
    }

    #[test]
    fn what_goes_wrong_is_one_clear_error() {
        check_fault("read a; echo nonsense", PATIENT, "answered `nonsense`, which is no", "");
        check_fault("read a; echo '{\"id\": 9, \"reward\": 1}'", PATIENT, "which was not asked", "");
        check_fault("while read a; do echo '{\"id\": 0, \"reward\": 1}'; done", PATIENT, "or is answered", "");
        let short = Duration::from_millis(300);
        check_fault("sleep 30", short, "gave 0 of 3 answers and then none for 0.3 s", "");
        let script = "read a; echo no module named reward >&2; exit 4";
        check_fault(script, PATIENT, "ended after 0 of 3 answers", "no module named reward");
        let missing = CommandReward::start(&["/nowhere/reward".into()], PATIENT).err().unwrap();
        assert!(missing.to_string().contains("cannot start the reward command `/nowhere/reward`"));
    }
}
