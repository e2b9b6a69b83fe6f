//! The kernels on a CPU: compiled by g++ with `kernels/emulation/cuda.h`, loaded as a shared library, run thread by thread.

use super::gpu::{Argument, Gpu, Kernel, Product};
use crate::lm::halving::OutOfMemory;
use anyhow::{Context, bail, ensure};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

type Emulate = unsafe extern "C" fn(*const c_char, u32, u32, u32, u32, *mut *mut c_void, u32) -> *const c_char;

// The C library that Rust's own is linked with has these.
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Bytes around every allocation that no kernel may change.
const GUARD: usize = 256;
/// Of memory that nobody has written: a NaN in bf16 and in f32, and as an index far beyond everything.
const POISON: u8 = 0xff;

/// A GPU that is none.
pub(super) struct Emulated {
    emulate: Emulate,
    /// See `run_block` in `kernels/emulation/cuda.h`.
    pub schedule: u32,
    /// Bytes that may be allocated at one time.
    pub limit: usize,
    /// Bytes that are.
    pub live: Arc<AtomicUsize>,
}

/// Memory with guards around it, checked when it is dropped.
pub(super) struct Memory {
    words: Vec<u128>,
    bytes: usize,
    live: Arc<AtomicUsize>,
}

impl Emulated {
    /// `None`, with a line that says so, where there is no C++ compiler.
    #[expect(clippy::print_stderr, reason = "a test says what it skips")]
    pub(super) fn new(schedule: u32) -> Option<Self> {
        static LIBRARY: OnceLock<Option<usize>> = OnceLock::new();
        let function = LIBRARY.get_or_init(|| {
            if Command::new("g++").arg("--version").output().is_err() {
                eprintln!("skipped: kernels on the CPU (no g++)");
                return None;
            }
            Some(build().unwrap())
        });
        // SAFETY: `build` got the function's address from the library, which is never closed, under its true signature.
        let emulate = unsafe { std::mem::transmute::<usize, Emulate>((*function)?) };
        Some(Self { emulate, schedule, limit: usize::MAX, live: Arc::default() })
    }
}

/// Compiles and loads the library; gives the address of its function `emulate`.
fn build() -> anyhow::Result<usize> {
    let kernels = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/emulation"));
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("kernels.so");
    let flags = ["-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-o"];
    let done = Command::new("g++").args(flags).arg(&library).arg(kernels.join("library.cpp")).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let path = CString::new(library.to_str().context("a path in Unicode")?)?;
    const NOW: c_int = 2;
    // SAFETY: both are called as the C library defines them; loading runs no code but the C++ library's own start.
    let function = unsafe {
        let library = dlopen(path.as_ptr(), NOW);
        ensure!(!library.is_null(), "cannot load {}", path.to_string_lossy());
        dlsym(library, c"emulate".as_ptr())
    };
    ensure!(!function.is_null(), "no `emulate`");
    Ok(function as usize)
}

impl Memory {
    fn start(&self) -> *const u8 {
        self.words.as_ptr().cast::<u8>().wrapping_add(GUARD)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes, Ordering::Relaxed);
        let all = self.words.as_ptr().cast::<u8>();
        // SAFETY: the guards are inside `words`.
        let (before, after) = unsafe {
            let after = all.add(GUARD + self.bytes);
            (std::slice::from_raw_parts(all, GUARD), std::slice::from_raw_parts(after, GUARD))
        };
        if !std::thread::panicking() {
            assert!(
                before.iter().chain(after).all(|byte| *byte == POISON),
                "a kernel wrote beyond {} bytes",
                self.bytes
            );
        }
    }
}

impl Gpu for Emulated {
    type Memory = Memory;
    type Mark = Instant;

    fn allocate(&self, bytes: usize) -> anyhow::Result<Memory> {
        if self.live.load(Ordering::Relaxed) + bytes > self.limit {
            return Err(OutOfMemory { bytes }.into());
        }
        self.live.fetch_add(bytes, Ordering::Relaxed);
        let words = vec![u128::MAX; (bytes + 2 * GUARD).div_ceil(16) + 1];
        Ok(Memory { words, bytes, live: self.live.clone() })
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.start() as u64
    }

    fn write(&self, to: &mut Memory, offset: usize, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(offset + bytes.len() <= to.bytes, "a copy beyond a buffer");
        // SAFETY: inside `words`, by the check and GUARD.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.start().cast_mut().add(offset), bytes.len()) };
        Ok(())
    }

    fn read(&self, from: &Memory, bytes: &mut [u8]) -> anyhow::Result<()> {
        ensure!(bytes.len() <= from.bytes, "a copy beyond a buffer");
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from.start(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn launch(&self, kernel: Kernel, grid: (usize, usize), arguments: &[Argument]) -> anyhow::Result<()> {
        let mut words: Vec<u64> = arguments.iter().map(|argument| argument.word()).collect();
        let mut parameters: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let name = CString::new(kernel.name())?;
        let (threads, shared) = (kernel.threads(), kernel.shared_bytes());
        // SAFETY: as for `Card::launch`; addresses are this process's own.
        let error = unsafe {
            let (x, y) = (grid.0 as u32, grid.1 as u32);
            (self.emulate)(name.as_ptr(), x, y, threads, shared, parameters.as_mut_ptr(), self.schedule)
        };
        if !error.is_null() {
            // SAFETY: the library gives a string that lives until this thread calls it again.
            bail!("{}: {}", kernel.name(), unsafe { CStr::from_ptr(error) }.to_string_lossy());
        }
        Ok(())
    }

    fn product(&self, product: &Product) -> anyhow::Result<()> {
        let Product { rows, inner, outputs, .. } = *product;
        // SAFETY: `forward` gives addresses of buffers of these sizes, of which `out` overlaps none.
        let (x, weight) = unsafe {
            let numbers = |address: u64, len| std::slice::from_raw_parts(address as *const half::bf16, len);
            (numbers(product.x, rows * inner), numbers(product.weight, outputs * inner))
        };
        for (row, x) in x.chunks_exact(inner).enumerate() {
            for (column, weight) in weight.chunks_exact(inner).enumerate() {
                let sum: f32 = x.iter().zip(weight).map(|(x, weight)| x.to_f32() * weight.to_f32()).sum();
                let at = row * outputs + column;
                // SAFETY: `at` is inside `out`.
                unsafe {
                    if product.wide {
                        *(product.out as *mut f32).add(at) = sum;
                    } else {
                        let out = (product.out as *mut half::bf16).add(at);
                        *out = half::bf16::from_f32(if product.add { sum + (*out).to_f32() } else { sum });
                    }
                }
            }
        }
        Ok(())
    }

    fn mark(&self) -> anyhow::Result<Instant> {
        Ok(Instant::now())
    }

    fn seconds(&self, from: &Instant, to: &Instant) -> anyhow::Result<f64> {
        Ok(to.duration_since(*from).as_secs_f64())
    }
}
