//! Times on the command line.

use std::time::Duration;

/// A default of the library. clap keeps it as long as the program runs.
pub(super) fn shown(default: Duration) -> &'static str {
    humantime::format_duration(default).to_string().leak()
}

/// A simulated time: there is a decision every second, so it must have an end.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if (1..=86_400).contains(&span.as_secs()) { Ok(span) } else { Err("expected 1s to 1day".into()) }
}

/// A time between two looks: never none, or looking would be all that is done.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    let pause = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if pause < Duration::from_millis(10) { Err("expected at least 10ms".into()) } else { Ok(pause) }
}
