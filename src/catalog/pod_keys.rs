//! Whether Kubernetes knows all keys of a value: it ignores the others, a typing error as well.

use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Checks the `resources` of a container.
///
/// # Errors
/// The path of the first wrong key, and a sentence.
pub(super) fn check_resources(value: &Value) -> Result<(), String> {
    check::<ResourceRequirements>(value)
}

/// Checks a Pod's template.
///
/// # Errors
/// The path of the first wrong key, and a sentence.
pub(super) fn check_template(value: &Value) -> Result<(), String> {
    check::<PodTemplateSpec>(value)
}

fn check<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(), String> {
    let read: T = serde_json::from_value(value.clone())
        .map_err(|e| format!(": {e}; amounts are texts such as \"500m\" or \"64Mi\""))?;
    let stored = serde_json::to_value(read).map_err(|e| format!(": {e}"))?;
    match first_lost(value, &stored) {
        Some(path) => Err(format!("{path}: Kubernetes knows no such key")),
        None => Ok(()),
    }
}

/// The path of the first key that is lost on the way through the API's type. A null is no key: it removes one.
fn first_lost(given: &Value, stored: &Value) -> Option<String> {
    match (given, stored) {
        (Value::Object(given), _) => given.iter().filter(|(_, v)| !v.is_null()).find_map(|(key, value)| {
            let below = match stored.get(key) {
                Some(stored) => first_lost(value, stored)?,
                // The API's type leaves empty values out.
                None if value.as_object().is_some_and(serde_json::Map::is_empty) => return None,
                None if value.as_array().is_some_and(Vec::is_empty) => return None,
                None => String::new(),
            };
            Some(format!(".{key}{below}"))
        }),
        (Value::Array(given), Value::Array(stored)) => {
            given.iter().zip(stored).enumerate().find_map(|(n, (g, s))| Some(format!("[{n}]{}", first_lost(g, s)?)))
        }
        _ => None,
    }
}
