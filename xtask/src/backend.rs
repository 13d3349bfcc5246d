//! What a backend needs beside Rust: whether it is there, and how cargo and the program find it.

mod cuda_version;
mod libtorch;
mod llvm;

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::vulkan;

/// An environment variable and its value.
type Variable = (&'static str, OsString);

/// What is set in the environment for backends.
#[derive(Debug, Default)]
pub struct Environment {
    /// For cargo alone, which builds them.
    build: Vec<Variable>,
    /// For the program, and for cargo, which runs tests.
    run: Vec<Variable>,
}

impl Environment {
    /// Finds what building `backends` (comma-separated) needs.
    pub fn find(backends: &str) -> Result<Self> {
        for backend in backends.split(',') {
            if !["flex", "wgpu", "tch", "cuda", "remote"].contains(&backend) {
                bail!(
                    "--backend {backend}: expected flex, wgpu, tch or cuda, or several with commas; \
                     with remote beside them, devices of other machines can be used"
                );
            }
        }
        let mut found = Self::default();
        let wanted = |name| backends.split(',').any(|backend| backend == name);
        if wanted("tch") {
            libtorch::find(&mut found)?;
        }
        if wanted("cuda") {
            llvm::find(&mut found)?;
        }
        if wanted("tch") || wanted("cuda") {
            cuda_version::find(&mut found);
        }
        Ok(found)
    }

    /// What cargo is started with.
    pub fn for_cargo(&self) -> impl Iterator<Item = (&'static str, &OsString)> {
        let all = self.build.iter().chain(&self.run);
        all.map(|(name, value)| (*name, value))
    }

    /// What the program is started with.
    pub fn for_program(&self) -> impl Iterator<Item = (&'static str, &OsString)> {
        self.run.iter().map(|(name, value)| (*name, value))
    }
}

/// Refuses what will find no device here, before it is built for minutes. (Other backends beside
/// wgpu do without Vulkan.)
pub fn check_devices(backends: &str) -> Result<()> {
    let mut others = backends.split(',').filter(|backend| *backend != "remote");
    if others.all(|backend| backend == "wgpu")
        && let Some(problem) = vulkan::problem()
    {
        bail!("the backend wgpu finds no device here: {problem}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_does_not_exist_is_refused_with_those_that_do() {
        let message = Environment::find("flex,metal").unwrap_err().to_string();
        assert!(message.contains("--backend metal"), "{message}");
        assert!(message.contains("flex, wgpu, tch or cuda"), "{message}");
    }

    #[test]
    fn what_only_the_build_needs_does_not_reach_the_program() {
        let found = Environment {
            build: vec![("XDG_DATA_HOME", "data".into())],
            run: vec![("LD_LIBRARY_PATH", "lib".into())],
        };
        let names = |(name, _)| name;
        let cargo: Vec<_> = found.for_cargo().map(names).collect();
        assert_eq!(cargo, ["XDG_DATA_HOME", "LD_LIBRARY_PATH"]);
        let program: Vec<_> = found.for_program().map(names).collect();
        assert_eq!(program, ["LD_LIBRARY_PATH"]);
    }
}
