//! What users read: every help text fits a terminal, and every command in the README is one that sticky takes.

use std::fs;
use std::net::SocketAddr;

use crate::harness::client::{get, loopback};
use crate::harness::process::{Process, sticky};
use crate::harness::{app, net};

/// What can be typed after `sticky`.
#[rustfmt::skip]
const COMMANDS: [&str; 18] = [
    "run", "attach", "scale", "reload", "upgrade", "detach", "trust", "status", "explain",
    "events", "drain", "maintenance", "ready", "weight", "pin", "unpin", "pins", "sessions",
];

#[test]
fn help_fits_80_columns() {
    for command in [&[""][..], &COMMANDS].concat() {
        for flag in ["-h", "--help"] {
            let arguments: Vec<_> = [command, flag].into_iter().filter(|word| !word.is_empty()).collect();
            let output = sticky().args(&arguments).env("COLUMNS", "80").output().expect("sticky starts");
            assert!(output.status.success(), "{arguments:?}");
            let text = String::from_utf8(output.stdout).expect("UTF-8");
            let long: Vec<_> = text.lines().filter(|line| line.chars().count() > 80).collect();
            assert!(long.is_empty(), "{arguments:?}: {long:#?}");
            assert!(text.contains("Usage: sticky"), "{arguments:?}: {text}");
            assert!(!text.contains("exec-worker"), "a hidden command is shown: {text}");
        }
    }
}

#[test]
fn every_subcommand_has_an_example() {
    for command in COMMANDS {
        let output = sticky().args([command, "--help"]).output().expect("sticky starts");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains(&format!("\nExamples:\n  sticky {command}")), "{text}");
    }
}

/// `--help` after a command line makes clap check what is before it, and sticky do nothing.
#[test]
fn commands_in_the_readme_are_taken() {
    let readme = fs::read_to_string(app("../../README.md")).expect("the README");
    let mut checked = 0;
    for line in readme.lines().filter_map(|line| line.strip_prefix("$ sudo sticky ")) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words = words(line);
        let ours: Vec<_> = words.iter().take_while(|word| *word != "--").collect();
        let output = sticky().args(&ours).arg("--help").output().expect("sticky starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "`sticky {line}`: {error}");
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} commands found");
}

/// The words of a command line, of which some are in single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (n, part) in line.split('\'').enumerate() {
        if n % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn the_readme_shows_servers_that_work() {
    let readme = fs::read_to_string(app("../../README.md")).expect("the README");
    let scripts: Vec<_> =
        readme.split("```js\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(scripts.len(), 2);
    for script in scripts {
        let _net = net::isolate();
        let file = std::env::temp_dir().join(format!("sticky-readme-{}.js", std::process::id()));
        fs::write(&file, script).expect("a file");
        let mut command = sticky();
        command.env("NODE_PATH", app("node_modules")).args(["run", "-w", "2", "--", "node"]).arg(&file);
        let sticky = Process::start(&mut command);
        sticky.wait_for("[::]:3000 is complete: 2 workers listen");
        let to = SocketAddr::from(([127, 0, 0, 1], 3000));
        if script.contains("'worker: '") {
            sticky.wait_for("[2] server started on 3000 port");
            assert!(get(loopback(1), to, "/").expect("an answer").starts_with("worker: "));
        } else {
            let handshake = get(loopback(1), to, "/socket.io/?EIO=4&transport=polling").expect("an answer");
            assert!(handshake.contains("\"sid\""), "{handshake}");
        }
        let _ = fs::remove_file(file);
    }
}
