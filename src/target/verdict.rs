//! The answer: rows, limits and kernels together.

use std::fmt;

use serde::Serialize;

use super::{
    Targets,
    form::Form,
    onnxruntime,
    runtime::Target,
    table::{Effect, Row, Scope, table},
};

/// Why a target does not simply run a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Because {
    /// The target.
    pub target: Target,
    /// What becomes of the node.
    pub effect: Effect,
    /// What was found: the facets that decide, such as "`bits` 8"; may be empty.
    pub found: String,
    /// What is the matter, one sentence without final stop.
    pub reason: String,
    /// What to use instead; may be empty.
    pub instead: String,
    /// How it is known, as the table says: `executed`, `source`, `documented`, an issue.
    pub source: String,
}

/// For a remark: "onnxruntime@1.20: there is no kernel for these types".
impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.reason)
    }
}

/// What the worst of all targets does with a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of them run it.
    Runs,
    /// All of them run it, one of them slowly.
    Slow(Because),
    /// Nothing is known to be wrong with it, and of one target it is not known that it runs.
    Unknown(Target),
    /// One of them computes something else.
    Wrong(Because),
    /// One of them does not load or run it.
    Refused(Because),
}

impl Verdict {
    /// Whether a pass may emit the form: every target is known to run it, slowly or not.
    pub fn may_emit(&self) -> bool {
        matches!(self, Verdict::Runs | Verdict::Slow(_))
    }

    /// Why it is not simply run, when that is known.
    pub fn because(&self) -> Option<&Because> {
        match self {
            Verdict::Slow(b) | Verdict::Wrong(b) | Verdict::Refused(b) => Some(b),
            Verdict::Runs | Verdict::Unknown(_) => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Verdict::Runs => 0,
            Verdict::Slow(_) => 1,
            Verdict::Unknown(_) => 2,
            Verdict::Wrong(_) => 3,
            // That it is not even loaded is worse than an error later.
            Verdict::Refused(b) => 4 + u8::from(b.effect == Effect::Refused),
        }
    }

    pub(super) fn worse(self, other: Verdict) -> Verdict {
        match other.rank() > self.rank() {
            true => other,
            false => self,
        }
    }
}

impl Targets {
    /// What the worst of the targets does with `form`. Without targets every form runs.
    pub fn verdict(&self, form: &Form) -> Verdict {
        let verdicts = self.iter().map(|target| target.verdict(form));
        verdicts.fold(Verdict::Runs, Verdict::worse)
    }
}

impl Target {
    /// What this target does with `form`.
    pub fn verdict(self, form: &Form) -> Verdict {
        let rows = RowsOf::of(self, form);
        let worst = rows.worst(form);
        let undecided = rows.undecided.then_some(Verdict::Unknown(self));
        let by_rows = worst.into_iter().chain(undecided).reduce(Verdict::worse);
        let registry = match self.runtime.is_onnxruntime() {
            true => Some(onnxruntime::verdict(self, form)),
            false => None,
        };
        match (by_rows, registry) {
            (None, None) => Verdict::Unknown(self),
            (Some(verdict), None) | (None, Some(verdict)) => verdict,
            // That something is not known weighs less than that a row knows it, but more than
            // that a kernel is registered.
            (Some(verdict), Some(Verdict::Unknown(_))) => verdict,
            (Some(verdict), Some(registry)) => verdict.worse(registry),
        }
    }
}

/// The rows that speak of a form on one target.
struct RowsOf {
    target: Target,
    matched: Vec<&'static Row>,
    /// Whether a row matches if something holds that the form does not say, or the device has
    /// the operator and no row says that it has it in this form.
    undecided: bool,
}

impl RowsOf {
    fn of(target: Target, form: &Form) -> RowsOf {
        let mut rows = RowsOf {
            target,
            matched: Vec::new(),
            undecided: false,
        };
        let own = Scope::Only(target.runtime);
        rows.add(form, own);
        // What the device has no kernel for at all runs on the CPU, under its rules.
        let speaks = |row: &&Row| row.effect != Effect::Slow;
        let here = rows.matched.iter().any(speaks);
        let elsewhere = table()
            .rows
            .iter()
            .filter(|r| r.scope == own && r.is_of(form));
        let has = elsewhere.filter(speaks).count() > 0;
        rows.undecided |= has && !here;
        if target.runtime.is_onnxruntime() {
            rows.add(form, Scope::Ort);
            if !has {
                rows.add(form, Scope::Cpu);
            }
        }
        rows
    }

    fn add(&mut self, form: &Form, scope: Scope) {
        let version = self.target.version;
        let rows = table().rows.iter().filter(|r| r.scope == scope);
        for row in rows.filter(|r| r.is_of(form) && r.versions.contains(version)) {
            match row.matches(form) {
                Some(true) => self.matched.push(row),
                Some(false) => {}
                None => self.undecided |= row.effect != Effect::Runs,
            }
        }
    }

    /// The worst of the matching rows; `None` when there is none.
    fn worst(&self, form: &Form) -> Option<Verdict> {
        let row = self.matched.iter().rev().max_by_key(|r| r.effect)?;
        let because = Because {
            target: self.target,
            effect: row.effect,
            found: form.describe(row.facets()),
            reason: row.reason.to_owned(),
            instead: row.instead.to_owned(),
            source: row.source.to_owned(),
        };
        Some(match row.effect {
            Effect::Runs => Verdict::Runs,
            Effect::Slow => Verdict::Slow(because),
            Effect::Wrong => Verdict::Wrong(because),
            Effect::Fails | Effect::Refused => Verdict::Refused(because),
        })
    }
}
