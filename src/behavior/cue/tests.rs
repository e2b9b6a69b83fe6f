//! The judge as its users see it. The reader and the phrases have their own tests beside them.

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

fn judge() -> &'static CueJudge {
    static JUDGE: LazyLock<CueJudge> = LazyLock::new(|| CueJudge::new(&Lexicon::embedded()));
    &JUDGE
}

/// Counts in the order of [`Behavior::ALL`].
fn check(text: &str, expect: [u32; 4]) {
    let labels = judge().label(text).unwrap();
    assert_eq!(labels.marks.map(|mark| mark.count), expect, "{text}\n{:#?}", judge().explain(text));
}

#[test]
fn verification() {
    check("So x = 3. Let me check: 3 + 4 = 7, and 7 - 7 = 0.", [1, 0, 0, 0]);
    check("We get $y = 2$. Substituting this back into the original equation gives $8 = 8$.", [1, 0, 0, 0]);
    check("The integral is $\\pi/4$, which agrees with the numerical value 0.785.", [1, 0, 0, 0]);
    check("The final exponent is 12. As a sanity check, set n = 1: both sides are 2.", [1, 0, 0, 0]);
    check("7 * 9 - 1 = 62 ✓", [1, 0, 0, 0]);
    // Look-alikes: nobody has checked anything yet.
    check("One can easily verify that the map is well defined.", [0; 4]);
    check("It is easy to check that this is a norm.", [0; 4]);
    check("Please check my attempt below. Can someone verify that the constant is right?", [0; 4]);
    check("He handed her a check for the rent and went to work.", [0; 4]);
}

#[test]
fn backtracking() {
    check("Take a = 5. Wait, no, a must be even. So a = 6 it is.", [0, 1, 0, 0]);
    check("Hence \\(f\\) is odd. Hmm, that doesn't seem right. Let me try a different substitution.", [0, 1, 0, 0]);
    check("I made a sign mistake. The slope is 3.\n\nNo matter.\n\nOops, the intercept is wrong too.", [0, 2, 0, 0]);
    // Look-alikes: waiting in earnest, other people's mistakes, refutation.
    check("The processes wait for the lock, and the readers wait until it is free.", [0; 4]);
    check("Your proof is wrong: the second step fails.", [0; 4]);
    check("What is wrong with this argument?", [0; 4]);
    check("Suppose it is rational. Then $p$ is even, a contradiction.", [0; 4]);
}

#[test]
fn subgoal_setting() {
    check("We first show that the set is closed. Closedness follows from continuity.", [0, 0, 1, 0]);
    check("To solve this problem, we need to find the intersection points.", [0, 0, 1, 0]);
    check("It remains to prove the second claim.", [0, 0, 1, 0]);
    check("First, we need to compute f'. It is 2x.\n\nThen we need to solve f' = 0.", [0, 0, 2, 0]);
    check("How do we find the maximum? If we want to find it quickly, we need luck.", [0; 4]);
}

#[test]
fn backward_chaining() {
    check("By symmetry it suffices to show that $a \\le b$.", [0, 0, 0, 1]);
    check("Let's work backwards from the target: 24 / 2 = 12.", [0, 0, 0, 1]);
    check("The problem reduces to counting lattice paths.", [0, 0, 0, 1]);
    check("Choose n large enough to make the tail small. This condition is necessary and sufficient for it.", [0; 4]);
}

#[test]
fn plain_text_shows_nothing() {
    check("The Euler line of a triangle passes through its orthocenter, centroid and circumcenter.", [0; 4]);
    check("```\nfor i in range(n): total += i\n```", [0; 4]);
    check("| n | 1 | 2 |\n|---|---|---|\n| a | 1 | 3 |", [0; 4]);
}

#[test]
fn adjacent_sentences_are_one_instance() {
    check("Wait, no. Wait, that's not it. Hold on.", [0, 1, 0, 0]);
    check("Wait, no. The radius is 3. Wait, that's not it.", [0, 2, 0, 0]);
}

#[test]
fn weak_cues_add_up() {
    check("It is indeed prime, as desired.", [1, 0, 0, 0]);
    check("It is indeed prime.\n\nThe sum is 7. Hence the limit exists, as desired.", [1, 0, 0, 0]);
    check("Hence the limit exists, as desired.", [0; 4]);
}

#[test]
fn whole_document_one_window() {
    let text = "α. Let me check: 1 = 1.";
    let labels = judge().label(text).unwrap();
    assert_eq!((labels.chars_read, labels.tokens_read, labels.windows), (text.chars().count() as u64, 0, 1));
    assert!(labels.mark(Behavior::Verification).score > labels.mark(Behavior::Backtracking).score);
}

#[test]
fn empty_text_cannot_be_judged() {
    for text in ["", " \n\t", "\u{a0}\u{2003}"] {
        assert_eq!(judge().label(text), Err(Unjudgeable("empty text".into())));
    }
}

