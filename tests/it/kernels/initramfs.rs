//! The file system of a booted kernel: BusyBox, the `sticky` under test, and what it is linked with, as a cpio archive.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Kernel;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// The archive for this kernel, made with the help of a file `scratch`, as the kernel reads it (Documentation/driver-api/early-userspace/buffer-format.rst).
#[track_caller]
pub fn pack(kernel: &Kernel, scratch: &Path) -> Vec<u8> {
    let busybox = find("busybox", "busybox-static");
    let setpriv = find("setpriv", "util-linux");
    let mut files = vec![
        ("init".into(), include_bytes!("init.sh").to_vec()),
        ("bin/busybox".into(), read(&busybox)),
        ("usr/bin/setpriv".into(), read(&setpriv)),
        ("usr/bin/sticky".into(), stripped(Path::new(env!("CARGO_BIN_EXE_sticky")), scratch)),
    ];
    for (n, module) in kernel.modules.iter().enumerate() {
        files.push((format!("modules/{n}.ko"), uncompressed(module)));
    }
    let programs = [&busybox, &setpriv, Path::new(env!("CARGO_BIN_EXE_sticky"))];
    for library in programs.into_iter().flat_map(libraries).collect::<BTreeSet<_>>() {
        let place = library.to_str().expect("UTF-8").trim_start_matches('/').to_owned();
        files.push((place, read(&library)));
    }

    let directories: BTreeSet<_> = files
        .iter()
        .flat_map(|(name, _)| Path::new(name).ancestors().skip(1))
        .filter(|parent| parent.parent().is_some())
        .map(|parent| parent.to_str().expect("UTF-8").to_owned())
        .collect();
    let mut archive = Vec::new();
    for directory in directories {
        add(&mut archive, &directory, DIRECTORY, &[]);
    }
    for (name, content) in &files {
        add(&mut archive, name, PROGRAM, content);
    }
    add(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// Appends one file in the "newc" format.
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let inode = archive.len() as u32;
    let header = [inode, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    archive.extend(b"070701");
    archive.extend(header.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
    archive.extend(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The shared libraries of a program, and the loader; none when it is static.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("`ldd` (package libc-bin)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_ascii_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// A program without its debug information, which is most of a development build.
#[track_caller]
fn stripped(program: &Path, scratch: &Path) -> Vec<u8> {
    let output = Command::new("strip").arg("-o").arg(scratch).arg(program).output();
    let output = output.expect("`strip` (package binutils)");
    assert!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr));
    read(scratch)
}

#[track_caller]
fn uncompressed(module: &Path) -> Vec<u8> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        return read(module);
    }
    let output = Command::new("xz").arg("-dc").arg(module).output();
    let output = output.expect("`xz` is missing; `cargo xtask setup` installs it (package xz-utils)");
    assert!(output.status.success(), "xz: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[track_caller]
fn find(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let executable =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(executable).unwrap_or_else(|| {
        panic!("`{program}` is missing; `cargo xtask setup` installs it (package {package})")
    })
}

#[track_caller]
fn read(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()))
}
