//! The dependencies against `deny.toml`, as far as this can be done without cargo-deny (see there).

use std::iter::Peekable;
use std::process::Command;
use std::str::SplitWhitespace;

use serde_json::Value;

use crate::fixtures::root;

/// Whether an SPDX expression can be met with these licences alone. `/` is an older `OR`.
fn is_allowed(expression: &str, licences: &[&str]) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    any(&mut text.split_whitespace().peekable(), licences)
}

fn any(words: &mut Peekable<SplitWhitespace>, licences: &[&str]) -> bool {
    let mut is_met = all(words, licences);
    while words.next_if_eq(&"OR").is_some() {
        is_met |= all(words, licences);
    }
    is_met
}

fn all(words: &mut Peekable<SplitWhitespace>, licences: &[&str]) -> bool {
    let mut is_met = one(words, licences);
    while words.next_if_eq(&"AND").is_some() {
        is_met &= one(words, licences);
    }
    is_met
}

fn one(words: &mut Peekable<SplitWhitespace>, licences: &[&str]) -> bool {
    let first = words.next().unwrap_or_default();
    if first == "(" {
        let is_met = any(words, licences);
        return words.next() == Some(")") && is_met;
    }
    match words.next_if_eq(&"WITH") {
        Some(_) => licences.contains(&format!("{first} WITH {}", words.next().unwrap_or_default()).as_str()),
        None => licences.contains(&first),
    }
}

#[test]
fn an_expression_of_licences_is_read() {
    let check = |expression: &str, expected: bool| {
        assert_eq!(is_allowed(expression, &["MIT", "ISC", "A WITH B"]), expected, "{expression}");
    };
    for good in
        ["MIT", "GPL OR MIT", "GPL / MIT", "MIT AND ISC", "(GPL OR MIT) AND ISC", "A WITH B", "GPL AND X OR ISC"]
    {
        check(good, true);
    }
    for bad in ["GPL", "", "MIT AND GPL", "A", "B", "(MIT OR ISC) AND GPL", "(MIT"] {
        check(bad, false);
    }
}

#[test]
fn licences_sources_and_bans_hold() {
    let deny: toml::Table = std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap();
    let texts = |value: &'static str, key: &str| -> Vec<String> {
        let list = deny[value][key].as_array().unwrap().iter();
        list.map(|it| it.get("crate").unwrap_or(it).as_str().unwrap().to_owned()).collect()
    };
    let (licences, registries, banned) =
        (texts("licenses", "allow"), texts("sources", "allow-registry"), texts("bans", "deny"));
    let licences: Vec<&str> = licences.iter().map(String::as_str).collect();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--format-version=1", "--locked", "--filter-platform"]);
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = cargo.arg(host).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let (name, source) = (package["name"].as_str().unwrap(), package["source"].as_str());
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &licences), "the licence of {name} is not in deny.toml: {licence:?}");
        let is_known = |source: &str| registries.iter().any(|known| source == format!("registry+{known}"));
        assert!(source.is_none_or(is_known), "{name} is from {source:?}");
        assert!(!banned.iter().any(|it| it == name), "{name} is banned in deny.toml");
    }
}
