//! The output: data go to stdout, messages to stderr.

use std::{collections::BTreeMap, io::Write};

use chrono::{DateTime, Utc};
use comfy_table::{Table as Drawn, presets};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::types::Type;

use super::args::Format;
use crate::{Error, JobQueue};

pub(super) struct Output {
    format: Format,
}

/// Rows for people.
pub(super) struct Table(Drawn);

impl Table {
    pub(super) fn new(head: &[&str]) -> Table {
        let mut table = Drawn::new();
        table.load_preset(presets::NOTHING).set_header(head.iter().map(|h| h.to_uppercase().replace('_', " ")));
        Table(table)
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.push(cells.into());
    }

    pub(super) fn push(&mut self, cells: Vec<String>) {
        self.0.add_row(cells.iter().map(|cell| printable(cell)));
    }
}

impl Output {
    pub(super) fn new(format: Format) -> Output {
        Output { format }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// A list: a table for people, an array for programs.
    pub(super) fn list<T: Serialize>(
        &self,
        list: &[T],
        table: Table,
        name: impl Fn(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Table | Format::Wide => self.text(&table.0.trim_fmt()),
            Format::Name => list.iter().try_for_each(|item| self.text(&printable(&name(item)))),
            Format::Json | Format::Yaml => self.value(&list),
        }
    }

    /// One thing: its fields for people, an object for programs.
    pub(super) fn one<T: Serialize>(&self, item: &T, name: &str) -> anyhow::Result<()> {
        match self.format {
            Format::Name => self.text(&printable(name)),
            Format::Json | Format::Yaml => self.value(item),
            Format::Table | Format::Wide => {
                let mut table = Drawn::new();
                table.load_preset(presets::NOTHING);
                let text = serde_json::to_string(item)?;
                let fields: BTreeMap<String, &RawValue> = serde_json::from_str(&text)?;
                for (key, value) in fields.into_iter().filter(|(_, v)| v.get() != "null") {
                    table.add_row([printable(&key), printable(&plain_text(value))]);
                }
                self.text(&table.trim_fmt())
            }
        }
    }

    fn value<T: Serialize>(&self, value: &T) -> anyhow::Result<()> {
        // Not through a tree: it would round a payload's long numbers.
        let json = || serde_json::to_string_pretty(value).map(|text| escape_json(&text));
        self.text(&match self.format {
            // Through a tree: raw JSON inside has no YAML form of its own.
            Format::Yaml => match serde_saphyr::to_string(&serde_json::to_value(value)?)?.trim_end() {
                // YAML may show such letters as they are; JSON, which is YAML, can escape them.
                text if text.contains(is_unsafe) => json()?,
                text => text.to_owned(),
            },
            _ => json()?,
        })
    }

    /// A view of the schema by its columns, the first of which names a row; `wide` are shown on demand.
    pub(super) async fn view(
        &self,
        queue: &JobQueue,
        view: &str,
        columns: &[&str],
        wide: &[&str],
    ) -> anyhow::Result<()> {
        let key = columns[0];
        let readable = readable(queue, view).await?;
        // The names are this program's and the schema's own, never input. Intervals are printed alike whatever the
        // user's settings are.
        let sql = format!(
            "WITH pinned AS MATERIALIZED (SELECT set_config('intervalstyle', 'postgres', true))
             SELECT to_jsonb(v) FROM pinned, (SELECT {readable} FROM rowlock.{view}) v ORDER BY v.{key}"
        );
        let rows = super::query::rows(queue, &sql, &[]).await?;
        let list: Vec<serde_json::Value> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
        let columns = if self.wide() { [columns, wide].concat() } else { columns.to_vec() };
        let mut table = Table::new(&columns);
        for item in &list {
            table.push(columns.iter().map(|c| plain(&item[*c])).collect());
        }
        self.list(&list, table, |item| plain(&item[key]))
    }

    /// A line of data. A reader that has gone away, as `head` does, is no error.
    pub(super) fn text(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

/// The columns of a view, null where this user may not read one: rowlock_reader sees no payload.
async fn readable(queue: &JobQueue, view: &str) -> Result<String, Error> {
    let sql = "SELECT string_agg(CASE WHEN has_column_privilege(c.oid, a.attnum, 'SELECT') THEN quote_ident(a.attname)
                                     ELSE 'NULL AS ' || quote_ident(a.attname) END, ', ' ORDER BY a.attnum)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
                WHERE n.nspname = 'rowlock' AND c.relname = $1 AND a.attnum > 0 AND NOT a.attisdropped
                  AND has_any_column_privilege(c.oid, 'SELECT')";
    let columns: Option<String> = super::query::rows(queue, sql, &[(&view, Type::TEXT)]).await?[0].try_get(0)?;
    // No view or no right to it: the next statement says which.
    Ok(columns.unwrap_or_else(|| "*".into()))
}

/// A message for people. There is nobody to tell if stderr is gone.
pub(super) fn message(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(text));
}

/// A text for a terminal. A job chooses its errors and results, and must not move the cursor, change colours, or write
/// from right to left in somebody's terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match is_unsafe(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
        shown
    })
}

/// Whether a terminal takes a letter for an order: controls but for the end of a line and a tab, and marks of
/// direction.
fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON whose strings show no such letter. serde_json escapes those below 0x20 already.
fn escape_json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match is_unsafe(c) {
            true => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => shown.push(c),
        }
        shown
    })
}

pub(super) fn time(at: Option<DateTime<Utc>>) -> String {
    at.map(|t| t.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// As `plain`, without a tree, which would round a payload's long numbers.
fn plain_text(value: &RawValue) -> String {
    let text = value.get();
    let strings = || serde_json::from_str::<Vec<String>>(text).map(|list| list.join(" "));
    serde_json::from_str(text).or_else(|_| strings()).unwrap_or_else(|_| text.to_owned())
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(s) => s.clone(),
        serde_json::Value::Array(items) if items.iter().all(serde_json::Value::is_string) => {
            items.iter().filter_map(|i| i.as_str()).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_order_from_a_jobs_text() {
        let hostile = "a\u{1b}[2J\u{1b}]0;title\u{7}b\rc\u{9b}31m\u{202e}d\u{7f}";
        let shown = printable(hostile);
        assert_eq!(shown, "a\\u{1b}[2J\\u{1b}]0;title\\u{7}b\\u{d}c\\u{9b}31m\\u{202e}d\\u{7f}");
        assert_eq!(printable("über\n\t日本 🙂"), "über\n\t日本 🙂");
        let json = escape_json(&serde_json::Value::String(hostile.into()).to_string());
        assert!(!json.contains(is_unsafe), "{json:?}");
        assert_eq!(serde_json::from_str::<String>(&json).ok().as_deref(), Some(hostile), "the value is the same");
    }
}
