//! A model's chat template, rendered as transformers renders it: with Jinja2.
//!
//! minijinja parses and runs the template, but its values behave like Rust's: it prints `true` where Jinja2 prints `True`, and it
//! knows no `'%s' % x`. So before a template is compiled, its operators become calls of functions that behave like Python's.
//! What Python or Jinja2 would do otherwise, or what is not known, is an error and never another text.
//!
//! - [`source`]: which file the template is in · `text`: what is looked for in it · `syntax` and `expressions`: the template
//!   with calls in place of operators
//! - `bounds`, `depth`: what a rendering may take · `value`: Python's values as text · `operators`, `methods`, `filters`, `checks`, `json`,
//!   `percent`: what Python's do

mod bounds;
mod checks;
mod depth;
mod expressions;
mod filters;
mod globals;
mod json;
mod method_names;
mod methods;
mod operators;
mod percent;
pub mod source;
mod syntax;
mod text;
mod value;

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use indexmap::IndexMap;
use minijinja::machinery::{CodeGenerator, Instructions, Vm, make_string_output};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use crate::error::InputError;
use crate::task::Message;
use source::TemplateSource;

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    instructions: Instructions<'static>,
    place: String,
    special_tokens: Value,
}

impl ChatTemplate {
    /// `special_tokens` are variables of the template, such as `bos_token`. `now` is what `strftime_now` tells.
    ///
    /// # Errors
    /// A template that cannot be parsed, or that has a statement or an expression that Jinja2 would treat differently.
    pub fn new(
        source: TemplateSource,
        special_tokens: &BTreeMap<String, String>,
        now: NaiveDateTime,
    ) -> Result<Self, InputError> {
        let TemplateSource { text, place } = source;
        // A template lives as long as the program: minijinja's instructions borrow from their text.
        let text: &'static str = text::with_known_tags(&text).leak();
        let template = syntax::parse(text).map_err(|e| wrong(&place, "is broken", &e))?;
        let mut generator = CodeGenerator::new("template", text);
        generator.compile_stmt(&template);
        let (instructions, _) = generator.finish();
        let special_tokens = Value::from_serialize(special_tokens);
        Ok(Self { environment: environment(now), instructions, place, special_tokens })
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// If the template refuses the messages, or does something that Jinja2 would refuse or that is not known here.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, InputError> {
        let messages: Vec<Value> = messages.iter().map(as_dict).collect();
        let given = minijinja::context! {
            messages, add_generation_prompt, tools => (), documents => (), ..self.special_tokens.clone()
        };
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        let blocks = BTreeMap::new();
        bounds::begin();
        let vm = Vm::new(&self.environment);
        let ended = vm.eval(&self.instructions, given, &blocks, &mut output, AutoEscape::None);
        match ended {
            _ if bounds::are_reached() => Err(wrong(&self.place, "failed", &refused(bounds::reached()))),
            Ok(_) => Ok(text),
            Err(error) if error.kind() == ErrorKind::OutOfFuel => {
                let reason = format!("it does not end within {} instructions", bounds::INSTRUCTIONS);
                Err(wrong(&self.place, "failed", &refused(reason)))
            }
            Err(error) => Err(wrong(&self.place, "failed", &error)),
        }
    }
}

fn as_dict(message: &Message) -> Value {
    let entries = [("role", &message.role), ("content", &message.content)];
    let entries = entries.map(|(key, text)| (Value::from(key), Value::from(text.as_str())));
    Value::from_object(IndexMap::from(entries))
}

/// Knows nothing but what Jinja2 and transformers define.
fn environment(now: NaiveDateTime) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_fuel(Some(bounds::INSTRUCTIONS));
    environment.set_recursion_limit(bounds::SCOPES);
    environment.set_formatter(|output, _, value| {
        let text = value::text(value)?;
        output.write_str(&text).map_err(Error::from)
    });
    operators::add_to(&mut environment);
    methods::add_to(&mut environment);
    globals::add_to(&mut environment, now);
    filters::add_to(&mut environment);
    checks::add_to(&mut environment);
    environment
}

fn wrong(place: &str, what: &str, error: &Error) -> InputError {
    let line = error.line().map_or_else(String::new, |line| format!(" at its line {line}"));
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    InputError::new(place, format!("the chat template {what}{line}: {reason}"))
}

/// The error of a template, in the words of its reason.
fn refused(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}
