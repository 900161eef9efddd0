//! The `dunmore` program.

use std::process::ExitCode;

/// Deliveries allocate much and briefly on many threads, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    dunmore_connectors::cli::main()
}
