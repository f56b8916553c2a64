//! Taking one guard out of the schema's text.

/// Where the guard is.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// In a function's newest definition.
    Function(&'static str),
    /// Anywhere in the schema, said once: a constraint of a table.
    Schema,
}

/// The schema without the guard, which must be there exactly once: a guard that was reworded is to be found
/// again by whoever reworded it, not to be passed over.
pub fn cut(schema: &str, place: Place, guard: &str, instead: &str) -> Result<String, String> {
    let (start, end) = match place {
        Place::Function(name) => definition(schema, name)?,
        Place::Schema => (0, schema.len()),
    };
    let text = &schema[start..end];
    match text.matches(guard).count() {
        1 => Ok([&schema[..start], &text.replace(guard, instead), &schema[end..]].concat()),
        n => Err(format!(
            "expected {guard:?} once in {place:?}, found it {n} times; say in tests/mutants/guards how it reads now"
        )),
    }
}

/// From the name of a function to its end.
fn definition(schema: &str, name: &str) -> Result<(usize, usize), String> {
    let start = schema
        .rfind(&format!("FUNCTION rowlock.{name}("))
        .ok_or_else(|| format!("no function rowlock.{name}; say in tests/mutants/guards where its guard is now"))?;
    // A body is quoted by dollars, the comment on it follows.
    let open = schema[start..].find("$$").ok_or_else(|| format!("rowlock.{name} has no body"))? + start + 2;
    let close = schema[open..].find("$$").ok_or_else(|| format!("rowlock.{name} has no end"))? + open;
    Ok((start, close))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "CREATE TABLE t (k int);
        CREATE FUNCTION rowlock.f(a int) AS $$ one two $$;
        CREATE FUNCTION rowlock.g() AS $$ two two $$;
        CREATE OR REPLACE FUNCTION rowlock.f(a int) AS $$ one two $$; COMMENT ON FUNCTION rowlock.f IS 'two';";

    #[test]
    fn a_guard_is_cut_from_the_newest_definition_only() {
        let cut = cut(SCHEMA, Place::Function("f"), " two", "").unwrap();
        assert!(cut.contains("REPLACE FUNCTION rowlock.f(a int) AS $$ one $$; COMMENT"), "{cut}");
        assert!(cut.contains("CREATE FUNCTION rowlock.f(a int) AS $$ one two $$"), "{cut}");
    }

    #[test]
    fn a_guard_that_is_not_there_exactly_once_is_an_error() {
        for (place, guard) in [
            (Place::Function("f"), "three"),
            (Place::Function("g"), "two"),
            (Place::Function("h"), "two"),
            (Place::Schema, "one"),
        ] {
            assert!(cut(SCHEMA, place, guard, "").is_err(), "{place:?} {guard}");
        }
        assert!(cut(SCHEMA, Place::Schema, "k int", "k text").is_ok());
    }
}
