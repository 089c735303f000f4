//! A virtual machine with a shell that the test types at.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{archive, initramfs};

/// How long booting or one command may take: the processor is emulated, and the machine has other tests to run.
const DEADLINE: Duration = Duration::from_secs(120);

/// A running machine. Dropped, it is off.
pub struct Machine {
    qemu: Child,
    keyboard: ChildStdin,
    screen: Receiver<String>,
    /// Where the kernel's messages go.
    console: PathBuf,
}

/// What a command printed on either stream, and its exit code.
pub struct Answer {
    pub text: String,
    pub code: u8,
}

impl Machine {
    /// A machine with the kernel of this Debian release, which must be of this version.
    #[track_caller]
    pub fn boot(suite: &str, version: &str) -> Self {
        let kernel = archive::kernel(suite);
        let test = std::thread::current().name().unwrap_or("kernels").replace("::", "-");
        let file =
            |extension: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(&test).with_extension(extension);
        let (initrd, console) = (file("initrd"), file("console"));
        fs::write(&initrd, initramfs::pack(&kernel, &file("sticky"))).expect("the initramfs can be written");
        File::create(&console).expect("the console's log");
        let mut command = Command::new("qemu-system-x86_64");
        // Where virtual machines have virtual machines, KVM may be there and yet not work.
        command.args(["-accel", "tcg", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd);
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut qemu = command.spawn().unwrap_or_else(|error| {
            panic!("`qemu-system-x86_64` does not start ({error}); `cargo xtask setup` installs it (package qemu-system-x86)")
        });
        let (keyboard, screen) = (qemu.stdin.take().expect("piped"), qemu.stdout.take().expect("piped"));
        let (line, lines) = channel();
        std::thread::spawn(move || {
            let mut screen = BufReader::new(screen).lines().map_while(Result::ok);
            screen.try_for_each(|text| line.send(text))
        });
        let mut machine = Self { qemu, keyboard, screen: lines, console };
        while machine.line("boot", "") != "<ready>" {}
        let release = machine.ok("uname -r");
        assert!(release.starts_with(version), "Debian {suite} has Linux {release}");
        machine
    }

    /// Runs a line of shell.
    #[track_caller]
    pub fn sh(&mut self, command: &str) -> Answer {
        writeln!(self.keyboard, "{command}").expect("the machine is on");
        let mut text = String::new();
        loop {
            let line = self.line(command, &text);
            let code = line.strip_prefix('<').and_then(|line| line.strip_suffix('>')?.parse().ok());
            if let Some(code) = code {
                return Answer { text, code };
            }
            text += &line;
            text.push('\n');
        }
    }

    /// Runs a line of shell, which must succeed; what it printed.
    #[track_caller]
    pub fn ok(&mut self, command: &str) -> String {
        let Answer { text, code } = self.sh(command);
        assert_eq!(code, 0, "`{command}`: {text}");
        text
    }

    /// The next line on the screen, which `command` prints after what it printed `before`.
    #[track_caller]
    fn line(&self, command: &str, before: &str) -> String {
        let begin = Instant::now();
        self.screen.recv_timeout(DEADLINE).unwrap_or_else(|error| {
            let console = fs::read(&self.console).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            panic!(
                "`{command}`: {error} after {:?} and this output: {before}\nThe kernel said: {console}",
                begin.elapsed()
            )
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
