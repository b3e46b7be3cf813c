//! Units of measurement, with exact factors within a dimension.

use num_rational::BigRational;
use num_traits::One;

use super::tree::Unit;

/// The dimension of percentages.
pub const PERCENT: &str = "percent";
/// The dimension of angles in degrees.
pub const DEGREE: &str = "degree";

/// Names, dimension, and size in the base unit as numerator and denominator.
const TABLE: &[(&[&str], &str, i64, i64)] = &[
    (&["mm", "millimeter", "millimetre"], "length", 1, 1000),
    (&["cm", "centimeter", "centimetre"], "length", 1, 100),
    (&["m", "meter", "metre"], "length", 1, 1),
    (&["km", "kilometer", "kilometre"], "length", 1000, 1),
    (&["in", "inch", "inches"], "length", 254, 10_000),
    (&["ft", "foot", "feet"], "length", 3048, 10_000),
    (&["yd", "yard"], "length", 9144, 10_000),
    (&["mi", "mile"], "length", 1_609_344, 1000),
    (&["ms", "millisecond"], "time", 1, 1000),
    (&["s", "sec", "secs", "second"], "time", 1, 1),
    (&["min", "mins", "minute"], "time", 60, 1),
    (&["h", "hr", "hrs", "hour"], "time", 3600, 1),
    (&["day"], "time", 86_400, 1),
    (&["week"], "time", 604_800, 1),
    (&["month"], "month", 1, 1),
    (&["year", "yr", "yrs"], "month", 12, 1),
    (&["mg", "milligram"], "mass", 1, 1_000_000),
    (&["g", "gram"], "mass", 1, 1000),
    (&["kg", "kilogram"], "mass", 1, 1),
    (&["lb", "pound", "lbs"], "pound", 1, 1),
    (&["oz", "ounce"], "ounce", 1, 1),
    (&["mL", "ml", "milliliter", "millilitre"], "volume", 1, 1000),
    (&["L", "l", "liter", "litre"], "volume", 1, 1),
    (&["$", "USD", "dollar"], "dollar", 1, 1),
    (&["¢", "cent"], "dollar", 1, 100),
    (&["€", "EUR", "euro"], "euro", 1, 1),
    (&["£", "GBP"], "sterling", 1, 1),
    (&["°", "deg", "degree"], DEGREE, 1, 1),
    (&["%", "percent", "percentage", "pct"], PERCENT, 1, 1),
    (&["N", "newton"], "newton", 1, 1),
    (&["J", "joule"], "joule", 1, 1),
    (&["W", "watt"], "watt", 1, 1),
    (&["V", "volt"], "volt", 1, 1),
    (&["A", "ampere", "amp"], "ampere", 1, 1),
    (&["K", "kelvin"], "kelvin", 1, 1),
    (&["Hz", "hertz"], "hertz", 1, 1),
];

/// Words that change what a number says, so that they are no unit.
const NOT_UNITS: &[&str] = &[
    "or",
    "and",
    "if",
    "when",
    "for",
    "than",
    "more",
    "less",
    "not",
    "times",
    "to",
    "mod",
    "over",
    "plus",
    "minus",
    "divided",
    "by",
    "is",
    "are",
    "but",
    "except",
    "the",
    "a",
    "of",
    "with",
    "where",
    "at",
    "least",
    "most",
    "fewer",
    "base",
    "only",
    "then",
    "from",
    "through",
    "hundred",
    "dozen",
    "thousand",
    "million",
    "billion",
    "trillion",
    "half",
    "third",
    "remainder",
    "factorial",
    "squared",
    "cubed",
    "root",
    "no",
    "choose",
    "below",
    "above",
    "as",
    "in",
    "on",
    "thousandth",
    "hundredth",
    "tenth",
    "tens",
    "st",
    "nd",
    "rd",
    "th",
    "modulo",
    "negative",
    "positive",
    "halves",
    "thirds",
    "quarter",
    "quarters",
    "fifth",
    "fifths",
    "sixths",
    "tenths",
    "hundredths",
    "thousandths",
    "millions",
    "thousands",
    "billions",
    "hundreds",
    "without",
    "twice",
    "double",
    "approximately",
    "about",
    "between",
];

