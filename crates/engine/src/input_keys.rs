//! Keys that a task type takes from its inputs: what `key=` and `concurrency=` of a decorator name.

use serde_json::{Map, Value as Json};

use crate::id::Name;
use crate::limit;
use crate::task::Spec;

/// Where in an input the keys of a task stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputKeys {
    /// Path of the ordering key, such as `customer` or `order.customer`.
    pub ordering: Option<String>,
    /// Path of the concurrency key, and its limit.
    pub concurrency: Option<(String, u32)>,
    /// Names of the parameters in their order: inputs may be positional.
    pub parameters: Vec<String>,
    /// What a parameter is when the input leaves it out.
    pub defaults: Map<String, Json>,
}

impl InputKeys {
    /// As a registration keeps them; the inverse of [`InputKeys::written`]. `None` = there are none.
    pub fn read(json: &Json) -> Option<InputKeys> {
        let text = |value: &Json| value.as_str().map(str::to_owned);
        let ordering = json.get("ordering").and_then(text);
        let concurrency = json.get("concurrency").and_then(|given| {
            let limit = given.get(1).and_then(Json::as_u64).and_then(|n| u32::try_from(n).ok());
            Some((given.get(0).and_then(text)?, limit.unwrap_or(0)))
        });
        if ordering.is_none() && concurrency.is_none() {
            return None;
        }
        let parameters = json.get("parameters").and_then(Json::as_array);
        Some(InputKeys {
            ordering,
            concurrency,
            parameters: parameters.map_or_else(Vec::new, |names| names.iter().filter_map(text).collect()),
            defaults: json.get("defaults").and_then(Json::as_object).cloned().unwrap_or_default(),
        })
    }

    /// As a registration keeps them.
    pub fn written(&self) -> Json {
        serde_json::json!({
            "ordering": self.ordering, "concurrency": self.concurrency, "parameters": self.parameters,
            "defaults": self.defaults,
        })
    }

    /// Whether an input has to be read for a task that asks for this.
    pub fn is_wanted(&self, spec: &Spec) -> bool {
        self.ordering.is_some() && spec.ordering_key.is_none()
            || self.concurrency.is_some() && spec.concurrency_key.is_none()
    }

    /// Fills the keys that the submitter left out. The error is one sentence.
    pub fn fill(&self, spec: &mut Spec, input: &Json) -> Result<(), String> {
        if let Some(path) = self.ordering.as_ref().filter(|_| spec.ordering_key.is_none()) {
            spec.ordering_key = Some(key(&self.pick(input, path)?)?);
        }
        if let Some((path, limit)) = self.concurrency.as_ref().filter(|_| spec.concurrency_key.is_none()) {
            // The path is part of the key, so that two types may share a limit only by naming the same thing.
            spec.concurrency_key = Some(key(&format!("{path}:{}", self.pick(input, path)?))?);
            if spec.concurrency_limit == 0 {
                spec.concurrency_limit = *limit;
            }
        }
        Ok(())
    }

    fn pick(&self, input: &Json, path: &str) -> Result<String, String> {
        let mut steps = path.split('.');
        let first = steps.next().unwrap_or_default();
        let start = match input {
            Json::Array(items) => self.parameters.iter().position(|p| p == first).and_then(|i| items.get(i)),
            Json::Object(fields) => fields.get(first),
            _ => None,
        };
        let found = steps.try_fold(start.or_else(|| self.defaults.get(first)), |at, step| Some(at?.get(step)));
        match found.flatten() {
            Some(Json::String(text)) => Ok(text.clone()),
            Some(Json::Number(number)) if !number.is_f64() => Ok(number.to_string()),
            _ => Err(format!("the type takes a key from '{path}', which has to be a text or an integer here")),
        }
    }
}

fn key(text: &str) -> Result<Name, String> {
    if text.is_empty() || text.len() > limit::KEY_BYTES {
        return Err(format!("a key has 1 to {} bytes", limit::KEY_BYTES));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys() -> InputKeys {
        let stored = json!({
            "ordering": "order.id", "concurrency": ["customer", 3], "parameters": ["order", "customer"],
            "defaults": {"customer": "nobody"},
        });
        let keys = InputKeys::read(&stored).unwrap();
        assert_eq!(InputKeys::read(&keys.written()).as_ref(), Some(&keys));
        keys
    }

    fn filled(input: Json) -> Result<(String, String, u32), String> {
        let mut spec = Spec::default();
        keys().fill(&mut spec, &input)?;
        Ok((spec.ordering_key.unwrap().to_string(), spec.concurrency_key.unwrap().to_string(), spec.concurrency_limit))
    }

    #[test]
    fn keys_come_from_named_and_positional_inputs() {
        let wanted = Ok(("7".to_owned(), "customer:ann".to_owned(), 3));
        assert_eq!(filled(json!({"order": {"id": 7}, "customer": "ann"})), wanted);
        assert_eq!(filled(json!([{"id": "7"}, "ann"])), wanted);
        assert_eq!(filled(json!([{"id": "7"}])), Ok(("7".to_owned(), "customer:nobody".to_owned(), 3)));
        for input in [Json::Null, json!(7), json!({}), json!({"order": {"id": 1.5}}), json!({"order": []})] {
            assert!(filled(input.clone()).is_err(), "{input}");
        }
    }

    #[test]
    fn a_key_that_the_submitter_gives_holds() {
        let mut spec =
            Spec { ordering_key: Some("mine".into()), concurrency_key: Some("too".into()), ..Spec::default() };
        assert!(!keys().is_wanted(&spec));
        keys().fill(&mut spec, &Json::Null).unwrap();
        assert_eq!(spec.ordering_key.as_deref(), Some("mine"));
    }
}
