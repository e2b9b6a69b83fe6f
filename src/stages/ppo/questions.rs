//! Questions with known answers, from files of many kinds: `question, answer` as in GSM8K, a rewritten corpus, verl's RL prompts.
//!
//! A column is named by its path, `reward_model.ground_truth`. A list of chat messages counts as what its user says last. Behind `####`, an answer of
//! GSM8K's is what follows.

use super::prompts::Prompt;
use crate::config::{EvaluationSplit, Ppo, Questions};
use crate::data::parquet_table::ParquetTable;
use crate::error::{Exit, Failure};
use crate::lm::TextTokenizer;
use crate::rl::reward::Problem;
use crate::train::permutation::{Permutation, derive};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

const TEMPLATE: &str = include_str!("../../../assets/prompts/rewrite-query.txt");
const SLOT: &str = "{question}";

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    text: String,
    answer: String,
    /// Where it stands: the file's place in the recipe, and its row, counted from 0.
    place: (usize, u64),
}

/// The questions of a run, divided.
pub(super) struct QuestionPrompts {
    template: String,
    files: Vec<String>,
    train: Vec<Question>,
    validation: Vec<Question>,
    test: Vec<Question>,
    seed: u64,
}

impl QuestionPrompts {
    /// Reads and divides them.
    ///
    /// # Errors
    /// The recipe's key, and a [`Failure`] that names file and row.
    pub(super) fn new(questions: &Questions, seed: u64) -> Result<Self, (&'static str, Failure)> {
        let template = match &questions.query {
            None => TEMPLATE.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                ("ppo.questions.query", Failure::new(Exit::Usage, format!("cannot read `{path}`: {error}")))
            })?,
        };
        let template = template.trim_end_matches('\n').to_owned();
        if template.matches(SLOT).count() != 1 || !template.ends_with("<think>") {
            let message = "the query template needs `{question}` once, and `<think>` at its end";
            return Err(("ppo.questions.query", Failure::new(Exit::Usage, message)));
        }
        let all = read(questions).map_err(|failure| ("ppo.questions.files", failure))?;
        let mut divided =
            Self { template, files: questions.files.clone(), train: vec![], validation: vec![], test: vec![], seed };
        for question in all {
            let position = share(&question.text, seed);
            let part = if questions.held_out_share <= position {
                &mut divided.train
            } else if position < questions.held_out_share / 2.0 {
                &mut divided.test
            } else {
                &mut divided.validation
            };
            part.push(question);
        }
        if divided.train.is_empty() {
            let message = "no question is left to train on".to_owned();
            return Err(("ppo.questions", Failure::new(Exit::Usage, message).hint("lower `held-out-share`")));
        }
        Ok(divided)
    }

    fn prompt(&self, question: &Question, tokenizer: &TextTokenizer) -> anyhow::Result<Prompt> {
        let text = self.template.replacen(SLOT, &question.text, 1);
        Prompt::new(Problem::Question { answer: question.answer.clone() }, text, tokenizer)
    }

    /// The prompts of a step: every question once before any comes again, in another order each time.
    pub(super) fn of_step(&self, step: u64, count: usize, tokenizer: &TextTokenizer) -> anyhow::Result<Vec<Prompt>> {
        let all = self.train.len() as u64;
        let first = step * count as u64;
        let place = |index: u64| {
            let key = derive(self.seed, &format!("questions of pass {}", index / all));
            Permutation::new(all, key).at(index % all) as usize
        };
        (first..first + count as u64).map(|index| self.prompt(&self.train[place(index)], tokenizer)).collect()
    }

    /// Held-out prompts in an order that their hashes decide; fewer than asked for if there are not so many.
    pub(super) fn held_out(
        &self,
        split: EvaluationSplit,
        count: usize,
        tokenizer: &TextTokenizer,
    ) -> anyhow::Result<Vec<Prompt>> {
        let part = match split {
            EvaluationSplit::Validation => &self.validation,
            EvaluationSplit::Test => &self.test,
        };
        let mut chosen: Vec<&Question> = part.iter().collect();
        chosen.sort_by_key(|question| hash(&question.text, self.seed));
        chosen.iter().take(count).map(|question| self.prompt(question, tokenizer)).collect()
    }

    /// Looks at every prompt before any is used.
    ///
    /// # Errors
    /// A [`Failure`] that names the file and row of a prompt that leaves no room for a response.
    pub(super) fn check_lengths(&self, ppo: &Ppo, context: usize, tokenizer: &TextTokenizer) -> anyhow::Result<()> {
        for question in self.train.iter().chain(&self.validation).chain(&self.test) {
            let prompt = self.prompt(question, tokenizer)?.tokens.len();
            let limit = ppo.max_response_tokens;
            if context < prompt + limit {
                let message = format!(
                    "{} is a prompt of {prompt} tokens, which with {limit} of response do not fit the model's context of {context}",
                    named(&self.files, question.place)
                );
                let hint = "leave it out, lower `ppo.max-response-tokens`, or shorten the query";
                return Err(Failure::new(Exit::Usage, message).hint(hint).into());
            }
        }
        Ok(())
    }
}

