//! A wire to Postgres, or to a pooler, that a test can freeze or cut: whole, or under a call that it chooses.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use crate::wire::{Call, Calls, Message, Messages};

/// How a connection ends under a call. The first two are for a call that is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The server never sees the call.
    Unsent,
    /// As soon as the call is sent: the server may or may not have done it.
    Sent,
    /// When the server has answered, which the client never sees.
    Answered,
    /// When the server has answered, too; but the client's side stays open, and is silent.
    Silent,
}

/// Asked before a call is sent on, and again when it is answered.
type Rule = Box<dyn FnMut(&Call) -> Option<Cut> + Send>;

pub struct Proxy {
    port: u16,
    frozen: watch::Sender<bool>,
    rule: Arc<Mutex<Option<Rule>>>,
    /// Connections of before this are over.
    ends: watch::Sender<()>,
    /// Connections there were.
    pub seen: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A wire to the server of this URL.
    pub async fn to(url: &str) -> Proxy {
        let address = url.split('@').nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (frozen, freezes) = watch::channel(false);
        let (ends, end) = watch::channel(());
        let (count, seen) = watch::channel(0);
        let rule: Arc<Mutex<Option<Rule>>> = Arc::default();
        let rules = rule.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.send_modify(|n| *n += 1);
                // A server that is down: the client sees its connection end.
                let Ok(server) = TcpStream::connect(&address).await else { continue };
                let mut end = end.clone();
                end.mark_unchanged();
                let wire = Wire::new(client, server, freezes.clone(), rules.clone());
                wires.spawn(async move {
                    tokio::select! {
                        () = wire.carry() => {}
                        _ = end.changed() => {}
                    }
                });
            }
        });
        Proxy { port, frozen, rule, ends, seen, _tasks: tasks }
    }

    /// The URL through the proxy.
    pub fn url(&self, url: &str) -> String {
        let (user, rest) = url.split_once('@').unwrap();
        let database = rest.split_once('/').unwrap().1;
        format!("{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Open connections stay open and carry nothing.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Cuts the connections of calls that the rule chooses, from now on.
    pub fn cut_by(&self, rule: impl FnMut(&Call) -> Option<Cut> + Send + 'static) {
        *self.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// Cuts no more calls.
    pub fn spare(&self) {
        *self.rule.lock().unwrap() = None;
    }

    /// Cuts every connection there is.
    pub fn cut_all(&self) {
        self.ends.send_replace(());
    }
}

/// One connection.
struct Wire {
    client: (OwnedReadHalf, OwnedWriteHalf),
    server: (OwnedReadHalf, OwnedWriteHalf),
    frozen: watch::Receiver<bool>,
    rule: Arc<Mutex<Option<Rule>>>,
    calls: Calls,
    /// The messages of a call that has not ended.
    held: Vec<u8>,
    /// Calls without an answer, and what has come of it.
    open: VecDeque<(Call, Vec<u8>)>,
    cut: Option<Cut>,
}

impl Wire {
    fn new(
        client: TcpStream,
        server: TcpStream,
        frozen: watch::Receiver<bool>,
        rule: Arc<Mutex<Option<Rule>>>,
    ) -> Wire {
        for side in [&client, &server] {
            side.set_nodelay(true).unwrap();
        }
        let (client, server) = (client.into_split(), server.into_split());
        let (calls, held, open) = (Calls::default(), Vec::new(), VecDeque::new());
        Wire { client, server, frozen, rule, calls, held, open, cut: None }
    }

    /// Both directions, until one side ends or it is cut.
    async fn carry(mut self) {
        let (mut sent, mut said) = (Messages::of_client(), Messages::of_server());
        let (mut forth, mut back) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        while self.cut.is_none() {
            let passed = tokio::select! {
                n = self.client.0.read(&mut forth) => {
                    let n = n.unwrap_or(0);
                    sent.push(&forth[..n]);
                    let on: Vec<u8> = sent.by_ref().flat_map(|m| self.forth(m)).collect();
                    n > 0 && self.thawed().await && self.server.1.write_all(&on).await.is_ok()
                }
                n = self.server.0.read(&mut back) => {
                    let n = n.unwrap_or(0);
                    said.push(&back[..n]);
                    let on: Vec<u8> = said.by_ref().flat_map(|m| self.back(m)).collect();
                    n > 0 && self.thawed().await && self.client.1.write_all(&on).await.is_ok()
                }
            };
            if !passed {
                return;
            }
        }
        if self.cut == Some(Cut::Silent) {
            let (mut client, _write) = self.client;
            drop(self.server);
            while client.read(&mut forth).await.is_ok_and(|n| n > 0) {}
        }
    }

    async fn thawed(&mut self) -> bool {
        self.frozen.wait_for(|frozen| !frozen).await.is_ok()
    }

    /// What goes on to the server with a client's message: a call goes whole.
    fn forth(&mut self, message: Message) -> Vec<u8> {
        let call = self.calls.sent(&message);
        self.held.extend(message.bytes);
        match call {
            Some(call) => {
                self.cut = self.cut.or_else(|| self.judge(&call));
                self.open.push_back((call, Vec::new()));
            }
            None if b"PBDEC".contains(&message.kind) => return Vec::new(),
            None => {}
        }
        let held = std::mem::take(&mut self.held);
        if self.cut == Some(Cut::Unsent) { Vec::new() } else { held }
    }

    /// What of a server's message goes on to the client: an answer is kept until it is whole.
    fn back(&mut self, message: Message) -> Vec<u8> {
        // What nobody asked for, and the greetings, which are a conversation.
        let Some((call, kept)) = self.open.front_mut().filter(|(call, _)| !call.text.is_empty()) else {
            if message.kind == b'Z' {
                self.open.pop_front();
            }
            return if self.cut.is_none() { message.bytes } else { Vec::new() };
        };
        kept.extend_from_slice(&message.bytes);
        if !call.answer.get_or_insert_default().add(&message) {
            return Vec::new();
        }
        let (call, kept) = self.open.pop_front().unwrap();
        self.cut = self.cut.or_else(|| self.judge(&call));
        if self.cut.is_none() { kept } else { Vec::new() }
    }

    /// A greeting, and a statement that is closed, are no calls.
    fn judge(&self, call: &Call) -> Option<Cut> {
        if call.text.is_empty() {
            return None;
        }
        self.rule.lock().unwrap().as_mut()?(call)
    }
}
