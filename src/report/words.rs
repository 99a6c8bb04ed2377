//! What the page, the text and the JUnit report say in the same words.

use super::number::{given, significant};
use crate::eval::report::{Evaluation, InputInfo, LimitResult, Task, TokenPlace};

/// What kind of model it is.
pub(super) fn task(task: Task) -> &'static str {
    match task {
        Task::CausalLm => "causal language model",
        Task::Classifier => "classifier",
        Task::Encoder => "encoder",
        Task::Tensors => "tensors",
    }
}

/// `4096 tokens, 8 windows of 512, stride 256`.
pub(super) fn input(input: &InputInfo) -> String {
    let mut parts = Vec::new();
    if input.tokens > 0 {
        parts.push(count(input.tokens, "token"));
    }
    let items = match input.window {
        Some(window) => format!("{} of {window}", count(input.items, "window")),
        None => count(input.items, "item"),
    };
    parts.push(items);
    if let Some(stride) = input.stride {
        parts.push(format!("stride {stride}"));
    }
    if let Some(chunk) = input.chunk {
        parts.push(format!(
            "{} at once through the cache",
            count(chunk, "token")
        ));
    }
    if input.batch > 1 {
        parts.push(format!("batches of {}", input.batch));
    }
    parts.join(", ")
}

/// `1 window`, `8 windows`.
pub(super) fn count(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {what}{plural}", super::number::thousands(n))
}

/// `0.0312 > 0.01 (3.1 x)`. What relation was asked for follows from what was found and
/// whether it held.
pub(super) fn relation(limit: &LimitResult) -> String {
    let (found, bound) = (limit.found, limit.limit);
    let text = significant(found, 3);
    let bound_text = given(bound);
    if !found.is_finite() || !bound.is_finite() {
        return format!("{text}, limit {bound_text}");
    }
    let sign = match (found > bound, found < bound, limit.held) {
        (true, _, true) => ">=",
        (_, true, true) => "<=",
        (true, _, false) => ">",
        (_, true, false) => "<",
        _ => "=",
    };
    // Rounded, 0.010002 would be said to exceed 0.01 as 0.01000.
    let text = match significant(found, 3).parse() == Ok(bound) {
        true => found.to_string(),
        false => text,
    };
    let factor = found / bound;
    match limit.held || sign != ">" || !factor.is_finite() || factor < 1.05 {
        true => format!("{text} {sign} {bound_text}"),
        false => format!("{text} {sign} {bound_text} ({} x)", significant(factor, 2)),
    }
}

/// Where a limit was missed most: a place in the text, or an output.
pub(super) fn worst(limit: &LimitResult) -> Option<String> {
    let output = limit.output.as_deref();
    let output = output.map(|name| format!("output `{}`", plain(name)));
    limit.worst.as_ref().map(place).or(output)
}

/// `window 3, position 118, token 1234 ' the'`.
fn place(place: &TokenPlace) -> String {
    let mut out = format!("window {}, position {}", place.window, place.position);
    if let Some(token) = place.token {
        out += &format!(", token {token}");
    }
    if let Some(text) = &place.text {
        out += &format!(" '{}'", text.escape_debug());
    }
    out
}

/// How many limits there are, and how many were missed.
pub(super) fn limits(evaluations: &[Evaluation]) -> (usize, usize) {
    let limits = evaluations
        .iter()
        .flat_map(|e| &e.models)
        .flat_map(|m| &m.limits);
    limits.fold((0, 0), |(all, missed), limit| {
        (all + 1, missed + usize::from(!limit.held))
    })
}

/// `2 of 6 limits missed`.
pub(super) fn verdict((all, missed): (usize, usize)) -> String {
    match (all, missed) {
        (0, _) => "no limits set".into(),
        (1, 0) => "the limit held".into(),
        (1, 1) => "the limit was missed".into(),
        (2, 0) => "both limits held".into(),
        (all, 0) => format!("all {all} limits held"),
        (all, missed) => format!("{missed} of {} missed", count(all, "limit")),
    }
}

/// `text` without characters that would move the cursor, end the line or be no text at all.
/// Names come from files, and files from anywhere.
pub(super) fn plain(text: &str) -> String {
    let escaped = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        // Would turn round what stands after it; and what no markup may hold.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
            c.escape_unicode().to_string()
        }
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// At most `length` characters of `text`, with the middle left out: names of variants differ at
/// the end, and those of models at the begin.
pub(super) fn shortened(text: &str, length: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= length {
        return text.to_owned();
    }
    let tail = (length - 1) / 2;
    let head = length - 1 - tail;
    let part = |chars: &[char]| chars.iter().collect::<String>();
    format!("{}…{}", part(&all[..head]), part(&all[all.len() - tail..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(found: f64, limit: f64, held: bool) -> LimitResult {
        LimitResult {
            name: "max-mean-kld",
            limit,
            found,
            held,
            worst: None,
            output: None,
        }
    }

    #[test]
    fn a_limit_says_by_how_much() {
        assert_eq!(
            relation(&limit(0.0312, 0.01, false)),
            "0.0312 > 0.01 (3.1 x)"
        );
        assert_eq!(relation(&limit(0.85, 0.9, false)), "0.850 < 0.9");
        assert_eq!(relation(&limit(0.002, 0.01, true)), "0.00200 <= 0.01");
        assert_eq!(relation(&limit(0.95, 0.9, true)), "0.950 >= 0.9");
        assert_eq!(relation(&limit(0.01, 0.01, true)), "0.01 = 0.01");
        assert_eq!(
            relation(&limit(0.010_000_2, 0.01, false)),
            "0.0100002 > 0.01"
        );
        assert_eq!(
            relation(&limit(f64::NAN, 0.01, false)),
            "not a number, limit 0.01"
        );
        assert_eq!(relation(&limit(0.3, 0.0, false)), "0.300 > 0");
    }

    #[test]
    fn a_place_names_its_token() {
        let at = TokenPlace {
            window: 3,
            position: 118,
            token: Some(1234),
            text: Some(" the\n".into()),
        };
        assert_eq!(place(&at), r"window 3, position 118, token 1234 ' the\n'");
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(
            plain("a\u{1b}[2Jb\n\u{202e}c é"),
            r"a\u{1b}[2Jb\n\u{202e}c é"
        );
        assert_eq!(
            shortened("smollm2-135m-instruct-q4-block-32", 21),
            "smollm2-13…4-block-32"
        );
        assert_eq!(shortened("short", 21), "short");
    }
}
