//! Values that are checked while they are read, so that a mistake has its line.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// A constant, or a key of a Secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EnvValue {
    Constant(String),
    Secret(SecretKey),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretKey {
    pub name: String,
    pub key: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FromSecret {
    from_secret: SecretKey,
}

/// By hand: what serde derives for "one or the other" says neither what was wrong nor where.
impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EnvValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text (numbers, true and false in quotes) or {from_secret: {name, key}}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<EnvValue, E> {
                Ok(EnvValue::Constant(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EnvValue, A::Error> {
                FromSecret::deserialize(MapAccessDeserializer::new(map)).map(|s| EnvValue::Secret(s.from_secret))
            }
        }
        d.deserialize_any(Either)
    }
}

impl Serialize for EnvValue {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            EnvValue::Constant(text) => s.serialize_str(text),
            EnvValue::Secret(key) => FromSecret { from_secret: key.clone() }.serialize(s),
        }
    }
}

pub(super) fn name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if is_name(&text) { Ok(text) } else { Err(D::Error::custom("expected 1 to 128 bytes of printable text")) }
}

pub(super) fn queue<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(d)? {
        Some(text) if is_name(&text) => Ok(Some(text)),
        Some(_) => Err(D::Error::custom("queue: expected 1 to 128 bytes of printable text")),
        None => Ok(None),
    }
}

fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len()) && !text.trim().is_empty() && !text.contains(char::is_control)
}

pub(super) fn max_retries<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    whole(d, "max_retries", 0, 32767)
}

pub(super) fn priority<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i16>, D::Error> {
    whole(d, "priority", -32768, 32767)
}

pub(super) fn exit_codes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let codes = Vec::<i64>::deserialize(d)?;
    let code = |n: &i64| u8::try_from(*n).map_err(|_| *n);
    codes
        .iter()
        .map(code)
        .collect::<Result<_, _>>()
        .map_err(|n| D::Error::custom(format!("no_retry_exit_codes: expected 0 to 255, got {n}")))
}

fn whole<'de, D, T>(d: D, key: &str, least: i64, most: i64) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    let Some(n) = Option::<i64>::deserialize(d)? else { return Ok(None) };
    let wrong = || D::Error::custom(format!("{key}: expected a whole number from {least} to {most}, got {n}"));
    let fits = Some(n).filter(|n| (least..=most).contains(n)).and_then(|n| T::try_from(n).ok());
    fits.map(Some).ok_or_else(wrong)
}

pub(super) fn max_concurrency<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    not_yet(d, "max_concurrency")
}

pub(super) fn rate<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    not_yet(d, "rate")
}

/// A limit that nobody obeys would be worse than none.
fn not_yet<'de, D: Deserializer<'de>>(d: D, key: &str) -> Result<(), D::Error> {
    IgnoredAny::deserialize(d)?;
    Err(D::Error::custom(format!(
        "{key}: not enforced yet, and so refused; take it out, and bound the workers instead"
    )))
}

pub(super) fn backoff_factor<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    within(d, "backoff.factor", 1.0, 1000.0)
}

pub(super) fn backoff_jitter<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    within(d, "backoff.jitter", 0.0, 1.0)
}

fn within<'de, D: Deserializer<'de>>(d: D, key: &str, least: f64, most: f64) -> Result<Option<f64>, D::Error> {
    match Option::<f64>::deserialize(d)? {
        None => Ok(None),
        Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
        Some(n) => Err(D::Error::custom(format!("{key}: expected a number from {least} to {most}, got {n}"))),
    }
}

pub(super) fn schema<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    let schema = Value::deserialize(d)?;
    if schema.is_null() {
        return Ok(None);
    }
    jsonschema::validator_for(&schema).map_err(|e| D::Error::custom(format!("payload_schema: {e}")))?;
    Ok(Some(schema))
}

pub(super) fn timeout<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d, "timeout", Duration::from_millis(1))
}

pub(super) fn expected<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d, "expected", Duration::ZERO)
}

pub(super) fn every<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d, "every", Duration::from_secs(1))
}

pub(super) fn backoff_base<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d, "backoff.base", Duration::ZERO)
}

pub(super) fn backoff_max<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d, "backoff.max", Duration::ZERO)
}

pub(super) fn keep_completed<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d, "keep.completed", Duration::ZERO)
}

pub(super) fn keep_failed<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d, "keep.failed", Duration::ZERO)
}

/// A duration up to a year: what is let in here must overflow nowhere.
fn duration<'de, D: Deserializer<'de>>(d: D, key: &str, least: Duration) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Seconds(f64),
        Text(String),
    }
    let from = match least.as_millis() {
        0 => "0".to_owned(),
        1 => "1 millisecond".to_owned(),
        _ => "1 second".to_owned(),
    };
    let wrong = |got: &str| {
        let got = shorten(got);
        D::Error::custom(format!(
            "{key}: expected {from} to 366 days, such as 30s, 14d or a number of seconds, got {got}"
        ))
    };
    let given = Option::<Given>::deserialize(d).map_err(|_| wrong("another kind of value"))?;
    let Some(given) = given else { return Ok(None) };
    let (read, text) = match given {
        Given::Seconds(n) => (Duration::try_from_secs_f64(n).ok(), n.to_string()),
        Given::Text(text) => (parse(&text), text),
    };
    read.filter(|d| (least..=YEAR).contains(d)).map(Some).ok_or_else(|| wrong(&text))
}

fn parse(text: &str) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

/// A duration as an interval of Postgres.
pub(super) fn interval<S: Serializer>(duration: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    duration.map(|d| format!("{} seconds", d.as_secs_f64())).serialize(s)
}

/// A duration as a number of seconds.
pub(super) fn seconds<S: Serializer>(duration: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    duration.map(|d| d.as_secs_f64()).serialize(s)
}

/// A value in an error: a line is enough to find it.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
