//! A real GPU, through the driver and cuBLAS.

use super::gpu::{Argument, Gpu, Kernel, Product};
use crate::lm::halving::OutOfMemory;
use anyhow::{Context, ensure};
use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::{CudaBlas, result as blas, sys as blas_sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use std::ffi::c_void;
use std::sync::Arc;

/// What build.rs makes of `kernels/*.cu`.
const SOURCES: [(&str, &[Kernel]); 5] = [
    (include_str!(concat!(env!("OUT_DIR"), "/gather.ptx")), &[Kernel::Gather]),
    (include_str!(concat!(env!("OUT_DIR"), "/rms_norm.ptx")), &[Kernel::RmsNorm]),
    (include_str!(concat!(env!("OUT_DIR"), "/rope.ptx")), &[Kernel::Rope]),
    (include_str!(concat!(env!("OUT_DIR"), "/swiglu.ptx")), &[Kernel::SwiGlu]),
    (
        include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")),
        &[Kernel::Attention(64), Kernel::Attention(80), Kernel::Attention(96), Kernel::Attention(128)],
    ),
];

/// One stream of one GPU.
pub(in crate::lm) struct Card {
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    functions: Vec<(Kernel, CudaFunction)>,
}

impl Card {
    /// # Errors
    /// The driver's, when it cannot compile the kernels for this GPU.
    pub(in crate::lm) fn new(device: &CudaDevice) -> anyhow::Result<Self> {
        let stream = device.cuda_stream();
        let blas = CudaBlas::new(stream.clone()).context("cannot start cuBLAS")?;
        // Partial sums stay f32 where cuBLAS splits a product.
        let mode = blas_sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: the handle is alive.
        unsafe { blas_sys::cublasSetMathMode(*blas.handle(), mode) }.result().context("cannot start cuBLAS")?;
        let mut functions = Vec::new();
        for (source, kernels) in SOURCES {
            let module = stream.context().load_module(Ptx::from_src(source)).context("cannot load the GPU kernels")?;
            for &kernel in kernels {
                let function = module.load_function(kernel.name()).context("cannot load the GPU kernels")?;
                if kernel.shared_bytes() > 48 << 10 {
                    let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    let name = kernel.name();
                    function
                        .set_attribute(limit, kernel.shared_bytes() as i32)
                        .with_context(|| format!("this GPU has too little shared memory for `{name}`"))?;
                }
                functions.push((kernel, function));
            }
        }
        Ok(Self { stream, blas, functions })
    }
}

impl Gpu for Card {
    type Memory = CudaSlice<u8>;
    type Mark = CudaEvent;

    fn allocate(&self, bytes: usize) -> anyhow::Result<Self::Memory> {
        // SAFETY: a `Buffer`'s numbers are written before they are read; bytes have no invalid values.
        unsafe { self.stream.alloc(bytes) }.map_err(|error| match error {
            DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY) => OutOfMemory { bytes }.into(),
            error => failed(error),
        })
    }

    fn address(&self, memory: &Self::Memory) -> u64 {
        memory.device_ptr(&self.stream).0
    }

    fn write(&self, to: &mut Self::Memory, offset: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let mut part = to.try_slice_mut(offset..offset + bytes.len()).context("a copy beyond a buffer")?;
        self.stream.memcpy_htod(bytes, &mut part).map_err(failed)
    }

    fn read(&self, from: &Self::Memory, bytes: &mut [u8]) -> anyhow::Result<()> {
        let part = from.try_slice(..bytes.len()).context("a copy beyond a buffer")?;
        self.stream.memcpy_dtoh(&part, bytes).map_err(failed)?;
        self.stream.synchronize().map_err(failed)
    }

    fn launch(&self, kernel: Kernel, grid: (usize, usize), arguments: &[Argument]) -> anyhow::Result<()> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        ensure!(grid.0 <= i32::MAX as usize && grid.1 <= 65_535, "a grid of {} by {} blocks", grid.0, grid.1);
        let (_, function) =
            self.functions.iter().find(|(loaded, _)| *loaded == kernel).with_context(|| format!("no {kernel:?}"))?;
        let mut words: Vec<u64> = arguments.iter().map(|argument| argument.word()).collect();
        let mut parameters: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        self.stream.context().bind_to_thread().map_err(failed)?;
        // SAFETY: `super::pass` gives each kernel the arguments of its signature, in memory of this device that is long
        // enough and is freed, if at all, behind this launch in the same stream. The words outlive the call.
        let launched = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (grid.0 as u32, grid.1 as u32, 1),
                (kernel.threads(), 1, 1),
                kernel.shared_bytes(),
                self.stream.cu_stream(),
                &mut parameters,
            )
        };
        launched.map_err(failed)
    }

    fn product(&self, product: &Product) -> anyhow::Result<()> {
        use blas_sys::cudaDataType::{CUDA_R_16BF, CUDA_R_32F};
        let size = |size: usize| i32::try_from(size).with_context(|| format!("a matrix of {size} rows"));
        let (alpha, beta) = (1f32, if product.add { 1f32 } else { 0f32 });
        let (outputs, rows, inner) = (size(product.outputs)?, size(product.rows)?, size(product.inner)?);
        self.stream.context().bind_to_thread().map_err(failed)?;
        // SAFETY: as in `launch`. cuBLAS counts columns first: it sees the transposes of all three, out^T = weight x^T.
        let started = unsafe {
            blas::gemm_ex(
                *self.blas.handle(),
                blas_sys::cublasOperation_t::CUBLAS_OP_T,
                blas_sys::cublasOperation_t::CUBLAS_OP_N,
                outputs,
                rows,
                inner,
                std::ptr::from_ref(&alpha).cast(),
                product.weight as *const c_void,
                CUDA_R_16BF,
                inner,
                product.x as *const c_void,
                CUDA_R_16BF,
                inner,
                std::ptr::from_ref(&beta).cast(),
                product.out as *mut c_void,
                if product.wide { CUDA_R_32F } else { CUDA_R_16BF },
                outputs,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        };
        started.map_err(|error| match error.0 {
            blas_sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => OutOfMemory { bytes: 0 }.into(),
            _ => anyhow::Error::new(error).context("a matrix product on the GPU failed"),
        })
    }

    fn mark(&self) -> anyhow::Result<Self::Mark> {
        self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)
    }

    fn seconds(&self, from: &Self::Mark, to: &Self::Mark) -> anyhow::Result<f64> {
        Ok(f64::from(from.elapsed_ms(to).map_err(failed)?) / 1e3)
    }
}

fn failed(error: DriverError) -> anyhow::Error {
    anyhow::Error::new(error).context("the GPU failed")
}
