//! Values that types cannot rule out: ranges, and keys that must or must not stand together.

use super::load::{NAME_RULE, is_name};
use super::{
    Arithmetic, Author, Classify, Config, Curate, EndpointConfig, EndpointJudgeConfig, Fetch, HabitsConfig, Prime,
    Rewrite, Thresholds,
};
use crate::countdown::condition::Condition;
use crate::countdown::draw::{Draw, PuzzleSpec, Source};
use crate::countdown::solver::Operators;
use crate::endpoint::{check_url, is_variable};
use crate::error::Failure;
use std::collections::BTreeSet;

/// Checks one arm's configuration. `error(key, expectation)` makes the located failure.
pub(super) fn check(config: &Config, error: impl Fn(&str, &str) -> Failure) -> Result<(), Failure> {
    let expect = |holds: bool, key: &str, expectation: &str| if holds { Ok(()) } else { Err(error(key, expectation)) };

    if let Some(Fetch { sources, columns, rows_per_unit, prefetch_shards, .. }) = &config.fetch {
        expect(!sources.is_empty(), "fetch.sources", "expected at least one source")?;
        expect(
            (1..=10_000_000).contains(rows_per_unit),
            "fetch.rows-per-unit",
            "expected a number from 1 to 10,000,000",
        )?;
        expect((1..=64).contains(prefetch_shards), "fetch.prefetch-shards", "expected a number from 1 to 64")?;
        expect(!columns.text.is_empty(), "fetch.columns.text", "expected the name of the column that holds the text")?;
    }
    if let Some(Classify { cue, lm, endpoint, max_quarantined_share }) = &config.classify {
        expect(config.fetch.is_some(), "classify", "judging needs documents: expected a table `[fetch]`")?;
        expect(
            [cue.is_some(), lm.is_some(), endpoint.is_some()].iter().filter(|judge| **judge).count() == 1,
            "classify",
            "expected one judge: a table `[classify.cue]`, `[classify.lm]` or `[classify.endpoint]`",
        )?;
        expect(
            (0.0..=1.0).contains(max_quarantined_share),
            "classify.max-quarantined-share",
            "expected a share from 0 to 1",
        )?;
        if let Some(lm) = lm {
            if let Some((key, expectation)) = lm.fault() {
                expect(false, &format!("classify.lm.{key}"), expectation)?;
            }
            check_thresholds("classify.lm", &lm.thresholds.unwrap_or_default(), expect)?;
        }
        if let Some(endpoint) = endpoint {
            check_endpoint_judge(endpoint, expect)?;
        }
    }
    if let Some(curate) = &config.curate {
        expect(config.classify.is_some(), "curate", "curating needs labels: expected a table `[classify]`")?;
        check_curate(curate, expect)?;
    }
    if let Some(rewrite) = &config.rewrite {
        check_rewrite(rewrite, config.curate.as_ref(), expect)?;
    }
    if let Some(prime) = &config.prime {
        check_prime(prime, expect)?;
        // What no puzzle can come of is said here and not after a search.
        if prime.puzzles.is_empty()
            && let Err(fault) = Draw::new(Source::Drawn(PuzzleSpec::from(prime)), BTreeSet::new(), None, config.seed)
        {
            let failure = error("prime", &fault.message);
            return Err(match fault.hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            });
        }
    }
    if let Some(arithmetic) = &config.arithmetic {
        check_arithmetic(arithmetic, expect)?;
    }
    for (table, pretrain) in config.trainings() {
        // The keys of both tables are named alike.
        let expect =
            |holds: bool, key: &str, expectation: &str| expect(holds, &key.replacen("pretrain", table, 1), expectation);
        let from = pretrain.from.as_deref();
        expect(
            from != Some("base") || (table != "base" && config.base.is_some()),
            "pretrain.from",
            "expected a model: this recipe has no `[base]` before it",
        )?;
        expect(from != Some("pretrain"), "pretrain.from", "expected a model, which this stage is to make")?;
        super::pretrain::check(pretrain, |stage, set| has_set(config, stage, set), expect)?;
    }
    if let Some(ppo) = &config.ppo {
        super::ppo::check(ppo, |name| config.trainings().any(|(table, _)| table == name), expect)?;
    }
    Ok(())
}

/// Whether a stage of the recipe writes a set of that name; none without the stage.
fn has_set(config: &Config, stage: &str, set: &str) -> Option<bool> {
    match stage {
        "curate" => config.curate.as_ref().map(|curate| curate.corpus.contains_key(set)),
        "prime" => config.prime.as_ref().map(|prime| prime.conditions.iter().any(|condition| condition.name() == set)),
        "arithmetic" => config.arithmetic.as_ref().map(|_| set == crate::stages::arithmetic::SET),
        "rewrite" => config.rewrite.as_ref().map(|rewrite| rewrite.corpus.contains_key(set)),
        _ => None,
    }
}

