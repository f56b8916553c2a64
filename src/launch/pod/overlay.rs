//! A type's `pod_template` laid over what Rowlock makes: a JSON merge patch, but lists of named things are merged thing
//! by thing, so that one can add to the job's container without repeating it.

use serde_json::{Map, Value};

/// By what the elements of a list are told apart; none: the list is replaced whole.
fn key(list: &str) -> Option<&'static str> {
    match list {
        "volumeMounts" => Some("mountPath"),
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => Some("name"),
        _ => None,
    }
}

/// Lays `over` onto `base`. A null removes a key.
pub(super) fn merge(base: &mut Value, over: &Value) {
    let Value::Object(over) = over else {
        base.clone_from(over);
        return;
    };
    if !base.is_object() {
        *base = Value::Object(Map::new());
    }
    let Some(base) = base.as_object_mut() else { return };
    for (name, value) in over {
        match (value, key(name)) {
            (Value::Null, _) => drop(base.remove(name)),
            (Value::Array(more), Some(key)) => {
                let list = base.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                match list.as_array_mut() {
                    Some(list) => merge_list(list, more, key),
                    None => list.clone_from(value),
                }
            }
            _ => merge(base.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

fn merge_list(list: &mut Vec<Value>, more: &[Value], key: &str) {
    for element in more {
        let same = |other: &&mut Value| element.get(key).is_some() && other.get(key) == element.get(key);
        match list.iter_mut().find(same) {
            Some(old) => merge(old, element),
            None => list.push(element.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_things_are_merged_other_lists_replaced_and_null_removes() {
        let mut base = json!({"spec": {
            "containers": [{"name": "job", "image": "a", "volumeMounts": [{"mountPath": "/x", "name": "x"}]}],
            "tolerations": [{"key": "old"}], "terminationGracePeriodSeconds": 30}});
        merge(
            &mut base,
            &json!({"spec": {
                "containers": [
                    {"name": "job", "volumeMounts": [{"mountPath": "/y", "name": "y"}]},
                    {"name": "side", "image": "b"}],
                "tolerations": [{"key": "new"}], "terminationGracePeriodSeconds": null,
                "nodeSelector": {"disk": "ssd"}}}),
        );
        assert_eq!(
            base,
            json!({"spec": {
                "containers": [
                    {"name": "job", "image": "a",
                        "volumeMounts": [{"mountPath": "/x", "name": "x"}, {"mountPath": "/y", "name": "y"}]},
                    {"name": "side", "image": "b"}],
                "tolerations": [{"key": "new"}], "nodeSelector": {"disk": "ssd"}}})
        );
    }
}
