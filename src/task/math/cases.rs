//! Verdicts on whole completions: the cases that graders in daily use get wrong, and where an answer is found.

use super::{Expected, Verdict};

fn check(truth: &str, completion: &str, verdict: Verdict) {
    let expected = Expected::from_ground_truth(truth).unwrap();
    assert_eq!(expected.verdict(completion), verdict, "truth {truth:?}, completion {completion:?}");
}

fn right(truth: &str, completion: &str) {
    check(truth, completion, Verdict::Right);
}

fn wrong(truth: &str, completion: &str) {
    check(truth, completion, Verdict::Wrong);
}

/// Wrong, though math-verify says right, and the reverse.
#[test]
fn cases_of_math_verify() {
    wrong("3x-y+13=0", "\\boxed{3x+4y+14=0}");
    wrong("4", "\\boxed{4\\sqrt(2)}");
    wrong("2^{-99}", "\\boxed{2^{-98}}");
    wrong("2⁻⁹⁹", "\\boxed{2⁻⁹⁸}");
    wrong("1, 3, 5, \\dots", "\\boxed{2, 4, 6, \\dots}");
    wrong("1,3,5,...", "\\boxed{2,4,6,...}");
    wrong("1,2,\\ldots,9", "\\boxed{1,3,\\ldots,9}");
    right("[0,1)", "\\boxed{0 ≤ x < 1}");
    right("[0,1)", "\\boxed{0 \\le x < 1}");
    wrong("[0,1)", "\\boxed{0 < x < 1}");
}

#[test]
fn towers_and_long_numbers_return_at_once() {
    let start = std::time::Instant::now();
    let tower = "5^{5^{5^{5^5}}}";
    wrong("5", &format!("\\boxed{{{tower}}}"));
    right(tower, &format!("\\boxed{{{tower}}}"));
    wrong(tower, "\\boxed{5^{5^{5^{5^6}}}}");
    wrong("1", &"9".repeat(5000));
    wrong("1", &format!("\\boxed{{{}1{}}}", "(".repeat(5000), ")".repeat(5000)));
    wrong("1", &format!("\\boxed{{{}1{}}}", "\\sqrt{".repeat(400), "}".repeat(400)));
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
}

/// Right, though verl's graders say wrong, and the reverse.
#[test]
fn cases_of_verl() {
    right("42", &format!("#### 42\n{}", "so it goes ".repeat(30)));
    right("42", &format!("#### 42 {}", "x".repeat(300)));
    for text in ["#### $42", "#### 42.", "Answer: 42.", "**Answer:** 42", "**Answer**: 42", "The answer is 42."] {
        right("42", text);
        wrong("43", text);
    }
    right("1000", "\\boxed{1,000}");
    right("1/4", "\\boxed{0.25}");
    right("x+1", "\\boxed{\\frac{x^2-1}{x-1}}");
    wrong("5", "\\boxed{xy=5}");
    wrong("1", "\\boxed{100}");
    right("2", "first \\boxed{1}, but then \\boxed{2}");
    wrong("1", "first \\boxed{1}, but then \\boxed{2}");
}

#[test]
fn the_answer_is_found_with_or_without_tags() {
    let half = "\\frac{1}{2}";
    for text in [
        "<think>3</think><answer>1/2</answer>",
        "<answer>3</answer> no: <answer>\n0.5\n</answer> done 7",
        "<answer>So we get \\boxed{\\frac12}.</answer>",
        "<answer>The final answer is $\\frac{1}{2}$.</answer>",
        "Hence \\boxed{\\dfrac{1}{2}} as there are 7.",
        "The answer is $\\frac{1}{2}$, because 3 + 4 = 7.",
        "The answer is: 1/2. There were 7.",
        "Final Answer: 0.5",
        "Final answer:\n\\[\\frac12\\]\n",
        "We add and get $x = \\frac{1}{2}$.",
        "It is 1/2",
        "1/2",
        "Some words with 3.\n0.5",
        "#### 1/2",
        "**Answer:** $\\frac{1}{2}$\n\nI hope that helps 7 people.",
        "the answer is 0.5 because 5/10 is 0.5",
    ] {
        right(half, text);
        wrong("1/3", text);
        wrong("7", text);
    }
}