fn check_rewrite(
    rewrite: &Rewrite,
    curate: Option<&Curate>,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    expect(curate.is_some(), "rewrite", "rewriting needs corpora: expected a table `[curate]`")?;
    expect(
        !rewrite.corpus.is_empty(),
        "rewrite.corpus",
        "expected at least one corpus, such as `rich = \"reasoning\"`",
    )?;
    for name in rewrite.corpus.keys() {
        expect(
            curate.is_some_and(|curate| curate.corpus.contains_key(name)),
            &format!("rewrite.corpus.{name}"),
            "expected the name of a corpus in `[curate.corpus]`",
        )?;
    }
    expect(
        rewrite.lm.is_some() != rewrite.endpoint.is_some(),
        "rewrite",
        "expected one writer: a table `[rewrite.lm]` or `[rewrite.endpoint]`",
    )?;
    if let Some(endpoint) = &rewrite.endpoint {
        check_endpoint("rewrite.endpoint", endpoint, &expect)?;
    }
    if let Some(lm) = &rewrite.lm {
        expect(
            !lm.model.is_empty(),
            "rewrite.lm.model",
            "expected a folder, a `.gguf` file or `hf://OWNER/REPO@REVISION`",
        )?;
    }
    expect(
        (200..=10_000_000).contains(&rewrite.max_document_chars),
        "rewrite.max-document-chars",
        "expected a number from 200 to 10,000,000",
    )?;
    expect(
        (16..=131_072).contains(&rewrite.max_reply_tokens),
        "rewrite.max-reply-tokens",
        "expected a number from 16 to 131,072",
    )?;
    expect((0.0..=2.0).contains(&rewrite.temperature), "rewrite.temperature", "expected a number from 0 to 2")?;
    expect((1..=10).contains(&rewrite.attempts), "rewrite.attempts", "expected a number from 1 to 10")?;
    expect(
        (0.0..=1.0).contains(&rewrite.max_quarantined_share),
        "rewrite.max-quarantined-share",
        "expected a share from 0 to 1",
    )
}

fn check_thresholds(
    table: &str,
    thresholds: &Thresholds,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for (name, value) in [
        ("verification", thresholds.verification),
        ("backtracking", thresholds.backtracking),
        ("subgoal_setting", thresholds.subgoal_setting),
        ("backward_chaining", thresholds.backward_chaining),
    ] {
        let key = format!("{table}.thresholds.{name}");
        expect((0.0..=1.0).contains(&value), &key, "expected a probability from 0 to 1")?;
    }
    Ok(())
}

fn check_endpoint_judge(
    judge: &EndpointJudgeConfig,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    check_endpoint("classify.endpoint", &judge.connection(), &expect)?;
    if let Some((key, expectation)) = judge.fault() {
        expect(false, &format!("classify.endpoint.{key}"), expectation)?;
    }
    check_thresholds("classify.endpoint", &judge.thresholds, &expect)
}

/// Checks how a server is reached. No message repeats the address or the variable: people put secrets there by mistake.
fn check_endpoint(
    table: &str,
    endpoint: &EndpointConfig,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let key = |name: &str| format!("{table}.{name}");
    let url = check_url(&endpoint.url);
    expect(url.is_ok(), &key("url"), url.as_ref().err().map_or("", String::as_str))?;
    expect(
        endpoint.api_key_env.as_deref().is_none_or(is_variable),
        &key("api-key-env"),
        "expected the name of an environment variable in capitals, such as `OPENAI_API_KEY`, and not the key itself",
    )?;
    expect(endpoint.model.as_ref().is_none_or(|model| !model.is_empty()), &key("model"), "expected the model's id")?;
    expect((1..=4096).contains(&endpoint.concurrency), &key("concurrency"), "expected a number from 1 to 4,096")?;
    for (name, seconds) in
        [("deadline-seconds", endpoint.deadline_seconds), ("patience-seconds", endpoint.patience_seconds)]
    {
        expect((1..=86_400).contains(&seconds), &key(name), "expected seconds from 1 to 86,400")?;
    }
    Ok(())
}

