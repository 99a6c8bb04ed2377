//! Mixed precision: each weight as many bits as it needs, within a budget.
//!
//! A model's divergence from itself is close to the sum of what its weights cause one by one. So
//! the work is in two parts: what each way to quantize each unit of weights costs in
//! divergence and in bits (measured: `calibrate::survey`, [`eval::sensitivities`](crate::eval)), and
//! which of these ways make the least sum within the budget ([`allocate`]). What was decided is a
//! [`Recipe`], which people read and edit.

mod allocate;
mod budget;
mod log;
mod recipe;

pub use allocate::{Allocation, Limit, Way, allocate};
pub use budget::{Budget, Choices, Measured, Mix};
pub use recipe::{Calibration, Entry, Form, Recipe};
