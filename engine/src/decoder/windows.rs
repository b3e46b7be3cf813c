//! Sliding windows: how far back each layer's attention reaches.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::architecture::Architecture;

/// The first of the tokens up to `position` to which the token at `position` attends. In a layer with a window, it
/// attends to that many tokens, itself included.
#[inline]
pub fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// What a layer attends to, as `layer_types` of a `config.json` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

/// Which layers have a window, in the keys of a `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlidingWindows {
    /// The window of the layers that have one; `None` if none has.
    #[serde(default)]
    sliding_window: Option<usize>,
    /// Without it, Qwen's models have no window.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    use_sliding_window: bool,
    /// One for each layer. Empty if they are all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layer_types: Vec<LayerType>,
}

impl SlidingWindows {
    /// The window of a layer; `None` if it attends to all earlier tokens.
    pub fn of(&self, layer: usize) -> Option<usize> {
        let is_full = self.layer_types.get(layer) == Some(&LayerType::FullAttention);
        self.sliding_window.filter(|_| !is_full)
    }
}

/// The keys of a `config.json` about windows, as they are in the file.
pub struct WindowKeys {
    /// `None` if the key is missing; null means no window.
    sliding_window: Option<Value>,
    use_sliding_window: Option<Value>,
    max_window_layers: Option<Value>,
    layer_types: Option<Value>,
}

impl WindowKeys {
    /// Removes them from `keys`.
    pub fn take(keys: &mut Map<String, Value>) -> Self {
        let sliding_window = keys.shift_remove("sliding_window");
        let mut take = |key: &str| keys.shift_remove(key).filter(|value| !value.is_null());
        Self {
            sliding_window,
            use_sliding_window: take("use_sliding_window"),
            max_window_layers: take("max_window_layers"),
            layer_types: take("layer_types"),
        }
    }

    /// What they mean to the classes of transformers, for a model of `layers` layers and a context of `context` tokens.
    ///
    /// # Errors
    /// Values that are no windows. Keys that contradict each other, or that the family's class in transformers ignores.
    pub fn resolve(&self, family: Architecture, layers: usize, context: usize) -> Result<SlidingWindows, String> {
        let types = self.layer_types(layers)?;
        let windows = match family {
            Architecture::Llama => self.of_llama(types)?,
            Architecture::Mistral => self.of_mistral(types)?,
            Architecture::Qwen2 | Architecture::Qwen3 => self.of_qwen(types, layers)?,
        };
        // A window that holds the whole context is none.
        let is_in_use = windows.sliding_window.is_some_and(|window| window < context);
        Ok(if is_in_use { windows } else { SlidingWindows::default() })
    }

    /// transformers' Llama ignores all of the keys.
    fn of_llama(&self, types: Vec<LayerType>) -> Result<SlidingWindows, String> {
        let has_window = self.sliding_window.as_ref().is_some_and(|window| !window.is_null());
        if has_window && self.is_used()? != Some(false) {
            let problem = "sliding_window: transformers' Llama has none, other programs may apply it; set it to null if \
                           every token attends to all earlier ones";
            return Err(problem.into());
        }
        match types.contains(&LayerType::SlidingAttention) {
            true => Err("layer_types: transformers' Llama has no sliding_attention".into()),
            false => Ok(SlidingWindows::default()),
        }
    }

    /// transformers' Mistral has the window in every layer.
    fn of_mistral(&self, types: Vec<LayerType>) -> Result<SlidingWindows, String> {
        let sliding_window = self.window()?;
        let same = if sliding_window.is_some() { LayerType::SlidingAttention } else { LayerType::FullAttention };
        if types.iter().any(|found| *found != same) {
            return Err("layer_types: transformers' Mistral has sliding_window in every layer, or in none".into());
        }
        if sliding_window.is_some() && self.is_used()? == Some(false) {
            let problem = "use_sliding_window: transformers' Mistral applies sliding_window whatever it says; set \
                           sliding_window to null if there is none";
            return Err(problem.into());
        }
        if sliding_window.is_some() && self.max_window_layers.is_some() {
            return Err("max_window_layers: transformers' Mistral has sliding_window in every layer; remove it".into());
        }
        Ok(SlidingWindows { sliding_window, ..SlidingWindows::default() })
    }

