//! Training the decoder: its backward, the optimizer and the schedule; the data, the loop and its checkpoints.
//!
//! The numerics are pure: they know no files, clock, network or recipe. One [`TrainBatch`] goes through
//! [`TrainModel`], which adds to gradients; [`AdamW`] turns gradients into new parameters at the rate that a
//! [`Schedule`] gives. Equal inputs give equal bits, whatever the number of threads.
//!
//! Around them, [`documents`] become a [`token_file`], a [`source`] and a [`mixture`] put its pieces into an order that is a few
//! integers, the [`trainer`] goes through it, and a [`checkpoint`] is all that it needs to go on.

pub mod adamw;
pub mod arithmetic;
mod attention;
pub mod batch;
pub mod checkpoint;
pub mod documents;
pub mod exact;
mod head;
mod layer;
pub mod memory;
pub mod metrics;
pub mod mixture;
pub mod model;
pub mod model_files;
pub mod objective;
mod panels;
pub mod permutation;
mod product;
mod rows;
pub mod schedule;
pub mod source;
pub mod token_file;
pub mod trainer;
pub mod vocabulary;
pub mod weights_file;
mod workspace;
mod writing;

pub use adamw::AdamW;
pub use batch::TrainBatch;
pub use model::{LossSum, TrainModel, TrainOptions};
pub use objective::{Objective, Prediction, RowLoss};
pub use schedule::Schedule;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
