//! What this machine has: processor, memory, disk, graphics cards. Facts only; what they mean is `commands::doctor`'s.

use serde::Serialize;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The processor as this process may use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Processor {
    /// Threads that may run at once, under the limits of containers and schedulers.
    pub cores: usize,
    pub model: Option<String>,
    /// The vector instructions that kernels are chosen by.
    pub simd: Vec<&'static str>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub total: u64,
    /// What programs can still get without swapping; within a container's limit.
    pub available: u64,
}

/// Bytes of the file system that a path is on, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disk {
    pub total: u64,
    /// For users without privileges.
    pub free: u64,
}

/// A graphics card, as `nvidia-smi` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    pub name: String,
    /// Bytes.
    pub memory: u64,
    pub free: u64,
    pub driver: String,
}

impl Processor {
    pub fn read() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self { cores, model: model.map(|(_, name)| name.trim().to_owned()), simd: simd() }
    }
}

impl Memory {
    /// None where the system does not say.
    pub fn read() -> Option<Self> {
        let machine = Self::parse(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
        let group = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).unwrap_or_default();
        Some(machine.within(&group("memory.max"), &group("memory.current"), &group("memory.stat")))
    }

    /// What [`Memory::read`] finds available.
    pub fn available() -> Option<u64> {
        Some(Self::read()?.available)
    }

    /// The file `/proc/meminfo`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")? })
    }

    /// The same under a container's limit and use, as its control group's files tell. Pages of files that are cached count as
    /// used there, and are given back when memory is asked for.
    fn within(self, limit: &str, used: &str, stat: &str) -> Self {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let Some(limit) = number(limit).filter(|&limit| limit < self.total) else { return self };
        let cached = |line: &str| {
            let (name, bytes) = line.split_once(' ')?;
            ["active_file", "inactive_file"].contains(&name).then(|| number(bytes))?
        };
        let used = number(used).unwrap_or(0).saturating_sub(stat.lines().filter_map(cached).sum());
        Self { total: limit, available: self.available.min(limit.saturating_sub(used)) }
    }
}

impl Disk {
    /// The disk of `path`, or of the nearest folder above it that is there.
    pub fn of(path: &Path) -> Option<Self> {
        let start = std::path::absolute(path).ok()?;
        let there = start.ancestors().find(|above| above.exists())?;
        let stat = rustix::fs::statvfs(there).ok()?;
        Some(Self { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }
}

impl Gpu {
    /// All cards; an error says why none is known.
    pub fn all() -> Result<Vec<Self>, String> {
        let output = Command::new("nvidia-smi")
            .args(["--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"])
            .output()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => "`nvidia-smi` is not installed".to_owned(),
                _ => format!("`nvidia-smi` does not run: {error}"),
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("`nvidia-smi` says: {}", text.lines().next().unwrap_or("nothing").trim()));
        }
        Ok(text.lines().filter_map(Self::parse).collect())
    }

    /// One line of `nvidia-smi`: name, MiB, MiB, driver.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(',').map(str::trim);
        let name = fields.next()?.to_owned();
        let mut mebibytes = || Some(fields.next()?.parse::<u64>().ok()? << 20);
        let (memory, free) = (mebibytes()?, mebibytes()?);
        Some(Self { name, memory, free, driver: fields.next()?.to_owned() })
    }
}

/// Whether this program was built for NVIDIA's cards.
pub fn has_cuda() -> bool {
    candle_core::utils::cuda_is_available()
}

/// The version, what it was built for, and what it can use here: `0.1.0 (CPU; here AVX-512, BF16, VNNI)`.
pub fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let built = if has_cuda() { "CPU and CUDA" } else { "CPU" };
        format!("{} ({built}; here {})", env!("CARGO_PKG_VERSION"), simd_text(&simd()))
    })
}

/// `AVX-512, BF16, VNNI`: the widest vectors, and what comes on top.
pub fn simd_text(simd: &[&str]) -> String {
    let widest = ["AVX-512", "AVX2", "NEON"].into_iter().find(|name| simd.contains(name));
    let more = simd.iter().copied().filter(|name| matches!(*name, "BF16" | "VNNI"));
    let names: Vec<&str> = widest.into_iter().chain(more).collect();
    if names.is_empty() { "no vector instructions".to_owned() } else { names.join(", ") }
}

/// What this processor has of the instructions that kernels ask for.
fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("AVX2", is_x86_feature_detected!("avx2")),
            ("FMA", is_x86_feature_detected!("fma")),
            ("AVX-512", is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")),
            ("BF16", is_x86_feature_detected!("avx512bf16")),
            ("VNNI", is_x86_feature_detected!("avx512vnni")),
        ];
        has.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec!["NEON"]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_the_container() {
        let machine = Memory::parse("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n").unwrap();
        assert_eq!(machine, Memory { total: 1_024_000, available: 614_400 });
        assert_eq!(Memory::parse("MemTotal: 5 pages"), None);
        let stat = "anon 70000\nfile 900000\nactive_file 10000\ninactive_file 20000\nactive_anon 5\n";
        let check = |limit: &str, used: &str, total, available| {
            assert_eq!(machine.within(limit, used, stat), Memory { total, available }, "{limit} {used}");
        };
        check("", "", 1_024_000, 614_400);
        check("max\n", "7\n", 1_024_000, 614_400);
        check("18446744073709551615\n", "", 1_024_000, 614_400);
        check("500000\n", "130000\n", 500_000, 400_000);
        check("500000\n", "20000\n", 500_000, 500_000);
        check("500000\n", "900000\n", 500_000, 0);
    }

    #[test]
    fn cards_are_read_from_lines() {
        let card = Gpu::parse("NVIDIA H200, 143771, 143000, 550.54.15").unwrap();
        assert_eq!(
            (card.name.as_str(), card.memory >> 20, card.driver.as_str()),
            ("NVIDIA H200", 143_771, "550.54.15")
        );
        assert_eq!(Gpu::parse("NVIDIA GB10, [N/A], [N/A], 580.1"), None);
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_is_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let (here, below) = (Disk::of(dir.path()).unwrap(), Disk::of(&dir.path().join("a/b/c")).unwrap());
        assert!(here.total >= here.free && here.total == below.total && here.total > 0);
    }

    #[test]
    fn vectors_are_named_by_the_widest() {
        let check = |simd: &[&str], expect: &str| assert_eq!(simd_text(simd), expect);
        check(&["AVX2", "FMA", "AVX-512", "BF16", "VNNI"], "AVX-512, BF16, VNNI");
        check(&["AVX2", "FMA"], "AVX2");
        check(&[], "no vector instructions");
    }
}
