//! The machine of the generator, as a report describes it.

use serde::{Deserialize, Serialize};
use std::fs;

/// The machine that the generator ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The name of the CPU, if the kernel shows it.
    pub cpu_model: Option<String>,
    /// The CPUs that the generator could have used before it was pinned.
    pub cpus: usize,
    /// The name and release of the kernel.
    pub kernel: String,
    /// The architecture, such as `x86_64`.
    pub architecture: String,
}

impl Machine {
    /// Reads what this machine is. A report has the number of CPUs right only if this happens before the generator pins
    /// itself.
    pub fn read() -> Machine {
        let system = rustix::system::uname();
        Machine {
            cpu_model: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_model(&text)),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
            architecture: system.machine().to_string_lossy().into_owned(),
        }
    }
}

/// Reads the first CPU's name, which x86 calls `model name` and some ARM kernels `Model`.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_model = ["model name", "Model", "cpu model"].contains(&name.trim_end());
        (is_model && !value.trim().is_empty()).then(|| value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_first_cpu() {
        let text = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some  CPU @ 2.00GHz\n\nmodel name\t: other\n";
        assert_eq!(cpu_model(text).as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(cpu_model("processor\t: 0\nBogoMIPS\t: 50\n"), None);
    }

    #[test]
    fn this_machine_has_a_cpu_and_a_kernel() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.kernel.starts_with("Linux "), "{machine:?}");
    }
}
