//! Reading a recipe, with arms merged over the base, and errors that name file, line, key, expectation and nearest key.

use super::{Config, check};
use crate::error::{Exit, Failure};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// A recipe as read: the base configuration, one per arm, and the text that errors point into.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub path: PathBuf,
    /// The tables outside `[arm]`. Without arms it is what runs; with arms it is what they share.
    pub base: Config,
    /// Each `[arm.NAME]` merged over the base, by name.
    pub arms: Vec<(String, Config)>,
    text: String,
}

/// Reads and checks a recipe.
///
/// # Errors
/// A [`Failure`] with [`Exit::Usage`] for a missing file, TOML syntax, an unknown key, a wrong type or a value out of range.
pub fn load(path: &Path) -> anyhow::Result<Recipe> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let failure = Failure::new(Exit::Usage, format!("cannot read recipe `{}`: {error}", path.display()));
        if error.kind() == std::io::ErrorKind::NotFound {
            failure.hint("`pipelines/` has recipes to start from")
        } else {
            failure
        }
    })?;
    parse(path, text)
}

fn parse(path: &Path, text: String) -> anyhow::Result<Recipe> {
    let mut table: Table = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        Failure::new(Exit::Usage, format!("`{}` line {line} is not TOML: {}", path.display(), error.message().trim()))
    })?;
    let overrides = table.remove("arm");
    let source = Source { path, text: &text };
    let base = source.read("", &table)?;

    let mut arms = Vec::new();
    match overrides {
        None => {}
        Some(Value::Table(overrides)) => {
            for (name, value) in overrides {
                let Value::Table(changes) = value else {
                    return Err(source.error(&format!("arm.{name}"), "expected a table of overrides").into());
                };
                if !is_name(&name) {
                    return Err(source.error(&format!("arm.{name}"), NAME_RULE).into());
                }
                let mut merged = table.clone();
                merge(&mut merged, changes);
                let config = source.read(&format!("arm.{name}."), &merged)?;
                arms.push((name, config));
            }
        }
        Some(_) => return Err(source.error("arm", "expected tables `[arm.NAME]`").into()),
    }
    Ok(Recipe { path: path.to_owned(), base, arms, text })
}

pub(super) const NAME_RULE: &str = "a name is made of letters, digits, `-` and `_`, and becomes a folder";

/// Whether a corpus or arm may be called so: it becomes a folder and part of a file's name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

impl Recipe {
    /// The recipe's name: its file's, without the extension. Run folders are called after it.
    pub fn name(&self) -> String {
        self.path.file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned())
    }

    /// An error at a key, for what can be found wrong only later, such as a path without files.
    pub fn error(&self, key: &str, message: &str) -> Failure {
        self.error_in_arm("", key, message)
    }

    /// An error at a key of an arm: where the arm sets it, else where the base does.
    pub fn error_in_arm(&self, arm: &str, key: &str, message: &str) -> Failure {
        let source = Source { path: &self.path, text: &self.text };
        let prefix = if arm.is_empty() { String::new() } else { format!("arm.{arm}.") };
        source.error(&source.existing(&prefix, key), message)
    }
}

/// The text being read; what errors are located in.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// A typed configuration from a table. `prefix` is where keys are looked for first: `arm.NAME.` or nothing.
    fn read(&self, prefix: &str, table: &Table) -> anyhow::Result<Config> {
        let config: Config = serde_path_to_error::deserialize(Value::Table(table.clone())).map_err(|error| {
            let mut key = error.path().to_string();
            let message = error.inner().message().trim().to_owned();
            let unknown = between_backticks(&message).filter(|_| message.starts_with("unknown field"));
            if let Some(name) = unknown {
                if key == "." {
                    key.clear();
                }
                if key.rsplit('.').next() != Some(name) {
                    key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
                }
            }
            let failure = self.error(&self.existing(prefix, &key), &message);
            let misspelt = between_backticks(&message).filter(|_| message.starts_with("unknown "));
            match misspelt.and_then(|name| nearest(name, &message)) {
                Some(known) => failure.hint(format!("did you mean `{known}`?")),
                None => failure,
            }
        })?;
        check::check(&config, |key, message| self.error(&self.existing(prefix, key), message))?;
        Ok(config)
    }

    /// The key with its arm's prefix if that arm sets it, else the base's.
    fn existing(&self, prefix: &str, key: &str) -> String {
        let prefixed = format!("{prefix}{key}");
        if self.line(&prefixed).is_some() { prefixed } else { key.to_owned() }
    }

    pub(super) fn error(&self, key: &str, message: &str) -> Failure {
        let at = match self.line(key) {
            Some(line) => format!("`{}` line {line}", self.path.display()),
            None => format!("`{}`", self.path.display()),
        };
        Failure::new(
            Exit::Usage,
            if key.is_empty() || key == "." {
                format!("{at}: {message}")
            } else {
                format!("{at}, key `{key}`: {message}")
            },
        )
    }

    /// The line on which a dotted key stands.
    fn line(&self, key: &str) -> Option<usize> {
        let document = toml_edit::Document::parse(self.text).ok()?;
        let mut item = document.as_item();
        let mut span = None;
        for part in key.split('.') {
            if let Some((name, index)) = part.strip_suffix(']').and_then(|part| part.split_once('[')) {
                item = item.get(name)?;
                item = item.get(index.parse::<usize>().ok()?)?;
                span = item.span().or(span);
                continue;
            }
            let (name, next) = item.as_table_like()?.get_key_value(part)?;
            span = name.span().or_else(|| next.span()).or(span);
            item = next;
        }
        span.map(|span| line_of(self.text, span.start))
    }
}

