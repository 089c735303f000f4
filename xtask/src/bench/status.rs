//! What `sticky status` says of a pool.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::process::sticky;
use crate::workspace;

/// The pool on `port`.
pub fn of(port: u16) -> Result<Value> {
    let text = workspace::output(sticky().args(["status", "--json", &port.to_string()]))?;
    let mut pools: Value = serde_json::from_str(&text)?;
    pools.get_mut(0).map(Value::take).with_context(|| format!("port {port} is not steered: {text}"))
}
