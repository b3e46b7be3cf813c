//! Error messages of mistral.rs and candle, made readable.

use std::any::Any;

/// The first line of a message: candle appends a backtrace if the environment asks for one.
pub fn first_line(problem: &str) -> String {
    problem.lines().next().unwrap_or_default().to_string()
}

/// The message of a panic inside mistral.rs.
pub fn panic_message(payload: Option<Box<dyn Any + Send>>) -> String {
    let text = payload
        .as_ref()
        .and_then(|p| p.downcast_ref::<String>().map(String::as_str).or_else(|| p.downcast_ref::<&str>().copied()));
    format!("mistral.rs panicked: {}", text.unwrap_or("no message"))
}
