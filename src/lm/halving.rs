//! Going on when a device's memory does not hold a batch: in two halves, and later batches the same from the start.

use super::packed::Packed;
use crate::error::{Exit, Failure};
use candle_core::Tensor;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A device's memory is full. Whoever gets this has lost nothing but the batch in hand.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} more bytes of GPU memory were asked for than there are")]
pub(super) struct OutOfMemory {
    pub bytes: usize,
}

/// How many tokens a device's memory has room for, as far as is known.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Default for Room {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Room {
    /// What `forward` gives for some rows of a batch, `(rows.len(), H)`, by way of smaller batches where it must be. The first
    /// time is said on stderr.
    ///
    /// # Errors
    /// Those of `forward` other than [`OutOfMemory`]; a [`Failure`] when a single sequence does not fit.
    pub(super) fn run(
        &self,
        packed: &Packed,
        rows: &[usize],
        forward: &dyn Fn(&Packed, &[usize]) -> anyhow::Result<Tensor>,
    ) -> anyhow::Result<Tensor> {
        let halves = halves(packed);
        if packed.len() <= self.0.load(Ordering::Relaxed) || halves.is_none() {
            match forward(packed, rows) {
                Err(error) if error.is::<OutOfMemory>() => {}
                done => return done,
            }
        }
        let Some(halves) = halves else {
            let message = format!("{} tokens that belong together do not fit into the GPU's memory", packed.len());
            return Err(Failure::new(Exit::Failed, message)
                .hint("lower `window-tokens`, or use `--device cpu`")
                .into());
        };
        let most = halves.iter().map(|half| half.packed.len()).max().unwrap_or(0);
        if self.0.fetch_min(most, Ordering::Relaxed) == usize::MAX {
            tracing::warn!(
                "the GPU's memory does not hold {} tokens; batches are halved from here on. A lower `batch-tokens` avoids the attempt",
                packed.len()
            );
        }
        // Where each row's result is: what is shared above both halves is asked of the first.
        let mut results = Vec::new();
        let mut places = vec![0u32; rows.len()];
        let mut count = 0;
        let mut wanted: Vec<usize> = (0..rows.len()).collect();
        for half in &halves {
            let (here, elsewhere) =
                wanted.iter().partition::<Vec<usize>, _>(|index| half.own_row(rows[**index]).is_some());
            wanted = elsewhere;
            let own: Vec<usize> = here.iter().filter_map(|index| half.own_row(rows[*index])).collect();
            for index in here {
                places[index] = count;
                count += 1;
            }
            if !own.is_empty() {
                results.push(self.run(&half.packed, &own, forward)?);
            }
        }
        anyhow::ensure!(wanted.is_empty(), "a row beyond the batch of {} tokens", packed.len());
        let results = Tensor::cat(&results, 0)?;
        Ok(results.index_select(&Tensor::from_vec(places, rows.len(), results.device())?, 0)?)
    }
}

/// A part of a batch.
struct Half {
    packed: Packed,
    /// Each of its rows' row in the whole, in ascending order.
    rows: Vec<usize>,
}

impl Half {
    fn own_row(&self, row: usize) -> Option<usize> {
        self.rows.binary_search(&row).ok()
    }
}

