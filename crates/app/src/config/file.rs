//! Reading the file: YAML or TOML by its name, into a tree whose entries know their line.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use toml::de::{DeTable, DeValue};

/// A key with what stands at it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) key: String,
    /// Its line, from 1.
    pub(crate) line: usize,
    /// What stands there.
    pub(crate) node: Node,
}

/// A value or a section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// Further keys.
    Table(Vec<Entry>),
    /// A scalar or list.
    Leaf(Value),
}

impl Node {
    /// As plain JSON, without lines.
    pub(crate) fn into_value(self) -> Value {
        match self {
            Node::Leaf(value) => value,
            Node::Table(entries) => {
                Value::Object(entries.into_iter().map(|e| (e.key, e.node.into_value())).collect::<Map<_, _>>())
            }
        }
    }
}

/// Where and why a file cannot be read.
pub(crate) type Broken = (usize, String);

/// Reads a file's text. The name decides the form; without a telling name YAML is assumed, of which JSON is a part.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, Broken> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) { toml(text) } else { yaml(text) }
}

fn toml(text: &str) -> Result<Vec<Entry>, Broken> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        (line_of(text, at), error.message().to_owned())
    })?;
    toml_table(text, table.get_ref())
}

fn toml_table(text: &str, table: &DeTable<'_>) -> Result<Vec<Entry>, Broken> {
    let mut out = Vec::with_capacity(table.len());
    for (key, value) in table {
        let node = match value.get_ref() {
            DeValue::Table(inner) => Node::Table(toml_table(text, inner)?),
            other => Node::Leaf(toml_value(text, value.span().start, other)?),
        };
        out.push(Entry { key: key.get_ref().to_string(), line: line_of(text, key.span().start), node });
    }
    // In the order of the file, so that mistakes are reported from top to bottom.
    out.sort_by_key(|entry| entry.line);
    Ok(out)
}

fn toml_value(text: &str, at: usize, value: &DeValue<'_>) -> Result<Value, Broken> {
    let bad = |what: &str| (line_of(text, at), format!("{what} cannot be used here"));
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(&number.as_str().replace('_', ""), number.radix());
            let parsed =
                parsed.ok().and_then(|n| u64::try_from(n).map(Value::from).or(i64::try_from(n).map(Value::from)).ok());
            parsed.ok_or_else(|| bad("this number"))?
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().replace('_', "").parse::<f64>().ok();
            parsed.and_then(serde_json::Number::from_f64).map(Value::Number).ok_or_else(|| bad("this number"))?
        }
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| toml_value(text, item.span().start, item.get_ref()));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(_) => Node::Table(match value {
            DeValue::Table(inner) => toml_table(text, inner)?,
            _ => Vec::new(),
        })
        .into_value(),
    })
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

fn yaml(text: &str) -> Result<Vec<Entry>, Broken> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    // Errors are shown on one line; the library's own picture of the place would take ten.
    let parsed: Result<Yaml, _> = serde_saphyr::from_str(text);
    match parsed {
        Ok(Yaml::Table(entries)) => Ok(entries.into_iter().map(entry).collect()),
        Ok(Yaml::Null) => Ok(Vec::new()),
        Ok(_) => Err((1, "the file has to hold sections such as `server:`".to_owned())),
        Err(error) => {
            let line = error.location().map_or(1, |location| location.line() as usize);
            let message = error.without_snippet().to_string();
            Err((line, crate::text::one_line(message.lines().next().unwrap_or("it is not valid YAML"))))
        }
    }
}

fn entry((key, line, node): (String, usize, Yaml)) -> Entry {
    let node = match node {
        Yaml::Table(entries) => Node::Table(entries.into_iter().map(entry).collect()),
        other => Node::Leaf(other.into_value()),
    };
    Entry { key, line, node }
}

/// YAML as it is read, with the lines of keys.
enum Yaml {
    Null,
    Scalar(Value),
    List(Vec<Yaml>),
    Table(Vec<(String, usize, Yaml)>),
}

impl Yaml {
    fn into_value(self) -> Value {
        match self {
            Yaml::Null => Value::Null,
            Yaml::Scalar(value) => value,
            Yaml::List(items) => items.into_iter().map(Yaml::into_value).collect(),
            Yaml::Table(entries) => Value::Object(entries.into_iter().map(|(k, _, v)| (k, v.into_value())).collect()),
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Yaml, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::from(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Yaml, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Yaml::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Yaml, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = key.referenced.line() as usize;
            entries.push((key.value, line, map.next_value()?));
        }
        Ok(Yaml::Table(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn flat(entries: &[Entry], prefix: &str, out: &mut Vec<(String, usize, Value)>) {
        for entry in entries {
            let path = format!("{prefix}{}", entry.key);
            match &entry.node {
                Node::Table(inner) => flat(inner, &format!("{path}."), out),
                Node::Leaf(value) => out.push((path, entry.line, value.clone())),
            }
        }
    }

    #[test]
    fn both_forms_give_the_same_tree_with_lines() {
        let yaml = "# comment\nserver:\n  listen: 0.0.0.0:80\n  roles: [api, agents]\nengine:\n  readers: 3\n";
        let toml =
            "# comment\n[server]\nlisten = \"0.0.0.0:80\"\nroles = [\"api\", \"agents\"]\n[engine]\nreaders = 3\n";
        let (mut a, mut b) = (Vec::new(), Vec::new());
        flat(&parse(Path::new("x.yaml"), yaml).unwrap(), "", &mut a);
        flat(&parse(Path::new("x.toml"), toml).unwrap(), "", &mut b);
        let wanted = vec![
            ("server.listen".to_owned(), 3, json!("0.0.0.0:80")),
            ("server.roles".to_owned(), 4, json!(["api", "agents"])),
            ("engine.readers".to_owned(), 6, json!(3)),
        ];
        assert_eq!(a, wanted);
        assert_eq!(b, wanted);
    }

    #[test]
    fn broken_files_name_their_line() {
        assert_eq!(parse(Path::new("x.toml"), "a = 1\nb = = 2\n").unwrap_err().0, 2);
        assert!(parse(Path::new("x.yaml"), "a: 1\nb: [1, 2\nc: 3\n").unwrap_err().0 >= 2);
        assert_eq!(parse(Path::new("x.yaml"), "- 1\n").unwrap_err().0, 1);
        assert!(parse(Path::new("x.yaml"), "").unwrap().is_empty());
    }
}