fn check_prime(prime: &Prime, expect: impl Fn(bool, &str, &str) -> Result<(), Failure>) -> Result<(), Failure> {
    let distinct: BTreeSet<&Condition> = prime.conditions.iter().collect();
    expect(!distinct.is_empty(), "prime.conditions", "expected at least one condition")?;
    expect(distinct.len() == prime.conditions.len(), "prime.conditions", "expected each condition once")?;
    expect(
        prime.tokenizer.is_some() || !distinct.contains(&Condition::Dots),
        "prime.conditions",
        "`dots` matches lengths in tokens: expected the key `tokenizer` with the path of a `tokenizer.json`",
    )?;
    expect((0.0..=1.0).contains(&prime.wrong_share), "prime.wrong-share", "expected a share from 0 to 1")?;
    let strata = prime.strata;
    let weights = [strata.slip, strata.rule_break, strata.give_up];
    expect(
        weights.iter().all(|weight| (0.0..=1e6).contains(weight)) && weights.iter().sum::<f64>() > 0.0,
        "prime.strata",
        "expected weights from 0 to 1,000,000, at least one above 0",
    )?;
    expect((1..=1_000_000_000).contains(&prime.train), "prime.train", "expected a number from 1 to 1,000,000,000")?;
    expect((1..=10_000_000).contains(&prime.test), "prime.test", "expected a number from 1 to 10,000,000")?;
    if let Some(sizes) = &prime.sizes {
        expect(
            !sizes.is_empty() && sizes.len() <= 6 && sizes.iter().all(|size| (2..=6).contains(size)),
            "prime.sizes",
            "expected counts from 2 to 6, such as `[3, 4]`",
        )?;
    }
    for (key, range) in [("prime.numbers", prime.numbers), ("prime.targets", prime.targets)] {
        let expectation = "expected the lowest and the highest, from 1 to 1,000,000, such as `[1, 24]`";
        let is_range = |[low, high]: [u32; 2]| 1 <= low && low <= high && high <= 1_000_000;
        expect(range.is_none_or(is_range), key, expectation)?;
    }
    if let Some(rl) = &prime.rl {
        expect((1..=1_000_000_000).contains(&rl.train), "prime.rl.train", "expected a number from 1 to 1,000,000,000")?;
        expect((1..=10_000_000).contains(&rl.test), "prime.rl.test", "expected a number from 1 to 10,000,000")?;
    }
    expect(
        prime.operators.is_none() || prime.puzzles.is_empty(),
        "prime.operators",
        "puzzle files have their solutions with all operators: remove one of `operators` and `puzzles`",
    )?;
    check_habits(&prime.habits, &expect)?;
    prime.author.as_ref().map_or(Ok(()), |author| check_author(author, &distinct, expect))
}

fn check_arithmetic(
    arithmetic: &Arithmetic,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Arithmetic { train, test, sizes, numbers, highest, operators, lengths } = arithmetic;
    expect((1..=1_000_000_000).contains(train), "arithmetic.train", "expected a number from 1 to 1,000,000,000")?;
    expect((1..=10_000_000).contains(test), "arithmetic.test", "expected a number from 1 to 10,000,000")?;
    expect(
        !sizes.is_empty() && sizes.iter().all(|size| (2..=6).contains(size)),
        "arithmetic.sizes",
        "expected counts from 2 to 6, such as `[3]`",
    )?;
    let is_range = |[low, high]: [u32; 2], most: u32| 1 <= low && low <= high && high <= most;
    let expectation = "expected the smallest and the largest, from 1 to 10,000, such as `[1, 15]`";
    expect(is_range(*numbers, 10_000), "arithmetic.numbers", expectation)?;
    expect((1..=1_000_000).contains(highest), "arithmetic.highest", "expected a number from 1 to 1,000,000")?;
    expect(
        operators.as_ref().is_none_or(|operators| !operators.is_empty()),
        "arithmetic.operators",
        "expected at least one operator, such as `[\"add\"]`",
    )?;
    let expectation = "expected the shortest and the longest, from 1 to 100,000, such as `[30, 300]`";
    expect(is_range(*lengths, 100_000), "arithmetic.lengths", expectation)
}

fn check_habits(
    habits: &HabitsConfig,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let shares = [
        ("checks-misses", habits.checks_misses),
        ("checks-hits", habits.checks_hits),
        ("subgoals", habits.subgoals),
        ("back-steps", habits.back_steps),
        ("keeps-steps", habits.keeps_steps),
        ("abandons", habits.abandons),
    ];
    for (key, share) in shares {
        let holds = share.is_none_or(|share| (0.0..=1.0).contains(&share));
        expect(holds, &format!("prime.habits.{key}"), "expected a share from 0 to 1")?;
    }
    expect(habits.highest != Some(0), "prime.habits.highest", "expected at least 1")?;
    // A mean of tries that its bound allows, under every condition.
    let reachable = |condition: Condition| {
        let habits = habits.over(condition);
        (0.0..=f64::from(habits.max_failed_tries)).contains(&habits.failed_tries)
    };
    expect(
        Condition::ALL.into_iter().all(reachable),
        "prime.habits.failed-tries",
        "expected a mean from 0 to `max-failed-tries`, which is 10 if absent",
    )
}

