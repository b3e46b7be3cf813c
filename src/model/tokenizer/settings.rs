//! What stands beside `tokenizer.json`: `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, read as
//! transformers reads them. The two last ones count only if the first has no `added_tokens_decoder`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::InputError;
use crate::files::read_text;
use crate::model::chat_template::source::Templates;

/// See the module.
pub struct TokenizerSettings {
    file: PathBuf,
    pub chat_template: Option<Templates>,
    /// `eos_token`, `pad_token` and all others that have a name.
    pub special_tokens: BTreeMap<String, String>,
    /// Tokens with the ids that a file gives them, in the order of the ids.
    with_id: BTreeMap<u32, (AddedToken, PathBuf)>,
    /// Special tokens of which only the text is known.
    without_id: Vec<AddedToken>,
    split_special_tokens: bool,
    add_prefix_space: Option<bool>,
}

/// A token is written as text, or as an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Object(TokenObject),
}

#[derive(Deserialize)]
struct TokenObject {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl TokenObject {
    fn into_token(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

impl TokenText {
    /// As a special token, which it is because of its place.
    fn into_special(self) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::from(text, true),
            Self::Object(object) => AddedToken { special: true, ..object.into_token() },
        }
    }
}

/// A list of tokens, or tokens by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    List(Vec<TokenText>),
    Named(BTreeMap<String, TokenText>),
}

impl TokenizerSettings {
    /// # Errors
    /// A file that is there and cannot be read, or a key with a value that is not what transformers expects.
    pub fn load(dir: &Path) -> Result<Self, InputError> {
        let file = dir.join("tokenizer_config.json");
        let mut keys = read_object(&file)?.unwrap_or_default();
        let mut with_id = BTreeMap::new();
        let is_legacy = !keys.contains_key("added_tokens_decoder");
        if is_legacy {
            let map = dir.join("special_tokens_map.json");
            keys.extend(read_object(&map)?.unwrap_or_default());
        }
        let stated: BTreeMap<u32, TokenObject> = take(&file, &mut keys, "added_tokens_decoder")?.unwrap_or_default();
        with_id.extend(stated.into_iter().map(|(id, token)| (id, (token.into_token(), file.clone()))));
        let (special_tokens, without_id) = special_tokens(&file, &mut keys)?;
        let added = dir.join("added_tokens.json");
        if let Some(ids) = read_object(&added)?.filter(|_| is_legacy) {
            for (text, id) in ids {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| InputError::new(added.display(), format!("the id of {text:?} is no id")))?;
                let special = without_id.iter().any(|it| it.content == text);
                with_id.insert(id, (AddedToken::from(text, special).normalized(!special), added.clone()));
            }
        }
        if take::<bool>(&file, &mut keys, "fix_mistral_regex")? == Some(true) {
            let problem =
                "fix_mistral_regex: save the mended tokenizer with transformers (save_pretrained), and remove this key";
            return Err(InputError::new(file.display(), problem));
        }
        let chat_template = take(&file, &mut keys, "chat_template")?;
        let split_special_tokens = take(&file, &mut keys, "split_special_tokens")?.unwrap_or(false);
        let add_prefix_space = take(&file, &mut keys, "add_prefix_space")?;
        Ok(Self { file, chat_template, special_tokens, with_id, without_id, split_special_tokens, add_prefix_space })
    }

    /// Gives the tokenizer of `tokenizer.json` the tokens and the behaviour that the other files ask for.
    ///
    /// # Errors
    /// A token that cannot have the id that its file gives it; a prefix space that `tokenizer.json` sees differently.
    pub fn apply(&self, tokenizer: &mut Tokenizer) -> Result<(), InputError> {
        self.check_prefix_space(tokenizer)?;
        let is_named = |text: &str| self.without_id.iter().any(|it| it.content == text);
        for (id, (token, file)) in &self.with_id {
            let special = token.special || is_named(&token.content);
            tokenizer.add_tokens(&[AddedToken { special, ..token.clone() }]);
            let given = tokenizer.token_to_id(&token.content);
            if given != Some(*id) {
                return Err(InputError::new(file.display(), wrong_id(tokenizer, token, *id, given)));
            }
        }
        let known = tokenizer.get_added_tokens_decoder();
        let is_known = |token: &&AddedToken| known.values().any(|it| it.content == token.content);
        let others: Vec<_> = self.without_id.iter().filter(|it| !is_known(it)).cloned().collect();
        tokenizer.add_tokens(&others);
        tokenizer.set_encode_special_tokens(self.split_special_tokens);
        Ok(())
    }

    /// Some versions of transformers let this key override `tokenizer.json`, others do not.
    fn check_prefix_space(&self, tokenizer: &Tokenizer) -> Result<(), InputError> {
        let part = |it: Option<Value>| it.unwrap_or_default();
        let splitter = part(tokenizer.get_pre_tokenizer().and_then(|it| serde_json::to_value(it).ok()));
        let normalizer = part(tokenizer.get_normalizer().and_then(|it| serde_json::to_value(it).ok()));
        let prepends = match splitter["type"].as_str() {
            Some("ByteLevel") => splitter["add_prefix_space"] == true,
            Some("Metaspace") => splitter["prepend_scheme"] != "never",
            _ => normalizer.to_string().contains(r#""type":"Prepend""#),
        };
        let is_seen = prepends || ["ByteLevel", "Metaspace"].contains(&splitter["type"].as_str().unwrap_or_default());
        let asked = match splitter["type"].as_str() {
            Some("ByteLevel") => Some(self.add_prefix_space.unwrap_or(false)),
            _ => self.add_prefix_space,
        };
        match asked {
            Some(asked) if is_seen && asked != prepends => {
                let problem = format!(
                    "add_prefix_space is {asked} here (or by default), but tokenizer.json has {prepends}, and versions of \
                     transformers differ in which one counts; write the same in both"
                );
                Err(InputError::new(self.file.display(), problem))
            }
            _ => Ok(()),
        }
    }
}

