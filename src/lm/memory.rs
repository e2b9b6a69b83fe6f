//! Memory: whether a model fits, and how the C library's allocator treats the decoder's buffers.

use super::checkpoint::Checkpoint;
use crate::error::{Exit, Failure};
use crate::machine::Memory;

/// Refuses a model whose weights take more memory than is free, before the system ends the process for it.
///
/// # Errors
/// A [`Failure`] with both figures.
pub(super) fn check_fits(checkpoint: &Checkpoint, bytes: u64) -> anyhow::Result<()> {
    let Some(available) = Memory::available().filter(|available| *available < bytes) else { return Ok(()) };
    let gigabytes = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let message = format!(
        "`{}` needs {:.1} GiB of memory for its weights, and {:.1} GiB are available",
        checkpoint.name(),
        gigabytes(bytes),
        gigabytes(available)
    );
    Err(Failure::new(Exit::Usage, message)
        .hint(
            "use a smaller model or a smaller precision, or keep the file's tensors as they are (`weights = \"kept\"`)",
        )
        .into())
}

/// Keeps freed memory for the next buffer in place of giving it back to the system. Every layer makes and frees the same
/// few buffers of megabytes, and the system clears each page that it hands out: 7 % of a small model's time.
pub(super) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        const M_TRIM_THRESHOLD: c_int = -1;
        const M_MMAP_THRESHOLD: c_int = -3;
        // SAFETY: glibc's function, its parameters and the largest values it takes; it may be called at any time.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, 32 << 20);
            mallopt(M_TRIM_THRESHOLD, 256 << 20);
        }
    }
}
