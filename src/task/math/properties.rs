//! Properties of equality and of verdicts, on generated expressions and on hostile text.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Expected, equal};

/// Far more than any text needs, so that a busy machine does not fail the test; a hang still does.
const PROMPT: Duration = Duration::from_millis(500);

/// Expressions in plain text and LaTeX.
fn expression() -> impl Strategy<Value = String> + Clone {
    let leaf = prop_oneof![
        (0..1000_u32).prop_map(|n| n.to_string()),
        (0..100_u32, 0..100_u32).prop_map(|(n, m)| format!("{n}.{m}")),
        prop_oneof![Just("x"), Just("y"), Just("\\pi"), Just("e"), Just("i"), Just("a_1"), Just("\\alpha")]
            .prop_map(String::from),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            two.clone().prop_map(|(a, b)| format!("({a} + {b})")),
            two.clone().prop_map(|(a, b)| format!("({a} - {b})")),
            two.clone().prop_map(|(a, b)| format!("{a} \\cdot {b}")),
            two.prop_map(|(a, b)| format!("\\frac{{{a}}}{{{b}}}")),
            inner.clone().prop_map(|a| format!("\\sqrt{{{a}}}")),
            inner.clone().prop_map(|a| format!("({a})^2")),
            inner.clone().prop_map(|a| format!("\\sin({a})")),
            inner.clone().prop_map(|a| format!("|{a}|")),
            inner.prop_map(|a| format!("-{a}")),
        ]
    })
}

/// Answers of all kinds.
fn answer() -> impl Strategy<Value = String> {
    let one = expression();
    prop_oneof![
        one.clone(),
        prop::collection::vec(one.clone(), 1..4).prop_map(|it| it.join(", ")),
        prop::collection::vec(one.clone(), 1..4).prop_map(|it| format!("({})", it.join(", "))),
        prop::collection::vec(one.clone(), 1..4).prop_map(|it| format!("\\{{{}\\}}", it.join(", "))),
        (one.clone(), one.clone()).prop_map(|(a, b)| format!("{a} = {b}")),
        (one.clone(), one.clone()).prop_map(|(a, b)| format!("{a} \\le {b}")),
        (one.clone(), prop_oneof![Just("cm"), Just("\\%"), Just("^\\circ"), Just("\\text{ apples}")])
            .prop_map(|(a, unit)| format!("{a} {unit}")),
        one.prop_map(|it| format!("x = {it}")),
    ]
}

/// Symbols that mean something, in any order.
fn noise() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "\\frac",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "\\{",
        "\\}",
        "|",
        "^",
        "_",
        "1",
        "9",
        "x",
        "\\sqrt",
        "!",
        "%",
        ",",
        "±",
        "=",
        "<",
        "\\le",
        "\\boxed{",
        "<answer>",
        "</answer>",
        "answer is",
        "####",
        "$",
        "\\(",
        "\\)",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "&",
        "\\\\",
        "\\text{",
        " ",
        "\n",
        ".",
        "…",
        "e",
        "i",
        "\\overline{",
        "'",
        "é",
        "𝑥",
        "\\",
        "-",
        "/",
        "\\cup",
        "and",
        "\\infty",
        "°",
        "1,000",
        "10^",
        "cm",
        "\u{0}",
        "\\binom",
        "\\log_",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|it| it.concat())
}

