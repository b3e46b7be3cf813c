//! What a panic says, where it is caught and told as an error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The message of a panic. `panic!` gives text; anything else has none.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// What `work` gives, or the message of its panic. Nothing that it changes may be used after a panic.
///
/// # Errors
/// The panic's message.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic).to_string())
}

/// As [`caught`], for a library that panics on a damaged file: nothing is printed, because the error says all.
///
/// # Errors
/// The panic's message.
pub fn caught_quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = QUIET.replace(true);
    let result = caught(work);
    QUIET.set(before);
    result
}

/// Whether a panic of this thread is told as an error, for a panic hook.
pub fn is_quiet() -> bool {
    QUIET.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(caught(|| -> u8 { panic!("no {}", "room") }), Err("no room".into()));
        assert_eq!(caught(|| -> u8 { panic!("fixed") }), Err("fixed".into()));
        assert_eq!(caught(|| -> u8 { std::panic::panic_any(7) }), Err("without a message".into()));
        let quiet = || -> bool { panic!("quiet: {}", is_quiet()) };
        assert_eq!((caught_quietly(quiet), is_quiet()), (Err("quiet: true".into()), false));
    }
}
