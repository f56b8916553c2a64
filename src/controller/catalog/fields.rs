//! The catalogue's fields, each checked while it is read: so a mistake has its line.

use std::time::Duration;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

/// A constant, or a key of a Secret.
pub(super) enum EnvValue {
    Constant(String),
    Secret(SecretKey),
}

/// By hand: what serde derives for "one or the other" says neither what was wrong nor where.
impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Secret {
            from_secret: SecretKey,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EnvValue;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text (numbers, true and false in quotes) or {from_secret: {name, key}}")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<EnvValue, E> {
                Ok(EnvValue::Constant(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EnvValue, A::Error> {
                Secret::deserialize(MapAccessDeserializer::new(map)).map(|s| EnvValue::Secret(s.from_secret))
            }
        }
        d.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretKey {
    pub name: String,
    pub key: String,
}

pub(super) fn name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if (1..=128).contains(&text.len()) && !text.trim().is_empty() && !text.contains(char::is_control) {
        return Ok(text);
    }
    Err(D::Error::custom("expected 1 to 128 bytes of printable text"))
}

pub(super) fn queue<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    name(d).map(Some)
}

pub(super) fn rate<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    let text = String::deserialize(d)?;
    let parsed = text.split_once('/').and_then(|(n, unit)| {
        let per = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        n.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0).map(|n| n / per)
    });
    let wrong = || D::Error::custom(format!("rate: expected a number per s, m or h such as 100/s, got {text}"));
    parsed.map(Some).ok_or_else(wrong)
}

pub(super) fn factor<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    within(d, "backoff.factor", 1.0, 1000.0)
}

pub(super) fn jitter<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    within(d, "backoff.jitter", 0.0, 1.0)
}

fn within<'de, D: Deserializer<'de>>(d: D, key: &str, least: f64, most: f64) -> Result<Option<f64>, D::Error> {
    match f64::deserialize(d)? {
        n if (least..=most).contains(&n) => Ok(Some(n)),
        n => Err(D::Error::custom(format!("{key}: expected {least} to {most}, got {n}"))),
    }
}

pub(super) fn schema<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    let schema = Value::deserialize(d)?;
    jsonschema::validator_for(&schema).map_err(|e| D::Error::custom(format!("payload_schema: {e}")))?;
    Ok(Some(schema))
}

pub(super) fn kept<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let kept = duration(d)?;
    if kept > Some(Duration::from_secs(366 * 86400)) {
        return Err(D::Error::custom("keep: expected at most 366 days"));
    }
    Ok(kept)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(d)? else { return Ok(None) };
    if text == "0" {
        return Ok(Some(Duration::ZERO));
    }
    humantime::parse_duration(&text)
        .map(Some)
        .map_err(|e| D::Error::custom(format!("expected a duration such as 30s or 14d, got {text}: {e}")))
}
