//! Values that types cannot rule out: ranges, and keys that must or must not stand together.

use super::load::{NAME_RULE, is_name};
use super::{Classify, Config, Curate, Fetch};
use crate::error::Failure;

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
    if let Some(Classify { cue, lm, max_quarantined_share }) = &config.classify {
        expect(config.fetch.is_some(), "classify", "judging needs documents: expected a table `[fetch]`")?;
        expect(
            cue.is_some() != lm.is_some(),
            "classify",
            "expected one judge: a table `[classify.cue]` or `[classify.lm]`",
        )?;
        expect(
            (0.0..=1.0).contains(max_quarantined_share),
            "classify.max-quarantined-share",
            "expected a share from 0 to 1",
        )?;
        if let Some(lm) = lm {
            expect(
                !lm.model.is_empty(),
                "classify.lm.model",
                "expected a folder, a `.gguf` file or `hf://OWNER/REPO@REVISION`",
            )?;
            expect(
                (16..=131_072).contains(&lm.window_tokens),
                "classify.lm.window-tokens",
                "expected a number from 16 to 131,072",
            )?;
            expect(
                lm.batch_tokens >= lm.window_tokens,
                "classify.lm.batch-tokens",
                "expected at least `window-tokens`",
            )?;
            let thresholds = &lm.thresholds;
            for (name, value) in [
                ("verification", thresholds.verification),
                ("backtracking", thresholds.backtracking),
                ("subgoal_setting", thresholds.subgoal_setting),
                ("backward_chaining", thresholds.backward_chaining),
            ] {
                expect(
                    (0.0..=1.0).contains(&value),
                    &format!("classify.lm.thresholds.{name}"),
                    "expected a probability from 0 to 1",
                )?;
            }
        }
    }
    if let Some(curate) = &config.curate {
        expect(config.classify.is_some(), "curate", "curating needs labels: expected a table `[classify]`")?;
        check_curate(curate, expect)?;
    }
    Ok(())
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
