//! Makes a change of the Python package rebuild this crate, because the package is embedded in it.
fn main() {
    println!("cargo:rerun-if-changed=../../python/src");
}
