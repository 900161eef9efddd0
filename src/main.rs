//! The `dunmore` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dunmore_connectors::cli::main()
}
