//! The answer: rows, limits and kernels together.

use serde::Serialize;

use super::{
    Targets,
    form::Form,
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
    /// What is the matter, one sentence without final stop.
    pub reason: String,
    /// What to use instead; may be empty.
    pub instead: String,
    /// How it is known, as the table says: `executed`, `source`, `documented`, an issue.
    pub source: String,
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
            Verdict::Refused(_) => 4,
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
        let verdict = match rows.worst() {
            Some(Verdict::Runs) if rows.undecided => Verdict::Unknown(self),
            Some(verdict) => verdict,
            None => Verdict::Unknown(self),
        };
        if !self.runtime.is_onnxruntime() {
            return verdict;
        }
        let registry = super::onnxruntime::verdict(self, form);
        match (rows.matched.is_empty(), &registry) {
            // No row has anything against it.
            (true, Verdict::Runs) if rows.undecided => Verdict::Unknown(self),
            (true, _) => registry,
            // What a row says is more than that there is no kernel for the CPU.
            (false, Verdict::Unknown(_)) => verdict,
            (false, _) => verdict.worse(registry),
        }
    }
}

/// The rows that speak of a form on one target.
struct RowsOf {
    target: Target,
    matched: Vec<&'static Row>,
    /// A row that is no `runs` matches if something holds that the form does not say.
    undecided: bool,
}

impl RowsOf {
    fn of(target: Target, form: &Form) -> RowsOf {
        let mut rows = RowsOf {
            target,
            matched: Vec::new(),
            undecided: false,
        };
        rows.add(form, |scope| scope == Scope::Only(target.runtime));
        let own = !rows.matched.is_empty();
        if target.runtime.is_onnxruntime() {
            rows.add(form, |scope| scope == Scope::Ort);
            if !own {
                rows.add(form, |scope| scope == Scope::Cpu);
            }
        }
        rows
    }

    fn add(&mut self, form: &Form, scope: impl Fn(Scope) -> bool) {
        for row in &table().rows {
            let same = row.op_type == form.op_type() && row.domain == form.domain();
            if !same || !scope(row.scope) || !row.versions.contains(self.target.version) {
                continue;
            }
            match row.matches(form) {
                Some(true) => self.matched.push(row),
                Some(false) => {}
                None => self.undecided |= row.effect != Effect::Runs,
            }
        }
    }

    /// The worst of the matching rows; `None` when there is none.
    fn worst(&self) -> Option<Verdict> {
        let row = self.matched.iter().rev().max_by_key(|r| r.effect)?;
        let because = Because {
            target: self.target,
            effect: row.effect,
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
