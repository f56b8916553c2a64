//! What jobs run in the tests' image, which has no shell: `job MILLISECONDS [once] [eat] [ledger=HOST:PORT]`. A handler
//! that takes so long for each line; with `once` a command that does; with `eat` one that takes memory until it is killed.
//!
//! The ledger is told before and after each run, and has answered before the run goes on: what it did not hear of did not
//! happen. Its connection ends with this process, however that ends.
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    thread::sleep,
    time::Duration,
};

struct Ledger(BufReader<TcpStream>);

impl Ledger {
    fn open(address: &str) -> Ledger {
        Ledger(BufReader::new(TcpStream::connect(address).expect("the ledger listens")))
    }

    fn tell(&mut self, what: &str, job: &str, lease: &str) {
        // In one piece: the rest of a line would wait for the answer to its first part.
        let line = format!("{what} {job} {lease}\n");
        self.0.get_mut().write_all(line.as_bytes()).expect("the ledger hears");
        let read = self.0.read_line(&mut String::new()).expect("the ledger answers");
        assert_ne!(read, 0, "the ledger is closed");
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let milliseconds = args.next().and_then(|n| n.parse().ok()).expect("expected milliseconds");
    let time = Duration::from_millis(milliseconds);
    let words: Vec<String> = args.collect();
    let has = |word: &str| words.iter().any(|w| w == word);
    let mut ledger = words.iter().find_map(|w| w.strip_prefix("ledger=")).map(Ledger::open);
    let mut run = |job: &str, lease: &str| {
        let mut tell = |what| ledger.iter_mut().for_each(|l| l.tell(what, job, lease));
        tell("begin");
        if has("eat") {
            eat();
        }
        sleep(time);
        tell("end");
    };
    if has("once") {
        let var = |name| std::env::var(name).expect("the launch contract's variables");
        return run(&var("ROWLOCK_JOB_ID"), &var("ROWLOCK_LEASE"));
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        if let Some(job) = text(&line, "job_id") {
            run(job, text(&line, "lease").expect("a lease"));
            println!("{{\"ok\": true}}");
        }
    }
}

fn eat() {
    let mut all = Vec::new();
    loop {
        all.push(vec![1u8; 1 << 20]);
    }
}

/// A text without escapes in a JSON object.
fn text<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(&format!("\"{key}\":\""))?.1.split('"').next()
}
