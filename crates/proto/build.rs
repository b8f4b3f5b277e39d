//! Compiles the protocol files with a pure Rust compiler, so that no `protoc` has to be installed.
fn main() {
    let files = ["tidewheel/v1/worker.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"]).expect("the protocol files compile");
    tonic_prost_build::configure()
        // `Worker.Connect` would clash with the generated helper that dials an address; channels are built by hand.
        .build_transport(false)
        .bytes(".")
        .compile_fds(descriptors)
        .expect("code is generated from the protocol files");
}
