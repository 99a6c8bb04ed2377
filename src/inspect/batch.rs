//! Whether several items can be run at once, by what the model declares.
//!
//! The leading axis of every input and output must be free and mean the same. What the
//! nodes inside do (a `Reshape` to a constant shape, say) is not looked at.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Axis, Port};

/// The verdict, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Batch {
    /// The verdict.
    pub verdict: Verdict,
    /// Whether a batch of more than one item is allowed.
    pub allowed: bool,
    /// Name of the batch axis.
    pub axis: Option<String>,
    /// The inputs and outputs that decided against it, each with the reason.
    pub reasons: Vec<String>,
    /// Inputs and outputs that were set aside, each with the reason.
    pub notes: Vec<String>,
}

/// Whether several items can be run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Any number.
    Free,
    /// Exactly as many as declared, more than one.
    Fixed,
    /// One.
    One,
    /// The declarations contradict each other or say too little.
    Unclear,
    /// No input has a batch axis.
    None,
}

/// What an input or output says about the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has no batch axis: why.
    NoBatch(&'static str),
    /// Its leading axis is the batch.
    Leading(Axis),
    /// Another axis has the name of the batch axis.
    Inner(usize),
    /// Its shape is not declared.
    Undeclared,
}

pub(super) fn batch(inputs: &[Port], outputs: &[Port]) -> Batch {
    let name = batch_name(inputs, outputs);
    let inner = inner_names(inputs, outputs);
    let mut verdict = Batch {
        verdict: Verdict::None,
        allowed: false,
        axis: name.map(str::to_owned),
        reasons: Vec::new(),
        notes: Vec::new(),
    };
    let mut fixed = BTreeMap::<i64, usize>::new();
    let (mut free, mut unclear) = (0, 0);
    let ports = inputs.iter().map(|p| ("input", p));
    for (kind, port) in ports.chain(outputs.iter().map(|p| ("output", p))) {
        let label = format!("{kind} `{}`", port.name);
        match role(port, kind == "input", name, &inner) {
            Role::NoBatch(why) => verdict
                .notes
                .push(format!("{label} has no batch axis: {why}")),
            Role::Inner(axis) => {
                free += 1;
                let note = format!("{label} has the batch as axis {axis}");
                verdict.notes.push(note);
            }
            Role::Undeclared => {
                unclear += 1;
                let reason = format!(
                    "{label} is {}: its leading axis is not declared",
                    port.r#type
                );
                verdict.reasons.push(reason);
            }
            Role::Leading(Axis::Fixed(n)) => {
                *fixed.entry(n).or_insert(0) += 1;
                let reason = format!(
                    "{label} is {}: its leading axis is fixed at {n}",
                    port.r#type
                );
                verdict.reasons.push(reason);
            }
            Role::Leading(Axis::Unknown) => {
                free += 1;
                let note = format!("{label} is {}: its leading axis has no name", port.r#type);
                verdict.notes.push(note);
            }
            Role::Leading(Axis::Symbol(s)) if Some(s.as_str()) == name => free += 1,
            Role::Leading(Axis::Symbol(s)) => {
                unclear += 1;
                let expected = name.unwrap_or("another");
                verdict.reasons.push(format!(
                    "{label} is {}: its leading axis is `{s}`, expected `{expected}`",
                    port.r#type
                ));
            }
        }
    }
    let sizes: Vec<i64> = fixed.keys().copied().collect();
    verdict.verdict = match (&sizes[..], free, unclear) {
        ([], 0, 0) => Verdict::None,
        ([], _, 0) => Verdict::Free,
        ([n], 0, 0) if *n > 1 => Verdict::Fixed,
        (sizes, _, _) if sizes.contains(&1) => Verdict::One,
        _ => Verdict::Unclear,
    };
    verdict.allowed = matches!(verdict.verdict, Verdict::Free | Verdict::Fixed);
    if verdict.verdict == Verdict::Fixed {
        verdict.notes.append(&mut verdict.reasons);
    }
    verdict
}

/// The name that most inputs have on their leading axis, the first among equals; inputs
/// with one axis only decide when no other does, as theirs may be a length.
fn batch_name<'a>(inputs: &'a [Port], outputs: &'a [Port]) -> Option<&'a str> {
    let leading = |ports: &'a [Port], rank: usize| {
        let names = ports.iter().filter_map(move |p| match p.shape.as_deref()? {
            [Axis::Symbol(s), rest @ ..] if rest.len() + 1 >= rank => Some(s.as_str()),
            _ => None,
        });
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for name in names {
            match counts.iter_mut().find(|(n, _)| *n == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        // max_by_key takes the last among equals.
        let first_most = counts.into_iter().rev().max_by_key(|(_, count)| *count);
        first_most.map(|(name, _)| name)
    };
    leading(inputs, 2)
        .or_else(|| leading(inputs, 1))
        .or_else(|| leading(outputs, 2))
}

/// Names of axes that are not leading.
fn inner_names<'a>(inputs: &'a [Port], outputs: &'a [Port]) -> Vec<&'a str> {
    let ports = inputs.iter().chain(outputs);
    let axes = ports.flat_map(|p| p.shape.iter().flat_map(|s| s.iter().skip(1)));
    axes.filter_map(|a| match a {
        Axis::Symbol(s) => Some(s.as_str()),
        _ => None,
    })
    .collect()
}

fn role(port: &Port, input: bool, name: Option<&str>, inner: &[&str]) -> Role {
    if port.dtype.is_none() && port.r#type != "unknown" && port.shape.is_none() {
        return Role::NoBatch("not a tensor");
    }
    let Some(shape) = port.shape.as_deref() else {
        return Role::Undeclared;
    };
    match shape {
        [] => Role::NoBatch("a scalar"),
        [Axis::Fixed(1)] if input => Role::NoBatch("one number, a setting"),
        [Axis::Fixed(_)] if input => Role::NoBatch("a list of fixed length, a setting"),
        [Axis::Symbol(s)] if Some(s.as_str()) != name && inner.contains(&s.as_str()) => {
            Role::NoBatch("its only axis is one of the others")
        }
        [Axis::Symbol(s), ..] if Some(s.as_str()) == name => Role::Leading(shape[0].clone()),
        _ => {
            let named = |a: &Axis| matches!(a, Axis::Symbol(s) if Some(s.as_str()) == name);
            match shape.iter().position(named) {
                Some(axis) => Role::Inner(axis),
                None => Role::Leading(shape[0].clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `f:batch,seq` is a tensor; a bare name has no declared shape.
    fn port(name: &str, text: &str) -> Port {
        let axis = |a: &str| match a.parse() {
            Ok(n) => Axis::Fixed(n),
            Err(_) if a == "?" => Axis::Unknown,
            Err(_) => Axis::Symbol(a.into()),
        };
        let dims = text.split(',').filter(|a| !a.is_empty());
        Port {
            name: name.into(),
            r#type: format!("float[{text}]"),
            dtype: Some("float"),
            shape: (text != "!").then(|| dims.map(axis).collect()),
        }
    }

    #[test]
    fn verdicts() {
        use Verdict::*;
        // Inputs, outputs, verdict, and a part of what is said about it.
        let cases: &[(&[&str], &[&str], Verdict, &str)] = &[
            (&["batch,seq"], &["batch,seq,8"], Free, ""),
            (
                &["?,seq"],
                &["?,8"],
                Free,
                "input `i0` is float[?,seq]: its leading axis has no name",
            ),
            (
                &["batch,seq"],
                &["1,8"],
                One,
                "output `o0` is float[1,8]: its leading axis is fixed at 1",
            ),
            (
                &["batch,seq", "1,4,past,64"],
                &["batch,8"],
                One,
                "input `i1`",
            ),
            (
                &["batch,seq", ""],
                &["batch,8"],
                Free,
                "input `i1` has no batch axis: a scalar",
            ),
            // use_cache_branch
            (
                &["batch,seq", "1"],
                &["batch,8"],
                Free,
                "input `i1` has no batch axis: one number",
            ),
            // scales of a speech model
            (
                &["batch,seq", "batch", "3"],
                &["batch,1,time"],
                Free,
                "a list of fixed length",
            ),
            (
                &["batch,seq", "seq"],
                &["batch,8"],
                Free,
                "its only axis is one of the others",
            ),
            (
                &["batch,64", "2,batch,128"],
                &["batch,1", "2,batch,128"],
                Free,
                "has the batch as axis 1",
            ),
            (
                &["batch,64", "2,1,128"],
                &["batch,1"],
                Unclear,
                "fixed at 2",
            ),
            (
                &["a,64"],
                &["b,1"],
                Unclear,
                "output `o0` is float[b,1]: its leading axis is `b`, expected `a`",
            ),
            (&["batch,64"], &["!"], Unclear, "not declared"),
            (&["4,64"], &["4,8"], Fixed, "fixed at 4"),
            (&["1,3,224,224"], &["1,1000"], One, "input `i0`"),
            (&[""], &[""], None, "a scalar"),
        ];
        for (inputs, outputs, verdict, said) in cases {
            let ports = |prefix: &str, texts: &[&str]| -> Vec<Port> {
                let texts = texts.iter().enumerate();
                texts
                    .map(|(i, t)| port(&format!("{prefix}{i}"), t))
                    .collect()
            };
            let found = batch(&ports("i", inputs), &ports("o", outputs));
            let all = [&found.reasons[..], &found.notes[..]].concat().join("\n");
            assert_eq!(found.verdict, *verdict, "{inputs:?} {outputs:?}: {all}");
            assert!(
                all.contains(said),
                "{inputs:?} {outputs:?}: no `{said}` in {all}"
            );
            let allowed = matches!(verdict, Free | Fixed);
            assert_eq!(found.allowed, allowed, "{inputs:?} {outputs:?}");
            assert!(found.allowed || *verdict == None || !found.reasons.is_empty());
        }
    }
}
