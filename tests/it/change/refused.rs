//! Commands to runs that are not there, or not the only ones.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::{Version, fails, live, name};
use crate::harness::process::{Process, start_sticky};
use crate::harness::{app, net};

#[test]
fn nobody_to_ask() {
    let _net = net::isolate();
    for command in [&["scale", "2"][..], &["reload"], &["upgrade"]] {
        let error = fails(2, command);
        assert!(error.contains("no `sticky run` is active in this network namespace"), "{error}");
        assert!(error.contains("\n\nhint: `sticky status` lists the pools"), "{error}");
    }
    let error = fails(2, &["scale", "2", "--name", "no-such-run"]);
    assert!(error.contains("no run `no-such-run` is active\n\nhint: no run is active here;"), "{error}");
    for wrong in ["0", "257", "many"] {
        let error = fails(2, &["scale", wrong]);
        assert!(error.contains(&format!("invalid value '{wrong}'")), "{error}");
    }
}

#[test]
fn a_pool_that_is_attached() {
    let _net = net::isolate();
    let worker =
        Process::start(Command::new("python3").args([&app("name.py"), "0.0.0.0", "3000", "reuseport"]));
    worker.wait_for("listening");
    let sticky = start_sticky(&["attach", "3000"]);
    sticky.wait_for("is steered");
    let error = fails(2, &["reload"]);
    assert!(
        error.contains("0.0.0.0:3000 is followed by `sticky attach`, whose workers are not sticky's"),
        "{error}"
    );
    assert!(error.contains("\n\nhint: start and stop the workers by what started them"), "{error}");
}

#[test]
fn one_of_several() {
    let _net = net::isolate();
    let (version, a, b) = (Version::new("1"), name("several.a"), name("several-b"));
    let _first = version.run(&["-w", "2", "--name", &a]);
    let before = live();
    let other =
        start_sticky(&["run", "-w", "1", "--name", &b, "--", "python3", &app("name.py"), "::", "4000"]);
    other.wait_for("is complete");
    let error = fails(2, &["scale", "3"]);
    let folder = a.replace('.', "-");
    assert!(error.contains(&format!("2 runs are active: `{folder}`, `{b}`")), "{error}");
    assert!(error.contains(&format!("\n\nhint: say which: `--name {folder}`")), "{error}");
    let error = fails(2, &["scale", "3", "--name", "c"]);
    assert!(
        error.contains(&format!("no run `c` is active\n\nhint: active here: `{folder}`, `{b}`")),
        "{error}"
    );
    super::done(&["scale", "3", "--name", &a]);
    assert_eq!(live()[..2], before);
    super::done(&["scale", "2", "--name", &folder]);
}

/// What another version of the command may send.
#[test]
fn what_the_run_does_not_know() {
    let _net = net::isolate();
    let (version, name) = (Version::new("1"), name("unknown"));
    let mut sticky = version.run(&["-w", "1", "--name", &name]);
    for request in ["{\"dance\":{}}\n", "\n", "{\"scale\":{\"workers\":0,\"dry_run\":false}}\n", "{"] {
        let mut stream = UnixStream::connect(format!("/run/sticky/{name}/control")).expect("the socket");
        stream.write_all(request.as_bytes()).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        let answers: Vec<_> = BufReader::new(stream).lines().map(|line| line.expect("a line")).collect();
        assert_eq!(answers.len(), 1, "{request}: {answers:?}");
        assert!(answers[0].starts_with("{\"refused\":{\"what\":"), "{request}: {answers:?}");
    }
    assert_eq!(sticky.terminate(), Some(0));
}
