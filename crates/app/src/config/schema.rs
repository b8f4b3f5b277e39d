//! The JSON Schema of the configuration file, for editors and checks elsewhere.

use serde_json::{Map, Value, json};

use super::setting::{ALL, Kind};

/// The schema as a document.
pub(crate) fn schema() -> Value {
    let mut root = object("Configuration of the Tidewheel server.");
    for setting in ALL {
        let parts: Vec<_> = setting.path.split('.').collect();
        let Some((last, sections)) = parts.split_last() else { continue };
        let mut at = &mut root;
        for section in sections {
            let properties = &mut at["properties"];
            if properties.get(section).is_none() {
                properties[section] = object("");
            }
            at = &mut properties[section];
        }
        // A secret is named by its file.
        let (name, note) = match setting.kind {
            Kind::Secret => (format!("{last}File"), " A file that holds it."),
            _ => ((*last).to_owned(), ""),
        };
        let mut schema = setting.kind.schema();
        schema["description"] = json!(format!("{}{note}", setting.doc));
        if setting.kind != Kind::Secret {
            schema["default"] = (setting.default)();
        }
        at["properties"][name] = schema;
    }
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root
}

fn object(description: &str) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), json!("object"));
    if !description.is_empty() {
        out.insert("description".to_owned(), json!(description));
    }
    out.insert("additionalProperties".to_owned(), json!(false));
    out.insert("properties".to_owned(), json!({}));
    Value::Object(out)
}
