//! What jobs run in the tests' image, which has no shell: a handler that takes so many milliseconds for each line,
//! or, with `once`, a command that takes so many.
use std::{io::BufRead, thread::sleep, time::Duration};

fn main() {
    let mut args = std::env::args().skip(1);
    let milliseconds = args.next().and_then(|n| n.parse().ok()).expect("expected milliseconds");
    let time = Duration::from_millis(milliseconds);
    if args.next().as_deref() == Some("once") {
        return sleep(time);
    }
    for line in std::io::stdin().lock().lines() {
        if line.expect("a line").contains("\"job_id\"") {
            sleep(time);
            println!("{{\"ok\": true}}");
        }
    }
}
