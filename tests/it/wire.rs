//! As much of PostgreSQL's protocol as a test needs to tell one call from another: where a message ends, a call's text
//! and parameters, and its answer. Pure: `proxy` does the reading and writing.

use std::collections::HashMap;

/// One message, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The letter of its kind; 0 for the first message of a connection, which has none.
    pub kind: u8,
    pub bytes: Vec<u8>,
}

/// Bytes as they arrive, divided into messages.
#[derive(Debug)]
pub struct Messages {
    bytes: Vec<u8>,
    typed: bool,
}

impl Messages {
    /// A client's: its first message has no letter.
    pub fn of_client() -> Messages {
        Messages { bytes: Vec::new(), typed: false }
    }

    pub fn of_server() -> Messages {
        Messages { bytes: Vec::new(), typed: true }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

impl Iterator for Messages {
    type Item = Message;

    /// The next whole message, if all of it has arrived.
    fn next(&mut self) -> Option<Message> {
        let head = usize::from(self.typed);
        let length = u32::from_be_bytes(self.bytes.get(head..head + 4)?.try_into().ok()?);
        let end = head + usize::try_from(length).ok()?;
        if self.bytes.len() < end {
            return None;
        }
        let rest = self.bytes.split_off(end);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        let kind = if self.typed { bytes[0] } else { 0 };
        self.typed = true;
        Some(Message { kind, bytes })
    }
}

/// All that a client sends until it wants an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The SQL of its statements.
    pub text: String,
    /// As they were sent: binary, from this project's library.
    pub parameters: Vec<Option<Vec<u8>>>,
    /// None until the server has answered: what it did is committed then, outside of a transaction.
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The first column of each row.
    pub rows: Vec<Option<Vec<u8>>>,
    pub refused: bool,
}

impl Call {
    /// How many elements the array has that is the parameter `$n`; of anything else it is none.
    pub fn elements(&self, n: usize) -> usize {
        let Some(Some(array)) = self.parameters.get(n - 1) else { return 0 };
        // Dimensions, whether there are nulls, the type; then the length of the first dimension.
        array.get(12..16).map_or(0, |length| u32::from_be_bytes(length.try_into().unwrap()) as usize)
    }
}

/// The calls of one connection.
#[derive(Debug, Default)]
pub struct Calls {
    /// Prepared statements by their names.
    statements: HashMap<Vec<u8>, String>,
    next: Call,
}

impl Calls {
    /// Takes a client's message. Answers the call that it is the end of.
    pub fn sent(&mut self, message: &Message) -> Option<Call> {
        let mut read = Reader(message.bytes.get(5..).unwrap_or_default());
        match message.kind {
            b'P' => {
                let name = read.text();
                let text = String::from_utf8_lossy(&read.text()).into_owned();
                self.statements.insert(name, text);
            }
            b'B' => {
                read.text();
                let statement = read.text();
                self.next.text.push_str(self.statements.get(&statement).map_or("", String::as_str));
                for _ in 0..read.short() {
                    read.short();
                }
                self.next.parameters = (0..read.short()).map(|_| read.value()).collect();
            }
            b'Q' => {
                self.next.text = String::from_utf8_lossy(&read.text()).into_owned();
                return Some(std::mem::take(&mut self.next));
            }
            // A sync, and the first message of all: the server says when it is ready.
            b'S' | 0 => return Some(std::mem::take(&mut self.next)),
            _ => {}
        }
        None
    }
}

impl Answer {
    /// Takes a server's message. Whether it was the last one of an answer.
    pub fn add(&mut self, message: &Message) -> bool {
        match message.kind {
            b'D' => {
                let mut read = Reader(&message.bytes[5..]);
                let columns = read.short();
                self.rows.push(if columns > 0 { read.value() } else { None });
            }
            b'E' => self.refused = true,
            _ => {}
        }
        message.kind == b'Z'
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    /// Up to the zero byte, which is passed over.
    fn text(&mut self) -> Vec<u8> {
        let text = self.take(self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len()));
        self.take(1);
        text
    }

