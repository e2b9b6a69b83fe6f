//! Where the time of judging or training goes, and how much arithmetic it is, when somebody asks.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(any(feature = "cuda", test))]
use std::time::Duration;
use std::time::Instant;

/// What a judge's time is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Text to tokens.
    Tokenise,
    /// Rows of the embedding, angles of the positions.
    Embed,
    /// Reading a layer's weights, where they are kept as the file has them.
    Widen,
    /// RMSNorm of rows, and their rounding to the precision they are multiplied in.
    Norm,
    /// The product that gives queries, keys and values.
    Qkv,
    /// Rotation, scores, softmax, values.
    Attention,
    /// The product after attention, and the three of the MLP.
    OutputMlp,
    /// Logits of the answers.
    Head,
}

impl Part {
    pub const ALL: [Part; 8] =
        [Part::Tokenise, Part::Embed, Part::Widen, Part::Norm, Part::Qkv, Part::Attention, Part::OutputMlp, Part::Head];
}

/// What a [`Meter`] tells apart.
pub trait Measured: Copy {
    /// How many there are.
    const COUNT: usize;

    /// Below [`Measured::COUNT`].
    fn index(self) -> usize;
}

impl Measured for Part {
    const COUNT: usize = Self::ALL.len();

    fn index(self) -> usize {
        self as usize
    }
}

/// Adds up time and arithmetic per part. One that is off costs a comparison for each part of each layer; its clones share
/// what they measure.
#[derive(Debug)]
pub struct Meter<P = Part> {
    sums: Option<Arc<Sums>>,
    parts: PhantomData<P>,
}

impl<P> Clone for Meter<P> {
    fn clone(&self) -> Self {
        Self { sums: self.sums.clone(), parts: PhantomData }
    }
}

impl<P> Default for Meter<P> {
    fn default() -> Self {
        Self { sums: None, parts: PhantomData }
    }
}

#[derive(Debug)]
struct Sums {
    parts: Vec<Sum>,
    /// How many callers measure at once, each its own share of the work.
    callers: AtomicU64,
}

#[derive(Debug, Default)]
struct Sum {
    nanoseconds: AtomicU64,
    operations: AtomicU64,
}

impl<P: Measured> Meter<P> {
    /// A meter that measures; the default one does not.
    pub fn running() -> Self {
        let parts = (0..P::COUNT).map(|_| Sum::default()).collect();
        Self { sums: Some(Arc::new(Sums { parts, callers: AtomicU64::new(1) })), parts: PhantomData }
    }

    /// From now on so many callers measure at once: each one's time counts for that part of it.
    pub(super) fn share(&self, callers: usize) {
        if let Some(sums) = &self.sums {
            sums.callers.store(callers as u64, Ordering::Relaxed);
        }
    }

    /// Times `work`, done on the calling thread or waited for by it.
    pub fn time<T>(&self, part: P, work: impl FnOnce() -> T) -> T {
        let Some(sums) = &self.sums else { return work() };
        let started = Instant::now();
        let done = work();
        let share = nanoseconds(started) / sums.callers.load(Ordering::Relaxed);
        sums.parts[part.index()].nanoseconds.fetch_add(share, Ordering::Relaxed);
        done
    }

    /// Whether anybody asks.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn runs(&self) -> bool {
        self.sums.is_some()
    }

    /// Adds time that was measured elsewhere.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn add(&self, part: P, time: Duration) {
        if let Some(sums) = &self.sums {
            sums.parts[part.index()].nanoseconds.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// For work that all threads of the pool share in while one of them times it as `whole`.
    pub(super) fn within(&self, whole: P) -> Within<'_, P> {
        Within { meter: self, whole }
    }

    /// Counts floating-point operations, a multiplication and its addition being two.
    pub(crate) fn count(&self, part: P, operations: impl FnOnce() -> u64) {
        if let Some(sums) = &self.sums {
            sums.parts[part.index()].operations.fetch_add(operations(), Ordering::Relaxed);
        }
    }

    /// Seconds and floating-point operations of a part so far; zeros if the meter is off.
    pub fn read(&self, part: P) -> (f64, f64) {
        let Some(sums) = &self.sums else { return (0.0, 0.0) };
        let Sum { nanoseconds, operations } = &sums.parts[part.index()];
        (nanoseconds.load(Ordering::Relaxed) as i64 as f64 / 1e9, operations.load(Ordering::Relaxed) as f64)
    }
}

/// A part of a [`Meter`] that other parts are taken out of.
#[derive(Clone, Copy)]
pub(super) struct Within<'a, P = Part> {
    meter: &'a Meter<P>,
    whole: P,
}

impl<P: Measured> Within<'_, P> {
    /// Times `work`, done on one thread of the pool: it counts as `part` and not as the whole.
    pub(super) fn time<T>(self, part: P, work: impl FnOnce() -> T) -> T {
        let Some(sums) = &self.meter.sums else { return work() };
        let started = Instant::now();
        let done = work();
        let threads = rayon::current_num_threads() as u64 * sums.callers.load(Ordering::Relaxed);
        let share = nanoseconds(started) / threads;
        sums.parts[part.index()].nanoseconds.fetch_add(share, Ordering::Relaxed);
        // Below zero for a moment; the caller's own time of the whole makes up for it.
        sums.parts[self.whole.index()].nanoseconds.fetch_sub(share, Ordering::Relaxed);
        done
    }
}

fn nanoseconds(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let meter = Meter::<Part>::running();
        let whole = Instant::now();
        let answer = meter.time(Part::Qkv, || {
            meter.count(Part::Qkv, || 10);
            meter.within(Part::Qkv).time(Part::Norm, || (0..100_000u64).map(std::hint::black_box).sum::<u64>())
        });
        let whole = whole.elapsed().as_secs_f64();
        assert_eq!(answer, 4_999_950_000);
        let sum: f64 = Part::ALL.iter().map(|part| meter.read(*part).0).sum();
        assert!(meter.read(Part::Norm).0 > 0.0 && meter.read(Part::Qkv).0 > 0.0);
        assert!(sum > 0.0 && sum <= whole, "{sum} of {whole}");
        assert_eq!(meter.read(Part::Qkv).1, 10.0);
    }

    #[test]
    fn a_meter_that_is_off_only_does_the_work() {
        let meter = Meter::<Part>::default();
        meter.count(Part::Head, || unreachable!("nobody counts"));
        assert_eq!(meter.time(Part::Head, || meter.within(Part::Head).time(Part::Norm, || 3)), 3);
        assert_eq!(meter.read(Part::Head), (0.0, 0.0));
    }
}
