//! A model's chat template, rendered as transformers renders it.
//!
//! Where transformers gives templates today's date, this gives a fixed one: prompts must not change from day to day.

use crate::error::{Exit, Failure};
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context, syntax::SyntaxConfig};
use regex::Regex;
use serde::Serialize;
use std::collections::BTreeMap;

/// The template and the special tokens it may name.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    /// `bos_token`, `eos_token`, … by name.
    special: BTreeMap<String, String>,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    pub content: String,
}

impl Message {
    fn to_value(&self) -> Value {
        context! { role => self.role, content => self.content.as_str() }
    }
}

impl ChatTemplate {
    /// The template of a `tokenizer_config.json`; `None` where it has none. Of several named ones, `default` counts.
    pub fn from_config(config: &serde_json::Value) -> anyhow::Result<Option<Self>> {
        use serde_json::Value as Json;
        let source = match config.get("chat_template") {
            None | Some(Json::Null) => return Ok(None),
            Some(Json::String(source)) => source.clone(),
            Some(Json::Array(named)) => {
                let default = named.iter().find(|entry| entry.get("name").and_then(Json::as_str) == Some("default"));
                match default.and_then(|entry| entry.get("template")).and_then(Json::as_str) {
                    Some(source) => source.to_owned(),
                    None => return Ok(None),
                }
            }
            Some(other) => {
                let message = format!("`chat_template` in `tokenizer_config.json` should be a string, it is `{other}`");
                return Err(Failure::new(Exit::Usage, message).into());
            }
        };
        let mut special = BTreeMap::new();
        for name in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
            let token = match config.get(name) {
                Some(Json::Object(token)) => token.get("content").and_then(Json::as_str),
                token => token.and_then(Json::as_str),
            };
            if let Some(token) = token {
                special.insert(name.to_owned(), token.to_owned());
            }
        }
        Ok(Some(Self { source, special }))
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation, up to where the assistant begins to speak if `add_generation_prompt`.
    ///
    /// # Errors
    /// A [`Failure`] when the template does not parse, or refuses the conversation by `raise_exception`.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> anyhow::Result<String> {
        self.try_render(messages, add_generation_prompt).map_err(|error| {
            let mut message = format!("the model's chat template cannot be rendered: {error}");
            if let Some(line) = error.line() {
                message.push_str(&format!(" (line {line} of the template)"));
            }
            Failure::new(Exit::Usage, message).into()
        })
    }

    fn try_render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        for (name, token) in &self.special {
            environment.add_global(name.clone(), token.clone());
        }
        // Qwen3 asks for thoughts unless told not to.
        environment.add_global("enable_thinking", false);
        environment.add_global("tools", ());
        environment.add_global("documents", ());
        let source = plain_generation_blocks(&self.source)?;
        let messages: Vec<Value> = messages.iter().map(Message::to_value).collect();
        environment.template_from_str(&source)?.render(context! { messages, add_generation_prompt })
    }
}

/// `{% generation %}` marks the assistant's text for transformers' training masks and changes nothing in it.
fn plain_generation_blocks(source: &str) -> Result<String, Error> {
    let tag = Regex::new(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    let replaced = tag.replace_all(source, |tag: &regex::Captures<'_>| {
        let word = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{}{word}{}", &tag[1], &tag[3])
    });
    Ok(replaced.into_owned())
}

/// Jinja2 lets templates call Python's methods on strings and dictionaries; these are the ones that templates use.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map {
        return match method {
            "items" => state.apply_filter("items", std::slice::from_ref(value)),
            "keys" => Ok(Value::from_iter(value.try_iter()?)),
            "values" => {
                value.try_iter()?.map(|key| value.get_item(&key)).collect::<Result<Vec<_>, _>>().map(Value::from)
            }
            "get" => {
                let (key, default): (&Value, Option<Value>) = from_args(args)?;
                let found = value.get_item(key)?;
                Ok(if found.is_undefined() { default.unwrap_or_else(|| Value::from(())) } else { found })
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        };
    }
    let Some(text) = value.as_str() else { return Err(Error::from(ErrorKind::UnknownMethod)) };
    let set = || -> Result<Vec<char>, Error> {
        let (characters,): (Option<&str>,) = from_args(args)?;
        Ok(characters.map(|characters| characters.chars().collect()).unwrap_or_default())
    };
    let within = |set: Vec<char>| move |c: char| if set.is_empty() { c.is_whitespace() } else { set.contains(&c) };
    Ok(match method {
        "strip" => text.trim_matches(within(set()?)).into(),
        "lstrip" => text.trim_start_matches(within(set()?)).into(),
        "rstrip" => text.trim_end_matches(within(set()?)).into(),
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "startswith" => text.starts_with(from_args::<(&str,)>(args)?.0).into(),
        "endswith" => text.ends_with(from_args::<(&str,)>(args)?.0).into(),
        "replace" => {
            let (from, to): (&str, &str) = from_args(args)?;
            text.replace(from, to).into()
        }
        "split" => match from_args::<(Option<&str>,)>(args)?.0 {
            Some(separator) => text.split(separator).map(Value::from).collect::<Vec<_>>().into(),
            None => text.split_whitespace().map(Value::from).collect::<Vec<_>>().into(),
        },
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=…)`; minijinja's own filter would escape `<` and `'`.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let json = plain_json(value)?;
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let style = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, style)).map_err(failed)?;
        }
        None => json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).map_err(failed)?,
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

