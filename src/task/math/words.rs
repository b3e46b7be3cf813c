//! The words and commands that mean something in an answer.

use super::token::Kind;
use super::tree::Function;
use super::units;

/// What a LaTeX command stands for: `Some(None)` if it only changes the look, `None` if it is not known here.
pub fn command(name: &str) -> Option<Option<Kind>> {
    let symbol = match name {
        "cdot" | "times" | "ast" => '*',
        "div" => '/',
        "pm" => '±',
        "mp" => '∓',
        "le" | "leq" | "leqslant" => '≤',
        "ge" | "geq" | "geqslant" => '≥',
        "lt" => '<',
        "gt" => '>',
        "ne" | "neq" => '≠',
        "approx" => '≈',
        "in" => '∈',
        "cup" => '∪',
        "infty" => '∞',
        "langle" => '⟨',
        "rangle" => '⟩',
        "lfloor" => '⌊',
        "rfloor" => '⌋',
        "lceil" => '⌈',
        "rceil" => '⌉',
        "lvert" | "rvert" | "vert" | "mid" => '|',
        "lbrace" => '⦃',
        "rbrace" => '⦄',
        "lbrack" => '[',
        "rbrack" => ']',
        "dots" | "ldots" | "cdots" | "dotsc" => '…',
        "circ" | "degree" => '°',
        "percent" => '%',
        "euro" => '€',
        "pounds" => '£',
        "displaystyle" | "textstyle" | "limits" | "rm" | "bf" | "it" | "mathbf" | "mathit" | "boldsymbol" | "quad"
        | "qquad" | "thinspace" | "enspace" | "space" | "hspace" | "mathstrut" | "bm" | "mathsf" | "nolimits"
        | "underline" => {
            return Some(None);
        }
        _ => {
            let plain = match name {
                "dfrac" | "tfrac" | "cfrac" => "frac",
                "dbinom" | "tbinom" => "binom",
                "varnothing" => "emptyset",
                "lor" | "vee" => "or",
                "land" | "wedge" => "and",
                "varepsilon" => "epsilon",
                "varphi" => "phi",
                "vartheta" => "theta",
                _ => return None,
            };
            return Some(Some(Kind::Name(plain.into())));
        }
    };
    Some(Some(Kind::Symbol(symbol)))
}

/// Greek letters that are variables.
pub fn is_greek(name: &str) -> bool {
    matches!(
        name,
        "alpha"
            | "beta"
            | "gamma"
            | "delta"
            | "epsilon"
            | "zeta"
            | "eta"
            | "theta"
            | "kappa"
            | "lambda"
            | "mu"
            | "nu"
            | "xi"
            | "rho"
            | "sigma"
            | "tau"
            | "phi"
            | "chi"
            | "psi"
            | "omega"
            | "Gamma"
            | "Delta"
            | "Theta"
            | "Lambda"
            | "Sigma"
            | "Phi"
            | "Psi"
            | "Omega"
            | "ell"
    )
}

/// A word with a mathematical meaning.
pub fn known(word: &str) -> Option<Kind> {
    let name = |name: &str| Some(Kind::Name(name.into()));
    match word {
        "and" | "or" | "sqrt" | "cbrt" | "log" | "lg" | "pi" | "frac" => name(word),
        "infinity" | "inf" | "infty" | "oo" => Some(Kind::Symbol('∞')),
        "in" => Some(Kind::Symbol('∈')),
        "union" | "U" => Some(Kind::Symbol('∪')),
        "π" => name("pi"),
        "ℝ" => name("mathbb:R"),
        "i" | "e" => Some(Kind::Letter(word.chars().next()?)),
        _ if Function::named(word).is_some() => name(word),
        _ if word.len() > 2 && is_greek(word) => name(word),
        _ => None,
    }
}

/// A run of letters: a known word, a product of variables, or words.
pub fn split(word: &str, after_number: bool) -> Vec<Kind> {
    let unit = after_number && word.len() > 1 && units::is_unit(word);
    if unit && word != "pi" {
        return vec![Kind::Text(word.into())];
    }
    if word == "U" {
        return vec![Kind::Letter('U')];
    }
    if let Some(kind) = known(word) {
        return vec![kind];
    }
    for name in ["sqrt", "sin", "cos", "tan", "ln", "log", "pi"] {
        if let Some(rest) = word.strip_prefix(name)
            && rest.chars().count() == 1
            && rest.is_ascii()
        {
            return [vec![Kind::Name(name.into())], split(rest, false)].concat();
        }
    }
    if word.chars().count() == 1 {
        return match word {
            "θ" => vec![Kind::Name("theta".into())],
            "α" => vec![Kind::Name("alpha".into())],
            "β" => vec![Kind::Name("beta".into())],
            "λ" => vec![Kind::Name("lambda".into())],
            _ => word.chars().map(Kind::Letter).collect(),
        };
    }
    if let Some(rest) = word.strip_suffix(['π']) {
        return [split(rest, after_number), vec![Kind::Name("pi".into())]].concat();
    }
    if let Some(rest) = word.strip_prefix(['π']) {
        return [vec![Kind::Name("pi".into())], split(rest, false)].concat();
    }
    if is_product(word) { word.chars().map(Kind::Letter).collect() } else { vec![Kind::Text(word.into())] }
}

/// Whether letters without a space between them are variables to multiply, not a word.
fn is_product(word: &str) -> bool {
    if !word.bytes().all(|it| it.is_ascii_alphabetic()) || word.len() > 4 {
        return false;
    }
    if word.len() == 2 {
        let english = [
            "no", "on", "of", "in", "is", "it", "if", "at", "as", "an", "am", "my", "by", "me", "we", "he", "to", "so",
            "up", "us", "do", "go", "or", "be", "ok", "hi", "oh", "id", "pm", "mr", "dr", "st", "vs",
        ];
        return word.bytes().all(|it| it.is_ascii_lowercase() || !b"AEIOU".contains(&it))
            && !english.contains(&word.to_ascii_lowercase().as_str())
            && word.bytes().any(|it| it.is_ascii_lowercase());
    }
    let rest = word.strip_prefix("ab").unwrap_or(word);
    word.bytes().all(|it| it.is_ascii_lowercase()) && !rest.bytes().any(|it| b"aeiou".contains(&it))
}
