//! Tells the crate which interpreter it is built for: `Py_3_12`, `Py_GIL_DISABLED` and their like become cfg flags.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(Py_GIL_DISABLED)");
    #[cfg(feature = "python")]
    pyo3_build_config::use_pyo3_cfgs();
}