fn named(files: &[String], (file, row): (usize, u64)) -> String {
    format!("row {row} of `{}`", files[file])
}

fn hash(question: &str, seed: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&derive(seed, "division of questions").to_le_bytes());
    // Blanks and case make no other question.
    for word in question.split_whitespace() {
        hasher.update(word.to_lowercase().as_bytes());
        hasher.update(b" ");
    }
    *hasher.finalize().as_bytes()
}

/// Where a question stands in [0, 1).
fn share(question: &str, seed: u64) -> f64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash(question, seed)[..8]);
    (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

/// All rows of all files.
fn read(questions: &Questions) -> Result<Vec<Question>, Failure> {
    let mut all = Vec::new();
    for (file, name) in questions.files.iter().enumerate() {
        let path = Path::new(name);
        let rows = match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => parquet(path, questions),
            Some("jsonl") => jsonl(path, questions),
            _ => Err("its name ends with neither `.parquet` nor `.jsonl`".to_owned()),
        };
        let rows = rows.map_err(|cause| refuse(name, &cause))?;
        for (row, (text, answer)) in rows.into_iter().enumerate() {
            let empty = [("question", &text), ("answer", &answer)].into_iter().find(|(_, text)| text.trim().is_empty());
            if let Some((what, _)) = empty {
                return Err(refuse(name, &format!("row {row} has an empty {what}")));
            }
            all.push(Question { text, answer, place: (file, row as u64) });
        }
    }
    if all.is_empty() {
        let names: Vec<String> = questions.files.iter().map(|name| format!("`{name}`")).collect();
        return Err(Failure::new(Exit::Usage, format!("there is no question in {}", names.join(", "))));
    }
    let mut seen: HashMap<[u8; 32], (usize, u64)> = HashMap::new();
    for question in &all {
        match seen.entry(hash(&question.text, 0)) {
            Entry::Vacant(vacant) => _ = vacant.insert(question.place),
            Entry::Occupied(first) => {
                let (again, first) = (named(&questions.files, question.place), named(&questions.files, *first.get()));
                return Err(Failure::new(Exit::Usage, format!("{again} asks the same question as {first}"))
                    .hint("leave one of them out: a question that is asked twice counts twice"));
            }
        }
    }
    Ok(all)
}

fn refuse(name: &str, cause: &str) -> Failure {
    Failure::new(Exit::Usage, format!("cannot read questions from `{name}`: {cause}"))
        .hint("`ppo.questions.question` and `ppo.questions.answer` name the columns, such as `prompt` and `reward_model.ground_truth`")
}

type Pair = (String, String);

