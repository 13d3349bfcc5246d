//! CUDA's mathematical functions as bitcode, which CubeCL links into kernels when it compiles them.
//! Without it the first kernel with an exponential fails, in the middle of the work.

use std::env;
use std::path::{Path, PathBuf};

/// Where a CUDA toolkit has it.
const FILE: &str = "nvvm/libdevice/libdevice.10.bc";
/// Where CubeCL looks for a toolkit if CUDA_PATH names none.
const TOOLKITS: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// Why CubeCL will not find it, and what to do.
pub fn problem() -> Option<String> {
    missing(
        env::var("CUDA_PATH").ok().map(PathBuf::from),
        &TOOLKITS.map(PathBuf::from),
    )
}

fn missing(named: Option<PathBuf>, toolkits: &[PathBuf]) -> Option<String> {
    let folder = Path::new(FILE).parent()?;
    let root = named.as_ref().or_else(|| {
        let has_folder = |toolkit: &&PathBuf| toolkit.join(folder).is_dir();
        toolkits.iter().find(has_folder)
    });
    if root.is_some_and(|root| root.join(FILE).is_file()) {
        return None;
    }
    let found = named.map_or("CUDA_PATH is not set".to_string(), |named| {
        format!("CUDA_PATH={} has none", named.display())
    });
    Some(format!(
        "CUDA's mathematical functions ({FILE}) are not found: {found}. Install the CUDA toolkit, or set \
         CUDA_PATH to a folder with that file in it"
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_looked_for_where_cubecl_looks() {
        let folder = tempfile::tempdir().unwrap();
        let (with, empty) = (folder.path().join("with"), folder.path().join("empty"));
        for toolkit in [&with, &empty] {
            fs::create_dir_all(toolkit.join("nvvm/libdevice")).unwrap();
        }
        fs::write(with.join(FILE), "").unwrap();
        assert_eq!(missing(Some(with.clone()), &[]), None);
        assert_eq!(
            missing(None, &[folder.path().join("none"), with.clone()]),
            None
        );
        // What CUDA_PATH says counts alone, and so does the first toolkit.
        assert!(missing(Some(empty.clone()), &[with.clone()]).is_some());
        assert!(missing(None, &[empty, with]).is_some());
        let message = missing(None, &[]).unwrap();
        assert!(message.contains("CUDA_PATH is not set"), "{message}");
        assert!(message.contains("libdevice.10.bc"), "{message}");
    }
}
