//! Tokens to text as they come, and the stop strings in it.

use super::tokenizer::TextTokenizer;

/// The text of a growing list of tokens.
///
/// A character may be spread over several tokens, and a stop string over many; so text is taken over once it is whole, and
/// each piece is searched together with the end of what came before.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    stop: &'a [String],
    text: String,
    tokens: Vec<u32>,
    /// The tokens from here on are decoded together, so that a decoder that treats the first token apart does not see
    /// every token as one.
    from: usize,
    /// The tokens before this one have given their text to `text`.
    taken: usize,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    pub fn new(tokenizer: &'a TextTokenizer, stop: &'a [String]) -> Self {
        Self { tokenizer, stop, text: String::new(), tokens: Vec::new(), from: 0, taken: 0, stopped: false }
    }

    /// Adds a token. Whether the text now holds a stop string: the text ends before it then, and nothing may follow.
    pub fn push(&mut self, token: u32) -> anyhow::Result<bool> {
        self.tokens.push(token);
        let fresh = self.fresh()?;
        // What is cut off by the end of the tokens decodes to replacement characters, at most three.
        let whole = fresh.trim_end_matches('\u{FFFD}');
        if let Some(end) = self.find_stop(whole) {
            self.text.push_str(whole);
            self.text.truncate(end);
            self.stopped = true;
            return Ok(true);
        }
        if whole.len() == fresh.len() && !fresh.is_empty() {
            self.text.push_str(&fresh);
            (self.from, self.taken) = (self.taken, self.tokens.len());
        }
        Ok(false)
    }

    /// All text up to a stop string; what no character came of stands as replacement characters.
    pub fn finish(mut self) -> anyhow::Result<String> {
        if !self.stopped {
            let fresh = self.fresh()?;
            // Replacement characters were held back until now, and a stop string may end with one.
            let end = self.find_stop(&fresh);
            self.text.push_str(&fresh);
            self.text.truncate(end.unwrap_or(self.text.len()));
        }
        Ok(self.text)
    }

    /// The text of the tokens that have given none yet.
    fn fresh(&self) -> anyhow::Result<String> {
        let before = self.tokenizer.decode(&self.tokens[self.from..self.taken])?;
        let mut all = self.tokenizer.decode(&self.tokens[self.from..])?;
        Ok(if all.starts_with(&before) { all.split_off(before.len()) } else { String::new() })
    }

    /// Where in `text` and `fresh` together the first stop string begins.
    fn find_stop(&self, fresh: &str) -> Option<usize> {
        let longest = self.stop.iter().map(String::len).max()?;
        let mut start = self.text.len().saturating_sub(longest.saturating_sub(1));
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let searched = format!("{}{fresh}", &self.text[start..]);
        let ends = self.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| searched.find(stop.as_str()));
        ends.min().map(|end| start + end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Tokenizer;
    use tokenizers::models::bpe::{BPE, Vocab};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    /// One token per byte.
    fn bytes() -> TextTokenizer {
        let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        alphabet.sort_unstable();
        let vocab: Vec<(String, u32)> = alphabet.into_iter().zip(0..).collect();
        let model = BPE::builder().vocab_and_merges(vocab.into_iter().collect::<Vocab>(), vec![]).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        TextTokenizer::new(tokenizer, serde_json::Value::Null).unwrap()
    }

    /// The text, and how many tokens were read before a stop string if there was one.
    fn read(tokens: &[u32], stop: &[&str]) -> (String, Option<usize>) {
        let tokenizer = bytes();
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&tokenizer, &stop);
        for (count, token) in (1..).zip(tokens) {
            if stream.push(*token).unwrap() {
                return (stream.finish().unwrap(), Some(count));
            }
        }
        (stream.finish().unwrap(), None)
    }

    fn check(text: &str, stop: &[&str], expect: &str, read_bytes: Option<usize>) {
        let tokens = bytes().encode(text).unwrap();
        assert_eq!(tokens.len(), text.len());
        assert_eq!(read(&tokens, stop), (expect.to_owned(), read_bytes), "{text}");
    }

    #[test]
    fn a_stop_string_ends_the_text_before_it() {
        check("naïve 😀 text", &[], "naïve 😀 text", None);
        check("a</answer> b", &["</answer>"], "a", Some(10));
        check("ab\nUser: x", &["User:", "\n"], "ab", Some(3));
        check("STOP", &["STOP"], "", Some(4));
        check("héé", &["éé"], "h", Some(5));
        check("aab", &["ab", ""], "a", Some(3));
        // Both end with the same token; the one that begins first counts.
        check("xyz", &["yz", "xyz"], "", Some(3));
        check("a\u{FFFD}", &["\u{FFFD}"], "a", None);
    }

    #[test]
    fn a_broken_character_is_replaced_at_the_end() {
        let mut tokens = bytes().encode("é😀").unwrap();
        tokens.truncate(4);
        assert_eq!(read(&tokens, &["x"]), ("é\u{FFFD}".to_owned(), None));
        let lone = tokens[2];
        tokens.splice(0..0, [lone]);
        assert_eq!(read(&tokens, &[]).0.trim_start_matches('\u{FFFD}'), "é\u{FFFD}");
    }

    proptest! {
        #[test]
        fn the_text_is_that_of_all_tokens(text in "\\PC{0,40}", stop in "\\PC{1,3}") {
            let tokens = bytes().encode(&text).unwrap();
            let expect = text.find(&stop).map_or(text.as_str(), |at| &text[..at]);
            prop_assert_eq!(read(&tokens, &[&stop]).0, expect);
        }
    }
}
