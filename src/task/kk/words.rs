//! The two words for people who tell the truth and people who lie.

/// A pair of role words, such as "knight" and "knave".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleWords {
    /// A person who always tells the truth.
    pub truthful: &'static str,
    /// A person who always lies.
    pub lying: &'static str,
}

/// Every pair that puzzles and ground truths use; no word is in two pairs. The last six are those of the public
/// generator (arXiv 2410.23123).
pub const PAIRS: [RoleWords; 7] = [
    RoleWords { truthful: "knight", lying: "knave" },
    RoleWords { truthful: "pioneer", lying: "laggard" },
    RoleWords { truthful: "saint", lying: "sinner" },
    RoleWords { truthful: "hero", lying: "villain" },
    RoleWords { truthful: "angel", lying: "devil" },
    RoleWords { truthful: "altruist", lying: "egoist" },
    RoleWords { truthful: "sage", lying: "fool" },
];

impl RoleWords {
    /// Knights tell the truth and knaves lie.
    pub const KNIGHTS: Self = PAIRS[0];

    /// The word for a person who tells the truth, or for one who lies.
    pub fn of(self, truthful: bool) -> &'static str {
        if truthful { self.truthful } else { self.lying }
    }

    /// The same words with their meanings exchanged.
    pub fn flipped(self) -> Self {
        Self { truthful: self.lying, lying: self.truthful }
    }
}

/// `a knight`, `an angel`.
pub fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}

/// `knights`, `heroes`.
pub fn plural(word: &str) -> String {
    format!("{word}{}", if word.ends_with('o') { "es" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_and_plurals_fit_every_word() {
        let words = PAIRS.iter().flat_map(|it| [it.truthful, it.lying]);
        let told: Vec<_> = words.map(|word| format!("{}, {}", with_article(word), plural(word))).collect();
        let expected = [
            "a knight, knights",
            "a knave, knaves",
            "a pioneer, pioneers",
            "a laggard, laggards",
            "a saint, saints",
            "a sinner, sinners",
            "a hero, heroes",
            "a villain, villains",
            "an angel, angels",
            "a devil, devils",
            "an altruist, altruists",
            "an egoist, egoists",
            "a sage, sages",
            "a fool, fools",
        ];
        assert_eq!(told, expected);
    }
}
