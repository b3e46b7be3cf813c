//! What must be known of a template's text before it is parsed.

use std::collections::HashSet;
use std::sync::LazyLock;

use minijinja::machinery::{Span, Token, WhitespaceConfig};
use minijinja::{Error, ErrorKind};
use regex::{Captures, Regex};

use super::bounds::{ELIFS, TOKENS_OF_A_TAG};

/// Comments and raw blocks, which stay, and the tags that surround what an assistant says.
static TAGS: LazyLock<Regex> = LazyLock::new(|| {
    let tags = r"(?s)\{#.*?#\}|\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}|(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})";
    Regex::new(tags).expect("a fixed pattern")
});

/// The text with the line ends that Jinja2 gives it, and with `{% generation %}` of transformers as `{% with %}`: both are a scope
/// and nothing else.
pub fn with_known_tags(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let known = |tag: &Captures| match (tag.get(1), tag.get(3)) {
        (Some(open), Some(close)) => {
            let end = tag.get(2).map_or("", |it| it.as_str());
            format!("{}{end}with{}", open.as_str(), close.as_str())
        }
        _ => tag[0].to_owned(),
    };
    TAGS.replace_all(&text, known).into_owned()
}

/// The names of the macros that have parameters with defaults.
///
/// # Errors
/// A string with an escape that minijinja reads differently; a tag or a chain of `elif` that is too long.
pub fn scan(text: &'static str, whitespace: WhitespaceConfig) -> Result<HashSet<&'static str>, Error> {
    let (mut with_defaults, mut name, mut before) = (HashSet::new(), None, None);
    let (mut tokens, mut elifs) = (0, 0);
    for token in minijinja::machinery::tokenize(text, false, Default::default(), whitespace) {
        let (token, span) = token?;
        tokens = if let Token::VariableStart | Token::BlockStart = token { 0 } else { tokens + 1 };
        elifs += usize::from(matches!(token, Token::Ident("elif")));
        if tokens > TOKENS_OF_A_TAG || elifs > ELIFS {
            return Err(refused(span, "a tag or a chain of `elif` as long as this is not supported"));
        }
        match token {
            Token::Ident(it) if before == Some("macro") => name = Some(it),
            Token::Assign => with_defaults.extend(name),
            Token::BlockEnd => name = None,
            Token::Str(_) | Token::String(_) => known_escapes(&text[span.start_offset as usize..], span)?,
            _ => {}
        }
        before = if let Token::Ident(it) = token { Some(it) } else { None };
    }
    Ok(with_defaults)
}

pub type Parsed<T> = Result<T, Error>;

/// The error of a part of a template.
pub fn refused(span: Span, reason: &str) -> Error {
    Error::new(ErrorKind::SyntaxError, format!("line {}: {reason}", span.start_line))
}

/// `text` begins with a string at `span`.
fn known_escapes(text: &str, span: Span) -> Result<(), Error> {
    let mut literal = text[..(span.end_offset - span.start_offset) as usize].chars();
    while let Some(c) = literal.next() {
        let escaped = if c == '\\' { literal.next() } else { None };
        let is_surrogate = escaped == Some('u') && literal.as_str().starts_with(['d', 'D']);
        if is_surrogate || matches!(escaped, Some('a' | 'b' | 'f' | 'v' | 'U' | 'N' | '\n')) {
            let escape = escaped.map(|c| c.escape_default().to_string()).unwrap_or_default();
            return Err(refused(span, &format!("the escape \\{escape} in a string is not supported")));
        }
    }
    Ok(())
}