#[test]
fn batches_keep_their_order() {
    let texts = ["Wait, no.", "", "Nothing here.", "It suffices to show it."];
    let batch = judge().clone().judge(&texts).unwrap();
    assert_eq!(batch, texts.map(|text| judge().label(text)).to_vec());
}

#[test]
fn evidence_points_into_the_text() {
    let text = "Über $x$. **Wait**,\nno: it suffices to show $y$.";
    let evidence = judge().explain(text);
    let found: Vec<_> = evidence.iter().map(|cue| (cue.behavior, &text[cue.span.clone()])).collect();
    let expect = [(Behavior::Backtracking, "Wait"), (Behavior::BackwardChaining, "suffices to show")];
    assert_eq!(found, expect, "{evidence:#?}");
}

#[test]
fn identity_follows_the_lexicon() {
    let other = "[verification]\nsquash 0 1\n1 aye\n[backtracking]\nsquash 0 1\n1 bee\n\
                 [subgoal_setting]\nsquash 0 1\n1 cee\n[backward_chaining]\nsquash 0 1\n1 dee\n";
    let commented = other.replace("1 aye", "# why\n1    aye");
    let identity = |text: &str| CueJudge::new(&Lexicon::parse(text).unwrap()).identity().clone();
    assert_eq!(identity(other), identity(&commented));
    assert_ne!(identity(other), *judge().identity());
    assert_eq!((judge().identity().kind.as_str(), judge().identity().model.as_str()), ("cue", "four-habits-cues"));
}

/// Sentences that show nothing, to be put anywhere.
const NEUTRAL: [&str; 4] = [
    "The theorem is named after Banach.",
    "Here $x$ is a real number.",
    "Tables of logarithms were printed until 1970.",
    "Both maps are continuous.",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_has_labels_in_range(text in any::<String>()) {
        if let Ok(labels) = judge().label(&text) {
            prop_assert!(labels.marks.iter().all(|mark| (0.0..=1.0).contains(&mark.score)));
        }
        for cue in judge().explain(&text) {
            prop_assert!(text.get(cue.span).is_some_and(|cue| !cue.is_empty()));
        }
    }

    #[test]
    fn text_of_cues_and_markup_has_labels_in_range(parts in prop::collection::vec(prop::sample::select(PARTS), 0..60)) {
        let text = parts.concat();
        for cue in judge().explain(&text) {
            prop_assert!(text.get(cue.span).is_some());
        }
    }

    #[test]
    fn neutral_sentences_change_nothing(
        parts in prop::collection::vec(prop::sample::select(PARTS), 1..20),
        neutral in prop::collection::vec(prop::sample::select(&NEUTRAL[..]), 0..6),
    ) {
        let text = parts.join(" ");
        let longer = format!("{text}\n\n{}", neutral.join(" "));
        let marks = |text: &str| judge().label(text).map(|labels| labels.marks);
        prop_assume!(!text.trim().is_empty());
        prop_assert_eq!(marks(&text), marks(&longer));
    }
}

/// What trips readers of this kind of text.
const PARTS: &[&str] = &[
    "Wait, no. ",
    "let me ",
    "check",
    "it suffices",
    " to show ",
    "$",
    "$$",
    "\\(",
    "\\)",
    "\\[",
    "\\begin{align}",
    "\\end{align}",
    "\\begin{",
    "\\",
    "\n",
    "\n\n",
    ". ",
    "...",
    "e.g. ",
    "1.5",
    "4,",
    "’",
    "'",
    "—",
    "≠",
    "✓",
    "x",
    "don’t work",
    "\u{301}",
    "ﬀ",
    "İ",
    "\0",
];

#[test]
fn work_is_linear_in_hostile_text() {
    let parts = [
        "we ",
        "to (",
        "let me let me ",
        "if this ",
        "wait ",
        "this that it ",
        "$a ",
        "$ ",
        "$$ ",
        "\\( ",
        "\\begin{align} ",
        "\\[",
        "\n \n",
        "\n",
        ". ",
        "a.",
        "1,",
        "'a",
        "is is the the ",
        "suffices to suffices to ",
        "\\begin{",
        "not sure if this this ",
    ];
    for part in parts {
        let work = |bytes: usize| {
            let text = part.repeat(bytes / part.len());
            let reading = judge().read(&text, |_, _| {});
            (reading.attempts, reading.searched)
        };
        let (attempts, searched) = work(100_000);
        // By construction a word has a bounded number of candidates, and a byte is searched at most once per closer.
        assert!(attempts < 100_000 * 120, "{part:?}: {attempts} attempts");
        assert!(searched < 100_000 * 3, "{part:?}: {searched} bytes searched");
        let (twice, _) = work(200_000);
        assert!(twice <= attempts * 2 + 2_000, "{part:?}: {attempts}, then {twice}");
    }
}