/// Lays `changes` over `base`, table by table; any other value replaces.
fn merge(base: &mut Table, changes: Table) {
    for (key, change) in changes {
        match (base.get_mut(&key), change) {
            (Some(Value::Table(inner)), Value::Table(change)) => merge(inner, change),
            (_, change) => {
                base.insert(key, change);
            }
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

fn between_backticks(message: &str) -> Option<&str> {
    message.split('`').nth(1)
}

/// The known key nearest to a misspelt one, out of serde's list "expected one of `a`, `b`".
fn nearest<'m>(name: &str, message: &'m str) -> Option<&'m str> {
    let known = message.split('`').skip(3).step_by(2);
    known
        .map(|key| (strsim::damerau_levenshtein(name, key), key))
        .min()
        .filter(|(distance, key)| *distance <= key.len().max(3) / 2)
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::hint_of;

    const GOOD: &str = r#"
seed = 3

[fetch]
sources = ["a.parquet"]

[classify.cue]

[curate.corpus.rich]
where = "backtracking_count >= 1"

[arm.short.curate.corpus.rich]
tokens = 10
"#;

    fn read(text: &str) -> anyhow::Result<Recipe> {
        parse(Path::new("r.toml"), text.to_owned())
    }

    #[test]
    fn arms_override_the_base() {
        let recipe = read(GOOD).unwrap();
        assert_eq!(recipe.base.curate.as_ref().unwrap().corpus["rich"].tokens, None);
        let (name, arm) = &recipe.arms[0];
        let corpus = &arm.curate.as_ref().unwrap().corpus["rich"];
        assert_eq!(
            (name.as_str(), corpus.tokens, corpus.condition.as_str()),
            ("short", Some(10), "backtracking_count >= 1")
        );
    }

    #[test]
    fn errors_name_line_key_expectation_and_nearest() {
        #[track_caller]
        fn check(from: &str, to: &str, message: &str, hint: Option<&str>) {
            assert!(GOOD.contains(from));
            let error = read(&GOOD.replace(from, to)).unwrap_err();
            assert_eq!((format!("{error:#}").as_str(), hint_of(&error)), (message, hint));
        }
        check(
            "[fetch]\nsources",
            "[fetch]\nsoruces",
            "`r.toml` line 5, key `fetch.soruces`: unknown field `soruces`, expected one of `sources`, `columns`, `rows-per-unit`, `prefetch-shards`, `prefetch-bytes`, `keep-shards`",
            Some("did you mean `sources`?"),
        );
        check("seed = 3", "seed = -3", "`r.toml` line 2, key `seed`: invalid value: integer `-3`, expected u64", None);
        check(
            "tokens = 10",
            "tokens = \"ten\"",
            "`r.toml` line 13, key `arm.short.curate.corpus.rich.tokens`: invalid type: string \"ten\", expected u64",
            None,
        );
        check(
            "[classify.cue]",
            "[clasify.cue]",
            "`r.toml` line 7, key `clasify`: unknown field `clasify`, expected one of `seed`, `fetch`, `classify`, `curate`, `rewrite`, `arithmetic`, `prime`, `base`, `pretrain`, `ppo`, `report`",
            Some("did you mean `classify`?"),
        );
        check(
            "[classify.cue]",
            "[classify]",
            "`r.toml` line 7, key `classify`: expected one judge: a table `[classify.cue]`, `[classify.lm]` or `[classify.endpoint]`",
            None,
        );
        check(
            "where = \"backtracking_count >= 1\"",
            "where = \"\"",
            "`r.toml` line 10, key `curate.corpus.rich.where`: expected an SQL condition",
            None,
        );
        check("seed = 3", "seed = = 3", "`r.toml` line 2 is not TOML: extra `=`, expected nothing", None);
    }
}
