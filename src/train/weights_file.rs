//! Named f32 tensors as a safetensors file, streamed: nothing is copied as a whole.

use crate::error::{Exit, Failure};
use crate::lm::Parameter;
use crate::run::commit::{StagedFile, write_failure};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Numbers that are turned into bytes at a time.
const CHUNK: usize = 1 << 16;

/// Writes tensors in the given order, each under a name.
pub fn write<'p>(path: &Path, tensors: impl Iterator<Item = (String, &'p Parameter)> + Clone) -> anyhow::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for (name, tensor) in tensors.clone() {
        let end = offset + 4 * tensor.values.len();
        header.insert(name, json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut staged = StagedFile::create(path)?;
    let mut put = |bytes: &[u8]| staged.write_all(bytes).map_err(|error| write_failure(path, &error));
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    let mut bytes = Vec::with_capacity(4 * CHUNK);
    for (_, tensor) in tensors {
        for values in tensor.values.chunks(CHUNK) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            put(&bytes)?;
        }
    }
    staged.commit(|_| Ok(()))?;
    Ok(())
}

/// A safetensors file of f32, mapped.
pub struct WeightsFile {
    map: Mmap,
    name: String,
}

impl WeightsFile {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let refuse = |error: &dyn std::fmt::Display| damaged(&name, error);
        let file = File::open(path).map_err(|error| refuse(&error))?;
        // SAFETY: the mapping is read-only, and the parser checks every range against its length. Checkpoints appear whole under
        // their final name and are not written again.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| refuse(&error))?;
        SafeTensors::deserialize(&map).map_err(|error| refuse(&error))?;
        Ok(Self { map, name })
    }

    /// The numbers of a tensor.
    ///
    /// # Errors
    /// A [`Failure`] if it is missing, no f32, or of another shape.
    pub fn read(&self, name: &str, shape: &[usize]) -> anyhow::Result<Vec<f32>> {
        let refuse = |error: &dyn std::fmt::Display| damaged(&self.name, error);
        let tensors = SafeTensors::deserialize(&self.map).map_err(|error| refuse(&error))?;
        let tensor = tensors.tensor(name).map_err(|error| refuse(&error))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let found = format!("`{name}` is {:?} of {:?}, expected F32 of {shape:?}", tensor.dtype(), tensor.shape());
            return Err(refuse(&found));
        }
        let (numbers, _) = tensor.data().as_chunks::<4>();
        Ok(numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}

fn damaged(name: &str, why: &dyn std::fmt::Display) -> anyhow::Error {
    Failure::new(Exit::BadData, format!("`{name}` is damaged: {why}"))
        .hint("remove the checkpoint's folder and its name from `latest`, and run again")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let one =
            Parameter { name: "a".into(), shape: vec![2, 3], values: vec![0.1, -0.0, f32::NAN, 1e-42, 3.0, f32::MAX] };
        let two = Parameter { name: "b".into(), shape: vec![1], values: vec![7.0] };
        write(&path, [("x.a".to_owned(), &one), ("x.b".to_owned(), &two)].into_iter()).unwrap();
        let file = WeightsFile::open(&path).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&file.read("x.a", &[2, 3]).unwrap()), bits(&one.values));
        assert_eq!(file.read("x.b", &[1]).unwrap(), [7.0]);
        let message = |name: &str, shape: &[usize]| file.read(name, shape).unwrap_err().to_string();
        assert!(message("x.a", &[6]).contains("expected F32 of [6]"));
        assert!(message("y", &[1]).contains("is damaged"));
        let bytes = std::fs::read(&path).unwrap();
        crate::run::commit::write_atomic(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(WeightsFile::open(&path).is_err());
    }
}
