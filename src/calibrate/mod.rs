//! Runs a model piece by piece over data, for methods that choose the new elements of a weight
//! from what it is multiplied by: GPTQ (Frantar et al. 2022), for example.
//!
//! Such a method wants the activations of each weight as they are once the weights before it
//! have their new elements. So the main graph is cut at the activations: a [`Sequence`] computes
//! the nodes up to the first cut for all items, shows the rows to a [`Visitor`], takes the new
//! weights, goes on to the next cut with these, and so on. Every node is computed once for an
//! item, so the whole takes little more than one run of the model over the data.
//!
//! ```text
//! model, sites --> groups: sites with the same activation, in order
//!                    |
//!                    v
//!   cut 0 --[segment 1]--> cut 1 --[segment 2]--> cut 2 ...      values of each item, on disk
//!                             |                      |
//!                  activations, finish    activations, finish    Visitor: new weights
//! ```
//!
//! **Order.** Groups that cannot wait for their place come first ([`Group::first`]): tables that
//! rows are looked up in, which nothing is multiplied by; and weights that are read several
//! times, a table that is the last projection too among them. Their activations are those of
//! the float model, from a run of their own. All readers of a weight then use its new elements.
//!
//! **Memory** is bounded by the constants that one segment reads, a few times over while an
//! engine loads them (twice as many with [`Options::float_rows`]); the values of one item; the
//! activations of one item as float32; and what the visitor holds. Weights of a model that is
//! one file are read through its mapping, which counts as memory of the process but can be
//! taken away from it; those of a side file are not.
//!
//! **Disk.** The folder of the run holds, for every item, the values that cross a cut, for two
//! cuts at most; and new weights from when they are made until they are read for the last time.
//!
//! **Half precision.** Models are run in the types that they have. ONNX Runtime on the CPU
//! computes most of float16 as float32 between roundings; rten leaves the roundings out.
//! Activations are handed over as float32. An engine that lacks a type (bfloat16 in most of ONNX
//! Runtime) refuses the model as it does elsewhere.
//!
//! **Scope.** Weights in bodies of `If`, `Loop` and `Scan` and of local functions are not
//! visited: [`Sites::unreached`].

mod choose;
mod feed;
mod first;
mod flow;
mod folder;
mod group;
mod peaks;
mod plan;
mod planned;
mod replace;
mod rows;
mod runner;
mod segment;
mod sequence;
mod site;
mod spill;
mod store;
mod survey;
#[cfg(test)]
mod tests;
mod visit;

use std::{path::Path, sync::atomic::AtomicBool};

pub use choose::{Choice, Chosen, choose, choose_key};
pub use group::{Group, GroupWeight};
pub use peaks::{BeyondHalf, beyond_half};
pub use planned::Planned;
pub use sequence::Sequence;
pub use site::{Activation, Site, Sites, Terms};
pub use survey::{Unit, UnitWeight, is_held_out, survey, survey_key};

use crate::{engine::LoadOptions, error::Result};

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// How the engine runs the segments.
    pub load: LoadOptions,
    /// Where values are put aside. A run that was interrupted goes on from the last group that
    /// it finished when it finds its folder again. `None`: a temporary one, for which the
    /// system's folder must have the room.
    pub folder: Option<&'a Path>,
    /// What the visitor does, as far as its results depend on it: a run goes on from a folder
    /// only with the same.
    pub key: &'a str,
    /// Run the model with its own weights beside, and hand over its activations as well.
    pub float_rows: bool,
    /// Set to stop.
    pub cancel: Option<&'a AtomicBool>,
}

/// Looks at activations, and makes new weights.
pub trait Visitor {
    /// More rows of the activations of a group, `[rows, k]`: those of item number `item`, or a part
    /// of them. `float_rows` are the same rows in the model as it was, with [`Options::float_rows`].
    /// Rows of tokens that an attention mask masks out are left out.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn activations(
        &mut self,
        group: usize,
        item: usize,
        rows: &[f32],
        float_rows: Option<&[f32]>,
    ) -> Result<()>;

    /// The new elements of each weight of a group, `[n, k]`, of whose activations there were so
    /// many rows; `None` leaves a weight as it was. Elements are rounded to the type of the
    /// weight.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn finish(&mut self, group: usize, rows: u64) -> Result<Vec<Option<Vec<f32>>>>;

    /// What is to be kept of a group that was finished, in the folder of the run.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn save(&mut self, group: usize) -> Result<Vec<u8>> {
        let _ = group;
        Ok(Vec::new())
    }

    /// What [`Visitor::save`] gave in the run before, of a group that is not visited again.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn restore(&mut self, group: usize, saved: &[u8]) -> Result<()> {
        let _ = (group, saved);
        Ok(())
    }

    /// How far the run is: `done` of `total` steps, now at `what`.
    fn progress(&mut self, done: u64, total: u64, what: &str) {
        let _ = (done, total, what);
    }
}
