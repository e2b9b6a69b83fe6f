//! Cutting a text into windows that a language model reads at once.
//!
//! Windows do not overlap, end on token boundaries and together cover the text. A long text is tokenised piece by piece,
//! so that memory is bounded by the piece and not by the text: a piece ends where a line begins, which is a boundary to
//! the tokenizers at hand, so the tokens are those of the whole text.

use crate::lm::TextTokenizer;

/// Bytes that are tokenised at once.
const PIECE: usize = 1 << 16;

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub tokens: Vec<u32>,
    /// Unicode scalar values of the text that the window covers.
    pub chars: u64,
}

/// The windows of one text, made as they are asked for.
pub struct Windows<'a> {
    tokenizer: &'a TextTokenizer,
    text: &'a str,
    size: usize,
    /// How much of the text has been tokenised and how much has been given out, in bytes.
    tokenised: usize,
    given: usize,
    /// Tokens that no window has taken yet, with the bytes of `text` they stand for.
    waiting: Vec<(u32, (usize, usize))>,
}

impl<'a> Windows<'a> {
    /// Windows of at most `size` tokens, `size` at least 1.
    pub fn new(tokenizer: &'a TextTokenizer, text: &'a str, size: usize) -> Self {
        Self { tokenizer, text, size: size.max(1), tokenised: 0, given: 0, waiting: Vec::new() }
    }

    /// The next window; `None` at the end of the text.
    fn advance(&mut self) -> anyhow::Result<Option<Window>> {
        // One token more than a window shows whether the cut would fall inside a character.
        while self.waiting.len() <= self.size && self.tokenised < self.text.len() {
            let rest = &self.text[self.tokenised..];
            let piece = &rest[..piece_end(rest)];
            let spans = self.tokenizer.encode_spans(piece)?;
            let shift = self.tokenised;
            self.waiting.extend(spans.into_iter().map(|(id, (start, end))| (id, (start + shift, end + shift))));
            self.tokenised += piece.len();
        }
        let cut = self.cut();
        let tokens: Vec<u32> = self.waiting.drain(..cut).map(|(id, _)| id).collect();
        if tokens.is_empty() {
            return Ok(None);
        }
        // What a normaliser dropped between two tokens belongs to the window before it.
        let end = self.waiting.first().map_or(self.tokenised, |(_, (start, _))| *start).max(self.given);
        let chars = self.text.get(self.given..end).map_or(0, |covered| covered.chars().count() as u64);
        self.given = end;
        Ok(Some(Window { tokens, chars }))
    }

    /// How many waiting tokens the next window takes: no character is torn, unless it alone exceeds a window.
    fn cut(&self) -> usize {
        if self.waiting.len() <= self.size {
            return self.waiting.len();
        }
        let whole = |cut: &usize| {
            let (_, (_, before)) = self.waiting[cut - 1];
            let (_, (after, _)) = self.waiting[*cut];
            before <= after
        };
        (1..=self.size).rev().find(whole).unwrap_or(self.size)
    }
}

impl Iterator for Windows<'_> {
    /// An error is the tokenizer's failure; there is no going on after one.
    type Item = anyhow::Result<Window>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// The windows of a text for a model whose tokenizer is not at hand: about `tokens` tokens each, at four characters a token,
/// cut behind a blank where the last quarter of a window has one. Together they are the text.
pub fn text_windows(text: &str, tokens: usize) -> impl Iterator<Item = &str> {
    let chars = tokens.max(1).saturating_mul(4);
    let mut rest = text;
    std::iter::from_fn(move || {
        let (limit, _) = match rest.char_indices().nth(chars) {
            Some(limit) => limit,
            None => (rest.len(), ' '),
        };
        let blanks = rest[..limit].char_indices().rev().take(chars / 4);
        let blank = blanks.take_while(|_| limit < rest.len()).find(|(_, c)| c.is_whitespace());
        let end = blank.map_or(limit, |(at, c)| at + c.len_utf8());
        let window;
        (window, rest) = rest.split_at(end);
        (!window.is_empty()).then_some(window)
    })
}

/// Where the first piece of `text` ends: at most [`PIECE`] bytes, at the start of a line if there is one, else after a
/// blank, else wherever a character ends.
fn piece_end(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let limit = (0..=PIECE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    let piece = &text[..limit];
    let starts_line = |end: &usize| text[*end..].chars().next().is_some_and(|next| !next.is_whitespace());
    let lines = piece.rmatch_indices('\n').map(|(newline, _)| newline + 1);
    lines
        .filter(|end| *end < limit)
        .find(starts_line)
        .or_else(|| piece.rfind(' ').filter(|at| *at > 0))
        .unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::bpe::BPE;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    /// One token per byte.
    fn bytes() -> TextTokenizer {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let vocab = alphabet.into_iter().zip(0u32..).map(|(c, id)| (c.to_string(), id));
        let model = BPE::new(vocab.collect::<tokenizers::models::bpe::Vocab>(), Vec::new());
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        TextTokenizer::new(tokenizer, serde_json::Value::Null).unwrap()
    }

    fn check(text: &str, size: usize, expect: &[(usize, u64)]) {
        let tokenizer = bytes();
        let mut found = Vec::new();
        let mut tokens = Vec::new();
        for window in Windows::new(&tokenizer, text, size).map(Result::unwrap) {
            found.push((window.tokens.len(), window.chars));
            tokens.extend(window.tokens);
        }
        assert_eq!(found, expect, "{text:?}");
        assert_eq!(tokens, tokenizer.encode(text).unwrap(), "{text:?}");
    }

    #[test]
    fn windows_cover_the_text() {
        check("", 4, &[]);
        check("abcd", 4, &[(4, 4)]);
        check("abcde", 4, &[(4, 4), (1, 1)]);
        // The second é would be torn, so it moves to the next window.
        check("aéé", 4, &[(3, 2), (2, 1)]);
        check("😀", 3, &[(3, 0), (1, 1)]);
    }

    #[test]
    fn a_long_text_is_read_in_pieces_that_change_nothing() {
        let line = "naïve line of text, 12 345.\n";
        let text = line.repeat(3 * PIECE / line.len());
        let tokenizer = bytes();
        let mut windows = Windows::new(&tokenizer, &text, 1000);
        let (mut tokens, mut chars) = (Vec::new(), 0);
        while let Some(window) = windows.next().transpose().unwrap() {
            assert!(windows.waiting.len() <= PIECE + 1000);
            chars += window.chars;
            tokens.extend(window.tokens);
        }
        assert_eq!(tokens, tokenizer.encode(&text).unwrap());
        assert_eq!(chars, text.chars().count() as u64);
        // Without a line break to cut at, a blank or any character will do.
        assert_eq!(piece_end(&"ab ".repeat(PIECE)), PIECE / 3 * 3 - 1);
        assert_eq!(piece_end(&"é".repeat(PIECE)), PIECE);
    }

    #[test]
    fn texts_are_cut_at_blanks() {
        let windows = |text, tokens| text_windows(text, tokens).collect::<Vec<_>>();
        assert_eq!(windows("", 1), Vec::<&str>::new());
        assert_eq!(windows("abcd", 1), ["abcd"]);
        assert_eq!(windows("alpha beta gamma", 2), ["alpha be", "ta gamma"]);
        assert_eq!(windows("abcdef gh", 2), ["abcdef ", "gh"]);
        assert_eq!(windows("éééééééééé", 2), ["éééééééé", "éé"]);
        let text = "naïve 😀 text\nwith lines ".repeat(50);
        for tokens in [1, 7, 100] {
            assert_eq!(windows(&text, tokens).concat(), text);
        }
    }
}
