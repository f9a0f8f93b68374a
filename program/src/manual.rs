//! Manual pages and shells' completions, made from what the program itself knows of its command line.
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The first argument that has a program write its own; the second one is the folder to write into. It is for who packs the
/// program, so no help shows it.
pub const WRITE: &str = "--write-manual";

/// The shells that there are completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

/// Does it if the program was started for that, which then is to end with this code.
pub fn if_asked<Arguments: CommandFactory>() -> Option<ExitCode> {
    let folder = asked(std::env::args_os().skip(1))?;
    Some(match write(Arguments::command(), Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    })
}

fn asked(mut words: impl Iterator<Item = OsString>) -> Option<OsString> {
    match (words.next(), words.next(), words.next()) {
        (Some(first), Some(folder), None) if first == WRITE => Some(folder),
        _ => None,
    }
}

/// A page for the program and one for each of its commands, and a file for each shell, under the names that they are to have.
fn write(mut command: Command, folder: &Path) -> io::Result<()> {
    // First: the others add a command `help` for each, which needs no page.
    clap_mangen::generate_to(command.clone(), folder)?;
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, &name, folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_page_for_each_command_and_a_file_for_each_shell_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let command = Command::new("prog")
            .about("Does things")
            .subcommand(Command::new("do-it").about("Does one"))
            .subcommand(Command::new("hidden").hide(true));
        write(command, folder.path()).unwrap();
        let written = std::fs::read_dir(folder.path()).unwrap();
        let names: BTreeSet<_> = written.map(|entry| entry.unwrap().file_name()).collect();
        for name in ["prog.1", "prog-do-it.1", "prog.bash", "prog.fish", "_prog"] {
            assert!(names.contains(&OsString::from(name)), "no {name} in {names:?}");
        }
        for name in ["prog-hidden.1", "prog-help.1", "prog-help-do-it.1"] {
            assert!(!names.contains(&OsString::from(name)), "{names:?}");
        }
        let page = std::fs::read_to_string(folder.path().join("prog-do-it.1")).unwrap();
        assert!(page.contains("Does one"), "{page}");
    }

    #[test]
    fn only_two_words_ask_for_it() {
        let asked = |line: &str| asked(line.split_whitespace().map(OsString::from));
        assert_eq!(asked("--write-manual out"), Some("out".into()));
        for other in [
            "",
            "--write-manual",
            "--write-manual a b",
            "status --write-manual out",
        ] {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
