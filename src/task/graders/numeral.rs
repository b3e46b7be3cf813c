//! Numbers as people write them: `1,000`, `-$3.50`, `15%`, `3/4`, `1.5e3`.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::answer::pattern;

static FRACTION: LazyLock<Regex> = LazyLock::new(|| pattern(r"\\[dt]?frac\s*\{\s*([-−]?\d+)\s*\}\s*\{\s*(\d+)\s*\}"));
static POWER_OF_TEN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(\d)\s*(?:\\times|\\cdot|[×·*x])\s*10\s*\^\s*\{?\s*([-−+]?)(\d+)\s*\}?"));
/// Separators of thousands that only LaTeX has, and minus signs that only typesetting has.
const SPELLINGS: [(&str, &str); 6] = [("{,}", ","), (r"\,", ","), (r"\!", ""), ("−", "-"), ("–", "-"), (r"\%", "%")];

const PERCENT: [&str; 3] = ["%", "percent", "per cent"];
/// Words that multiply the number before them.
const SCALES: [(&str, f64); 5] =
    [("hundred", 1e2), ("thousand", 1e3), ("million", 1e6), ("billion", 1e9), ("trillion", 1e12)];

/// A number in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Numeral {
    pub value: f64,
    /// The digits of a plain decimal number, without zeros that change nothing. It decides equality where an `f64` is
    /// too short. None for a fraction, a percentage, and a number with an exponent or a word such as "million".
    digits: Option<String>,
    /// Where it begins, with its sign and currency, and where it ends, with its `%`.
    pub start: usize,
    pub end: usize,
    pub percent: bool,
}

impl Numeral {
    /// Whether both are the same number.
    pub fn equals(&self, other: &Self) -> bool {
        match (&self.digits, &other.digits) {
            (Some(mine), Some(others)) => mine == others,
            _ => (self.value - other.value).abs() <= 1e-9 * self.value.abs().max(other.value.abs()),
        }
    }
}

/// Writes LaTeX fractions, powers of ten and separators the plain way.
pub fn plain(text: &str) -> Cow<'_, str> {
    let mut plain = Cow::Borrowed(text);
    for (special, usual) in SPELLINGS {
        if plain.contains(special) {
            plain = Cow::Owned(plain.replace(special, usual));
        }
    }
    if plain.contains("frac") {
        plain = Cow::Owned(FRACTION.replace_all(&plain, "$1/$2").into_owned());
    }
    if plain.contains("10") && plain.contains('^') {
        plain = Cow::Owned(POWER_OF_TEN.replace_all(&plain, "${1}e$2$3").into_owned());
    }
    plain
}

/// Every number of a text that [`plain`] made. Digits within a word (`x2`, `B12`) and ordinals (`2nd`) are not numbers.
pub fn all(text: &str) -> Vec<Numeral> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let point = bytes[at] == b'.' && digit(bytes, at + 1);
        let begins = bytes[at].is_ascii_digit() || point && !text[..at].ends_with(char::is_alphanumeric);
        if !begins {
            at += 1;
            continue;
        }
        let first = at;
        let numeral = read(text, first);
        at = numeral.end;
        let word_before = numeral.start == first && text[..first].ends_with(|c: char| c.is_alphabetic() || c == '_');
        let rest = &bytes[numeral.end..];
        let ordinal = [b"st", b"nd", b"rd", b"th"].iter().any(|ending| {
            rest.get(..2).is_some_and(|it| it.eq_ignore_ascii_case(*ending))
                && !rest.get(2).is_some_and(u8::is_ascii_alphanumeric)
        });
        if !word_before && !ordinal {
            found.push(numeral);
        }
    }
    found
}

/// The number that a whole text is, as Python's `float` reads it.
pub fn float(text: &str) -> Option<f64> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let misplaced = |at: usize| bytes[at] == b'_' && !(at > 0 && digit(bytes, at - 1) && digit(bytes, at + 1));
    if (0..bytes.len()).any(misplaced) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Whether the left side of an equation is a product of variables, as in `xy=5`.
pub fn is_product(left: &str) -> bool {
    let left = left.trim().trim_start_matches(['$', '(', '\\']);
    (2..=3).contains(&left.len()) && left.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn digit(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}

/// Reads the number whose first digit, or point, is at `first`.
fn read(text: &str, first: usize) -> Numeral {
    let bytes = text.as_bytes();
    let mut end = whole_part(bytes, first);
    let mut exact = true;
    if bytes.get(end) == Some(&b'.') && digit(bytes, end + 1) {
        end = digits_end(bytes, end + 1);
    }
    let decimal_end = end;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if digit(bytes, end + 1 + signed) {
            end = digits_end(bytes, end + 1 + signed);
            exact = false;
        }
    }
    let separator = |c: &char| !matches!(c, ',' | '_' | ' ');
    let clean = |part: &str| part.chars().filter(separator).collect::<String>();
    let mut value: f64 = clean(&text[first..end]).parse().unwrap_or(f64::NAN);
    if bytes.get(end) == Some(&b'/') && digit(bytes, end + 1) {
        let below = end + 1;
        end = digits_end(bytes, below);
        value /= text[below..end].parse::<f64>().unwrap_or(f64::NAN);
        exact = false;
    }
    let (start, negative) = sign(text, first);
    let after = text[end..].trim_start_matches(' ');
    let word = |word: &str| {
        after.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && !after[word.len()..].starts_with(char::is_alphanumeric)
    };
    let percent = PERCENT.iter().find(|it| word(it)).copied();
    let scale = SCALES.iter().find(|(it, _)| word(it));
    if let Some(word) = percent.or(scale.map(|(word, _)| *word)) {
        end = text.len() - after.len() + word.len();
    }
    if let Some((_, scale)) = scale {
        value *= scale;
        exact = false;
    }
    let percent = percent.is_some();
    if negative {
        value = -value;
    }
    let digits = (exact && !percent).then(|| normal(&clean(&text[first..decimal_end]), negative));
    Numeral { value, digits, start, end, percent }
}

