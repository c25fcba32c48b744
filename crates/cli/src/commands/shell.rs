//! `completions` and `man`: what a shell and its user want to know of the commands.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use clap::CommandFactory;
use clap_complete::Shell;
use sensei_files::whole::write_whole;

use crate::arguments::Arguments;
use crate::progress::say;

/// Prints what a shell reads to complete commands.
///
/// # Errors
/// If it cannot be printed.
pub fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Arguments::command(), PROGRAM, &mut script);
    match std::io::stdout().write_all(&script) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output: cannot write"),
    }
}

/// Writes a page for the program and one for each command into a folder that is made or empty.
///
/// # Errors
/// If the folder holds something, or a page cannot be written.
pub fn man(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("{shown}: cannot make the folder"))?;
    let mut there = std::fs::read_dir(folder).with_context(|| format!("{shown}: cannot list the folder"))?;
    ensure!(there.next().is_none(), "{shown}: expected an empty folder, found files in it");
    let mut command = Arguments::command();
    command.build();
    let n_pages = write_pages(&command, PROGRAM, folder)?;
    say(&format!("{shown}: {n_pages} pages; man {} shows the first", folder.join("sensei.1").display()));
    Ok(())
}

/// The page of a command and those below it; how many they are.
fn write_pages(command: &clap::Command, name: &str, folder: &Path) -> anyhow::Result<usize> {
    let mut page = vec![];
    clap_mangen::Man::new(command.clone()).title(name).render(&mut page)?;
    write_whole(&folder.join(format!("{name}.1")), &page)?;
    let mut n_pages = 1;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        n_pages += write_pages(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(n_pages)
}

const PROGRAM: &str = "sensei";
