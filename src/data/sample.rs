//! The embedded sample shard: documents written for this project, so that the quickstart needs nothing else.

/// The shard's name in plans and provenance columns.
pub const NAME: &str = "sample.jsonl";

/// Documents as JSON lines, in OpenWebMath's schema.
pub const DOCUMENTS: &[u8] = include_bytes!("../../assets/sample/documents.jsonl");

/// Their gold labels as JSON lines, in the order of the documents.
pub const LABELS: &[u8] = include_bytes!("../../assets/sample/labels.jsonl");

/// SHA-256 of the documents, lowercase hex.
pub fn sha256() -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(DOCUMENTS))
}
