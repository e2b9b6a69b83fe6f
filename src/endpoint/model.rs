//! Which models a server has, and what it says of them.

use super::client::{Client, Rejected};
use crate::error::{Exit, Failure};
use serde_json::Value;

/// The id of the wanted model, or of the only one, and what the server says of it.
///
/// # Errors
/// A [`Failure`] when the server has no such model or several to choose from, and when it lists none at all.
pub(super) fn find(client: &Client, wanted: Option<&str>) -> anyhow::Result<(String, String)> {
    let url = client.url("models");
    let listed = client.get("models")?.map_err(|Rejected { status, message }| {
        Failure::new(Exit::Unavailable, format!("`{url}` answers {status}: {message}"))
            .hint("expected a server that speaks OpenAI's protocol and lists its models")
    })?;
    let models = listed.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let ids: Vec<&str> = models.iter().filter_map(|model| model.get("id")?.as_str()).collect();
    if ids.is_empty() {
        let message = format!("`{url}` lists no model: expected `data`, a list of models with an `id` each");
        return Err(Failure::new(Exit::Unavailable, message).hint("check that `url` is a model server's").into());
    }
    let chosen = match wanted {
        Some(wanted) => models.iter().find(|model| answers_to(model, wanted)),
        None => models.first().filter(|_| ids.len() == 1),
    };
    let Some(chosen) = chosen else { return Err(not_there(&url, wanted, &ids).into()) };
    let id = wanted.or_else(|| chosen.get("id")?.as_str()).unwrap_or_default();
    Ok((id.to_owned(), revision(chosen)))
}

fn answers_to(model: &Value, name: &str) -> bool {
    let is = |value: &Value| value.as_str() == Some(name);
    let aliases = model.get("aliases").and_then(Value::as_array);
    model.get("id").is_some_and(is) || aliases.is_some_and(|aliases| aliases.iter().any(is))
}

fn not_there(url: &str, wanted: Option<&str>, ids: &[&str]) -> Failure {
    let shown: Vec<String> = ids.iter().take(8).map(|id| format!("`{id}`")).collect();
    let more = if ids.len() > shown.len() { format!(" and {} more", ids.len() - shown.len()) } else { String::new() };
    let list = shown.join(", ") + &more;
    match wanted {
        Some(wanted) => Failure::new(Exit::Usage, format!("`{url}` has no model `{wanted}`: it has {list}"))
            .hint("name one of them as `model`"),
        None => {
            Failure::new(Exit::Usage, format!("`{url}` has several models: {list}")).hint("name one of them as `model`")
        }
    }
}

/// What stays the same from start to start of what a server says: who serves, what it was made from, how it is quantised.
fn revision(model: &Value) -> String {
    let id = model.get("id").and_then(Value::as_str);
    let text = |place: &str| model.pointer(place).and_then(Value::as_str).filter(|text| !text.is_empty());
    let root = text("/root").filter(|root| Some(*root) != id).map(str::to_owned);
    let parameters = model.pointer("/meta/n_params").and_then(Value::as_u64).map(|n| format!("{n} parameters"));
    let parts = [text("/owned_by").map(str::to_owned), root, text("/meta/ftype").map(str::to_owned), parameters];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_server_says_of_a_model() {
        let check = |model: Value, expect: &str| assert_eq!(revision(&model), expect);
        check(json!({"id": "q", "owned_by": "vllm", "root": "Qwen/Qwen2.5-7B", "created": 17}), "vllm Qwen/Qwen2.5-7B");
        check(json!({"id": "q", "owned_by": "sglang", "root": "q"}), "sglang");
        check(
            json!({"id": "m.gguf", "owned_by": "llamacpp", "meta": {"n_params": 134515008, "ftype": "Q4_1"}}),
            "llamacpp Q4_1 134515008 parameters",
        );
        check(json!({"id": "x"}), "");
    }

    #[test]
    fn models_go_by_their_id_and_their_aliases() {
        let model = json!({"id": "/m/a.gguf", "aliases": ["judge"]});
        assert!(answers_to(&model, "judge") && answers_to(&model, "/m/a.gguf") && !answers_to(&model, "a.gguf"));
        let said = not_there("http://x/v1/models", Some("b"), &["a"; 10]).message;
        assert!(said.ends_with("and 2 more"), "{said}");
    }
}
