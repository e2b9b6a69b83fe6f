//! Text to tokens, with one distinction that matters for judging: the text of a document is never markup.
//!
//! A web page may contain `<|im_end|>`. Encoded as [`TextTokenizer::encode`] does, it stays nine harmless pieces of text; only
//! [`TextTokenizer::encode_markup`], for templates that we wrote, turns it into the control token.

use super::chat::{ChatTemplate, Message};
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

    /// Tokens of a conversation up to where the assistant speaks on after `reply_prefix`.
    ///
    /// What the messages say is text, never markup: a document in them cannot end its turn. A model without chat template
    /// gets the messages' contents and the prefix one after the other, each after a blank line, and no roles.
    ///
    /// # Errors
    /// A [`Failure`] when the template cannot be rendered for these messages.
    pub fn encode_chat(&self, messages: &[Message], reply_prefix: &str) -> anyhow::Result<Vec<u32>> {
        let Some(chat) = &self.chat else {
            let contents = messages.iter().map(|message| message.content.as_str());
            let parts: Vec<&str> = contents.chain([reply_prefix]).filter(|part| !part.is_empty()).collect();
            return Ok([self.start.clone(), self.encode(&parts.join("\n\n"))?].concat());
        };
        // Characters of a private use area stand in for the contents while the template is rendered; blanks around a
        // content stay, because some templates trim them.
        let places: Vec<char> = ('\u{F0000}'..).take(messages.len()).collect();
        let stand_ins: Vec<Message> = messages
            .iter()
            .zip(&places)
            .map(|(message, place)| {
                let core = message.content.trim();
                let content = match core {
                    "" => message.content.clone(),
                    _ => message.content.replacen(core, place.encode_utf8(&mut [0; 4]), 1),
                };
                Message { role: message.role, content }
            })
            .collect();
        let rendered = chat.render(&stand_ins, true)? + reply_prefix;
        let mut tokens = Vec::new();
        for piece in rendered.split_inclusive(&places[..]) {
            let place = piece.chars().next_back().and_then(|last| places.iter().position(|place| *place == last));
            let markup = piece.strip_suffix(&places[..]).unwrap_or(piece);
            tokens.extend(self.encode_markup(markup)?);
            if let Some(index) = place {
                tokens.extend(self.encode(messages[index].content.trim())?);
            }
        }
        Ok(tokens)
    }

    /// The control token that ends the assistant's turn in the chat template.
    pub fn end_of_turn(&self) -> anyhow::Result<Option<u32>> {
        const REPLY: &str = "\u{F0000}";
        let turn = |role, content: &str| Message { role, content: content.to_owned() };
        // A template that takes no such conversation shows nothing; real prompts will say what is wrong with it.
        let Some(Ok(rendered)) =
            self.chat.as_ref().map(|chat| chat.render(&[turn("user", "a"), turn("assistant", REPLY)], false))
        else {
            return Ok(None);
        };
        let Some((_, after)) = rendered.rsplit_once(REPLY) else { return Ok(None) };
        let first = self.encode_markup(after.trim_start())?.first().copied();
        Ok(first.filter(|id| self.markup.get_added_tokens_decoder().contains_key(id)))
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
