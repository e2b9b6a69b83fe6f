mod decontamination;
mod math_docs;
mod near_duplicates;
mod token_count;