fn wrong_id(tokenizer: &Tokenizer, token: &AddedToken, id: u32, given: Option<u32>) -> String {
    let text = &token.content;
    match tokenizer.id_to_token(id) {
        Some(other) => {
            format!("the token {text:?} has the id {id} here, but in tokenizer.json that is the id of {other:?}")
        }
        None => {
            let given = given.map_or_else(|| "none".to_owned(), |id| id.to_string());
            format!(
                "the token {text:?} has the id {id} here, but the ids before it are not all there: it would get {given}"
            )
        }
    }
}

/// The named special tokens, and all special tokens.
fn special_tokens(
    file: &Path,
    keys: &mut Map<String, Value>,
) -> Result<(BTreeMap<String, String>, Vec<AddedToken>), InputError> {
    let names: Vec<String> =
        keys.iter().filter(|(name, it)| is_token(name, it)).map(|(name, _)| name.clone()).collect();
    let (mut named, mut all) = (BTreeMap::new(), Vec::new());
    for name in names {
        if let Some(token) = take::<TokenText>(file, keys, &name)? {
            let token = token.into_special();
            named.insert(name, token.content.clone());
            all.push(token);
        }
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        match take(file, keys, key)? {
            None => {}
            Some(Tokens::List(tokens)) => all.extend(tokens.into_iter().map(TokenText::into_special)),
            Some(Tokens::Named(tokens)) => {
                for (name, token) in tokens {
                    let token = token.into_special();
                    named.insert(name, token.content.clone());
                    all.push(token);
                }
            }
        }
    }
    Ok((named, all))
}

/// `eos_token` and the like, but not `add_eos_token`, which is true or false.
fn is_token(name: &str, value: &Value) -> bool {
    name.ends_with("_token") && (value.is_string() || value.is_object())
}

/// The value of a key; `None` if it is not there or null.
fn take<T: serde::de::DeserializeOwned>(
    file: &Path,
    keys: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<T>, InputError> {
    let value = keys.remove(key).filter(|it| !it.is_null());
    let value = value.map(serde_json::from_value).transpose();
    value.map_err(|e| InputError::new(file.display(), format!("{key}: {e}")))
}

/// `None` if there is no such file.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, InputError> {
    if !path.exists() {
        return Ok(None);
    }
    let object = serde_json::from_str(&read_text(path)?).map_err(|e| InputError::new(path.display(), e))?;
    Ok(Some(object))
}
