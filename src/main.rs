//! The `rowlock` program: see [`rowlock::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    rowlock::cli::main()
}
