//! `/bin/sh` of the suite's busybox image. Debian's busybox shell drops environment variables whose names are no
//! identifiers (`data-1`), which upstream's image passes on; bash passes them on too, but words its errors differently,
//! and a test compares them. So: bash only when such a variable is there.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;

fn main() {
    let identifier = |name: &[u8]| {
        name.first().is_some_and(|first| !first.is_ascii_digit())
            && name.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_')
    };
    let plain = std::env::vars_os().all(|(name, _)| identifier(name.as_bytes()));
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_else(|| "sh".into());
    let shell = if plain { "/bin/busybox" } else { "/bin/bash" };
    // busybox becomes its shell by the name it is called with, which ends in "sh".
    let error = std::process::Command::new(shell).arg0(called).args(arguments).exec();
    eprintln!("sh: {shell}: {error}");
    std::process::exit(127)
}