/// Numbers of all kinds.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        any::<i32>().prop_map(|n| n.to_string()),
        "[1-9][0-9]{0,60}",
        (any::<u32>(), 1..u32::MAX).prop_map(|(n, m)| format!("\\frac{{{n}}}{{{m}}}")),
        (2..1000_u32, 2..1000_u32).prop_map(|(n, k)| format!("{n}^{{{k}}}")),
        (2..1000_u32).prop_map(|n| format!("\\sqrt{{{n}}}")),
        (2..1000_u32).prop_map(|n| format!("{n}\\pi")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equality_is_reflexive(a in answer()) {
        prop_assert!(equal(&a, &a));
        let padded = format!(" ${a}$. ");
        prop_assert!(equal(&a, &padded), "{}", padded);
    }

    #[test]
    fn equality_is_symmetric(a in answer(), b in answer()) {
        prop_assert_eq!(equal(&a, &b), equal(&b, &a));
    }

    #[test]
    fn a_number_and_its_successors_differ(n in number(), k in 1..1000_u32) {
        let sum = format!("{n} + {k}");
        prop_assert!(!equal(&n, &sum));
        prop_assert!(!equal(&sum, &n));
        let fraction = format!("{n} + \\frac{{1}}{{{k}}}");
        prop_assert!(!equal(&n, &fraction));
        let verdict = Expected::from_ground_truth(&n).unwrap().verdict(&format!("\\boxed{{{sum}}}"));
        prop_assert_eq!(verdict, super::Verdict::Wrong);
    }

    #[test]
    fn an_expression_differs_from_itself_plus_a_number(a in expression(), k in 1..1000_u32) {
        let sum = format!("({a}) + {k}");
        prop_assert!(!equal(&a, &sum));
        let multiple = format!("{a} = 0");
        let other = format!("({a}) + {k} = 0");
        prop_assert!(!equal(&multiple, &other));
    }

    #[test]
    fn sums_commute(a in expression(), b in expression()) {
        // Adding zero shows whether the sum can be computed at all.
        let (left, right) = (format!("({a}) + ({b})"), format!("({b}) + ({a})"));
        if equal(&left, &format!("({a}) + ({b}) + 0")) {
            prop_assert!(equal(&left, &right), "{} {}", left, right);
        }
        let more = format!("({b}) + ({a}) + 1");
        prop_assert!(!equal(&left, &more));
    }

    #[test]
    fn hostile_text_returns_at_once(a in noise(), b in noise()) {
        let start = Instant::now();
        prop_assert!(equal(&a, &a));
        prop_assert_eq!(equal(&a, &b), equal(&b, &a));
        if let Ok(expected) = Expected::from_ground_truth(&a) {
            expected.verdict(&b);
        }
        prop_assert!(start.elapsed() < PROMPT, "{:?} {:?} {:?}", start.elapsed(), a, b);
    }

    #[test]
    fn long_repetitions_return_at_once(piece in noise(), size in 1..100_000_usize) {
        let text = piece.repeat(size / piece.len().max(1) + 1);
        let start = Instant::now();
        for truth in ["1", "x+1", "\\text{Monday}", "\\{1,2\\}"] {
            Expected::from_ground_truth(truth).unwrap().verdict(&text);
        }
        equal(&text, &piece);
        prop_assert!(start.elapsed() < PROMPT, "{:?} {:?} {}", start.elapsed(), piece, size);
    }

    #[test]
    fn any_text_is_harmless(text in "\\PC{0,200}", truth in "\\PC{0,40}") {
        if let Ok(expected) = Expected::from_ground_truth(&truth) {
            expected.verdict(&text);
        }
        equal(&text, &truth);
    }
}

#[test]
fn hundred_kilobytes_of_anything_return_at_once() {
    let n = 100_000;
    for text in [
        "(".repeat(n),
        "\\boxed{".repeat(n / 7),
        "{".repeat(n),
        "9".repeat(n),
        "1+".repeat(n / 2),
        "5^".repeat(n / 2),
        "\\frac1".repeat(n / 6),
        "$".repeat(n),
        "answer is ".repeat(n / 10),
        "<answer>".repeat(n / 8),
        format!("\\boxed{{{}}}", "1,".repeat(n / 2)),
        format!("\\boxed{{{}}}", "2^{9}!".repeat(600)),
        format!("\\boxed{{{}}}", "\\sin(x)+".repeat(500)),
        format!("\\boxed{{{}1}}", "\\sqrt{2}+".repeat(440)),
        format!("\\boxed{{{}}}", "99999^{500}+".repeat(200)),
        format!("\\boxed{{\\{{{}\\}}}}", vec!["\\sqrt{x}"; 60].join(",")),
        format!("\\boxed{{{}1{}}}", "\\sin(".repeat(45), ")".repeat(45)),
        format!("\\boxed{{{}1{}}}", "|".repeat(45), "|".repeat(45)),
        format!("\\boxed{{{}}}", "(x+1)^{999}(y+1)^{998}".repeat(30)),
        "\\boxed{1000!^{1000!}}".into(),
        "\\boxed{\\binom{1000000}{500000}}".into(),
        "\\boxed{e^{e^{e^{e^{e}}}}}".into(),
        "\\boxed{1e999999999}".into(),
    ] {
        let start = Instant::now();
        for truth in ["42", "\\sqrt{x}+1", "\\text{Monday}", "\\{\\sqrt{x+1},\\sqrt{x+2}\\}", "x^2=1"] {
            Expected::from_ground_truth(truth).unwrap().verdict(&text);
        }
        let took = start.elapsed();
        assert!(took < PROMPT, "{took:?} {}", text.chars().take(40).collect::<String>());
    }
}