fn lookup(word: &str) -> Option<Unit> {
    let found = |it: &&(&[&str], &str, i64, i64)| {
        it.0.contains(&word)
            || (word.len() > 3 && {
                let lower = word.to_lowercase();
                it.0.contains(&lower.as_str()) || lower.strip_suffix('s').is_some_and(|one| it.0.contains(&one))
            })
    };
    let (_, dimension, numerator, denominator) = TABLE.iter().find(found)?;
    Some(Unit { dimension: (*dimension).into(), factor: BigRational::new((*numerator).into(), (*denominator).into()) })
}

/// Whether the table has the word.
pub fn is_unit(word: &str) -> bool {
    matches!(word, "mph" | "kph") || lookup(word).is_some()
}

/// How many a word such as "million" counts.
pub fn multiplier(word: &str) -> Option<i64> {
    Some(match word.to_lowercase().as_str() {
        "dozen" => 12,
        "hundred" => 100,
        "thousand" => 1000,
        "million" => 1_000_000,
        "billion" => 1_000_000_000,
        "trillion" => 1_000_000_000_000,
        _ => return None,
    })
}

/// Reads a unit such as `cm`, `square feet`, `m/s`, `cm^2`, `miles per hour`, `apples`.
///
/// Words that are in no table are a dimension by themselves. `None` if the words are something else than a unit.
pub fn parse(text: &str) -> Option<Unit> {
    let text = text.strip_prefix('(').and_then(|it| it.strip_suffix(')')).unwrap_or(text);
    let text = text
        .replace("sq.", "square")
        .replace('.', "")
        .replace(" per ", "/")
        .replace("mph", "mile/hour")
        .replace("kph", "km/hour");
    let mut parts = text.split('/');
    let mut unit = power(parts.next()?.trim())?;
    for part in parts {
        let below = power(part.trim())?;
        unit =
            Unit { dimension: format!("{}/{}", unit.dimension, below.dimension), factor: unit.factor / below.factor };
    }
    Some(unit)
}

fn power(text: &str) -> Option<Unit> {
    let (name, mut exponent) = match text.split_once('^') {
        Some((name, exponent)) => (name.trim(), exponent.trim().parse::<i32>().ok().filter(|it| (1..=4).contains(it))?),
        None => (text, 1),
    };
    let mut words: Vec<&str> = name.split_whitespace().collect();
    match words.first().map(|it| it.to_lowercase()).as_deref() {
        Some("square" | "sq") if words.len() > 1 => exponent *= 2,
        Some("cubic" | "cu") if words.len() > 1 => exponent *= 3,
        _ => exponent += 100,
    }
    if exponent < 100 {
        words.remove(0);
    } else {
        exponent -= 100;
    }
    if words.is_empty() || words.len() > 4 {
        return None;
    }
    let base = match words.as_slice() {
        [one] if lookup(one).is_some() => lookup(one)?,
        [first, second] if lookup(first).is_some() && second.eq_ignore_ascii_case("squared") => {
            exponent *= 2;
            lookup(first)?
        }
        _ => named(&words)?,
    };
    if exponent == 1 {
        return Some(base);
    }
    let factor = (0..exponent).fold(BigRational::one(), |all, _| all * &base.factor);
    Some(Unit { dimension: format!("{}^{exponent}", base.dimension), factor })
}

/// Words in no table, such as "apples".
fn named(words: &[&str]) -> Option<Unit> {
    let plain = |word: &&str| word.len() > 1 && word.chars().all(|it| it.is_alphabetic() || it == '-' || it == '°');
    let number = |word: &&str| NOT_UNITS.contains(&word.to_lowercase().as_str());
    if !words.iter().all(plain) || words.iter().any(number) {
        return None;
    }
    let lower = words.join(" ").to_lowercase();
    let dimension =
        lower.strip_suffix("es").or(lower.strip_suffix('s')).unwrap_or(&lower).trim_end_matches('e').to_owned();
    Some(Unit { dimension, factor: BigRational::one() })
}