fn parquet(path: &Path, questions: &Questions) -> Result<Vec<Pair>, String> {
    let show = |error: &anyhow::Error| format!("{error:#}");
    let table = ParquetTable::open(path).map_err(|error| show(&error))?;
    let root = |column: &str| column.split('.').next().unwrap_or_default().to_owned();
    let mut roots = vec![root(&questions.question)];
    if root(&questions.answer) != roots[0] {
        roots.push(root(&questions.answer));
    }
    let mut pairs = Vec::new();
    for batch in table.columns(&roots).map_err(|error| show(&error))? {
        let batch = batch.map_err(|error| show(&error))?;
        let column = |name: &str| -> Result<ArrayRef, String> {
            let mut parts = name.split('.');
            let missing = || format!("it has no column `{name}`");
            let mut found = parts.next().and_then(|part| batch.column_by_name(part)).ok_or_else(missing)?.clone();
            for part in parts {
                let inner = found.as_struct_opt().and_then(|fields| fields.column_by_name(part)).cloned();
                found = inner.ok_or_else(missing)?;
            }
            Ok(found)
        };
        let (question, answer) = (column(&questions.question)?, column(&questions.answer)?);
        for row in 0..batch.num_rows() {
            let text = |array: &ArrayRef, name: &str| {
                said_in(array, row).ok_or_else(|| format!("row {} says nothing in `{name}`", pairs.len()))
            };
            let pair = (text(&question, &questions.question)?, text(&answer, &questions.answer)?);
            pairs.push((pair.0, final_part(&pair.1)));
        }
    }
    Ok(pairs)
}

/// What a row says: a text, a number, or a list of chat messages.
fn said_in(array: &ArrayRef, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    if let Some(list) = array.as_list_opt::<i32>() {
        let turns = list.value(row);
        let turns = turns.as_struct_opt()?;
        let field = |name: &str| turns.column_by_name(name).cloned();
        let (roles, contents) = (field("role")?, field("content")?);
        let last = (0..turns.len()).rev().find(|&turn| said_in(&roles, turn).as_deref() == Some("user"))?;
        return said_in(&contents, last);
    }
    let one = array.slice(row, 1);
    // A whole number that is kept as a fraction is one all the same.
    let text = arrow::compute::cast(&one, &DataType::Utf8).ok()?;
    let text = text.as_string_opt::<i32>()?.value(0).to_owned();
    let is_float = matches!(array.data_type(), DataType::Float32 | DataType::Float64);
    Some(if is_float { text.strip_suffix(".0").map_or(text.clone(), str::to_owned) } else { text })
}

fn jsonl(path: &Path, questions: &Questions) -> Result<Vec<Pair>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut pairs: Vec<Pair> = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| error.to_string())?;
        if line.trim().is_empty() {
            continue;
        }
        let number = number + 1;
        let row: Value = serde_json::from_str(&line).map_err(|error| format!("line {number} is no JSON: {error}"))?;
        let text = |name: &str| {
            let found = name.split('.').try_fold(&row, |value, part| value.get(part));
            let found = found.ok_or_else(|| format!("line {number} has no `{name}`"))?;
            said_by(found).ok_or_else(|| format!("line {number} says nothing in `{name}`"))
        };
        pairs.push((text(&questions.question)?, final_part(&text(&questions.answer)?)));
    }
    Ok(pairs)
}

fn said_by(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(turns) => said_by(turns.iter().rfind(|turn| turn["role"] == "user")?.get("content")?),
        _ => None,
    }
}

