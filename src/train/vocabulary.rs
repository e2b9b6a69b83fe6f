//! The tokens of a model to train: its checkpoint's own, a given `tokenizer.json`, or one made from the training data.
//!
//! A tokenizer is kept together with the files that a checkpoint carries, so that every checkpoint has the same bytes.

use super::documents::{Columns, Content, DataFile, each_batch};
use crate::error::{Exit, Failure};
use crate::lm::{Checkpoint, TextTokenizer};
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordlevel::{WordLevel, WordLevelTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// What ends every document of a tokenizer made here.
const END: &str = "<|endoftext|>";

/// What stands for a word that the vocabulary lacks.
const UNKNOWN: &str = "<|unknown|>";

/// Ends in tokenizers of others, in the order in which they are looked for when their configuration names none.
const KNOWN_ENDS: [&str; 6] = [END, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[EOS]"];

/// What BPE merges within: words with the blank before them, single digits, signs. These are Qwen2's rules, since transformers reads
/// every Qwen2 model with them, whatever its `tokenizer.json` says; they serve other families as well.
const PIECES: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tags, words, numbers and signs, each with the blank before it: the text is its tokens, written after each other.
const WORDS: &str = r" ?</?\p{L}+>| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]|\s";

/// The files that a checkpoint carries for its tokenizer, where a model folder has them.
const FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// How a tokenizer is made from data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// Byte-level BPE.
    Bpe,
    /// Whole tags, words, numbers and signs.
    Words,
}

/// A tokenizer, the tokens that training needs to know by name, and its files.
pub struct Vocabulary {
    tokenizer: TextTokenizer,
    end: u32,
    unknown: Option<u32>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Vocabulary {
    /// The tokenizer of a model. `path` is where the checkpoint lies.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] if it knows more tokens than the model has, or no token that ends a text.
    pub fn of_checkpoint(checkpoint: &Checkpoint, path: &Path) -> anyhow::Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let mut files = BTreeMap::new();
        for name in FILES {
            let file = path.join(name);
            if file.is_file() {
                files.insert(
                    name.to_owned(),
                    std::fs::read(&file).with_context(|| format!("cannot read `{}`", file.display()))?,
                );
            }
        }
        let ends = &checkpoint.config().end_tokens;
        if files.is_empty() {
            // A GGUF: its tokenizer was rebuilt, and is written as it was built.
            files.insert("tokenizer.json".to_owned(), tokenizer.to_json()?.into_bytes());
            let name = ends.first().map(|&end| tokenizer.token(end));
            files.insert(
                "tokenizer_config.json".to_owned(),
                configuration(name.flatten().as_deref(), None, tokenizer.chat_source())?,
            );
        }
        let name = path.display().to_string();
        let vocabulary = Self::of_files(tokenizer, files, ends.first().copied(), &name)?;
        vocabulary.check_fits(checkpoint.config().vocab_size, &name)?;
        Ok(vocabulary)
    }

    /// A `tokenizer.json` for a model from scratch. A `tokenizer_config.json` beside it is taken along.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| Failure::new(Exit::Usage, format!("cannot read `{}`: {error}", path.display())))
        };
        let mut files = BTreeMap::from([("tokenizer.json".to_owned(), read(path)?)]);
        for name in &FILES[1..] {
            let beside = path.with_file_name(name);
            if beside.is_file() {
                files.insert((*name).to_owned(), read(&beside)?);
            }
        }
        let (tokenizer, end) = parse(&files, path)?;
        let mut vocabulary = Self::of_files(tokenizer, files, end, &path.display().to_string())?;
        if !vocabulary.files.contains_key("tokenizer_config.json") {
            let end = vocabulary.tokenizer.token(vocabulary.end);
            let config = configuration(end.as_deref(), None, None)?;
            vocabulary.files.insert("tokenizer_config.json".to_owned(), config);
        }
        Ok(vocabulary)
    }

    /// The tokenizer of files that a checkpoint carried.
    pub fn of_bytes(files: BTreeMap<String, Vec<u8>>, folder: &Path) -> anyhow::Result<Self> {
        let (tokenizer, end) = parse(&files, &folder.join("tokenizer.json"))?;
        Self::of_files(tokenizer, files, end, &folder.display().to_string())
    }

    /// Makes a tokenizer from data: equal data give equal bytes, however many threads there are. `phrases` stand around every row, and
    /// `also` is a text that stands for what the data lack.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::BadData`] if the data hold no text.
    pub fn make(
        making: Making,
        size: usize,
        data: &[(Vec<DataFile>, Columns)],
        phrases: &[String],
        also: &str,
    ) -> anyhow::Result<Self> {
        let special = |content: &str| AddedToken::from(content, true);
        let (mut tokenizer, mut trainer) = match making {
            Making::Bpe => {
                let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(BPE::default()));
                let pieces =
                    Split::new(SplitPattern::Regex(PIECES.to_owned()), SplitDelimiterBehavior::Isolated, false);
                let pieces = PreTokenizerWrapper::Split(pieces.map_err(failed)?);
                let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false));
                tokenizer.with_normalizer(Some(NFC)).map_err(failed)?;
                tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![pieces, bytes])));
                tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
                let alphabet: HashSet<char, _> = ByteLevel::alphabet().into_iter().collect();
                let trainer = BpeTrainer::builder()
                    .vocab_size(size)
                    .min_frequency(2)
                    .show_progress(false)
                    .initial_alphabet(alphabet)
                    .special_tokens(vec![special(END)])
                    .build();
                (tokenizer, TrainerWrapper::BpeTrainer(trainer))
            }
            Making::Words => {
                let model = WordLevel::builder().unk_token(UNKNOWN.to_owned()).build().map_err(failed)?;
                let mut tokenizer = Tokenizer::new(ModelWrapper::WordLevel(model));
                let words = SplitPattern::Regex(WORDS.to_owned());
                let split = Split::new(words, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
                tokenizer.with_pre_tokenizer(Some(split));
                tokenizer.with_decoder(Some(DecoderWrapper::Fuse(Fuse::new())));
                let trainer = WordLevelTrainer::builder()
                    .vocab_size(size)
                    .show_progress(false)
                    .special_tokens(vec![special(END), special(UNKNOWN)])
                    .build()
                    .map_err(|error| failed(error.to_string().into()))?;
                (tokenizer, TrainerWrapper::WordLevelTrainer(trainer))
            }
        };
        feed(&mut tokenizer, &mut trainer, data, phrases, also)?;
        let json = tokenizer.to_string(true).map_err(failed)?;
        let unknown = (making == Making::Words).then_some(UNKNOWN);
        let files = BTreeMap::from([
            ("tokenizer.json".to_owned(), json.into_bytes()),
            ("tokenizer_config.json".to_owned(), configuration(Some(END), unknown, None)?),
        ]);
        Self::of_bytes(files, Path::new("the tokenizer made from the data"))
    }

    fn of_files(
        tokenizer: TextTokenizer,
        files: BTreeMap<String, Vec<u8>>,
        end: Option<u32>,
        name: &str,
    ) -> anyhow::Result<Self> {
        let config = parse_config(&files)?;
        let named = |key: &str| match config.get(key) {
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str).map(str::to_owned),
            token => token.and_then(Value::as_str).map(str::to_owned),
        };
        let configured = named("eos_token").and_then(|end| tokenizer.id(&end));
        let known = || KNOWN_ENDS.iter().find_map(|end| tokenizer.id(end));
        let end = configured.or(end).or_else(known).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("the tokenizer of `{name}` has no token that ends a text"))
                .hint("name it as `eos_token` in `tokenizer_config.json`")
        })?;
        let unknown = named("unk_token").and_then(|unknown| tokenizer.id(&unknown));
        Ok(Self { tokenizer, end, unknown, files })
    }

    /// # Errors
    /// A [`Failure`] if a token may have no row in the model's embedding.
    pub fn check_fits(&self, vocab_size: usize, name: &str) -> anyhow::Result<()> {
        let tokens = self.tokenizer.vocab_size();
        if tokens <= vocab_size && (self.end as usize) < vocab_size {
            return Ok(());
        }
        let message = format!("the tokenizer of `{name}` has {tokens} tokens, its model only {vocab_size}");
        Err(Failure::new(Exit::Usage, message).hint("the tokenizer belongs to another model").into())
    }

    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The token behind every document.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The token that stands for what the vocabulary lacks, if it has one.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The files that every checkpoint carries, by name.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// A hash of everything that decides on tokens.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in &self.files {
            hasher.update(name.as_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
        hasher.update(&self.end.to_le_bytes());
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// The tokenizer of some files, and no opinion on its end.
fn parse(files: &BTreeMap<String, Vec<u8>>, path: &Path) -> anyhow::Result<(TextTokenizer, Option<u32>)> {
    let refuse = |why: String| Failure::new(Exit::Usage, format!("`{}` is no tokenizer: {why}", path.display()));
    let bytes = files.get("tokenizer.json").ok_or_else(|| refuse("`tokenizer.json` is missing".into()))?;
    let inner = Tokenizer::from_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
    let mut config = parse_config(files)?;
    if let (Some(template), Value::Object(map)) = (files.get("chat_template.jinja"), &mut config) {
        map.insert("chat_template".into(), String::from_utf8_lossy(template).into());
    }
    Ok((TextTokenizer::new(inner, config)?, None))
}

fn parse_config(files: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<Value> {
    let Some(bytes) = files.get("tokenizer_config.json") else { return Ok(json!({})) };
    let wrong = |error| Failure::new(Exit::Usage, format!("`tokenizer_config.json` is not JSON: {error}"));
    Ok(serde_json::from_slice(bytes).map_err(wrong)?)
}

/// A `tokenizer_config.json` with which transformers reads `tokenizer.json` as it is.
fn configuration(end: Option<&str>, unknown: Option<&str>, chat: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
    for (key, value) in [("eos_token", end), ("unk_token", unknown), ("chat_template", chat)] {
        if let Some(value) = value {
            config[key] = value.into();
        }
    }
    Ok((serde_json::to_string_pretty(&config)? + "\n").into_bytes())
}

/// Lets a trainer read all texts, as they stream from their files.
fn feed(
    tokenizer: &mut Tokenizer,
    trainer: &mut TrainerWrapper,
    data: &[(Vec<DataFile>, Columns)],
    phrases: &[String],
    also: &str,
) -> anyhow::Result<()> {
    let (send, texts) = sync_channel::<String>(256);
    let read = move || -> anyhow::Result<u64> {
        let mut rows_used = 0;
        for (files, columns) in data {
            each_batch(files, columns, |rows| {
                for row in rows {
                    let texts = match row.content {
                        Content::Text(text) => vec![text],
                        Content::Completion { query, completion } => vec![query, completion],
                        Content::Unusable(_) => continue,
                    };
                    rows_used += 1;
                    for text in texts.into_iter().chain(phrases.iter().map(String::as_str)) {
                        // The trainer went away only if it failed, and then says so itself.
                        if send.send(text.to_owned()).is_err() {
                            return Ok(false);
                        }
                    }
                }
                Ok(true)
            })?;
        }
        Ok(rows_used)
    };
    let (read, trained) = std::thread::scope(|scope| {
        let reading = scope.spawn(read);
        let texts = texts.into_iter().chain(std::iter::once(also.to_owned()));
        let trained = tokenizer.train(trainer, texts).map(|_| ());
        (reading.join(), trained)
    });
    let rows = read.map_err(|_| anyhow::anyhow!("reading the training data panicked"))??;
    trained.map_err(failed)?;
    if rows == 0 {
        return Err(Failure::new(Exit::BadData, "there is no text to make a tokenizer from in `pretrain.data`").into());
    }
    Ok(())
}

fn failed(error: tokenizers::Error) -> anyhow::Error {
    Failure::new(Exit::Failed, format!("cannot make a tokenizer: {error}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::documents::tokenise;
    use crate::train::token_file::TokenFile;

    /// A file of texts in a folder.
    fn texts(folder: &Path, lines: &[&str]) -> Vec<(Vec<DataFile>, Columns)> {
        let path = folder.join("a.jsonl");
        let lines: Vec<String> = lines.iter().map(|text| json!({ "text": text }).to_string()).collect();
        crate::run::commit::write_atomic(&path, lines.join("\n").as_bytes()).unwrap();
        vec![(vec![DataFile { name: "a.jsonl".into(), path }], Columns::Text("text".into()))]
    }

    fn prose() -> Vec<String> {
        let words = ["first", "set", "x", "= 2", "then", "12 * 2", "is 24", "no", "wait,", "check é 你", "done.\n"];
        (0..400usize)
            .map(|i| (0..12).map(|j| words[(i * 7 + j * j * (i % 5 + 1)) % words.len()]).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn equal_data_make_equal_tokenizers_that_spell_what_they_read() {
        let folder = tempfile::tempdir().unwrap();
        let lines = prose();
        let data = texts(folder.path(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
        for (making, size) in [(Making::Bpe, 400), (Making::Words, 300)] {
            let first = Vocabulary::make(making, size, &data, &[], "").unwrap();
            for _ in 0..3 {
                assert_eq!(
                    Vocabulary::make(making, size, &data, &[], "").unwrap().files(),
                    first.files(),
                    "{making:?}"
                );
            }
            assert!(first.tokenizer().vocab_size() <= size);
            for text in &lines[..20] {
                let tokens = first.tokenizer().encode(text).unwrap();
                assert_eq!(&first.tokenizer().decode(&tokens).unwrap(), text, "{making:?}");
            }
            assert_eq!(first.tokenizer().token(first.end()).as_deref(), Some(END));
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let data = texts(folder.path(), &["a b c", "a b"]);
        let vocabulary = Vocabulary::make(Making::Words, 300, &data, &[], "").unwrap();
        let unseen = texts(folder.path(), &["a b zebra", ""]);
        let path = folder.path().join("a.tokens");
        assert!(tokenise(&unseen[0].0, &unseen[0].1, &vocabulary, &path, &|_| true).unwrap());
        let file = TokenFile::open(&path).unwrap();
        let facts = file.facts();
        assert_eq!((facts.rows, facts.unknown_tokens, facts.unusable["empty"], file.len()), (2, 1, 1, 1));
        assert_eq!(file.slice(0, 3..4).next(), Some(vocabulary.end()));
    }

    #[test]
    fn no_text_makes_no_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let error = Vocabulary::make(Making::Bpe, 300, &texts(folder.path(), &["", " "]), &[], "").err().unwrap();
        assert!(error.to_string().contains("no text"), "{error:#}");
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = Vocabulary::make(Making::Words, 300, &texts(folder.path(), &["a b c d"]), &[], "").unwrap();
        vocabulary.check_fits(vocabulary.tokenizer().vocab_size(), "m").unwrap();
        let error = vocabulary.check_fits(3, "m").unwrap_err();
        assert!(error.to_string().contains("the tokenizer of `m` has"), "{error:#}");
    }
}
