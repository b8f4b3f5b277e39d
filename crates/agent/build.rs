//! Makes a change of the Python package rebuild this crate, because the package is embedded in it. File by file: named as
//! a folder, the byte code that Python leaves beside its sources would make every build after a run a new one. A file
//! that is added is seen with the change of the file that imports it.

use std::path::Path;

fn main() {
    watch(Path::new("../../python/src"));
}

fn watch(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            watch(&path);
        } else if path.extension().is_some_and(|extension| extension != "pyc") {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
}
