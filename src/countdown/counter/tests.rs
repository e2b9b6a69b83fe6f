use super::*;
use proptest::prelude::*;

/// Counts as V/B/S/W on the puzzle 3, 4, 5 → 24 (and 7, which nothing needs).
fn check(text: &str, expect: [u32; 4]) {
    let puzzle = Puzzle::new(&[3, 4, 12, 2], 24).unwrap();
    assert_eq!(read(&puzzle, text).counts, expect, "{text}");
}

#[test]
fn the_papers_examples() {
    check("12+2 = 14. Trying something else. 12*2=24.", [0, 1, 0, 0]);
    check(
        "12+2 = 14. 14 is not 24, so let's try something else. 12*2=24 and 24 was the goal, so the goal has been reached.",
        [2, 1, 0, 0],
    );
    check("Let's work backwards from the target. 24/2 = 12. So, 12*2=24.", [0, 0, 0, 1]);
    check(
        "Let's first try to reach 8 since it is a factor of 24; 12 - 2 = 10, let's try a different sequence. 12 - 4 = 8. Now, 8 * 3 = 24.",
        [0, 1, 1, 0],
    );
    check("Let's try to reach 48 since it is a multiple of 24: 12 * 4 = 48.", [0, 0, 1, 0]);
    check("Since the target is 24, and 24 - 3 = 21, I need 21.", [0, 0, 0, 1]);
    check("This sequence results in 1, which is not equal to 22", [0, 0, 0, 0]);
    check("3 + 4 = 7: too low!", [1, 0, 0, 0]);
}

#[test]
fn restating_is_no_attempt() {
    check(
        "Try: (12 - 4) * 3 = 8 * 3 = 24. Check: 12 - 4 = 8, 8 * 3 = 24 ✅ This works! So (12 - 4) * 3.",
        [1, 0, 0, 0],
    );
    check("3 * 4 = 12\n12 + 12 = 24\n24 - 2 = 22. Not 24.", [1, 0, 0, 0]);
    check("3 * 4 - 2 = 10 → too low\n3 * 4 + 2 = 14 → too low\n(3 + 4) * 2 = 14 → same", [3, 2, 0, 0]);
}

#[test]
fn going_back_part_of_the_way() {
    check("3 * 4 = 12, 12 - 2 = 10. Back to 12: 12 * 2 = 24, 24 - 12 = 12.", [0, 1, 0, 0]);
    check("3 * 4 = 12, 12 - 2 = 10. Go back to having 12, 12 and 2. 12 + 12 = 24.", [0, 1, 0, 0]);
}

#[test]
fn turns_without_a_computation_do_not_count() {
    check("Let's try different combinations. 3 + 4 = 7. Let's try another. And another.", [0, 0, 0, 0]);
    check("", [0, 0, 0, 0]);
}

#[test]
fn remarks_on_the_rules_are_no_verification() {
    check("3 * 8 = 24, but 8 is not allowed.", [0, 0, 0, 0]);
}

#[test]
fn an_honest_solution_is_found_and_a_dishonest_one_is_not() {
    let puzzle = Puzzle::new(&[3, 4, 12], 24).unwrap();
    let solving = |text: &str| read(&puzzle, text).first_solving;
    assert_eq!(solving("3 + 4 = 7, 7 + 12 = 19. Instead 12 - 4 = 8, 8 * 3 = 24."), Some(1));
    assert_eq!(solving("(12 - 4) * 3 = 24"), Some(0));
    assert_eq!(solving("12 * 2 = 24"), None, "2 is invented");
    assert_eq!(solving("12 - 4 = 8, 8 + 3 = 24"), None, "false");
    assert_eq!(solving("12 + 12 = 24"), None, "12 is there once");
    assert_eq!(solving("3 * 4 = 12, 12 + 12 = 24"), Some(0));
}

#[test]
fn the_thought_ends_at_the_answer() {
    assert_eq!(thought(" a</think>\n<answer>b</answer>"), " a");
    assert_eq!(thought("a <answer>b</answer>"), "a ");
    assert_eq!(thought("a"), "a");
}

#[test]
fn hostile_text_ends() {
    let puzzle = Puzzle::new(&[3, 4, 12], 24).unwrap();
    for unit in ["3 + 4 = 7. ", "try another 3 + 4 = 7 ", "24 / 3 = 8 ", "((((", "not ", "1=1=", "let's reach 7 "] {
        read(&puzzle, &unit.repeat(100_000 / unit.len()));
    }
}

proptest! {
    #[test]
    fn any_text_is_read(text in any::<String>()) {
        let puzzle = Puzzle::new(&[3, 4, 12], 24).unwrap();
        read(&puzzle, &text);
    }

    #[test]
    fn any_mix_of_its_words_is_read(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "3 + 4 = 7", "24", "/", "12", "=", "not", "let's", "reach", "back", "to", "another", "try", "✅", ".", "\n", "(", ")",
                "check", "24 / 3 = 8", "-5", "24 = 3 * 8", "works", "x",
            ]),
            0..60,
        ),
    ) {
        let puzzle = Puzzle::new(&[3, 4, 12], 24).unwrap();
        let reading = read(&puzzle, &words.join(" "));
        prop_assert!(reading.counts[Behavior::Backtracking.index()] <= reading.n_attempts);
    }
}
