//! What a word may signal about the four behaviors. English, and the counter's own: it was written from the behaviors'
//! definitions and from models' outputs, not from the phrases that generated traces use.

/// One word's possible signals. Which of them counts is for the counter to say, from what surrounds the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals(u32);

impl Signals {
    /// Leaves what was tried and goes elsewhere: "another", "instead".
    pub const TURN: Signals = Signals(1);
    /// A turn only before a [`Signals::THING`]: "new", "next", "other".
    pub const MAYBE_TURN: Signals = Signals(1 << 1);
    /// Something one tries: "idea", "route".
    pub const THING: Signals = Signals(1 << 2);
    /// A turn only after a verb of trying or starting: "again", "over".
    pub const ANEW: Signals = Signals(1 << 3);
    /// "back": a turn, except after a verb of reasoning.
    pub const BACK: Signals = Signals(1 << 4);
    /// Begins an attempt, perhaps a new one: "try", "start", "suppose".
    pub const TRY: Signals = Signals(1 << 5);
    /// Judges a result: "too", "works", "matches".
    pub const JUDGE: Signals = Signals(1 << 6);
    /// Judges a result unless a remark on the rules follows: "not", "exactly".
    pub const NOT: Signals = Signals(1 << 7);
    /// Makes it a remark on the rules: "not allowed", "exactly once".
    pub const RULE: Signals = Signals(1 << 8);
    /// Announces a judgement that follows: "check", "verify".
    pub const EXAMINE: Signals = Signals(1 << 9);
    /// Says of what precedes that it is what follows: "is", "that's".
    pub const COPULA: Signals = Signals(1 << 10);
    /// What is aimed at: judges after a copula ("that is the target").
    pub const AIM: Signals = Signals(1 << 11);
    /// Says that something is wanted: "let's", "want", "plan".
    pub const INTENT: Signals = Signals(1 << 12);
    /// Brings a number about: "reach", "make", "get".
    pub const REACH: Signals = Signals(1 << 13);
    /// May stand between a wish and its number: "to", "a", "first".
    pub const FILLER: Signals = Signals(1 << 14);
    /// A step on the way: "milestone".
    pub const WAYPOINT: Signals = Signals(1 << 15);
    /// Reasons from the end: "backwards", "undo".
    pub const REVERSE: Signals = Signals(1 << 16);
    /// A verb that makes "back" a reversal: "work".
    pub const REASON: Signals = Signals(1 << 18);
    /// Announces the outcome: what follows restates the attempt in hand.
    pub const CONCLUDE: Signals = Signals(1 << 17);

    const fn and(self, other: Signals) -> Signals {
        Signals(self.0 | other.0)
    }

    pub const fn has(self, other: Signals) -> bool {
        self.0 & other.0 != 0
    }
}

/// The longest word that signals anything.
const MAX_WORD: usize = 16;