/// The end of the digits before the point, with their separators of thousands.
fn whole_part(bytes: &[u8], first: usize) -> usize {
    let mut end = digits_end(bytes, first);
    if !(1..=3).contains(&(end - first)) {
        return end;
    }
    let separator = match bytes.get(end) {
        Some(&byte @ (b',' | b'_')) => byte,
        _ => return end,
    };
    while bytes.get(end) == Some(&separator) && digits_end(bytes, (end + 1).min(bytes.len())) == end + 4 {
        end += 4;
    }
    end
}

/// The end of the digits that begin at `at`. `at` itself if there are none.
fn digits_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |length| at + length)
}

/// Where the sign or the currency before a number begins, and whether it is negative. A minus behind a digit, a letter
/// or a bracket subtracts.
fn sign(text: &str, first: usize) -> (usize, bool) {
    let mut start = first;
    let mut negative = false;
    for _ in 0..3 {
        let before = &text[..start];
        if !negative && before.ends_with('-') {
            let earlier = before[..before.len() - 1].chars().next_back();
            if earlier.is_some_and(|c| c.is_alphanumeric() || matches!(c, ')' | ']' | '}' | '-')) {
                break;
            }
            (start, negative) = (start - 1, true);
        } else if before.ends_with(r"\$") {
            start -= 2;
        } else if let Some(currency) = before.chars().next_back().filter(|c| matches!(c, '$' | '€' | '£')) {
            start -= currency.len_utf8();
        } else {
            break;
        }
    }
    (start, negative)
}

/// A decimal number without zeros that change nothing.
fn normal(decimal: &str, negative: bool) -> String {
    let (whole, part) = decimal.split_once('.').unwrap_or((decimal, ""));
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let sign = if negative && !(whole.is_empty() && part.is_empty()) { "-" } else { "" };
    format!("{sign}{whole}.{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[f64]) {
        let values: Vec<f64> = all(&plain(text)).iter().map(|it| it.value).collect();
        assert_eq!(values, expected, "{text:?}");
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        check("42", &[42.0]);
        check("42.", &[42.0]);
        check("-42, +7", &[-42.0, 7.0]);
        check("−42", &[-42.0]);
        check("1,000", &[1000.0]);
        check("1,234,567.50", &[1_234_567.5]);
        check("1,0000", &[1.0, 0.0]);
        check("1234,567", &[1234.0, 567.0]);
        check("1,23", &[1.0, 23.0]);
        check("1_000", &[1000.0]);
        check(r"1{,}000 and 1\,000", &[1000.0, 1000.0]);
        check("$3.50, -$2, $-2, €7", &[3.5, -2.0, -2.0, 7.0]);
        check(r"\$18", &[18.0]);
        check(".5 and 0.5", &[0.5, 0.5]);
        check("3/4", &[0.75]);
        check(r"\frac{3}{4} \dfrac{-1}{2}", &[0.75, -0.5]);
        check("1.5e3", &[1500.0]);
        check(r"1.5 \times 10^3, 2×10^{-2}", &[1500.0, 0.02]);
        check("15% 15 %", &[15.0, 15.0]);
        check("5-3", &[5.0, 3.0]);
        check("x2 B12 2nd 3rd 15th", &[]);
        check("5km, 5 km", &[5.0, 5.0]);
        check("1/0", &[f64::INFINITY]);
        check("1.2.3", &[1.2, 3.0]);
        check("Rs.42, US$7", &[42.0, 7.0]);
        check("15 percent", &[15.0]);
        check("5 million, 3 Thousand, 2 thousands", &[5e6, 3e3, 2.0]);
        check("", &[]);
        check(". - , $ / e", &[]);
    }

    #[test]
    fn equality_is_exact_for_plain_numbers() {
        let numeral = |text: &str| all(&plain(text)).remove(0);
        for (a, b, equal) in [
            ("042.0", "42", true),
            ("-0", "0", true),
            ("12345678901234567890", "12345678901234567891", false),
            ("0.1", ".10", true),
            ("3/4", "0.75", true),
            ("1e3", "1,000", true),
            ("1/3", "0.33", false),
        ] {
            assert_eq!(numeral(a).equals(&numeral(b)), equal, "{a} and {b}");
        }
    }

    #[test]
    fn whole_texts_are_read_as_python_reads_them() {
        for (text, expected) in [
            ("1_000", Some(1000.0)),
            (" +1e1 ", Some(10.0)),
            ("5.", Some(5.0)),
            (".5", Some(0.5)),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("1_.5", None),
            ("1,000", None),
            ("15%", None),
            ("", None),
        ] {
            assert_eq!(float(text), expected, "{text:?}");
        }
        assert!(float("nan").unwrap().is_nan() && float("-Infinity") == Some(f64::NEG_INFINITY));
    }
}
