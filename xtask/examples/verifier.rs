//! `verifier OBJECT` asks this kernel's verifier what each program of a kernel object costs it, for `cargo xtask
//! build-ebpf`: a line for each, the program's name and then what the verifier said.
//!
//! It exits with 1 when the verifier rejects a program, and with 2 when this process cannot ask it.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use aya::programs::{Program, ProgramError};
use aya::{Btf, EbpfLoader, VerifierLogLevel};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How much is shown of the way on which the verifier found a fault.
const LINES_OF_FAULT: usize = 40;

/// The one that sticky has programs for.
const TRACEPOINT: &str = "inet_sock_set_state";

/// What the verifier said of a program.
struct Verdict {
    program: String,
    accepted: bool,
    log: String,
}

fn main() -> ExitCode {
    match perform() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::from(2)
        }
    }
}

fn perform() -> Result<ExitCode> {
    let path = env::args_os().nth(1).context("usage: `verifier OBJECT`")?;
    let object = fs::read(&path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    let verdicts = judge(&object, VerifierLogLevel::STATS)?;
    if verdicts.iter().all(|verdict| verdict.accepted) {
        for Verdict { program, log, .. } in verdicts {
            writeln!(io::stdout(), "{program} {}", log.replace('\n', " "))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Now with the way to the fault, which would take several times as long for all.
    for Verdict { program, log, .. } in
        judge(&object, VerifierLogLevel::DEBUG)?.iter().filter(|v| !v.accepted)
    {
        let lines: Vec<_> = log.trim_end().lines().collect();
        let end = lines[lines.len().saturating_sub(LINES_OF_FAULT)..].join("\n");
        writeln!(io::stderr(), "the verifier rejects `{program}`:\n{end}")?;
    }
    Ok(ExitCode::FAILURE)
}

/// Has all programs verified; fails when the kernel does not get as far as that.
///
/// aya gives the verifier's log of a load that failed only. So the programs are to have no descriptor, which is what
/// the kernel's `bpf_prog_load` sees to last: <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/syscall.c>.
fn judge(object: &[u8], level: VerifierLogLevel) -> Result<Vec<Verdict>> {
    let loaded = EbpfLoader::new().verifier_log_level(level).load(object);
    let mut loaded = loaded.map_err(|error| anyhow!("no maps: {}", Error::from(error).root_cause()))?;
    let kernel = Btf::from_sys_fs().context("the kernel does not describe its own types")?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit })?;
    let verdicts = loaded.programs_mut().map(|(name, program)| verdict(name, program, &kernel)).collect();
    setrlimit(Resource::Nofile, limit)?;
    verdicts
}

fn verdict(name: &str, program: &mut Program, kernel: &Btf) -> Result<Verdict> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "types that sticky has no program of")]
    let result = match program {
        Program::SkReuseport(program) => program.load(),
        Program::SocketFilter(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::BtfTracePoint(program) => program.load(TRACEPOINT, kernel),
        other => {
            bail!("`{name}` is a program of type {:?}: have it loaded in `{}`", other.prog_type(), file!())
        }
    };
    let (reason, log) = match result {
        Err(ProgramError::LoadError { io_error, verifier_log }) => (io_error, verifier_log.to_string()),
        Err(error) => return Err(error.into()),
        Ok(()) => bail!("`{name}` has a descriptor though none was left"),
    };
    ensure!(!log.is_empty(), "the verifier did not see `{name}`: {reason}");
    Ok(Verdict {
        program: name.to_owned(),
        accepted: Errno::from_io_error(&reason) == Some(Errno::MFILE),
        log,
    })
}
