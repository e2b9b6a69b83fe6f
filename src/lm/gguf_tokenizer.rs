//! The tokenizer inside a GGUF, rebuilt as the `tokenizers` library's byte-level BPE.
//!
//! A GGUF stores vocabulary, merges and the *name* of the pre-tokenizer, whose rules live in llama.cpp. The names and
//! what they stand for are facts of llama.cpp's `llama-vocab.cpp`. A wrong rule goes unnoticed for most words and
//! breaks numbers: SmolLM's splits every digit, GPT-2's none. So an unknown name is refused, not guessed at.

use super::gguf::{Metadata, integer};
use super::tokenizer::TextTokenizer;
use crate::error::{Exit, Failure};
use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{NormalizerWrapper, unicode::NFC};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The fallback that llama.cpp uses when a file names none.
const DEFAULT: [&str; 4] = [r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// How text is cut before merging, and whether it is normalised first.
struct Rules {
    splits: &'static [&'static str],
    nfc: bool,
    /// A piece that is a token as a whole is taken as it is, without replaying merges.
    ignore_merges: bool,
}

fn rules(pre: &str) -> anyhow::Result<Rules> {
    let plain = |splits| Rules { splits, nfc: false, ignore_merges: false };
    Ok(match pre {
        "default" => plain(&DEFAULT),
        "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" => plain(&[GPT2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => plain(&[r"\p{N}", GPT2]),
        "qwen2" | "deepseek-r1-qwen" => Rules { splits: &[QWEN2], nfc: true, ignore_merges: false },
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => {
            Rules { splits: &[LLAMA3], nfc: false, ignore_merges: true }
        }
        other => {
            return Err(Failure::new(Exit::Usage, format!("the GGUF's pre-tokenizer `{other}` is not known"))
                .hint("use the Hugging Face folder of the same model: its tokenizer.json holds the rules themselves")
                .into());
        }
    })
}

/// Token kinds in `tokenizer.ggml.token_type` that are no plain text: control (3) and user-defined (4).
const ADDED_KINDS: [i64; 2] = [3, 4];

pub(super) fn rebuild(metadata: &Metadata<'_>) -> anyhow::Result<TextTokenizer> {
    let kind = metadata.text("tokenizer.ggml.model")?;
    if kind != "gpt2" {
        return Err(Failure::new(
            Exit::Usage,
            format!("the GGUF's tokenizer is of the kind `{kind}`, only `gpt2` is known"),
        )
        .hint("use the Hugging Face folder of the same model: its tokenizer.json holds the rules themselves")
        .into());
    }
    let rules = rules(metadata.optional_text("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let string = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    let tokens = metadata.list("tokenizer.ggml.tokens", "strings", string)?;
    let merges = metadata.list("tokenizer.ggml.merges", "pairs", |value| {
        string(value)?.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()))
    })?;
    let vocab = tokens.iter().zip(0u32..).map(|(token, id)| (token.clone(), id)).collect::<Vec<_>>();
    let model = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(rules.ignore_merges)
        .build()
        .map_err(failed)?;

    let mut tokenizer = Tokenizer::new(model);
    if rules.nfc {
        tokenizer.with_normalizer(Some(NormalizerWrapper::from(NFC))).map_err(failed)?;
    }
    let mut steps = Vec::<PreTokenizerWrapper>::new();
    for pattern in rules.splits {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?.into());
    }
    steps.push(ByteLevel::new(false, true, false).into());
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::from(Sequence::new(steps))));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, false)));

    if metadata.get("tokenizer.ggml.token_type").is_some() {
        let kinds = metadata.list("tokenizer.ggml.token_type", "numbers", integer)?;
        let added = tokens.iter().zip(kinds).filter(|(_, kind)| ADDED_KINDS.contains(kind));
        tokenizer
            .add_special_tokens(added.map(|(token, _)| AddedToken::from(token.clone(), true)).collect::<Vec<_>>())
            .map_err(failed)?;
    }

    let special = |key: &str| -> anyhow::Result<Option<(String, u32)>> {
        let Some(id) = metadata.optional_size(key)? else { return Ok(None) };
        let token = tokens.get(id).ok_or_else(|| metadata.wrong(key, "a token of the vocabulary"))?;
        Ok(Some((token.clone(), u32::try_from(id)?)))
    };
    let bos = special("tokenizer.ggml.bos_token_id")?;
    if metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(false)
        && let Some((token, id)) = &bos
    {
        let template = TemplateProcessing::builder()
            .try_single(format!("{token}:0 $A:0"))
            .map_err(failed)?
            .special_tokens(vec![(token.clone(), *id)])
            .build()
            .map_err(failed)?;
        tokenizer.with_post_processor(Some(template));
    }

    let mut config = serde_json::Map::new();
    for (name, token) in [
        ("bos_token", bos),
        ("eos_token", special("tokenizer.ggml.eos_token_id")?),
        ("unk_token", special("tokenizer.ggml.unknown_token_id")?),
        ("pad_token", special("tokenizer.ggml.padding_token_id")?),
    ] {
        if let Some((token, _)) = token {
            config.insert(name.into(), token.into());
        }
    }
    if let Some(template) = metadata.optional_text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), template.into());
    }
    TextTokenizer::new(tokenizer, config.into())
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    Failure::new(Exit::Usage, format!("the GGUF's tokenizer cannot be rebuilt: {error}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn check(pre: &str, text: &str, expect: &[&str]) {
        let mut pieces = PreTokenizedString::from(text);
        for pattern in rules(pre).unwrap().splits {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
            split.pre_tokenize(&mut pieces).unwrap();
        }
        let pieces: Vec<String> = pieces
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(piece, _, _)| piece.to_owned())
            .collect();
        assert_eq!(pieces, expect, "{pre}");
    }

    #[test]
    fn digits_tell_the_rules_apart() {
        check("gpt-2", "in 12345\n\n x", &["in", " 12345", "\n\n", " x"]);
        check("smollm", "in 123\n\n x", &["in", " ", "1", "2", "3", "\n\n", " x"]);
        check("qwen2", "in 123!\n x'LL", &["in", " ", "1", "2", "3", "!\n", " x", "'LL"]);
        check("llama-bpe", "in 12345!\n x", &["in", " ", "123", "45", "!\n", " x"]);
        check("default", "a+b 12345", &["a", "+", "b", " ", "123", "45"]);
        assert!(rules("tekken").is_err());
    }
}
