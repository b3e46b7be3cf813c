//! The bearer token that a client must have.

use std::fmt;

use axum::http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq;

use super::error::Refused;

/// A token. It is never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// # Errors
    /// Text that no header can hold, or nothing. The text is not repeated.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        match text.trim() {
            "" => Err("is empty; it must hold the token that clients send"),
            token if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Self(token.to_string())),
            _ => Err("holds more than one word of visible ASCII characters; it must hold the token alone"),
        }
    }

    /// Takes the same time for every wrong token of the same length.
    fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// # Errors
/// Status 401 if there is a token and `headers` do not have it.
pub fn check(token: Option<&Token>, headers: &HeaderMap) -> Result<(), Refused> {
    let Some(token) = token else { return Ok(()) };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match given.is_some_and(|(_, given)| token.is(given.trim())) {
        true => Ok(()),
        false => {
            Err(Refused::new(StatusCode::UNAUTHORIZED, "the header `Authorization: Bearer …` has no or another token"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_let_in() {
        let token = Token::new(" secret\n").expect("a token");
        let check = |header: Option<&str>, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.extend(header.map(|value| (header::AUTHORIZATION, value.parse().expect("a value"))));
            assert_eq!(check(Some(&token), &headers).is_ok(), expected, "{header:?}");
        };
        check(Some("Bearer secret"), true);
        check(Some("bearer  secret"), true);
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer", "Basic secret", "secret", "Bearer "] {
            check(Some(wrong), false);
        }
        check(None, false);
        assert!(!format!("{token:?}").contains("secret"));
        assert!(Token::new("two words").is_err() && Token::new(" ").is_err());
    }
}
