//! Compiles `kernels/*.cu` to PTX under the feature `cuda`, and does nothing without it.
//!
//! nvcc is looked for where candle's own build looks: `NVCC`, the `PATH`, `CUDA_HOME`, `CUDA_PATH`, `/usr/local/cuda`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// PTX of this architecture is compiled by the driver for the GPU at hand, Ampere or later.
const ARCHITECTURE: &str = "compute_80";

const KERNELS: [&str; 5] = ["attention", "gather", "rms_norm", "rope", "swiglu"];

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let nvcc = nvcc()?;
    let out = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    for kernel in KERNELS {
        let source = format!("kernels/{kernel}.cu");
        let mut command = Command::new(&nvcc);
        command.args(["-ptx", "-O3", "-std=c++17", "-arch", ARCHITECTURE, "-o"]);
        command.arg(Path::new(&out).join(kernel).with_extension("ptx")).arg(&source);
        if let Some(compiler) = env::var_os("NVCC_CCBIN") {
            command.arg("-ccbin").arg(compiler).arg("-allow-unsupported-compiler");
        }
        let done = command.output().map_err(|error| format!("cannot run `{}`: {error}", nvcc.display()))?;
        if !done.status.success() {
            return Err(format!("`{source}` does not compile:\n{}", String::from_utf8_lossy(&done.stderr)));
        }
    }
    Ok(())
}

fn nvcc() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("NVCC") {
        return Ok(path.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let homes = homes.chain([PathBuf::from("/usr/local/cuda")]).map(|home| home.join("bin"));
    env::split_paths(&path).chain(homes).map(|folder| folder.join("nvcc")).find(|file| file.is_file()).ok_or_else(|| {
        "the feature `cuda` needs nvcc, the CUDA compiler: install the CUDA toolkit, or name the program in `NVCC` (docs/gpu.md)".into()
    })
}