fn plain_json(value: &Value) -> Result<serde_json::Value, Error> {
    use serde_json::Value as Json;
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Json::Null,
        ValueKind::Bool => value.is_true().into(),
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(number) => number.into(),
            Err(_) => f64::try_from(value.clone())?.into(),
        },
        ValueKind::Map => {
            let entry = |key: Value| Ok((key.to_string(), plain_json(&value.get_item(&key)?)?));
            Json::Object(value.try_iter()?.map(entry).collect::<Result<_, Error>>()?)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            Json::Array(value.try_iter()?.map(|value| plain_json(&value)).collect::<Result<_, Error>>()?)
        }
        _ => value.to_string().into(),
    })
}

/// `", "` and `": "`, as Python writes JSON on one line.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Friday, 26 July 2024, the date that Llama 3's template itself falls back to.
fn strftime_now(format: &str) -> String {
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match characters.next() {
            Some('d') => out.push_str("26"),
            Some('m') => out.push_str("07"),
            Some('b') => out.push_str("Jul"),
            Some('B') => out.push_str("July"),
            Some('y') => out.push_str("24"),
            Some('Y') => out.push_str("2024"),
            Some('a') => out.push_str("Fri"),
            Some('A') => out.push_str("Friday"),
            Some('H' | 'M' | 'S') => out.push_str("00"),
            Some(other) => out.push(other),
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let config = serde_json::json!({"chat_template": source, "bos_token": "<s>", "eos_token": {"content": "</s>"}});
        ChatTemplate::from_config(&config).unwrap().unwrap()
    }

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: "user", content: content.into() }]
    }

    fn check(source: &str, expect: &str) {
        assert_eq!(template(source).render(&user(" hi "), true).unwrap(), expect, "{source}");
    }

    #[test]
    fn renders_as_transformers_does() {
        check("{{ bos_token }}{{ messages[0]['content'] | trim }}{{ eos_token }}", "<s>hi</s>");
        // trim_blocks eats the newline after a block, lstrip_blocks the blanks before one.
        check("{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n", "user\n");
        check("{% if add_generation_prompt %}go{% endif %}", "go");
        check("{{ messages[0].content.strip().upper() }}{{ 'a-b'.split('-')[1] }}", "HIb");
        check("{{ messages | tojson }}", r#"[{"role": "user", "content": " hi "}]"#);
        check("{{ {'a': \"<x'>\"} | tojson(indent=1) }}", "{\n \"a\": \"<x'>\"\n}");
        check("{% generation %}x{%- endgeneration -%} y", "xy");
        check("{{ strftime_now('%d %b %Y') }}{% if tools %}t{% endif %}", "26 Jul 2024");
        check("{% for k, v in messages[0].items() %}{{ k }} {% endfor %}{{ {'a': 1}.get('b', 2) }}", "role content 2");
    }

    #[test]
    fn a_refusing_or_broken_template_is_one_error() {
        let refused = template("{{ raise_exception('no system turn') }}").render(&user("x"), true).unwrap_err();
        assert!(refused.to_string().contains("no system turn"), "{refused}");
        let broken = template("{% if %}").render(&user("x"), true).unwrap_err();
        assert!(broken.to_string().contains("cannot be rendered"), "{broken}");
        let wrong = ChatTemplate::from_config(&serde_json::json!({"chat_template": 3})).unwrap_err();
        assert!(wrong.to_string().contains("should be a string"), "{wrong}");
    }

    #[test]
    fn the_default_of_several_templates_counts() {
        let config = serde_json::json!({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]});
        let template = ChatTemplate::from_config(&config).unwrap().unwrap();
        assert_eq!(template.render(&user("x"), false).unwrap(), "d");
        assert!(ChatTemplate::from_config(&serde_json::json!({})).unwrap().is_none());
    }
}
