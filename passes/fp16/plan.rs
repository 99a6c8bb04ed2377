//! Which precision each value has, and which each use of it wants.

use crate::{
    infer::Kind,
    ir::{DataType, Def, GraphId, NodeId, SideTable, Use, ValueId},
    pass::{PassContext, Reason, Remark},
    weights::source_tensor,
};

use super::{
    INFO, Io,
    range::{Range, Ranges},
    survey::{Survey, Want},
};

/// How a float value is made from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// float16.
    Half,
    /// The type that it has.
    Float,
}

/// What becomes of one float value.
pub(super) struct Decision {
    pub(super) value: ValueId,
    /// The type it has.
    pub(super) dtype: DataType,
    /// How it is made.
    pub(super) made: Precision,
    /// What it is called by its name: differs from `made` for an output of the model whose
    /// type was decided otherwise.
    pub(super) named: Precision,
    /// The uses that want it half, and those that want it float.
    pub(super) half: Vec<Use>,
    pub(super) float: Vec<Use>,
    /// The uses that take it as it is made.
    pub(super) any: Vec<Use>,
    /// A small constant of which half uses get a copy.
    pub(super) copied: bool,
    /// What it is cast from, if it is: the half value that it would be cast back to.
    pub(super) cast_from: Option<Source>,
}

/// The operand of a Cast.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) value: ValueId,
    /// float16 in the model as it came.
    pub(super) was_half: bool,
}

pub(super) struct Plan {
    io: Io,
    half: SideTable<NodeId, bool>,
    /// Constants with numbers beyond half's range.
    wide: SideTable<ValueId, bool>,
    nodes: u64,
}

/// What the commit works from.
pub(super) struct Decided {
    pub(super) decisions: Vec<Decision>,
    /// Nodes that compute in half precision.
    pub(super) nodes: u64,
}

impl Plan {
    /// `nodes` become half.
    pub(super) fn new(
        survey: &Survey<'_>,
        io: Io,
        nodes: &[(NodeId, ())],
        ranges: &Ranges,
    ) -> Plan {
        let mut half = SideTable::new(false);
        nodes.iter().for_each(|&(n, ())| half[n] = true);
        let mut wide = SideTable::new(false);
        for &graph in &survey.graphs {
            for value in survey.model.values_of(graph) {
                wide[value] = matches!(ranges[value], Range::Wide(_));
            }
        }
        Plan {
            io,
            half,
            wide,
            nodes: nodes.len() as u64,
        }
    }

    pub(super) fn decide(self, survey: &Survey<'_>) -> Decided {
        let mut decisions = Vec::new();
        for &graph in &survey.graphs {
            let values = survey.model.values_of(graph).into_iter();
            let floats = values.filter_map(|v| Some((v, survey.float_type(v)?)));
            decisions.extend(floats.map(|(v, dtype)| self.value(survey, v, dtype)));
        }
        Decided {
            decisions,
            nodes: self.nodes,
        }
    }

    fn value(&self, survey: &Survey<'_>, value: ValueId, dtype: DataType) -> Decision {
        let (mut half, mut float, mut any) = (Vec::new(), Vec::new(), Vec::new());
        for &u in survey.uses.of_value(value) {
            match self.want(survey, u, value) {
                Want::Half => half.push(u),
                Want::Float => float.push(u),
                Want::Any => any.push(u),
            }
        }
        let fixed = self.fixed(survey, value);
        let is_constant = survey.is_constant(value);
        let mixed = !half.is_empty() && !float.is_empty();
        let copied = is_constant
            && mixed
            && fixed.is_none()
            && survey.is_small_constant(value)
            && !self.wide[value];
        let wanted = match half.is_empty() || copied || self.wide[value] {
            true => Precision::Float,
            false => Precision::Half,
        };
        let made = match (self.result(survey, value), fixed) {
            (Some(made), _) => made,
            (None, Some(fixed)) if is_constant || !self.is_made(survey, value) => fixed,
            // Exact for those who want it so.
            (None, _) if self.is_made(survey, value) && !is_constant && !float.is_empty() => {
                Precision::Float
            }
            (None, _) => wanted,
        };
        let named = fixed.unwrap_or(made);
        let cast_from = self.cast_from(survey, value, half.iter().chain(&any));
        Decision {
            value,
            dtype,
            made,
            named,
            half,
            float,
            any,
            copied,
            cast_from,
        }
    }

