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
    /// Whether content goes by without a look where that is allowed.
    skips: bool,
}

impl Connection {
    fn new(skips: bool) -> Self {
        Self { framing: Framing::new(LIMITS), kept: Vec::new(), verdict: Verdict::default(), skips }
    }

    fn receive(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        while self.verdict.refused.is_none() {
            let plain = self.framing.plain().min(self.kept.len() as u64);
            let taken = if self.skips && plain > 0 {
                self.framing.skip(plain);
                Ok(plain as usize)
            } else {
                self.framing.take(&self.kept)
            };
            match taken {
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
                    assert!(!self.framing.between_messages() && self.framing.plain() == 0);
                    self.verdict.refused = Some(malformed);
                }
            }
        }
    }
}

fn whole(bytes: &[u8]) -> Verdict {
    let mut connection = Connection::new(false);
    connection.receive(bytes);
    connection.verdict
}