fn check_author(
    author: &Author,
    conditions: &BTreeSet<&Condition>,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    expect(
        author.lm.is_some() != author.endpoint.is_some(),
        "prime.author",
        "expected one author: a table `[prime.author.lm]` or `[prime.author.endpoint]`",
    )?;
    if let Some(endpoint) = &author.endpoint {
        check_endpoint("prime.author.endpoint", endpoint, &expect)?;
    }
    if let Some(lm) = &author.lm {
        let expectation = "expected a folder, a `.gguf` file or `hf://OWNER/REPO@REVISION`";
        expect(!lm.model.is_empty(), "prime.author.lm.model", expectation)?;
    }
    let derived = [Condition::Scrambled, Condition::Empty, Condition::Dots];
    expect(
        conditions.contains(&Condition::AllStrategies) || derived.iter().all(|one| !conditions.contains(one)),
        "prime.conditions",
        "`scrambled`, `empty` and `dots` are made of a model's `all-strategies` traces: expected that condition too",
    )?;
    expect((1..=100).contains(&author.attempts), "prime.author.attempts", "expected a number from 1 to 100")?;
    expect(
        (1..=1000).contains(&author.puzzles_per_trace),
        "prime.author.puzzles-per-trace",
        "expected a number from 1 to 1000",
    )?;
    expect((0.0..=2.0).contains(&author.temperature), "prime.author.temperature", "expected a number from 0 to 2")?;
    expect(
        (16..=131_072).contains(&author.max_reply_tokens),
        "prime.author.max-reply-tokens",
        "expected a number from 16 to 131,072",
    )
}

fn check_curate(curate: &Curate, expect: impl Fn(bool, &str, &str) -> Result<(), Failure>) -> Result<(), Failure> {
    expect(!curate.corpus.is_empty(), "curate.corpus", "expected at least one table `[curate.corpus.NAME]`")?;
    expect((0.0..1.0).contains(&curate.test_share), "curate.test-share", "expected a share from 0 to less than 1")?;
    expect((1..=64).contains(&curate.deduplicate.bands), "curate.deduplicate.bands", "expected a number from 1 to 64")?;
    expect((1..=32).contains(&curate.deduplicate.rows), "curate.deduplicate.rows", "expected a number from 1 to 32")?;
    if let Some(decontaminate) = &curate.decontaminate {
        expect(!decontaminate.test_sets.is_empty(), "curate.decontaminate.test-sets", "expected at least one file")?;
        expect(!decontaminate.fields.is_empty(), "curate.decontaminate.fields", "expected at least one field name")?;
        expect(
            (2..=64).contains(&decontaminate.ngram),
            "curate.decontaminate.ngram",
            "expected a number from 2 to 64",
        )?;
        expect(decontaminate.min_shared >= 1, "curate.decontaminate.min-shared", "expected at least 1")?;
    }
    for (name, corpus) in &curate.corpus {
        let key = |key: &str| format!("curate.corpus.{name}{key}");
        expect(is_name(name), &key(""), NAME_RULE)?;
        expect(!corpus.condition.trim().is_empty(), &key(".where"), "expected an SQL condition")?;
        expect(corpus.tokens != Some(0), &key(".tokens"), "expected at least 1")?;
        if let Some(other) = &corpus.matched {
            let partner = curate.corpus.get(other);
            expect(
                partner.is_some() && other != name,
                &key(".match"),
                "expected the name of another corpus of this recipe",
            )?;
            expect(
                partner.is_some_and(|partner| partner.matched.is_none()),
                &key(".match"),
                "expected a corpus that is not matched itself",
            )?;
            expect(
                corpus.tokens.is_none(),
                &key(".tokens"),
                "a matched corpus takes its budget from the other; remove one of the two keys",
            )?;
        }
    }
    Ok(())
}

impl From<&Prime> for PuzzleSpec {
    fn from(prime: &Prime) -> Self {
        let paper = Self::paper();
        let range = |[low, high]: [u32; 2]| low..=high;
        Self {
            sizes: prime.sizes.as_ref().map_or(paper.sizes, |sizes| sizes.iter().map(|&size| (size, 1.0)).collect()),
            numbers: prime.numbers.map_or(paper.numbers, range),
            targets: prime.targets.map_or(paper.targets, range),
            operators: prime.operators.as_ref().map_or(paper.operators, |operators| Operators::new(operators)),
        }
    }
}
