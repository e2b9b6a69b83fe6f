//! A card, `README.md`: YAML between two lines of `---`, then Markdown. Top-level keys are read and replaced; what is
//! inside of them is kept as it stands, so that no card loses what this program does not know.

use std::fmt::Write;

/// A card in its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// Top-level keys in their order, each with its lines.
    head: Vec<(String, Vec<String>)>,
    pub body: String,
}

impl Card {
    /// Reads a card; one without a head is all body.
    pub fn parse(text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
        let Some((head, body)) = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")) else {
            return Self { head: Vec::new(), body: text };
        };
        let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
        for line in head.lines() {
            let key = line.split_once(':').map(|(key, _)| key).filter(|_| !line.starts_with([' ', '-', '#', '\t']));
            match (key, blocks.last_mut()) {
                (Some(key), _) => blocks.push((key.trim().to_owned(), vec![line.to_owned()])),
                (None, Some((_, lines))) => lines.push(line.to_owned()),
                (None, None) => blocks.push((String::new(), vec![line.to_owned()])),
            }
        }
        Self { head: blocks, body: body.to_owned() }
    }

    pub fn has(&self, key: &str) -> bool {
        self.head.iter().any(|(found, _)| found == key)
    }

    /// Puts lines in the place of a key's, or behind all others.
    pub fn set(&mut self, key: &str, lines: Vec<String>) {
        match self.head.iter_mut().find(|(found, _)| found == key) {
            Some((_, old)) => *old = lines,
            None => self.head.push((key.to_owned(), lines)),
        }
    }

    /// The whole card.
    pub fn text(&self) -> String {
        if self.head.is_empty() {
            return self.body.clone();
        }
        let lines = self.head.iter().flat_map(|(_, lines)| lines);
        let mut text = "---\n".to_owned();
        for line in lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text + "---\n" + &self.body
    }
}

/// Files that are loaded together, by split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub name: String,
    /// The split's name and its files, a path or a pattern.
    pub splits: Vec<(String, String)>,
}

/// The key `configs`, as the Hub and `datasets.load_dataset` read it.
pub fn configs(configurations: &[Configuration]) -> Vec<String> {
    let mut lines = vec!["configs:".to_owned()];
    for (index, configuration) in configurations.iter().enumerate() {
        lines.push(format!("- config_name: {}", quoted(&configuration.name)));
        lines.push("  data_files:".to_owned());
        for (split, path) in &configuration.splits {
            lines.push(format!("  - split: {split}"));
            lines.push(format!("    path: {}", quoted(path)));
        }
        if index == 0 {
            lines.push("  default: true".to_owned());
        }
    }
    lines
}

/// The configurations of Parquet files, by their folders and names: `FOLDER/train-00000-of-00002.parquet` and
/// `FOLDER/train.parquet` are of the split `train`; other names are taken for training data.
pub fn configurations<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Configuration> {
    let mut found: Vec<Configuration> = Vec::new();
    for path in paths.filter(|path| path.ends_with(".parquet")) {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let stem = file.trim_end_matches(".parquet");
        let word = stem.split(['-', '_', '.']).next().unwrap_or_default();
        let split = if matches!(word, "test" | "validation") { word } else { "train" };
        let pattern = match (word == split, stem == word) {
            (true, true) => file.to_owned(),
            (true, false) => format!("{split}-*.parquet"),
            (false, _) => file.to_owned(),
        };
        let join = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let name = if folder.is_empty() { "default" } else { folder };
        let name = name.replace('/', "-");
        let place = match found.iter().position(|one| one.name == name) {
            Some(place) => place,
            None => {
                found.push(Configuration { name, splits: Vec::new() });
                found.len() - 1
            }
        };
        let (split, path) = (split.to_owned(), join(&pattern));
        if let Some(one) = found.get_mut(place).filter(|one| !one.splits.contains(&(split.clone(), path.clone()))) {
            one.splits.push((split, path));
        }
    }
    for one in &mut found {
        one.splits.sort_by_key(|(split, path)| (split != "train", split.clone(), path.clone()));
        // One entry per split: several files of other names are listed together.
        let mut merged: Vec<(String, String)> = Vec::new();
        for (split, path) in one.splits.drain(..) {
            match merged.last_mut().filter(|(last, _)| *last == split) {
                Some((_, paths)) => *paths = format!("{paths}\n{path}"),
                None => merged.push((split, path)),
            }
        }
        one.splits = merged;
    }
    found
}

/// A YAML scalar, in quotes where it needs them; several lines become a list.
fn quoted(text: &str) -> String {
    if text.contains('\n') {
        return format!(
            "[{}]",
            text.lines().map(|line| serde_json::Value::from(line).to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_word =
        matches!(text.to_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if starts_well && !is_word && text.replace("-*", "").chars().all(plain) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_keeps_what_it_is_not_asked_to_change() {
        let text = "---\nlanguage:\n- en\n# why\nlicense: mit\nnested:\n  a: 1\n\n  b: 2\n---\n\n# Title\n---\nmore\n";
        let mut card = Card::parse(text);
        assert_eq!(card.text(), text);
        card.set("license", vec!["license: odc-by".into()]);
        card.set("new", vec!["new: 1".into()]);
        assert_eq!(card.text(), text.replace("mit", "odc-by").replace("b: 2\n---", "b: 2\nnew: 1\n---"));
        assert!(card.has("nested") && !card.has("a"));

        let bare = Card::parse("# Title\n");
        assert_eq!((bare.text().as_str(), bare.has("license")), ("# Title\n", false));
    }

    #[test]
    fn files_say_which_splits_there_are() {
        let check = |paths: &[&str], expect: &str| {
            assert_eq!(configs(&configurations(paths.iter().copied())).join("\n"), expect, "{paths:?}");
        };
        check(
            &[
                "rich/test-00000-of-00001.parquet",
                "rich/train-00000-of-00002.parquet",
                "rich/train-00001-of-00002.parquet",
            ],
            "configs:\n- config_name: rich\n  data_files:\n  - split: train\n    path: rich/train-*.parquet\n  \
             - split: test\n    path: rich/test-*.parquet\n  default: true",
        );
        check(
            &["on/train.parquet", "x.parquet", "y.parquet", "notes.md"],
            "configs:\n- config_name: \"on\"\n  data_files:\n  - split: train\n    path: on/train.parquet\n  default: true\n\
             - config_name: default\n  data_files:\n  - split: train\n    path: [\"x.parquet\", \"y.parquet\"]",
        );
        check(&[], "configs:");
    }
}
