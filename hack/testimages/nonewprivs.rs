//! Says as whom it runs. The file is setuid root, so the answer tells whether `no_new_privs` was set.

unsafe extern "C" {
    safe fn geteuid() -> u32;
}

fn main() {
    println!("Effective uid: {}", geteuid());
}
