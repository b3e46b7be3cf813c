//! Where a model folder keeps its chat template.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::InputError;
use crate::files::read_text;

/// A template and the file it is from.
pub struct TemplateSource {
    pub text: String,
    pub place: String,
}

/// One chat template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
    ByName(BTreeMap<String, String>),
}

#[derive(Deserialize)]
pub struct NamedTemplate {
    name: String,
    template: String,
}

impl Templates {
    /// The only one, or the one named `default`.
    fn into_default(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::ByName(mut all) => all.remove("default"),
            Self::Named(all) => all.into_iter().find(|it| it.name == "default").map(|it| it.template),
        }
    }
}

impl TemplateSource {
    /// As transformers chooses: `default.jinja` in `additional_chat_templates`, else `chat_template.jinja`, else the template in
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file that cannot be read; a folder without a chat template that is the default.
    pub fn find(dir: &Path, in_settings: Option<Templates>) -> Result<Self, InputError> {
        let (file, more) = (dir.join("chat_template.jinja"), dir.join("additional_chat_templates"));
        if let Some(file) = [more.join("default.jinja"), file.clone()].into_iter().find(|it| it.exists()) {
            return Ok(Self { text: read_text(&file)?, place: file.display().to_string() });
        }
        let settings = dir.join("tokenizer_config.json");
        match in_settings.and_then(Templates::into_default) {
            Some(text) if !more.exists() => Ok(Self { text, place: settings.display().to_string() }),
            Some(_) => {
                let problem = "has no default.jinja, and transformers reads no chat template in tokenizer_config.json beside this \
                               folder; write the default one to chat_template.jinja";
                Err(InputError::new(more.display(), problem))
            }
            None => {
                let problem = "the model has no chat template: neither this file nor chat_template (a text, or a list with one \
                               named \"default\") in tokenizer_config.json";
                Err(InputError::new(file.display(), problem))
            }
        }
    }
}
