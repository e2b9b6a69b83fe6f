//! Training the decoder: its backward, the optimizer and the schedule.
//!
//! The numerics here are pure: they know no files, clock, network or recipe. One [`TrainBatch`] goes through
//! [`TrainModel`], which adds to gradients; [`AdamW`] turns gradients into new parameters at the rate that a
//! [`Schedule`] gives. Equal inputs give equal bits, whatever the number of threads.

pub mod adamw;
mod attention;
pub mod batch;
mod head;
mod layer;
pub mod model;
pub mod objective;
mod panels;
mod product;
mod rows;
pub mod schedule;
mod workspace;

pub use adamw::AdamW;
pub use batch::TrainBatch;
pub use model::{LossSum, TrainModel, TrainOptions};
pub use objective::{Objective, Prediction, RowLoss};
pub use schedule::Schedule;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
