//! Tells the linker that Python brings its own names, where a linker insists on them: without it a workspace does not build on macOS.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
