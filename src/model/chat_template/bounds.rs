//! What one rendering of a template may take: a template is a file from somewhere, and must neither run for ever nor fill the memory.
//!
//! minijinja counts instructions. Each of them is also charged for the text and the items that it looks at or makes: every value is
//! looked at through `value::Python::of`, which charges for it. When nothing is left, that sees nothing but objects any more, which no
//! operator takes, and the rendering fails.

use std::cell::Cell;

use minijinja::{Error, Value};

use super::refused;

/// The most instructions of a rendering. A conversation of 1,000 messages takes about 100,000.
pub const INSTRUCTIONS: u64 = 10_000_000;
/// The most bytes that a rendering looks at or makes. Those of a long conversation are looked at some 20 times.
const BYTES: usize = 1 << 29;
/// The most scopes within each other; a call of a macro counts as several.
pub const SCOPES: usize = 150;
/// The most tokens of a tag. An operator is a level of the parsed expression, which is walked by recursion.
pub const TOKENS_OF_A_TAG: usize = 1000;
/// The most `elif` of a template, each of which is a level too.
pub const ELIFS: usize = 200;

thread_local! {
    /// What is left of [`BYTES`] for the rendering on this thread.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Begins a rendering.
pub fn begin() {
    LEFT.set(BYTES);
}

/// Whether a rendering on this thread has taken all that it may.
pub fn are_reached() -> bool {
    LEFT.get() == 0
}

/// Charges for what is looked at: bytes of text, or items.
pub fn note(size: usize) {
    LEFT.set(LEFT.get().saturating_sub(size));
}

/// Charges for text before it is made.
///
/// # Errors
/// If it is more than what is left.
pub fn charge(bytes: usize) -> Result<(), Error> {
    note(bytes);
    if are_reached() { Err(refused(reached())) } else { Ok(()) }
}

/// Charges for items before a list is made of them.
///
/// # Errors
/// If they are more than what is left.
pub fn charge_items(count: usize) -> Result<(), Error> {
    charge(count.saturating_mul(size_of::<Value>()))
}

/// What is said of a template that has reached them.
pub fn reached() -> String {
    format!("it makes more than {} MB of text and lists out of one conversation", BYTES >> 20)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::NaiveDateTime;

    use super::super::ChatTemplate;
    use super::super::source::TemplateSource;
    use super::*;
    use crate::task::Message;

    fn render(template: &str, messages: &[Message]) -> Result<String, String> {
        let source = TemplateSource { text: template.to_owned(), place: "t".into() };
        let template = ChatTemplate::new(source, &BTreeMap::new(), NaiveDateTime::default());
        template.and_then(|it| it.render(messages, true)).map_err(|e| e.to_string())
    }

    fn check_refused(template: &str, reason: &str) {
        let problem = render(template, &[Message::new("user", "?")]).unwrap_err();
        assert!(problem.contains(reason), "{problem}");
    }

    #[test]
    fn a_long_conversation_is_far_from_the_bounds() {
        let template = "{% for m in messages %}{% if m.role == 'user' and (loop.first or messages[loop.index0 - 1].role == \
                        'assistant') %}{{ '<|user|>' + m['content'] | trim + '\\n' }}{% elif m.content.split('</think>')[-1] %}\
                        {{ m.content.split('</think>')[-1].replace('a', 'b') ~ '\\n' }}{% endif %}{% endfor %}";
        let message = |i: usize| Message::new(["user", "assistant"][i % 2], "a".repeat(1000));
        let messages: Vec<Message> = (0..4000).map(message).collect();
        let text = render(template, &messages).unwrap();
        assert!(text.len() > 4_000_000);
    }

    #[test]
    fn a_loop_that_does_not_end_is_ended() {
        let within = |inner: &str| format!("{{% for a in range(100000) %}}{inner}{{% endfor %}}");
        check_refused(&within(&within("")), "does not end within 10000000 instructions");
        check_refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit");
    }

    #[test]
    fn gigabytes_are_refused_before_they_are_made() {
        let many = |inner: &str| {
            let start = "{% set x = 'a' * 100000 %}{% set ns = namespace(s='ab', l=[1, 2]) %}";
            format!("{start}{{% for i in range(100000) %}}{inner}{{% endfor %}}")
        };
        for inner in [
            "{% set ns.s = ns.s + ns.s %}",
            "{% set ns.s = ns.s ~ ns.s %}",
            "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
            "{% set ns.s = '{0}{0}'.format(ns.s) %}",
            "{% set ns.s = [ns.s, ns.s] | join %}",
            "{% set ns.s = ns.s.join(['', '', '']) %}",
            "{% set ns.s = ns.s.replace('a', 'aa') %}",
            "{% set ns.s = ns.s | replace('a', 'aa') %}",
            "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
            "{% set ns.l = ns.l + ns.l %}",
            "{% set ns.l = ns.l + [x.replace('a', x)] %}",
            "{% set ns.l = ns.l + ['a' * 1000000] %}",
            "{% set ns.l = ns.l + ['a'.ljust(60000)] %}",
            "{% set ns.l = ns.l + [range(100000) | list] %}",
            "{% set ns.l = ns.l + [x | list] %}",
            "{% set ns.l = ns.l + [('a,' * 100000).split(',')] %}",
            "{% set ns.l = ns.l + [('a\\n' * 100000).splitlines()] %}",
            "{% set ns.l = ns.l + [('a\\n' * 10000) | indent(64)] %}",
            "{% set ns.l = ns.l + [(ns.l * 100000) | tojson(indent=64)] %}",
            "{{ x }}",
            &"raw text ".repeat(10_000),
        ] {
            check_refused(&many(inner), "it makes more than 512 MB of text and lists");
        }
    }

    #[test]
    fn nothing_is_nested_deeper_than_the_stack() {
        let grown = |by: &str| format!("{{% set ns = namespace(x=1) %}}{{% for i in range(9999) %}}{by}{{% endfor %}}");
        for by in [
            "{% set ns.x = [ns.x] %}",
            "{% set ns.x = {'a': ns.x} %}",
            "{% set ns.x = (ns.x, 1) %}",
            "{% set ns.x = dict(a=ns.x) %}",
            "{% set ns.x = dict(a=ns.x).items() | list %}",
        ] {
            check_refused(&grown(by), "lists or dicts within each other");
        }
        check_refused(&grown("{% set ns.x = namespace(y=ns) %}"), "an object inside a list, a dict or a namespace");
        check_refused(&format!("{{{{ 1{} }}}}", " + 1".repeat(100_000)), "as long as this is not supported");
        check_refused(&format!("{{{{ x{} }}}}", ".x".repeat(100_000)), "as long as this is not supported");
        check_refused(&format!("{{{{ x{} }}}}", " | trim".repeat(100_000)), "as long as this is not supported");
        check_refused(&format!("{{{{ {}1 }}}}", "(".repeat(100_000)), "line");
        let elifs = "{% elif 1 %}".repeat(100_000);
        check_refused(&format!("{{% if 1 %}}{elifs}{{% endif %}}"), "as long as this is not supported");
        // The longest that are parsed leave the stack of a thread some room.
        assert_eq!(render(&format!("{{{{ 1{} }}}}", " + 1".repeat(490)), &[]), Ok("491".into()));
        let elifs = "{% elif 0 %}".repeat(ELIFS);
        assert_eq!(render(&format!("{{% if 0 %}}{elifs}{{% else %}}1{{% endif %}}"), &[]), Ok("1".into()));
    }

    #[test]
    fn what_has_no_order_or_no_form_is_refused() {
        let nan = "{% set nan = 1e308 * 10 - 1e308 * 10 %}";
        check_refused(&format!("{nan}{{{{ [nan, 1.0] | sort }}}}"), "`sort` by a float");
        check_refused("{{ [[1, 2], [1, 'a']] | sort }}", "`sort` by a list");
        check_refused("{{ strftime_now('%-F') }}", "strftime_now");
    }
}