    /// The layers before `max_window_layers` have full attention, unless `layer_types` says otherwise.
    fn of_qwen(&self, types: Vec<LayerType>, layers: usize) -> Result<SlidingWindows, String> {
        let sliding_window = if self.is_used()? == Some(true) { self.window()? } else { None };
        let layer_types = match self.layer_types {
            Some(_) => types,
            None => self.types_by_number(layers)?,
        };
        match (sliding_window, layer_types.contains(&LayerType::SlidingAttention)) {
            (None, true) if self.layer_types.is_some() => {
                let problem = "layer_types has sliding_attention, but there is no window: set use_sliding_window to true \
                               and sliding_window to its length, or write full_attention";
                Err(problem.into())
            }
            (None, _) | (_, false) => Ok(SlidingWindows::default()),
            (Some(_), true) => Ok(SlidingWindows { sliding_window, use_sliding_window: true, layer_types }),
        }
    }

    fn types_by_number(&self, layers: usize) -> Result<Vec<LayerType>, String> {
        /// The default of transformers' classes.
        const MAX_WINDOW_LAYERS: usize = 28;
        let full = match &self.max_window_layers {
            None => MAX_WINDOW_LAYERS,
            Some(full) => full.as_u64().ok_or_else(|| format!("max_window_layers {full}: expected a number"))? as usize,
        };
        let of = |layer| if layer < full { LayerType::FullAttention } else { LayerType::SlidingAttention };
        Ok((0..layers).map(of).collect())
    }

    fn window(&self) -> Result<Option<usize>, String> {
        /// The default of transformers' classes.
        const WINDOW: usize = 4096;
        match &self.sliding_window {
            None => Ok(Some(WINDOW)),
            Some(Value::Null) => Ok(None),
            Some(window) => match window.as_u64().filter(|window| *window > 0) {
                Some(window) => Ok(Some(window as usize)),
                None => Err(format!("sliding_window {window}: expected a positive number, or null for none")),
            },
        }
    }

    fn is_used(&self) -> Result<Option<bool>, String> {
        let is_bool = |value: &Value| {
            value.as_bool().ok_or_else(|| format!("use_sliding_window {value}: expected true or false"))
        };
        self.use_sliding_window.as_ref().map(is_bool).transpose()
    }