    fn short(&mut self) -> u16 {
        self.take(2).try_into().map_or(0, u16::from_be_bytes)
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let length = self.take(4).try_into().map_or(-1, i32::from_be_bytes);
        usize::try_from(length).ok().map(|n| self.take(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of a kind, or the first of a connection.
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        let head: &[u8] = if kind == 0 { &[] } else { &[kind] };
        [head, &length, body].concat()
    }

    fn startup() -> Vec<u8> {
        message(0, b"\0\x03\0\0user\0rowlock\0\0")
    }

    /// A bind of a statement by name, with parameters.
    fn bind(statement: &str, parameters: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = [b"\0", statement.as_bytes(), b"\0\0\x01\0\x01"].concat();
        body.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
        for parameter in parameters {
            body.extend(parameter.map_or(-1, |p| i32::try_from(p.len()).unwrap()).to_be_bytes());
            body.extend(parameter.unwrap_or_default());
        }
        message(b'B', &body)
    }

    fn calls(client: &[Vec<u8>]) -> Vec<Call> {
        let mut messages = Messages::of_client();
        messages.push(&client.concat());
        let mut calls = Calls::default();
        messages.filter_map(|m| calls.sent(&m)).collect()
    }

    #[test]
    fn messages_are_the_same_however_the_bytes_arrive() {
        let all = [startup(), message(b'Q', b"SELECT 1\0"), message(b'S', b"")];
        let wire = all.concat();
        for piece in 1..wire.len() {
            let mut messages = Messages::of_client();
            let mut found = Vec::new();
            for bytes in wire.chunks(piece) {
                messages.push(bytes);
                found.extend(messages.by_ref());
            }
            assert_eq!(found.iter().map(|m| m.kind).collect::<Vec<_>>(), [0, b'Q', b'S'], "in pieces of {piece}");
            assert_eq!(found.into_iter().map(|m| m.bytes).collect::<Vec<_>>(), all);
        }
    }

    #[test]
    fn a_message_that_has_not_arrived_whole_is_waited_for() {
        let mut messages = Messages::of_server();
        messages.push(&message(b'D', b"\0\0")[..6]);
        assert_eq!(messages.next(), None);
        messages.push(b"\0");
        assert_eq!(messages.next().map(|m| m.kind), Some(b'D'));
    }

    #[test]
    fn a_call_has_the_text_of_its_statement_whether_it_was_just_parsed_or_long_before() {
        let parse =
            |name: &str, sql: &str| message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat());
        let sync = || message(b'S', b"");
        let found = calls(&[
            startup(),
            parse("s1", "SELECT 1"),
            sync(),
            parse("", "SELECT 2"),
            bind("", &[]),
            sync(),
            bind("s1", &[]),
            sync(),
            message(b'Q', b"COMMIT\0"),
        ]);
        // The first two are the startup's, and a statement that was prepared and not called.
        let texts: Vec<&str> = found.iter().map(|c| &*c.text).collect();
        assert_eq!(texts, ["", "", "SELECT 2", "SELECT 1", "COMMIT"]);
    }

    #[test]
    fn a_calls_arrays_are_counted() {
        let int = 2_i32.to_be_bytes();
        let array = [&1_i32.to_be_bytes()[..], &[0; 4], &20_i32.to_be_bytes(), &int, &1_i32.to_be_bytes()].concat();
        let empty = [&[0; 8][..], &20_i32.to_be_bytes()].concat();
        let found = calls(&[startup(), bind("", &[Some(&array), Some(&empty), None, Some(&int)]), message(b'S', b"")]);
        let counts = [1, 2, 3, 4, 5].map(|n| found[1].elements(n));
        assert_eq!(counts, [2, 0, 0, 0, 0]);
    }

    #[test]
    fn an_answer_ends_when_the_server_is_ready_and_has_the_first_column_of_each_row() {
        let row = |value: &[u8]| message(b'D', &[b"\0\x01", value].concat());
        let mut messages = Messages::of_server();
        for bytes in [row(&[255; 4]), row(b"\0\0\0\x01x"), message(b'C', b"SELECT 2\0"), message(b'Z', b"I")] {
            messages.push(&bytes);
        }
        let mut answer = Answer::default();
        let last: Vec<bool> = messages.map(|m| answer.add(&m)).collect();
        assert_eq!(last, [false, false, false, true]);
        assert_eq!(answer, Answer { rows: vec![None, Some(b"x".to_vec())], refused: false });
    }
}
