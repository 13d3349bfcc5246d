//! For which CUDA the bindings (crate cudarc) are built.

use std::env;
use std::process::Command;

use super::Environment;

const VARIABLE: &str = "CUDARC_CUDA_VERSION";
/// Where there is no toolkit whose version they would take.
const DEFAULT: &str = "13000";

pub fn find(environment: &mut Environment) {
    if env::var_os(VARIABLE).is_none() && !has_toolkit() {
        environment.build.push((VARIABLE, DEFAULT.into()));
    }
}

fn has_toolkit() -> bool {
    let nvcc = Command::new("nvcc").arg("--version").output();
    nvcc.is_ok_and(|output| output.status.success())
}