    fn layer_types(&self, layers: usize) -> Result<Vec<LayerType>, String> {
        let Some(types) = &self.layer_types else { return Ok(Vec::new()) };
        let types: Vec<LayerType> = serde_json::from_value(types.clone())
            .map_err(|e| format!("layer_types: only full_attention and sliding_attention are supported: {e}"))?;
        match types.len() == layers {
            true => Ok(types),
            false => Err(format!("layer_types has {} entries for {layers} layers", types.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Architecture::{Llama, Mistral, Qwen2, Qwen3};
    use serde_json::json;

    const CONTEXT: usize = 32_768;

    fn resolve(family: Architecture, keys: Value) -> Result<SlidingWindows, String> {
        WindowKeys::take(&mut keys.as_object().unwrap().clone()).resolve(family, 2, CONTEXT)
    }

    /// The windows of both layers, as transformers' configuration and model classes have them.
    #[test]
    fn each_layer_has_the_window_of_transformers() {
        let check = |family, keys: Value, expected: [Option<usize>; 2]| {
            let windows = resolve(family, keys.clone()).unwrap();
            assert_eq!([0, 1].map(|layer| windows.of(layer)), expected, "{family:?} {keys}");
            // What is written is read again.
            let written = serde_json::to_value(&windows).unwrap();
            assert_eq!(resolve(family, written), Ok(windows));
        };
        let window = |length: usize| Some(length);
        check(Mistral, json!({"sliding_window": 8}), [window(8); 2]);
        check(Mistral, json!({"sliding_window": null}), [None; 2]);
        check(Mistral, json!({}), [window(4096); 2]);
        check(
            Mistral,
            json!({"sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention"]}),
            [window(8); 2],
        );
        check(Mistral, json!({"sliding_window": CONTEXT}), [None; 2]);
        check(Mistral, json!({"sliding_window": CONTEXT - 1}), [window(CONTEXT - 1); 2]);
        check(Llama, json!({}), [None; 2]);
        check(Llama, json!({"sliding_window": 8, "use_sliding_window": false}), [None; 2]);
        check(Llama, json!({"layer_types": ["full_attention", "full_attention"]}), [None; 2]);
        for family in [Qwen2, Qwen3] {
            let qwen = |more: Value| {
                let mut keys = json!({"sliding_window": 8, "use_sliding_window": true});
                keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                keys
            };
            check(family, json!({"sliding_window": 8, "max_window_layers": 1}), [None; 2]);
            check(family, qwen(json!({"max_window_layers": 1, "use_sliding_window": false})), [None; 2]);
            check(family, qwen(json!({"max_window_layers": 1})), [None, window(8)]);
            check(family, qwen(json!({"max_window_layers": 0})), [window(8); 2]);
            check(family, qwen(json!({"max_window_layers": 2})), [None; 2]);
            check(family, qwen(json!({})), [None; 2]);
            check(family, json!({"max_window_layers": 0, "use_sliding_window": true}), [window(4096); 2]);
            check(family, qwen(json!({"max_window_layers": 0, "sliding_window": null})), [None; 2]);
            // `layer_types` wins over `max_window_layers`.
            let types = json!({"layer_types": ["sliding_attention", "full_attention"], "max_window_layers": 1});
            check(family, qwen(types), [window(8), None]);
        }
    }

    #[test]
    fn what_transformers_ignores_or_refuses_is_refused_by_key() {
        let check = |family, keys: Value, part: &str| {
            let problem = resolve(family, keys).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        };
        check(Llama, json!({"sliding_window": 8}), "sliding_window: ");
        check(Llama, json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types: ");
        let mixed = json!(["full_attention", "sliding_attention"]);
        check(Mistral, json!({"sliding_window": 8, "layer_types": mixed.clone()}), "layer_types: ");
        check(Mistral, json!({"sliding_window": null, "layer_types": mixed.clone()}), "layer_types: ");
        check(Mistral, json!({"sliding_window": 8, "use_sliding_window": false}), "use_sliding_window: ");
        check(Mistral, json!({"sliding_window": 8, "max_window_layers": 1}), "max_window_layers: ");
        check(Mistral, json!({"sliding_window": 0}), "sliding_window 0: ");
        check(Mistral, json!({"sliding_window": "8"}), "sliding_window \"8\": ");
        check(Qwen3, json!({"sliding_window": 8, "layer_types": mixed.clone()}), "use_sliding_window to true");
        check(Qwen3, json!({"sliding_window": null, "use_sliding_window": true, "layer_types": mixed}), "no window");
        let used = |more: (&str, Value)| {
            let mut keys = json!({"sliding_window": 8, "use_sliding_window": true});
            keys[more.0] = more.1;
            keys
        };
        check(Qwen2, used(("layer_types", json!(["full_attention"]))), "1 entries for 2 layers");
        check(Qwen2, used(("layer_types", json!(["full_attention", "chunked_attention"]))), "chunked_attention");
        check(Qwen2, used(("max_window_layers", json!(-1))), "max_window_layers -1");
        check(Qwen2, used(("use_sliding_window", json!("yes"))), "use_sliding_window \"yes\"");
    }

    #[test]
    fn a_token_sees_as_many_tokens_as_the_window_holds() {
        assert_eq!([0, 7, 8, 20].map(|position| first_seen(position, Some(8))), [0, 0, 1, 13]);
        assert_eq!((first_seen(20, None), first_seen(20, Some(1)), first_seen(20, Some(usize::MAX))), (0, 20, 0));
    }
}
