//! A trace file: one job a line, as JSON (`{"at": 12.5, "type": "send_email", "service": 0.2}`) or as CSV
//! (`12.5,send_email,0.2`; a heading `at,type,service` is passed over). `at` is in seconds from the start, in any
//! order; `service` is in seconds. Empty lines and lines from `#` are passed over. A JSON line may have
//! `"expected"`: the time declared for its type, without which the controller learns it from the jobs.

use serde::Deserialize;

use super::load::{Arrival, Kind, Load};

/// A day: what is decided once a second must have an end.
const LONGEST: f64 = 86_400.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at: f64,
    #[serde(rename = "type")]
    kind: String,
    service: f64,
    expected: Option<f64>,
}

impl Load {
    /// Reads a trace.
    ///
    /// # Errors
    /// The first line that is wrong, by its number, with what was expected.
    ///
    /// # Example
    /// ```
    /// let load = rowlock::simulate::Load::trace("mail", "at,type,service\n0.5,send_email,0.2\n").unwrap();
    /// assert_eq!(load.arrivals[0].service, 0.2);
    /// let error = rowlock::simulate::Load::trace("mail", "soon,send_email,0.2").unwrap_err();
    /// assert!(error.starts_with("line 1: at: expected"), "{error}");
    /// ```
    pub fn trace(name: &str, text: &str) -> Result<Load, String> {
        let mut load = Load { name: name.to_owned(), kinds: Vec::new(), arrivals: Vec::new(), duration: 0.0 };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') || line.replace(' ', "") == "at,type,service" {
                continue;
            }
            let line = read(line).map_err(|e| format!("line {}: {e}", number + 1))?;
            let kind = load.kinds.iter().position(|k| k.name == line.kind).unwrap_or_else(|| {
                load.kinds.push(Kind { name: line.kind.clone(), expected_seconds: None });
                load.kinds.len() - 1
            });
            load.kinds[kind].expected_seconds = load.kinds[kind].expected_seconds.or(line.expected);
            load.arrivals.push(Arrival { at: line.at, kind, service: line.service });
        }
        load.arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
        load.duration = load.arrivals.last().ok_or("expected at least one job")?.at;
        Ok(load)
    }
}

fn read(text: &str) -> Result<Line, String> {
    let line: Line = if text.starts_with('{') {
        // serde_json would call it line 1 and repeat what it found.
        serde_json::from_str(text).map_err(|e| {
            let why = e.to_string();
            why.split(" at line").next().unwrap_or_default().to_owned()
        })?
    } else {
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let [at, kind, service] = fields[..] else { return Err("expected at,type,service".into()) };
        let number = |name: &str, text: &str| {
            text.parse().map_err(|_| format!("{name}: expected a number of seconds, found {text:?}"))
        };
        Line { at: number("at", at)?, kind: kind.to_owned(), service: number("service", service)?, expected: None }
    };
    for (name, value) in [("at", Some(line.at)), ("service", Some(line.service)), ("expected", line.expected)] {
        if value.is_some_and(|v| !(0.0..=LONGEST).contains(&v)) {
            return Err(format!("{name}: expected seconds from 0 to {LONGEST}"));
        }
    }
    if line.kind.is_empty() {
        return Err("type: expected a name".into());
    }
    Ok(line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_put_in_order() {
        let text = "# made by hand\nat, type, service\n2,b,0.5\n\n{\"at\": 1, \"type\": \"a\", \"service\": 3, \
         \"expected\": 2}\n";
        let load = Load::trace("t", text).unwrap();
        assert_eq!(
            load.arrivals,
            [Arrival { at: 1.0, kind: 1, service: 3.0 }, Arrival { at: 2.0, kind: 0, service: 0.5 }]
        );
        assert_eq!(load.kinds[1], Kind { name: "a".into(), expected_seconds: Some(2.0) });
        assert_eq!(load.duration, 2.0);
    }

    #[test]
    fn an_error_names_the_line_and_what_was_expected() {
        for (text, says) in [
            ("1,a,0.1\n1,a", "line 2: expected at,type,service"),
            ("1,a,long", "line 1: service: expected a number of seconds, found \"long\""),
            ("-1,a,1", "line 1: at: expected seconds from 0 to 86400"),
            ("1,a,inf", "line 1: service: expected seconds from 0 to 86400"),
            ("1,,1", "line 1: type: expected a name"),
            ("{\"at\": 1, \"type\": \"a\", \"service\": 1, \"x\": 1}", "line 1: unknown field `x`"),
            ("# nothing", "expected at least one job"),
        ] {
            let error = Load::trace("t", text).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
