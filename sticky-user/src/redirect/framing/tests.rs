//! What passes and what does not, however it comes in pieces.

mod properties;
mod table;

use super::{Framing, Limits, Malformed};

const LIMITS: Limits = Limits { header_bytes: 512, headers: 8 };

/// What becomes of a connection's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// Where messages end.
    ends: Vec<usize>,
    /// How many bytes passed.
    passed: usize,
    refused: Option<Malformed>,
}

/// Does what the redirect does with bytes as they come.
struct Connection {
    framing: Framing,
    kept: Vec<u8>,
    verdict: Verdict,
}

impl Connection {
    fn new() -> Self {
        Self { framing: Framing::new(LIMITS), kept: Vec::new(), verdict: Verdict::default() }
    }

    fn receive(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        while self.verdict.refused.is_none() {
            match self.framing.take(&self.kept) {
                Ok(0) => break,
                Ok(taken) => {
                    assert!(taken <= self.kept.len(), "{taken} of {}", self.kept.len());
                    self.kept.drain(..taken);
                    self.verdict.passed += taken;
                    if self.framing.between_messages() {
                        self.verdict.ends.push(self.verdict.passed);
                    }
                }
                Err(malformed) => {
                    assert_eq!(self.framing.take(&self.kept), Err(malformed), "forgot that it refused");
                    assert!(!self.framing.between_messages());
                    self.verdict.refused = Some(malformed);
                }
            }
        }
    }
}

fn whole(bytes: &[u8]) -> Verdict {
    let mut connection = Connection::new();
    connection.receive(bytes);
    connection.verdict
}