/// The signals of a word in any case; `’` is `'`.
pub fn signals(word: &str) -> Signals {
    use Signals as S;
    let mut buffer = [0u8; MAX_WORD];
    let Some(lower) = lowercase(word, &mut buffer) else { return S::default() };
    match lower {
        "another" | "different" | "differently" | "instead" | "else" | "elsewhere" | "restart" | "retry"
        | "backtrack" | "backtracking" | "rewind" | "revert" | "abandon" | "discard" | "scrap" | "switch"
        | "switching" | "rethink" | "reconsider" | "alternative" | "alternatively" | "otherwise" | "drop"
        | "dropping" | "fresh" | "afresh" | "anew" | "reset" | "return" | "returning" | "scratch" | "erase"
        | "retreat" | "unwind" => S::TURN,
        "new" | "next" | "other" | "second" | "third" => S::MAYBE_TURN,
        "idea" | "attempt" | "route" | "approach" | "way" | "option" | "combination" | "order" | "arrangement"
        | "path" | "pairing" | "line" | "direction" | "tack" | "angle" | "sequence" | "grouping" | "pair"
        | "candidate" => S::THING,
        "again" | "over" => S::ANEW,
        "back" => S::BACK,
        "try" => S::TRY.and(S::THING).and(S::INTENT),
        "start" | "starting" | "begin" | "beginning" => S::TRY.and(S::THING),
        "trying" | "tries" | "consider" | "considering" | "suppose" | "test" | "testing" | "explore" => S::TRY,

        "too" | "works" | "worked" | "correct" | "wrong" | "yes" | "no" | "nope" | "matches" | "match" | "matching"
        | "misses" | "missed" | "miss" | "overshoots" | "undershoots" | "perfect" | "success" | "bingo"
        | "satisfies" | "short" | "off" | "same" | "less" | "more" | "closer" | "negative" | "larger" | "smaller"
        | "bigger" | "higher" | "lower" | "above" | "below" | "solved" | "confirmed" | "verified" | "falls"
        | "exceeds" | "differs" | "fails" | "failed" | "unequal" | "reached" | "hits" => S::JUDGE,
        "close" => S::JUDGE.and(S::FILLER),
        "not" | "isn't" | "doesn't" | "didn't" | "won't" | "wasn't" | "aren't" | "exactly" => S::NOT,
        "allowed" | "once" | "use" | "using" | "used" | "valid" | "permitted" | "available" | "have" => S::RULE,
        "check" | "checking" | "verify" | "verifying" | "checks" | "confirm" => S::EXAMINE,
        "that's" | "equals" | "equal" | "was" | "reaches" | "results" => S::COPULA,
        "is" => S::COPULA.and(S::FILLER),

        "let's" | "lets" | "let" | "hope" | "plan" | "could" | "can" | "would" | "i'd" | "i'll" | "might" | "see" => {
            S::INTENT
        }
        "want" | "need" | "needs" | "aim" | "aiming" | "shoot" | "head" | "heading" | "seek" => S::INTENT.and(S::REACH),
        "goal" => S::INTENT.and(S::REACH).and(S::AIM),
        // Of this puzzle, not of a step.
        "target" => S::AIM,
        "reach" | "reaching" | "get" | "getting" | "make" | "making" | "build" | "building" | "form" | "forming"
        | "obtain" | "produce" | "hit" | "create" | "land" | "arrive" | "find" | "construct" | "achieve" | "had" => {
            S::REACH
        }
        "subgoal" | "milestone" | "waypoint" | "stone" | "checkpoint" | "halfway" | "intermediate" => S::WAYPOINT,
        "to" | "for" | "at" | "up" | "with" | "a" | "an" | "the" | "number" | "value" | "result" | "of" | "on"
        | "near" | "me" | "us" | "we" | "i" | "first" | "and" | "if" | "towards" | "toward" | "around" | "by"
        | "like" | "here" | "now" | "my" | "our" | "in" => S::FILLER,

        "backward" | "backwards" | "reverse" | "reversing" | "undo" | "undoing" | "inverse" | "inverting" => S::REVERSE,
        "working" | "work" | "reason" | "reasoning" | "think" | "thinking" => S::REASON,
        "answer" | "final" | "finally" | "settle" | "settling" | "submit" | "solution" | "conclude" | "thus"
        | "hence" | "therefore" | "expression" | "equation" => S::CONCLUDE,
        _ => S::default(),
    }
}

/// ASCII lower case into `buffer`; `None` for a word that is too long or not ASCII but for its apostrophes.
fn lowercase<'a>(word: &str, buffer: &'a mut [u8; MAX_WORD]) -> Option<&'a str> {
    let mut len = 0;
    for c in word.chars() {
        let byte = match c {
            '’' => b'\'',
            c if c.is_ascii() => c.to_ascii_lowercase() as u8,
            _ => return None,
        };
        *buffer.get_mut(len)? = byte;
        len += 1;
    }
    std::str::from_utf8(&buffer[..len]).ok()
}
