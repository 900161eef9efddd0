//! `dunmore completions` and `dunmore man`: made from the command line's own description.

use std::{fs, io, path::Path};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, output};

/// `dunmore completions …`
pub fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dunmore", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end());
}

/// `dunmore man …`: a page for each command, in this folder.
pub fn man(folder: &Path) -> anyhow::Result<()> {
    let write = || -> io::Result<usize> {
        fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)?;
        Ok(fs::read_dir(folder)?.count())
    };
    let pages =
        write().with_context(|| format!("cannot write man pages to {}", folder.display()))?;
    output::line(&format!("{pages} files in {}", folder.display()));
    Ok(())
}
