//! The names of the attributes of Python's values.

use minijinja::Value;

use super::value::Python;

/// Whether Python has an attribute of this name, which Jinja2 finds before an item.
pub fn exists(value: &Value, name: &str) -> bool {
    match Python::of(value) {
        Python::Str(_) => OF_STRINGS.contains(&name) || OTHERS_OF_STRINGS.contains(&name),
        Python::List(_) => OF_LISTS.contains(&name),
        Python::Tuple(_) => ["count", "index"].contains(&name),
        Python::Dict(_) => OF_DICTS.contains(&name),
        Python::Bool(_) | Python::Int(_) | Python::Float(_) => OF_NUMBERS.contains(&name),
        Python::None | Python::Undefined | Python::Other => false,
        Python::View(_) | Python::Generator(_) => true,
    }
}

const OF_STRINGS: [&str; 33] = [
    "capitalize",
    "count",
    "encode",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isdigit",
    "islower",
    "isspace",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
];
const OF_LISTS: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const OF_DICTS: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

const OTHERS_OF_STRINGS: [&str; 13] = [
    "casefold",
    "center",
    "expandtabs",
    "format_map",
    "isascii",
    "isdecimal",
    "isidentifier",
    "isnumeric",
    "isprintable",
    "istitle",
    "maketrans",
    "swapcase",
    "translate",
];
const OF_NUMBERS: [&str; 11] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "imag",
    "is_integer",
    "numerator",
    "real",
    "to_bytes",
];
