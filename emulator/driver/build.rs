//! Names the shared object `libcuda.so`: a program that asks the loader for the CUDA driver then gets the one that
//! `install()` has loaded before.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    }
}
