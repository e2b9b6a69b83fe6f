//! Training the decoder: its backward, the optimizer and the schedule.
//!
//! The numerics here are pure: they know no files, clock, network or recipe. One [`TrainBatch`] goes through
//! [`TrainModel`], which adds to gradients; [`AdamW`] turns gradients into new parameters at the rate that a
//! [`Schedule`] gives. Equal inputs give equal bits, whatever the number of threads.

pub mod adamw;
pub mod batch;
pub mod model;
pub mod objective;
pub mod schedule;

pub use adamw::AdamW;
pub use batch::TrainBatch;
pub use model::{LossSum, TrainModel, TrainOptions};
pub use objective::{Objective, Prediction, RowLoss};
pub use schedule::Schedule;
