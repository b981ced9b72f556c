//! Just enough of Rust's grammar to count lines and find imports: comments and literals are blanked, tests cut out.

use std::path::{Path, PathBuf};

/// A Rust file without its tests.
pub(crate) struct Source {
    /// Relative to the package, with `/`.
    pub path: String,
    /// The text with every comment, string and character literal turned to blanks; as long as the file is, but for the
    /// tests.
    pub code: String,
}

/// A function's name and the lines from its `fn` to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub name: String,
    pub lines: usize,
}

impl Source {
    /// Every file below `directory` of the package that is not a test itself.
    pub(crate) fn all_below(directory: &str) -> Vec<Self> {
        let mut sources = Vec::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut sources);
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(!sources.is_empty(), "no Rust file below {directory}");
        sources
    }

    pub(crate) fn parse(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), code: without_tests(&blank(text)) }
    }

    /// Lines of the file, blank and comment lines included, tests not.
    pub(crate) fn lines(&self) -> usize {
        self.code.trim_end().lines().count()
    }

    /// Its functions, nested ones as well.
    pub(crate) fn functions(&self) -> Vec<Function> {
        words(&self.code, "fn").filter_map(|at| function(&self.code[at + 2..])).collect()
    }

    /// The first segments behind `crate::`, those of `crate::{…}` one by one.
    pub(crate) fn imports(&self) -> Vec<String> {
        let mut found: Vec<_> = words(&self.code, "crate")
            .filter_map(|at| self.code[at + 5..].trim_start().strip_prefix("::"))
            .flat_map(|rest| match rest.trim_start().strip_prefix('{') {
                Some(list) => members(list),
                None => vec![word(rest)],
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// The highest number of `super::` in a row.
    pub(crate) fn supers(&self) -> usize {
        let chain = |at: &usize| {
            let mut rest = &self.code[*at..];
            let mut count = 0;
            while let Some(next) = rest.strip_prefix("super::") {
                (rest, count) = (next, count + 1);
            }
            count
        };
        words(&self.code, "super").map(|at| chain(&at)).max().unwrap_or(0)
    }
}

fn collect(directory: &Path, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "tests" {
                collect(&path, sources);
            }
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().unwrap() != "tests.rs" {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            sources.push(Source::parse(&name.to_string_lossy().replace('\\', "/"), &text));
        }
    }
}

/// Turns comments and literals to blanks; newlines stay where they are.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hidden = hidden_length(rest, out.chars().next_back());
        let length = if hidden == 0 { first.len_utf8() } else { hidden };
        let (piece, after) = rest.split_at(length);
        if hidden == 0 {
            out.push(first);
        } else {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    out
}

/// Bytes of the comment or literal that `rest` begins with; 0: it begins with neither.
fn hidden_length(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(is_word_char);
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if let Some(length) = raw_string(rest).filter(|_| !in_word) {
        return length;
    }
    match rest.as_bytes()[0] {
        b'"' => quoted(rest, '"'),
        b'\'' if is_char_literal(rest) => quoted(rest, '\''),
        _ => 0,
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// `r"…"`, `r#"…"#` and their `b` and `c` forms.
fn raw_string(rest: &str) -> Option<usize> {
    let marker = ["br", "cr", "r"].iter().find(|m| rest.starts_with(**m))?;
    let hashes = rest[marker.len()..].bytes().take_while(|b| *b == b'#').count();
    let open = marker.len() + hashes;
    let body = rest[open..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(open + 1 + body.find(&end)? + end.len())
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Tells `'a'` from the lifetime `'a`.
fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    matches!((chars.next(), chars.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

/// Cuts out every item behind `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.find([';', '{']) {
            Some(open) if rest.as_bytes()[open] == b'{' => open + block(&rest[open..]),
            Some(semicolon) => semicolon + 1,
            None => rest.len(),
        };
        rest = &rest[end..];
    }
    out + rest
}

/// Bytes from the brace that `rest` begins with to the one that closes it.
fn block(rest: &str) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    rest.len()
}

/// Where `word` stands as a whole word.
fn words<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !code[..*at].ends_with(is_word_char) && !code[at + word.len()..].starts_with(is_word_char)
    })
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word that `rest` begins with.
fn word(rest: &str) -> String {
    rest.trim_start().chars().take_while(|c| is_word_char(*c)).collect()
}

/// The first segments of the members of a list that ends with the brace closing it.
fn members(list: &str) -> Vec<String> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                found.push(word(&list[start..at]));
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// What stands behind `fn`; `None` for one without a body, or for a type like `fn()`.
fn function(rest: &str) -> Option<Function> {
    let name = word(rest);
    let mut nesting = 0_usize; // of ( and [, in which array types have semicolons
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' | b'[' => nesting += 1,
            b')' | b']' => nesting = nesting.checked_sub(1)?,
            b';' if nesting == 0 => return None,
            b'{' if nesting == 0 && !name.is_empty() => {
                let body = &rest[..at + block(&rest[at..])];
                return Some(Function { name, lines: body.lines().count() });
            }
            _ => {}
        }
    }
    None
}
