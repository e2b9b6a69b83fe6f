//! How the C library's allocator treats the decoder's buffers.

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
