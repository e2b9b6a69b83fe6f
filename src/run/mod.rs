//! A run: its folder, the commits into it, and the loop that fills it.

pub mod commit;
