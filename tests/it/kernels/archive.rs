//! Kernels of Debian's archive: fetched once by apt, of whatever release, without a change to this machine's own
//! configuration.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel for clouds: no drivers but those of virtual machines, a third the size of the ordinary one.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What verifies the archive's signatures, of older and newer releases too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
pub struct Kernel {
    pub image: PathBuf,
    /// The modules that list sockets (`sock_diag`), in the order in which they are to be loaded.
    pub modules: [PathBuf; 3],
}

/// The kernel of a Debian release, fetched if no earlier test did.
#[track_caller]
pub fn kernel(suite: &str) -> Kernel {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("kernels");
    fs::create_dir_all(&cache).expect("`target/kernels` can be created");
    let dir = cache.join(suite);
    // Two tests may want the same kernel at once.
    let lock = File::create(cache.join(format!("{suite}.lock"))).expect("a lock file");
    lock.lock().expect("the lock");
    if !dir.exists() {
        let work = cache.join(format!("{suite}.part"));
        let _ = fs::remove_dir_all(&work);
        fetch(suite, &work);
        fs::rename(work.join("unpacked"), &dir).expect("the kernel's place is free");
        fs::remove_dir_all(&work).expect("ours to remove");
    }
    let files = files_below(&dir);
    let find = |start: &str| {
        let named =
            |file: &&PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
        files.iter().find(named).unwrap_or_else(|| panic!("no {start} in {}", dir.display())).clone()
    };
    Kernel { image: find("vmlinuz-"), modules: ["inet_diag.ko", "tcp_diag.ko", "udp_diag.ko"].map(find) }
}

/// Downloads and unpacks into `work/unpacked`.
#[track_caller]
fn fetch(suite: &str, work: &Path) {
    for dir in ["lists/partial", "archives/partial", "unpacked"] {
        fs::create_dir_all(work.join(dir)).expect("a directory of ours");
    }
    let sources = work.join("debian.sources");
    fs::write(&sources, sources_of(suite)).expect("a file of ours");
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    let options = [
        option("Dir::Etc::sourcelist", &sources),
        option("Dir::Etc::sourceparts", Path::new("-")),
        option("Dir::Etc::preferences", Path::new("/dev/null")),
        option("Dir::Etc::preferencesparts", Path::new("/dev/null")),
        option("Dir::State::lists", &work.join("lists")),
        option("Dir::Cache", work),
        "APT::Sandbox::User=root".into(),
        "APT::Update::Error-Mode=any".into(),
        "Acquire::Retries=3".into(),
    ];
    let apt = |program: &str, arguments: &[&str]| {
        let options = options.iter().flat_map(|option| ["-o", option]);
        output(Command::new(program).args(options).args(arguments).current_dir(work), suite)
    };
    apt("apt-get", &["--quiet", "update"]);
    // The package itself is empty; it depends on the one with the newest kernel.
    let record = apt("apt-cache", &["show", "--no-all-versions", PACKAGE]);
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: ")?.split(' ').next());
    let package = depends.unwrap_or_else(|| panic!("no kernel in: {record}"));
    apt("apt-get", &["--quiet", "download", package]);
    let archive = files_below(work).into_iter().find(|file| file.extension().is_some_and(|it| it == "deb"));
    let unpack = "dpkg-deb --fsys-tarfile \"$0\" | tar -x --directory unpacked --wildcards './boot/vmlinuz-*' '*/net/ipv4/*_diag.ko*'";
    output(Command::new("sh").args(["-c", unpack]).arg(archive.expect("a package")).current_dir(work), suite);
}

/// apt's sources for another release, in the archives that this machine is configured for.
#[track_caller]
fn sources_of(suite: &str) -> String {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let archives = output(&mut command, suite);
    let mut sources = String::new();
    for archive in archives.lines().collect::<BTreeSet<_>>() {
        let suite = match archive.trim_end_matches('/').rsplit('/').next() {
            Some("debian") => suite.to_owned(),
            Some("debian-security") => format!("{suite}-security"),
            _ => continue,
        };
        sources += &format!("Types: deb\nURIs: {archive}\nSuites: {suite}\nComponents: main\n");
        // No index but that of packages: others, for desktops, are as large again.
        sources += &format!("Architectures: amd64\nTargets: Packages\nSigned-By: {KEYRING}\n\n");
    }
    assert!(
        !sources.is_empty(),
        "the kernels for tests are Debian's, and apt has no source of Debian here: {archives}"
    );
    sources
}

/// What a command of the download prints; it must succeed.
#[track_caller]
fn output(command: &mut Command, suite: &str) -> String {
    let what = format!("the kernel of Debian {suite} is missing in `target/kernels`");
    let output = command.output();
    let output =
        output.unwrap_or_else(|error| panic!("{what}, and {command:?} cannot be run to fetch it: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}, and fetching it failed: {command:?}: {text}{errors}");
    text.into_owned()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of ours").flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            _ => files.push(entry.path()),
        }
    }
    files
}
