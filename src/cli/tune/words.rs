//! Options as they are typed into a shell.

/// The words of `text`: apart by white space, unless that is quoted. Between single quotes everything stands
/// for itself, between double quotes all but a backslash, which takes the meaning from what follows.
///
/// # Errors
/// A quote is not closed, or nothing follows a backslash.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => {
                let next = rest.next().ok_or("nothing follows the last `\\`")?;
                word.get_or_insert_default().push(next);
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(quote) => Err(format!("`{quote}` is not closed")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

/// `words` on one line that [`split`], and a shell, take apart again.
pub(super) fn join<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(quoted).collect();
    quoted.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_in_a_shell() {
        let text = r#" --exclude '*lm head*'  --include="a \"b\"" c\ d '' "#;
        let expected = ["--exclude", "*lm head*", "--include=a \"b\"", "c d", ""];
        assert_eq!(split(text).unwrap(), expected);
        assert_eq!(split(&join(expected)).unwrap(), expected);
        assert_eq!(split("  ").unwrap(), Vec::<String>::new());
        assert_eq!(join(["it's", "--a"]), r"'it'\''s' --a");
        assert!(split("a 'b").unwrap_err().contains("not closed"));
        assert!(split(r"a\").is_err());
    }
}
