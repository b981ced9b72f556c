//! What the subcommands read and print.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write as _},
    path::Path,
};

use anyhow::{Context as _, ensure};

/// The text of `file`, or of standard input for `-`; at most `most` bytes.
pub(super) fn read(file: &Path, what: &str, most: usize) -> anyhow::Result<String> {
    let name = name(file);
    let mut text = String::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut read = |input: &mut dyn Read| input.take(limit).read_to_string(&mut text);
    let done = if is_stdin(file) {
        if io::stdin().is_terminal() {
            eprintln!("reading {what} from the terminal; Ctrl-D ends it");
        }
        read(&mut io::stdin().lock())
    } else {
        File::open(file).and_then(|mut file| read(&mut file))
    };
    done.with_context(|| format!("{name} can't be read"))?;
    ensure!(
        text.len() <= most,
        "{name} is larger than {} KB: it holds something else than {what}",
        most / 1024
    );
    Ok(text)
}

/// How messages name a file.
pub(super) fn name(file: &Path) -> String {
    if is_stdin(file) { "standard input".to_owned() } else { file.display().to_string() }
}

/// Prints to standard output. A reader that has gone, such as `head`, is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("nothing can be printed")
        }
        _ => Ok(()),
    }
}

/// Whether people read what is printed.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}