/// GSM8K's answers are a solution, and behind `####` the answer.
fn final_part(answer: &str) -> String {
    answer.rsplit_once("####").map_or(answer, |(_, answer)| answer).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(files: &[&str], question: &str, answer: &str) -> Questions {
        Questions {
            files: files.iter().map(|&file| file.to_owned()).collect(),
            question: question.into(),
            answer: answer.into(),
            ..Questions::default()
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test's input needs no commit")]
    fn check(name: &str, text: &str, columns: [&str; 2], expect: Result<&[(&str, &str)], &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let found = read(&questions(&[path.to_str().unwrap()], columns[0], columns[1]));
        let found = found.map_err(|failure| failure.message.replace(&format!("{}/", folder.path().display()), ""));
        let found = found.map(|all| all.into_iter().map(|one| (one.text, one.answer)).collect::<Vec<_>>());
        let expect = expect.map(|all| all.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect());
        assert_eq!(found, expect.map_err(str::to_owned), "{text}");
    }

    const USUAL: [&str; 2] = ["question", "answer"];

    #[test]
    fn rows_of_each_form() {
        let gsm8k = "{\"question\": \"How many?\", \"answer\": \"2 + 2 = 4\\n#### 4\"}\n\n";
        check("a.jsonl", gsm8k, USUAL, Ok(&[("How many?", "4")]));
        check("a.jsonl", "{\"question\": \"a\", \"answer\": 0.5}", USUAL, Ok(&[("a", "0.5")]));
        let verl = r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a?"}], "reward_model": {"ground_truth": "7"}}"#;
        check("a.jsonl", verl, ["prompt", "reward_model.ground_truth"], Ok(&[("a?", "7")]));
    }

    #[test]
    fn bad_files_are_one_clear_error() {
        let row = r#"{"question": "a", "answer": "1"}"#;
        check("a.jsonl", "", USUAL, Err("there is no question in `a.jsonl`"));
        check("a.jsonl", row, ["query", "answer"], Err("cannot read questions from `a.jsonl`: line 1 has no `query`"));
        check(
            "a.txt",
            row,
            USUAL,
            Err("cannot read questions from `a.txt`: its name ends with neither `.parquet` nor `.jsonl`"),
        );
        let empty = format!("{row}\n{{\"question\": \"b\", \"answer\": \"####\"}}");
        check("a.jsonl", &empty, USUAL, Err("cannot read questions from `a.jsonl`: row 1 has an empty answer"));
        let nothing = r#"{"question": null, "answer": "1"}"#;
        check(
            "a.jsonl",
            nothing,
            USUAL,
            Err("cannot read questions from `a.jsonl`: line 1 says nothing in `question`"),
        );
        let twice = format!("{row}\n{}", row.replace("\"a\"", "\" A \"").replace('1', "2"));
        check("a.jsonl", &twice, USUAL, Err("row 1 of `a.jsonl` asks the same question as row 0 of `a.jsonl`"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's input needs no commit")]
    fn questions_are_divided_by_what_they_ask() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, numbers: &mut dyn Iterator<Item = u32>| {
            let path = folder.path().join(name);
            let rows: String =
                numbers.map(|n| format!("{{\"question\": \"What is {n} + 1?\", \"answer\": {}}}\n", n + 1)).collect();
            std::fs::write(&path, rows).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let file = write("a.jsonl", &mut (0..400));
        let divided =
            |file: &str, seed| QuestionPrompts::new(&questions(&[file], "question", "answer"), seed).ok().unwrap();
        let one = divided(&file, 1);
        let sizes = [&one.train, &one.validation, &one.test].map(Vec::len);
        assert_eq!(sizes.iter().sum::<usize>(), 400);
        assert!((340..=380).contains(&sizes[0]) && 10 < sizes[1] && 10 < sizes[2], "{sizes:?}");
        // Neither the order nor the company of a question changes its side.
        let other = write("b.jsonl", &mut (0..200).rev());
        let asked =
            |part: &[Question]| part.iter().map(|one| one.text.clone()).collect::<std::collections::BTreeSet<_>>();
        assert!(asked(&divided(&other, 1).test).is_subset(&asked(&one.test)));
        assert_ne!(asked(&divided(&file, 2).test), asked(&one.test));
    }
}
