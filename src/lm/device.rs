//! Opening the device that a language model runs on.

use candle_core::Device;

/// The first GPU.
///
/// # Errors
/// A [`crate::error::Failure`] with [`crate::error::Exit::Usage`] when this program was built without CUDA, or there is no GPU
/// that it can use.
pub fn cuda() -> anyhow::Result<Device> {
    imp::cuda()
}

/// The first GPU if this program was built for one and there is one, else the CPU.
pub fn auto() -> Device {
    if cfg!(feature = "cuda") { imp::cuda().unwrap_or(Device::Cpu) } else { Device::Cpu }
}

#[cfg(not(feature = "cuda"))]
mod imp {
    use crate::error::{Exit, Failure};
    use candle_core::Device;

    pub(super) fn cuda() -> anyhow::Result<Device> {
        Err(Failure::new(Exit::Usage, "this program was built without CUDA")
            .hint("use `--device cpu`, or build with `cargo build --release --features cuda` (docs/gpu.md)")
            .into())
    }
}

#[cfg(feature = "cuda")]
mod imp {
    use crate::error::{Exit, Failure};
    use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
    use candle_core::{CudaDevice, Device};

    pub(super) fn cuda() -> anyhow::Result<Device> {
        let device = CudaDevice::new_with_stream(0).map_err(|error| {
            Failure::new(Exit::Usage, format!("no GPU can be used: {error}"))
                .hint("`nvidia-smi` shows whether driver and GPU are there; else use `--device cpu`")
        })?;
        // SAFETY: everything that uses this device does so in its one stream, so no event needs to order anything.
        unsafe { device.disable_event_tracking() };
        keep_freed_memory(&device).map_err(|error| Failure::new(Exit::Failed, format!("the GPU failed: {error}")))?;
        Ok(Device::Cuda(device))
    }

    /// Without this the driver gives freed memory back to the system at every synchronisation, and fetches it again.
    fn keep_freed_memory(device: &CudaDevice) -> Result<(), DriverError> {
        let context = device.cuda_stream().context().clone();
        context.bind_to_thread()?;
        let mut threshold = u64::MAX;
        // SAFETY: the pool is the device's own, and the attribute is a 64-bit number.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device())?;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast())
        }
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::error::{Exit, exit_of, hint_of};

    #[test]
    fn a_program_without_cuda_says_so() {
        let error = cuda().unwrap_err();
        assert_eq!(exit_of(&error), Exit::Usage);
        assert!(error.to_string().contains("built without CUDA") && hint_of(&error).is_some());
        assert!(auto().is_cpu());
    }
}