#[test]
fn nothing_is_missing_and_something_else_is_wrong() {
    for text in ["", "  \n ", "\\boxed{}", "<answer></answer>", "<answer> . </answer>", "so \\boxed{1"] {
        check("1", text, Verdict::Missing);
    }
    for text in ["I do not know", "<answer>none</answer>", "\\boxed{2}", "<answer>2"] {
        wrong("1", text);
    }
}

#[test]
fn truths_come_in_boxes_and_behind_marks_too() {
    for truth in [
        "42",
        "$42$",
        "\\boxed{42}",
        "#### 42",
        "A sum: 40 + 2 = <<40+2=42>>42\n#### 42",
        "\\text{42}",
        "42.0",
        "42\\%",
    ] {
        right(truth, "\\boxed{42}");
        wrong(truth, "\\boxed{24}");
    }
    assert!(Expected::from_ground_truth("  ").is_err());
    assert!(Expected::from_ground_truth("\\boxed{}").is_err());
    assert!(Expected::from_ground_truth(&"1+".repeat(4000)).is_err());
}

#[test]
fn words_are_answers_where_the_truth_is_words() {
    for truth in ["Monday", "\\text{Monday}", "\\textbf{monday}"] {
        right(truth, "\\boxed{\\text{Monday}}");
        right(truth, "\\boxed{Monday}");
        right(truth, "The answer is Monday.");
        right(truth, "<answer>monday</answer>");
        right(truth, "Monday");
        wrong(truth, "\\boxed{Tuesday}");
        wrong(truth, "\\boxed{3}");
    }
    right("\\text{(B)}", "\\boxed{B}");
    right("B", "\\boxed{\\textbf{(B)}}");
    wrong("B", "\\boxed{\\textbf{(C)}}");
}

#[test]
fn no_text_is_run() {
    for text in
        ["__import__('os').getpid()", "\\boxed{eval(40+2)}", "\\input{/etc/passwd}", "exec('40+2')", "len('x'*42*1)"]
    {
        wrong("42", text);
    }
}

