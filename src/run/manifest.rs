//! The record of one finished unit: created once, after its outputs are in place. Readers trust manifests only.

use crate::behavior::Behavior;
use crate::behavior::judge::{JudgeIdentity, Labels};
use crate::error::{Exit, Failure};
use crate::run::commit;
use crate::run::commit::Created;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Where every row of a unit went. The invariant `rows_in = kept + Σ dropped + quarantined` is what `pipeline verify` proves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Counts {
    pub rows_in: u64,
    pub kept: u64,
    /// Rows left out on purpose, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
    /// Rows that could not be used; each stands in a quarantine file with its reason.
    pub quarantined: u64,
}

impl Counts {
    /// Whether every row is accounted for.
    pub fn conserve(&self) -> bool {
        self.rows_in == self.kept + self.dropped.values().sum::<u64>() + self.quarantined
    }

    pub fn add(&mut self, other: &Counts) {
        self.rows_in += other.rows_in;
        self.kept += other.kept;
        self.quarantined += other.quarantined;
        for (reason, rows) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += rows;
        }
    }

    /// Counts `rows` more as dropped for `reason`.
    pub fn drop_rows(&mut self, reason: &str, rows: u64) {
        if rows > 0 {
            *self.dropped.entry(reason.to_owned()).or_default() += rows;
        }
    }
}

/// A file that a unit committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Output {
    /// Relative to the run folder.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
    pub rows: u64,
}

/// What was found in a unit's documents. Sums over units give the run's statistics, whatever the order or number of attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LabelStatistics {
    pub documents: u64,
    pub tokens_read: u64,
    pub chars_read: u64,
    /// Documents of which a part was not read, because the recipe caps the windows.
    pub partly_read: u64,
    /// Instances of each behavior, in the order of [`Behavior::ALL`].
    pub instances: [u64; 4],
    /// Documents by the set of behaviors they show: index = Σ 1 << behavior.
    pub combinations: [u64; 16],
}

impl LabelStatistics {
    pub fn count(&mut self, labels: &Labels, chars: u64) {
        self.documents += 1;
        self.tokens_read += labels.tokens_read;
        self.chars_read += labels.chars_read;
        self.partly_read += u64::from(labels.chars_read < chars);
        self.add_counts(labels.marks.map(|mark| mark.count));
    }

    fn add_counts(&mut self, counts: [u32; 4]) {
        let mut combination = 0;
        for (behavior, count) in counts.into_iter().enumerate() {
            self.instances[behavior] += u64::from(count);
            combination |= usize::from(count > 0) << behavior;
        }
        self.combinations[combination] += 1;
    }

    pub fn add(&mut self, other: &LabelStatistics) {
        self.documents += other.documents;
        self.tokens_read += other.tokens_read;
        self.chars_read += other.chars_read;
        self.partly_read += other.partly_read;
        for (sum, part) in self.instances.iter_mut().zip(other.instances) {
            *sum += part;
        }
        for (sum, part) in self.combinations.iter_mut().zip(other.combinations) {
            *sum += part;
        }
    }

    /// Documents that show a behavior at least once.
    pub fn shown(&self, behavior: Behavior) -> u64 {
        self.both(behavior, behavior)
    }

    /// Documents that show both behaviors.
    pub fn both(&self, a: Behavior, b: Behavior) -> u64 {
        let mask = 1 << a.index() | 1 << b.index();
        (0..16).filter(|combination| combination & mask == mask).map(|combination| self.combinations[combination]).sum()
    }

    /// Documents that show none of the four.
    pub fn none(&self) -> u64 {
        self.combinations[0]
    }
}

/// How well a matched corpus fits its partner.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Fit {
    /// Documents of the partner, and how many of them found a match.
    pub wanted: u64,
    pub matched: u64,
    /// Tokens of the partner and of the match.
    pub tokens_wanted: u64,
    pub tokens_matched: u64,
    /// Mean absolute difference in tokens between a document and its match.
    pub mean_difference: f64,
    /// The Kolmogorov–Smirnov distance between the two length distributions: 0 equal, 1 disjoint.
    pub length_distance: f64,
}

/// The record of one finished unit of one stage. It holds no clock reading: equal inputs give byte-equal manifests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Manifest {
    pub plan_id: String,
    pub stage: String,
    /// A hash of everything that shapes this stage's bytes; a manifest with another key is stale.
    pub stage_key: String,
    pub unit: String,
    /// The input's name and content hash.
    pub input: String,
    pub input_sha256: String,
    pub outputs: Vec<Output>,
    pub counts: Counts,
    /// Labels found, for the stage that judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelStatistics>,
    /// Who judged, for the stage that judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeIdentity>,
    /// What each corpus holds, for the stage that writes corpora.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corpora: BTreeMap<String, CorpusRecord>,
    /// The program's version.
    pub version: String,
}

/// What one corpus holds. Its counts, too, account for every row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CorpusRecord {
    pub counts: Counts,
    pub train_documents: u64,
    pub train_tokens: u64,
    pub test_documents: u64,
    pub test_tokens: u64,
    /// Tokens per document: the 10 %, 50 % and 90 % quantiles.
    pub token_quantiles: [u32; 3],
    /// Documents that show each behavior, in the order of [`Behavior::ALL`].
    pub shown: [u64; 4],
    /// How well it fits the corpus that it is matched to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
}

impl Manifest {
    /// Reads a manifest; none if there is none yet.
    pub fn read(path: &Path) -> anyhow::Result<Option<Manifest>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read manifest `{}`", path.display())),
        };
        let manifest = serde_json::from_slice(&text).map_err(|error| {
            Failure::new(Exit::BadData, format!("manifest `{}` is damaged: {error}", path.display()))
                .hint("remove it and run again: its unit is then done again")
        })?;
        Ok(Some(manifest))
    }

    /// Creates the manifest. Whoever loses a race against an equal task finds equal bytes and is content.
    pub fn create(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        match commit::create_exclusive(path, &text)? {
            Created::Won => Ok(()),
            Created::AlreadyThere => match Manifest::read(path)? {
                Some(present) if present.stage_key == self.stage_key && present.outputs == self.outputs => Ok(()),
                // A stale manifest of an earlier recipe gives way.
                Some(present) if present.stage_key != self.stage_key => commit::write_atomic(path, &text),
                _ => anyhow::bail!(
                    "unit `{}` was finished by another task with other bytes than here: `{}`",
                    self.unit,
                    path.display()
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_count_combinations() {
        let mut statistics = LabelStatistics::default();
        for counts in [[0, 0, 0, 0], [1, 2, 0, 0], [3, 0, 0, 1], [0, 1, 0, 0]] {
            statistics.add_counts(counts);
        }
        use Behavior::*;
        assert_eq!(Behavior::ALL.map(|behavior| statistics.shown(behavior)), [2, 2, 0, 1]);
        assert_eq!((statistics.both(Verification, Backtracking), statistics.none()), (1, 1));
        assert_eq!(statistics.instances, [4, 3, 0, 1]);
    }

    #[test]
    fn rows_are_conserved() {
        let mut counts = Counts { rows_in: 10, kept: 6, quarantined: 1, ..Counts::default() };
        assert!(!counts.conserve());
        counts.drop_rows("duplicate", 2);
        counts.drop_rows("contaminated", 1);
        assert!(counts.conserve());
    }
}
