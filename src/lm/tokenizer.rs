//! Text to tokens, with one distinction that matters for judging: the text of a document is never markup.
//!
//! A web page may contain `<|im_end|>`. Encoded as [`TextTokenizer::encode`] does, it stays nine harmless pieces of text; only
//! [`TextTokenizer::encode_markup`], for templates that we wrote, turns it into the control token.

use super::chat::ChatTemplate;
use crate::error::{Exit, Failure};
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

/// A model's tokenizer and chat template.
pub struct TextTokenizer {
    /// Reads added tokens (control tokens, tool tags) as plain text.
    text: Tokenizer,
    /// Reads added tokens as what they are.
    markup: Tokenizer,
    /// What the tokenizer puts before a plain prompt: the beginning-of-sequence token, or nothing.
    start: Vec<u32>,
    chat: Option<ChatTemplate>,
}

impl TextTokenizer {
    /// `config` is `tokenizer_config.json`: chat template and the names of special tokens.
    pub fn new(mut markup: Tokenizer, config: Value) -> anyhow::Result<Self> {
        // tokenizer.json may carry the training run's truncation and padding; neither has a place here.
        markup.with_padding(None);
        markup.with_truncation(None).map_err(tokenizer_error)?;

        let mut text = markup.clone();
        // `set_encode_special_tokens` spares only tokens flagged special, and Qwen's tool tags are not. Runs of blanks
        // are added tokens in some vocabularies; those are text and stay.
        let mut added: Vec<(u32, AddedToken)> = text.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let plain = added.into_iter().map(|(_, token)| token).filter(|token| !token.content.trim().is_empty());
        text.add_special_tokens(plain.map(|token| AddedToken { special: true, ..token }).collect::<Vec<_>>())
            .map_err(tokenizer_error)?;
        text.set_encode_special_tokens(true);

        let with = markup.encode("a", true).map_err(tokenizer_error)?;
        let without = markup.encode("a", false).map_err(tokenizer_error)?;
        let start = match with.get_ids().windows(without.len().max(1)).position(|ids| ids == without.get_ids()) {
            Some(position) => with.get_ids()[..position].to_vec(),
            None => Vec::new(),
        };
        Ok(Self { text, markup, start, chat: ChatTemplate::from_config(&config)? })
    }

    /// Tokens of a text, in which nothing is a control token.
    pub fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        Ok(self.text.encode_fast(text, false).map_err(tokenizer_error)?.get_ids().to_vec())
    }

    /// Tokens of a text as [`TextTokenizer::encode`] gives them, each with the byte range of the text it came from.
    /// The ranges of neighbours overlap where a character is spread over several tokens.
    pub fn encode_spans(&self, text: &str) -> anyhow::Result<Vec<(u32, (usize, usize))>> {
        let encoding = self.text.encode(text, false).map_err(tokenizer_error)?;
        Ok(encoding.get_ids().iter().copied().zip(encoding.get_offsets().iter().copied()).collect())
    }

    /// Tokens of a template's text, in which control tokens count. Nothing is put before or after.
    pub fn encode_markup(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        Ok(self.markup.encode_fast(text, false).map_err(tokenizer_error)?.get_ids().to_vec())
    }

    /// What a plain prompt, without chat template, begins with.
    pub fn start(&self) -> &[u32] {
        &self.start
    }

    /// The token that alone spells `text`, if there is one.
    pub fn single(&self, text: &str) -> anyhow::Result<Option<u32>> {
        Ok(match self.encode(text)?[..] {
            [id] => Some(id),
            _ => None,
        })
    }

    /// The text of tokens; control tokens are left out.
    pub fn decode(&self, tokens: &[u32]) -> anyhow::Result<String> {
        self.markup.decode(tokens, true).map_err(tokenizer_error)
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.markup.get_vocab_size(true)
    }

    /// The id of a token by its name, control tokens included.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.markup.token_to_id(token)
    }

    /// The name of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.markup.id_to_token(id)
    }

    /// The tokenizer as `tokenizer.json` holds it.
    pub fn to_json(&self) -> anyhow::Result<String> {
        self.markup.to_string(true).map_err(tokenizer_error)
    }

    /// The chat template's source.
    pub fn chat_source(&self) -> Option<&str> {
        self.chat.as_ref().map(ChatTemplate::source)
    }

    pub fn chat(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }
}

fn tokenizer_error(error: tokenizers::Error) -> anyhow::Error {
    Failure::new(Exit::Failed, format!("the tokenizer failed: {error}")).into()
}