#[test]
fn right_answers_in_many_wordings() {
    for (truth, text) in [
        ("5", "The answer is \n\n$$5$$"),
        ("5", "The answer is **5**"),
        ("5", "Answer: **5**"),
        ("5", "ANSWER: 5"),
        ("5", "Therefore, the answer is: \\(\\boxed{5}\\)."),
        ("5", "So the final answer is 5 apples."),
        ("5", "The correct answer is therefore 5."),
        ("B", "The answer is (B)."),
        ("B", "The answer is B."),
        ("B", "Answer: B"),
        ("12", "\\boxed{12\\text{ hours}}"),
        ("12", "\\boxed{x=12}"),
        ("12", "\\boxed{12 \\, \\text{cm}^2}"),
        ("12", "\\[ \\boxed{12} \\] is the result, found in 3 steps."),
        ("12", "#### 12"),
        ("1200", "#### 1,200"),
        ("12", "####12"),
        ("12", "### Final Answer\n\n12"),
        ("12", "Thus we have\n$$x = 12.$$"),
        ("12", "Thus we have\n\\[x = 12.\\]"),
        ("12", "We have \\(x = 12\\)."),
        ("\\frac{3}{4}", "Hence the probability is $\\frac{3}{4}$."),
        ("\\frac{3}{4}", "Hence the probability is \\frac{3}{4}."),
        ("\\frac{3}{4}", "The answer is 3/4, since 1-1/4=3/4."),
        ("\\sqrt{2}", "The length is $\\sqrt{2}$ units."),
        ("\\sqrt{2}", "The answer is $\\sqrt{2}$ units."),
        ("(1,2)", "The solution is $(x,y)=(1,2)$."),
        ("1,2", "The solutions are $x=1$ and $x=2$."),
        ("1,2", "The answer is $x=1$ or $x=2$."),
        ("1,2", "The answer is 1 and 2."),
        ("x^2+1", "The answer is $x^2+1$."),
        ("x^2+1", "$f(x)=x^2+1$"),
        ("3.5", "The answer is 3.5."),
        ("3.5", "The answer is 3.5 because of that."),
        ("3.5", "The answer is $3.5$. Some 9 more text."),
        ("3.5", "<answer> 3.5 </answer><|im_end|>"),
        ("3.5", "<answer>3.5 hours</answer>"),
        ("3.5", "<answer>It takes 3.5 hours.</answer>"),
        ("3.5", "<answer>\\boxed{3.5}</answer>"),
        ("3.5", "<answer>The final answer is: 3.5</answer>"),
        ("3.5", "<answer>**3.5**</answer>"),
        ("3.5", "<answer>#### 3.5</answer>"),
        ("3.5", "<answer>\n\\frac{7}{2}\n</answer>"),
        ("3.5", "<answer>\\[ \\frac{7}{2} \\]</answer>"),
        ("3.5", "<answer>$$\\frac{7}{2}$$</answer>"),
        ("\\$3.50", "<answer>$3.50</answer>"),
        ("3.50", "It costs $3.50 each, so $7 for two: no, the answer is $3.50."),
        ("10000", "The answer is 10,000 people."),
        ("10000", "The answer is $10{,}000$."),
        ("6", "The answer is six."),
        ("No", "The answer is no."),
        ("Yes", "<answer>Yes</answer>"),
        ("True", "\\boxed{\\text{True}}"),
        ("7", "\\boxed{7}$"),
        ("7", "\\boxed{\\,7\\,}"),
        ("7", "\\boxed{ 7 }."),
        ("7", "$\\boxed{\\mathbf{7}}$"),
        ("7", "\\boxed{\\displaystyle 7}"),
        ("7", "\\boxed{\\textbf{7}}"),
        ("7", "\\boxed{7 \\text{ ways}}"),
        ("\\text{(C)}", "\\boxed{\\text{C}}"),
        ("15\\%", "15 percent"),
        ("3:4", "\\boxed{3:4}"),
        ("3:4", "The ratio is 3:4."),
        ("[0,1)", "The answer is $[0,1)$."),
        ("[0,1)", "The answer is $0 \\le x < 1$."),
        ("x>3", "The answer is $x > 3$."),
        ("x>3", "So x > 3."),
        ("\\{1,2\\}", "The answer is {1, 2}."),
        ("\\{1,2\\}", "The answer is $\\{2, 1\\}$."),
        ("2", "x = 2"),
        ("2", "Let me see... x = 2."),
        ("y=2x+3", "The line is $y = 2x + 3$."),
        ("y=2x+3", "The line is y = 2x + 3."),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\[\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}\\]"),
        ("8", "2^3 = 8"),
        ("8", "= 8"),
        ("8", "≈ 8"),
        ("8", "Total: 8"),
        ("8", "8 cm"),
        ("8", "Thus there are 8 of them."),
        ("8", "Thus there are $8$ of them."),
        ("72", "Natalia sold 48/2 = 24 clips in May.\nAltogether 48+24 = 72 clips.\n#### 72"),
        ("72", "So the total is $72."),
        ("72", "She sold **72** clips."),
        ("72", "Thus, the final answer is **72**."),
        ("72", "The answer is: $\\boxed{72}$ clips"),
        ("18", "Janet makes 9 * 2 = $18 every day."),
        ("18", "Janet makes $18.00 per day. #### 18"),
        ("70000", "The profit is $70,000."),
        ("\\frac{1}{2}", "The probability is 1/2."),
        ("5", "So $x=5$."),
        ("5", "<think>hm</think> <answer>x = 5</answer>"),
        ("5", "<answer>The total is 5 apples</answer>"),
        ("5", "<answer>$5$</answer>"),
        ("5", "<answer>\n5\n</answer>"),
        ("-5", "The answer is -5."),
        ("25\\%", "The answer is 25%."),
        ("3:2", "The answer is 3:2."),
        ("Paris", "The answer is Paris."),
        ("\\text{Monday}", "It falls on a Monday, so the answer is **Monday**."),
        ("204", "Final Answer: The final answer is $204$. I hope it is correct."),
        ("204", "The final answer is \\(204\\)."),
        ("204", "$$\\boxed{204}$$"),
        ("204", "\\[\n\\boxed{204}\n\\]"),
        ("204", "\\boxed{\\text{204}}"),
        ("204", "\\boxed {204}"),
        ("204", "\\fbox{204} is it, 204"),
        ("073", "\\boxed{73}"),
        ("73", "\\boxed{073}"),
        ("(3,4)", "The point is $(3, 4)$."),
        ("1000", "She has 1,000."),
        ("2.5", "It takes 2.5 hours."),
        ("42", "answer is\n\n42"),
        ("42", "### Answer\n42"),
        ("42", "<answer>42"),
        ("42", "**Final Answer**\n\n$$42$$"),
        ("42", "The answer is $42$ dollars"),
        ("10", "The result is 5 + 5 = 10"),
        ("10", "Therefore 5+5=10."),
        ("-5", "It is − 5."),
        ("-5", "It is -5."),
        ("0.05", "It is 5%."),
    ] {
        right(truth, text);
    }
}

