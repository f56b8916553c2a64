//! The two forms of a connection string, by libpq's grammar. Pure: from a text to names and values, unchecked.

use crate::Error;

/// Names and values in the order in which they were written. A later one replaces an earlier one.
pub(super) type Pairs = Vec<(String, String)>;

/// A connection string, split. The scheme is empty for `key=value` words.
#[derive(Debug, PartialEq)]
pub(super) struct Split {
    pub scheme: String,
    pub pairs: Pairs,
}

/// Reads either form. White space around the text is no part of it: a Secret often ends with a newline.
pub(super) fn split(text: &str) -> Result<Split, Error> {
    let text = text.trim();
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).filter(|s| is_scheme(s));
    match scheme {
        // The scheme of JDBC is two words, and its short form has no slashes: jdbc:postgresql:app.
        Some("jdbc") => {
            let rest = text["jdbc:".len()..].split_once(':').filter(|(driver, _)| *driver == "postgresql");
            let (_, rest) = rest.ok_or_else(|| bad("the scheme: expected jdbc:postgresql:"))?;
            Ok(Split { scheme: "jdbc:postgresql".into(), pairs: jdbc(rest)? })
        }
        Some(scheme) => {
            let rest = text[scheme.len()..].strip_prefix("://").ok_or_else(|| {
                bad("the scheme: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or key=value words")
            })?;
            Ok(Split { scheme: scheme.to_ascii_lowercase(), pairs: uri(rest)? })
        }
        None => Ok(Split { scheme: String::new(), pairs: words(text)? }),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+.-_".contains(c))
}

fn bad(text: &str) -> Error {
    Error::Config(format!("the connection string cannot be read: {text}"))
}

/// After `jdbc:postgresql:`. Without a host it means localhost, never a socket.
fn jdbc(rest: &str) -> Result<Pairs, Error> {
    let mut pairs = match rest.strip_prefix("//") {
        Some(rest) => uri(rest)?,
        None => uri(&format!("/{}", rest.trim_start_matches('/')))?,
    };
    if !pairs.iter().any(|(name, _)| name == "host") {
        pairs.insert(0, ("host".into(), "localhost".into()));
    }
    Ok(pairs)
}

/// After `postgresql://`: `[user[:password]@][host[:port],…][/database][?name=value&…]`.
fn uri(rest: &str) -> Result<Pairs, Error> {
    let mut pairs = Pairs::new();
    let mut put = |name: &str, text: &str| -> Result<(), Error> {
        if !text.is_empty() {
            pairs.push((name.to_owned(), decode(name, text)?));
        }
        Ok(())
    };
    // The first @ before any slash ends the user and the password: a password may hold `:` and `?`, but no `@` or `/`.
    let mut rest = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => {
            let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
            put("user", user)?;
            put("password", password)?;
            &rest[at + 1..]
        }
        _ => rest,
    };
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let (host, after) = host(rest)?;
        let (port, after) = match after.strip_prefix(':') {
            Some(after) => after.split_at(after.find(['/', '?', ',']).unwrap_or(after.len())),
            None => ("", after),
        };
        hosts.push(host);
        ports.push(port);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                rest = after;
                break;
            }
        }
    }
    if hosts.iter().any(|h| !h.is_empty()) || hosts.len() > 1 {
        put("host", &hosts.join(","))?;
    }
    if ports.iter().any(|p| !p.is_empty()) {
        put("port", &ports.join(","))?;
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    put("dbname", path.strip_prefix('/').unwrap_or(path))?;
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| bad("after the question mark: expected name=value, and & between two of them"))?;
        let name = decode("an option's name", name)?;
        let value = decode(&name, value)?;
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// One host, which for IPv6 is in brackets, and what follows it.
fn host(rest: &str) -> Result<(&str, &str), Error> {
    let Some(inner) = rest.strip_prefix('[') else {
        return Ok(rest.split_at(rest.find([':', '/', '?', ',']).unwrap_or(rest.len())));
    };
    match inner.split_once(']') {
        Some((host, after)) if !host.is_empty() && (after.is_empty() || after.starts_with([':', '/', '?', ','])) => {
            Ok((host, after))
        }
        _ => Err(bad("host: expected an IPv6 address in brackets, such as [::1]")),
    }
}

/// Percent-encoding. A plus is a plus.
fn decode(part: &str, text: &str) -> Result<String, Error> {
    let wrong = |what: &str| bad(&format!("{}: {what}", name_of(part)));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if (high, low) != (0, 0) => bytes.push((high * 16 + low) as u8),
            _ => return Err(wrong("expected two hexadecimal digits after %, and not 00; write % itself as %25")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("expected UTF-8"))
}

/// An option's name as it may be shown. What is no name may be a piece of a password.
pub(super) fn name_of(name: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-. '".contains(c);
    if !name.is_empty() && name.len() <= 60 && name.chars().all(plain) { name } else { "an option" }
}

/// `key = value` words: a value in single quotes may hold spaces, a backslash takes the next character as it is.
fn words(text: &str) -> Result<Pairs, Error> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let after = || pairs.last().map_or_else(String::new, |(name, _)| format!(" after {}", name_of(name)));
        let (name, behind) = rest.split_at(rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len()));
        let Some(behind) = behind.trim_start().strip_prefix('=') else {
            return Err(bad(&format!(
                "expected key=value words{}; a value with spaces is quoted: password='two words'",
                after()
            )));
        };
        let (value, behind) = value(name, behind.trim_start())?;
        pairs.push((name.to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

fn value<'a>(name: &str, text: &'a str) -> Result<(String, &'a str), Error> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(bad(&format!("{}: expected a closing quote; write a quote inside as \\'", name_of(name))));
    }
    Ok((value, ""))
}
