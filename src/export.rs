//! What is handed to others: a stage's finished output, or any folder, as the files of a dataset or model repository.
//!
//! A [`Package`] is a list of files with a card; [`folder`] writes it to this disk, `data::hub` sends it
//! to the Hub. Only what a run's manifests record is taken, and every file must still be what its manifest says.

pub mod card;
pub mod folder;
pub mod package;
pub mod verl;

pub use package::{Options, Package};
