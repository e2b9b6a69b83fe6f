//! Whatever parses has numbers that the text contains, and parses to the same again with blanks around it.

#![no_main]

use four_habits::countdown::expr::{Expr, MAX_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(expr) = Expr::parse(text) else { return };
    assert!(text.len() <= MAX_BYTES);
    assert!(expr.numbers.iter().all(|number| text.contains(&number.to_string())));
    if text.len() + 2 <= MAX_BYTES {
        assert_eq!(Expr::parse(&format!(" {text} ")), Ok(expr));
    }
});