#[test]
fn wrong_answers_that_contain_the_truth() {
    for (truth, text) in [
        ("5", "<answer>5 or 6</answer>"),
        ("5", "The answer is 5 or 6."),
        ("5", "The answer is 15."),
        ("5", "The answer is not known."),
        ("5", "\\boxed{5, 6}"),
        ("5", "\\boxed{x>5}"),
        ("5", "\\boxed{5x}"),
        ("5", "\\boxed{\\text{not }5}"),
        ("5", "\\boxed{\\text{either }5\\text{ or }6}"),
        ("5", "\\boxed{1}\\boxed{2}"),
        ("5", "\\boxed{5} wait, \\boxed{6}"),
        ("5", "\\boxed{1, 2, 3, 4, 5}"),
        ("5", "\\boxed{\\int_0^5 dx}"),
        ("5", "<answer>6</answer> 5"),
        ("5", "<answer>5</answer><answer>6</answer>"),
        ("5", "The answer is 5, or maybe 6."),
        ("5", "The answer is 5\\% of x."),
        ("5", "Answer: 1 2 3 4 5"),
        ("5", "The answer is between 4 and 5."),
        ("5", "The answer is x^5"),
        ("5", "x^5"),
        ("5", "The answer is 2^{5}"),
        ("5", "-5"),
        ("5", "The result is $x+5$."),
        ("5", "1/5"),
        ("5", "It is 1/5."),
        ("5", "It is 3.5"),
        ("5", "It is \\frac{1}{5}"),
        ("5", "It is \\sqrt{5}."),
        ("5", "It is 2\\sqrt{5}"),
        ("2", "It is x^2."),
        ("2", "So we get a_2"),
        ("5", "It is 10^5"),
        ("5", "It is 10^{-5}"),
        ("5", "He has -5 dollars"),
        ("5", "It is − 5."),
    ] {
        wrong(truth, text);
    }
}

#[test]
fn remarks_and_choices_are_read_in_sentences() {
    right("5", "It is 5 (not 6).");
    wrong("6", "It is 5 (not 6).");
    right("5", "\\boxed{5 (not 6)}");
    right("B", "The answer is B) Paris.");
    right("B", "\\boxed{B) Paris}");
    wrong("A", "The answer is B) Paris.");
    right("4/3", "The answer is 4:3.");
    right("[0,1)", "<answer>x \\in [0,1)</answer>");
    right("[0,1)", "\\boxed{\\{x : 0 \\le x < 1\\}}");
}