/// Cuts a batch in two between siblings, as high in the tree as there are any; both get what is above. `None` where that would
/// leave a part almost as large as the whole.
fn halves(packed: &Packed) -> Option<[Half; 2]> {
    let count = packed.segments().count();
    let mut children = vec![Vec::new(); count];
    let mut siblings = Vec::new();
    for segment in 0..count {
        packed.parent(segment).map_or(&mut siblings, |parent| &mut children[parent]).push(segment);
    }
    let mut shared = vec![false; count];
    while let [only] = siblings[..] {
        shared[only] = true;
        siblings = std::mem::take(&mut children[only]);
    }

    // To which of the siblings a segment leads up; a parent comes before its children.
    let mut sibling_of = vec![None; count];
    let mut sizes = vec![0; siblings.len()];
    for segment in 0..count {
        let own = siblings.iter().position(|sibling| *sibling == segment);
        sibling_of[segment] = own.or_else(|| packed.parent(segment).and_then(|parent| sibling_of[parent]));
        if let Some(sibling) = sibling_of[segment] {
            sizes[sibling] += packed.segment(segment).len();
        }
    }
    let total: usize = sizes.iter().sum();
    let mut before = 0;
    let cut = sizes.iter().position(|size| {
        before += size;
        2 * before >= total
    })? + 1;
    let cut = cut.min(siblings.len() - 1);

    let part = |first: bool| {
        let mut half = Half { packed: Packed::default(), rows: Vec::new() };
        let mut index = vec![None; count];
        for segment in 0..count {
            if shared[segment] || sibling_of[segment].is_some_and(|sibling| (sibling < cut) == first) {
                let rows = packed.segment(segment);
                let parent = packed.parent(segment).and_then(|parent| index[parent]);
                index[segment] = Some(half.packed.push(parent, &packed.tokens()[rows.clone()]));
                half.rows.extend(rows);
            }
        }
        half
    };
    let halves = [part(true), part(false)];
    halves.iter().all(|half| half.packed.len() * 10 <= packed.len() * 9).then_some(halves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::cell::RefCell;

    /// A prefix, documents of the given lengths under it, two questions under each.
    fn batch(documents: &[usize]) -> (Packed, Vec<usize>) {
        let mut packed = Packed::default();
        let prefix = packed.push(None, &[1, 2, 3]);
        let mut rows = vec![2];
        for (index, len) in documents.iter().enumerate() {
            let tokens: Vec<u32> = (0..*len as u32).map(|token| 100 * (index as u32 + 1) + token).collect();
            let document = packed.push(Some(prefix), &tokens);
            for question in [[10, 11], [20, 21]] {
                let question = packed.push(Some(document), &question);
                rows.extend(packed.last_row(question));
            }
        }
        (packed, rows)
    }

    /// Stands in for a decoder: a row's result says which tokens the row sees.
    fn seen(packed: &Packed, rows: &[usize]) -> anyhow::Result<Tensor> {
        let hash = |row: usize| {
            let segment = packed.segments().position(|rows| rows.contains(&row)).unwrap();
            let above = packed.above(segment).into_iter().flatten();
            above
                .chain(packed.segment(segment).start..=row)
                .fold(0u32, |hash, row| hash.wrapping_mul(31).wrapping_add(packed.tokens()[row]) % 65_521)
        };
        let values: Vec<f32> = rows.iter().map(|row| hash(*row) as f32).collect();
        Ok(Tensor::from_vec(values, (rows.len(), 1), &Device::Cpu)?)
    }

    fn check(documents: &[usize], memory: usize, expect_batches: &[usize]) {
        let (packed, mut rows) = batch(documents);
        rows.reverse();
        let room = Room::default();
        let ran = RefCell::new(Vec::new());
        let forward = |packed: &Packed, rows: &[usize]| {
            if packed.len() > memory {
                return Err(OutOfMemory { bytes: packed.len() }.into());
            }
            ran.borrow_mut().push(packed.len());
            seen(packed, rows)
        };
        let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expect = values(seen(&packed, &rows).unwrap());
        for _ in 0..2 {
            assert_eq!(values(room.run(&packed, &rows, &forward).unwrap()), expect);
            assert_eq!(ran.take(), expect_batches);
        }
    }

    #[test]
    fn a_batch_that_does_not_fit_goes_in_halves() {
        check(&[10, 10, 10, 10], 1000, &[59]);
        check(&[10, 10, 10, 10], 40, &[31, 31]);
        check(&[10, 10, 10, 10], 20, &[17, 17, 17, 17]);
        check(&[30, 5, 5], 40, &[37, 21]);
    }

    #[test]
    fn what_did_not_fit_is_not_tried_again() {
        let (packed, rows) = batch(&[10, 10, 10, 10]);
        let (room, attempts) = (Room::default(), RefCell::new(Vec::new()));
        let forward = |packed: &Packed, rows: &[usize]| {
            attempts.borrow_mut().push(packed.len());
            if packed.len() > 40 { Err(OutOfMemory { bytes: 1 }.into()) } else { seen(packed, rows) }
        };
        room.run(&packed, &rows, &forward).unwrap();
        room.run(&packed, &rows, &forward).unwrap();
        assert_eq!(attempts.take(), [59, 31, 31, 31, 31]);
    }

    #[test]
    fn a_sequence_that_does_not_fit_is_an_error() {
        let (packed, rows) = batch(&[100]);
        let full = |_: &Packed, _: &[usize]| Err(OutOfMemory { bytes: 1 }.into());
        let error = Room::default().run(&packed, &rows, &full).unwrap_err();
        assert!(error.to_string().contains("107 tokens that belong together do not fit"), "{error}");
        let broken = |_: &Packed, _: &[usize]| Err(anyhow::anyhow!("a loose cable"));
        assert_eq!(Room::default().run(&packed, &rows, &broken).unwrap_err().to_string(), "a loose cable");
    }
}
