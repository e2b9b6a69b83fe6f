//! The sentences of a thought, and the same sentences in another order: the control that has the words and not the search.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The text as sentences and what stands between them: an end of sentence and a blank, a line break, or ` ; `.
pub fn sentences(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut pieces, mut gaps) = (Vec::new(), Vec::new());
    let mut start = 0;
    let mut at = 0;
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let rest = &text[at..];
        let n_blanks = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let (end, next) = if rest.starts_with(" ; ") {
            (at, at + 3)
        } else if rest.starts_with(['.', '!', '?']) && 0 < n_blanks(at + 1) {
            (at + 1, at + 1 + n_blanks(at + 1))
        } else if rest.starts_with('\n') {
            (at, at + n_blanks(at))
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        pieces.push(&text[start..end]);
        gaps.push(&text[end..next]);
        (start, at) = (next, next);
    }
    if start < text.len() {
        pieces.push(&text[start..]);
    }
    (pieces, gaps)
}

/// The same sentences in another order, each with what stands after it.
pub fn scramble(text: &str, rng: &mut ChaCha8Rng) -> String {
    let (pieces, gaps) = sentences(text);
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.shuffle(rng);
    let gap = |index: usize| gaps.get(index).copied().unwrap_or("");
    // What was last has nothing after it; it takes what the new last one no longer needs.
    let spare = order.last().map_or("", |&last| gap(last));
    let mut scrambled = String::with_capacity(text.len());
    for (position, &index) in order.iter().enumerate() {
        scrambled.push_str(pieces[index]);
        if position + 1 < order.len() {
            let is_open = !pieces[index].ends_with(['.', '!', '?']);
            scrambled.push_str(match gaps.get(index) {
                Some(gap) => gap,
                // A last sentence without its full stop would run into the next one.
                None if is_open && spare.chars().all(|c| c == ' ') => "\n",
                None => spare,
            });
        }
    }
    scrambled
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn sentences_put_together_are_the_text() {
        for text in ["A. B! C", "a\n\nb. ", "3 * 4 = 12 ; retry 5 * 2 = 10 ; done", "", "x", "3.5 = 7 / 2. Ok?"] {
            let (pieces, gaps) = sentences(text);
            let joined: String = pieces
                .iter()
                .enumerate()
                .map(|(index, piece)| format!("{piece}{}", gaps.get(index).unwrap_or(&"")))
                .collect();
            assert_eq!(joined, text);
        }
        assert_eq!(sentences("3.5 = 7 / 2. Ok? Yes").0, ["3.5 = 7 / 2.", "Ok?", "Yes"]);
    }

    #[test]
    fn scrambling_keeps_every_sentence() {
        for text in ["One. Two. Three. Four. Five.", "One. Two. Three. Four. Five", "1 + 2 = 3 ; retry ; done"] {
            for seed in 0..20 {
                let scrambled = scramble(text, &mut ChaCha8Rng::seed_from_u64(seed));
                let (mut before, mut after) = (sentences(text).0, sentences(&scrambled).0);
                before.sort();
                after.sort();
                assert_eq!(before, after, "{scrambled}");
            }
        }
        assert_ne!(
            scramble("One. Two. Three. Four. Five.", &mut ChaCha8Rng::seed_from_u64(1)),
            "One. Two. Three. Four. Five."
        );
    }
}
