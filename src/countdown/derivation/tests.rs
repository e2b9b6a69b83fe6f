use super::*;
use crate::countdown::expr::{Expr, Value};
use Operator::{Add, Divide, Multiply, Subtract};

fn derive(numbers: &[u32], steps: &[(u8, Operator, u8)]) -> Derivation {
    let mut derivation = Derivation::new(numbers);
    for &(left, operator, right) in steps {
        derivation.push(Step { left, operator, right });
    }
    derivation
}

#[test]
fn expressions_have_the_fewest_parentheses() {
    let check = |numbers: &[u32], steps: &[(u8, Operator, u8)], expect: &str| {
        assert_eq!(derive(numbers, steps).expression(Notation::Spaced), expect);
    };
    check(&[1, 2, 3], &[(0, Add, 1), (3, Divide, 2)], "(1 + 2) / 3");
    check(&[1, 2, 3], &[(1, Add, 2), (0, Add, 3)], "1 + 2 + 3");
    check(&[9, 2, 3], &[(1, Subtract, 2), (0, Subtract, 3)], "9 - (2 - 3)");
    check(&[8, 4, 2], &[(1, Divide, 2), (0, Divide, 3)], "8 / (4 / 2)");
    check(&[8, 4, 2], &[(1, Divide, 2), (0, Multiply, 3)], "8 * (4 / 2)");
    check(&[8, 4, 2], &[(0, Divide, 1), (3, Multiply, 2)], "8 / 4 * 2");
    check(&[5], &[], "5");
}

#[test]
fn expressions_mean_what_the_steps_say() {
    // Every derivation over three numbers whose values stay natural.
    for first in Operator::ALL {
        for second in Operator::ALL {
            for (left, right) in [(3, 2), (2, 3)] {
                let derivation = derive(&[12, 3, 36], &[(0, first, 1), (left, second, right)]);
                let Some(value) = derivation.value() else { continue };
                for notation in [Notation::Spaced, Notation::Tight, Notation::Typographic, Notation::Words] {
                    let expr = Expr::parse(&derivation.expression(notation)).unwrap();
                    assert_eq!(expr.value, Value::Exact(super::super::ratio::Ratio::whole(value)));
                }
            }
        }
    }
}

#[test]
fn what_is_known_stands_as_a_number() {
    let derivation = derive(&[3, 4, 5, 6], &[(0, Multiply, 1), (2, Add, 3), (4, Add, 5)]);
    let values = derivation.values().unwrap();
    let mut text = String::new();
    derivation.write_expression(&mut text, Notation::Typographic, 1, Some(&values));
    assert_eq!(text, "12 + 5 + 6");
    assert_eq!(derivation.free_items(1).collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn classes_ignore_order_and_grouping() {
    let class = |numbers: &[u32], steps: &[(u8, Operator, u8)]| derive(numbers, steps).class();
    // 9 - (5 - 2) and (9 + 2) - 5 and (9 - 5) + 2
    let one = class(&[9, 5, 2], &[(1, Subtract, 2), (0, Subtract, 3)]);
    assert_eq!(one, class(&[5, 2, 9], &[(2, Add, 1), (3, Subtract, 0)]));
    assert_eq!(one, class(&[9, 5, 2], &[(0, Subtract, 1), (3, Add, 2)]));
    assert_ne!(one, class(&[9, 5, 2], &[(0, Subtract, 1), (3, Subtract, 2)]));
    // 8 * 6 / 2 and 8 * (6 / 2)
    let two = class(&[8, 6, 2], &[(0, Multiply, 1), (3, Divide, 2)]);
    assert_eq!(two, class(&[8, 6, 2], &[(1, Divide, 2), (3, Multiply, 0)]));
    assert_eq!(class(&[7, 1], &[(0, Multiply, 1)]), class(&[7, 1], &[(0, Divide, 1)]));
    assert_ne!(class(&[7, 1], &[(0, Multiply, 1)]), class(&[7, 1], &[(1, Divide, 0)]));
}
