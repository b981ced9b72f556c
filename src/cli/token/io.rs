//! What the subcommands read and print.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};

/// The text of `file`, or of standard input for `-`; at most `most` bytes.
pub(super) fn read(file: &Path, what: &str, most: usize) -> anyhow::Result<String> {
    let name = name(file);
    let mut text = String::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut read = |input: &mut dyn Read| input.take(limit).read_to_string(&mut text);
    if !is_stdin(file) && is_content(file) {
        bail!("the argument is no file; give {what} on standard input");
    }
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

/// Whether it is what the file should hold, such as a token, in place of the file's name. Messages must not quote it.
pub(super) fn is_content(file: &Path) -> bool {
    if file.exists() {
        return false;
    }
    let text = file.to_string_lossy();
    let text = text.trim_start();
    // JWT, its base64, JSON, and a JWT as it stands in a header.
    let begins = ["eyJ", "ZXlK", "{"].iter().any(|begin| text.starts_with(begin));
    let is_header = text.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("bearer "));
    begins || is_header || text.contains('\n') || text.len() > 255
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_told_from_names() {
        let long = "a".repeat(256);
        for content in
            ["eyJhbGciOiJSUzI1NiJ9.e30.c", "ZXlKaGJHY2lPaUpTVXpJMU5pSjku", "{\"a\": 1}", "a\nb", &long]
        {
            assert!(is_content(Path::new(content)), "{content:.20}");
        }
        assert!(is_content(Path::new(" bearer eyJh")) && is_content(Path::new("BEARER x")));
        for name in ["token.txt", "/run/secrets/token", "", "bear", "ä.yaml"] {
            assert!(!is_content(Path::new(name)), "{name}");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a".repeat(250));
        assert!(is_content(&file), "it is long, and there is no such file");
        std::fs::write(&file, "").unwrap();
        assert!(!is_content(&file), "there is such a file");
    }
}