    fn cast_from<'u>(
        &self,
        survey: &Survey<'_>,
        value: ValueId,
        mut uses: impl Iterator<Item = &'u Use>,
    ) -> Option<Source> {
        let model = survey.model;
        let node = model.producer(value).map(|n| &model.nodes[n])?;
        let from = node.input(0).filter(|_| node.is("Cast"))?;
        let was_half = survey.kinds[from] == Some(Kind::Tensor(DataType::Float16));
        // Further inside, its name may mean another value.
        let here = |u: &Use| match *u {
            Use::Operand(user, _) => model.nodes[user].graph == node.graph,
            Use::Output(..) => false,
        };
        uses.all(here).then_some(Source {
            value: from,
            was_half,
        })
    }

    fn is_made(&self, survey: &Survey<'_>, value: ValueId) -> bool {
        matches!(survey.model.values[value].def, Def::Node(..))
    }

    /// The precision of `value` by the node that makes it, unless that follows its users.
    fn result(&self, survey: &Survey<'_>, value: ValueId) -> Option<Precision> {
        let Def::Node(node, slot) = survey.model.values[value].def else {
            return None;
        };
        if survey.follows_users(node) {
            return None;
        }
        let half = self.half[node] && survey.result(node, slot as usize) == Want::Half;
        Some(if half {
            Precision::Half
        } else {
            Precision::Float
        })
    }

    /// The precision of `value` that its place decides: as an input or output of the model, or
    /// an input of a body.
    fn fixed(&self, survey: &Survey<'_>, value: ValueId) -> Option<Precision> {
        let model = survey.model;
        let precision = |half: bool| {
            if half {
                Precision::Half
            } else {
                Precision::Float
            }
        };
        let is_output = |u: &Use| matches!(u, Use::Output(g, _) if *g == model.main);
        let by_name = precision(self.io.is_half(&model.values[value].name));
        match model.values[value].def {
            _ if survey.uses.of_value(value).iter().any(is_output) => Some(by_name),
            // Up to IR version 3 an input that is a constant.
            Def::Input(_) if survey.is_constant(value) => None,
            Def::Input(graph) if graph == model.main => Some(by_name),
            Def::Input(graph) => Some(precision(self.is_half_body(survey, graph))),
            _ if model.values[value].constant.is_some() && model.tensor(value).is_none() => {
                // Sparse.
                Some(Precision::Float)
            }
            _ => None,
        }
    }

    fn is_half_body(&self, survey: &Survey<'_>, graph: GraphId) -> bool {
        let owner = survey.model.graphs[graph].owner;
        owner.is_some_and(|n| self.half[n] && survey.is_control_flow(n))
    }

    fn want(&self, survey: &Survey<'_>, u: Use, value: ValueId) -> Want {
        let chosen = |half: bool| if half { Want::Half } else { Want::Float };
        match u {
            Use::Output(graph, _) if graph == survey.model.main => {
                chosen(self.io.is_half(&survey.model.values[value].name))
            }
            Use::Output(graph, _) => chosen(self.is_half_body(survey, graph)),
            Use::Operand(node, slot) => match survey.operand(node, slot as usize) {
                want if self.half[node] || want == Want::Any && !survey.stays(node) => want,
                _ => Want::Float,
            },
        }
    }

    /// Remarks on constants that are clamped, at their first reader.
    pub(super) fn clamped(&self, survey: &Survey<'_>, ranges: &Ranges, cx: &mut PassContext) {
        for &graph in &survey.graphs {
            for value in survey.model.values_of(graph) {
                let Range::StandsIn(count) = ranges[value] else {
                    continue;
                };
                let wants = |u: &Use| self.want(survey, *u, value) == Want::Half;
                let uses = survey.uses.of_value(value);
                let node = survey.first_reader(value);
                if let (true, Some(node)) = (uses.iter().any(wants), node) {
                    let name = &survey.model.values[value].name;
                    let message =
                        format!("constant `{name}`: {count} numbers beyond 65504 became +-65504");
                    let bytes = source_tensor(survey.model, value).map_or(0, |t| t.byte_len());
                    let remark = Remark::new(
                        survey.model,
                        INFO.name,
                        node,
                        Reason::Clamped,
                        message,
                        bytes,
                    );
                    cx.remarks.push(remark);
                }
            }
        }
    }
}
