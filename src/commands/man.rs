//! `pipeline man --out DIR`: a manual page for the program and each of its commands, made from the help texts.

use crate::cli::{Cli, Man};
use crate::error::Exit;
use crate::run::commit;
use clap::CommandFactory;

pub fn run(args: &Man) -> anyhow::Result<Exit> {
    // The program's own version tells of this machine, which a page must not.
    let mut command = Cli::command().version(env!("CARGO_PKG_VERSION"));
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages)?;
    let mut text = String::new();
    for (name, page) in pages {
        let path = args.out.join(format!("{name}.1"));
        commit::write_atomic(&path, &page)?;
        text += &format!("{}\n", path.display());
    }
    super::print(&text)?;
    Ok(Exit::Done)
}

/// `pipeline`, `pipeline-run`, `pipeline-bench-judge`, …
fn collect(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    pages.push((name.to_owned(), page));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, pages)?;
    }
    Ok(())
}
