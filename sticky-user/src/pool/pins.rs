//! A pool's maps, as they are pinned: the state that outlives every sticky process.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage};
use ipnet::IpNet;
use rustix::fs::{FlockOperation, flock};
use sticky_ebpf::abi::{
    Config, Counted, Event, MAX_SLOTS, MAX_TRUSTED, Outcome, Pin, Relay, Repair, Slot, Source, Standing,
    TABLE_LEN, Table, VERSION, maps, slot_counter,
};
use sticky_ebpf::client::Client;
use sticky_ebpf::hash::Seed;
use sticky_ebpf::lookup;

use crate::refusal::Refusal;

pub mod memory;

/// The folder in a pool's that is locked while its configuration is changed: by the process that follows the pool, and by
/// commands.
pub const CHANGING: &str = "changing";

/// The maps of one pool.
pub struct Pins {
    changing: File,
    config: Array<MapData, Config>,
    tables: Array<MapData, Table>,
    /// Slot → socket: written as a descriptor, read as the socket's cookie.
    sockets: HashMap<MapData, u32, u64>,
    counters: PerCpuArray<MapData, u64>,
    trusted: LpmTrie<MapData, Client, u8>,
    known: HashMap<MapData, Client, u64>,
    pins: LpmTrie<MapData, Client, Pin>,
    standings: Array<MapData, Standing>,
    open: Array<MapData, u64>,
    counted: SkStorage<MapData, Counted>,
    relayed: HashMap<MapData, Source, Relay>,
    gated: HashMap<MapData, Source, Client>,
    redirected: Array<MapData, u64>,
    repaired: Array<MapData, u64>,
}

impl Pins {
    /// The version of what is pinned in `dir`; 0 when setting it up was never finished.
    pub fn version(dir: &Path) -> Result<u32> {
        let map: Array<_, u32> = Map::Array(open(dir, maps::VERSION)?).try_into()?;
        Ok(map.get(&0, 0)?)
    }

    /// Opens what is pinned in `dir`; refused when another version of sticky wrote it.
    pub fn open(dir: &Path) -> Result<Self> {
        let version = Self::version(dir)?;
        if version != VERSION {
            return Err(version_mismatch(dir, version).into());
        }
        Self::open_unchecked(dir)
    }

    /// Opens what is pinned in `dir` by this version of sticky.
    pub fn open_unchecked(dir: &Path) -> Result<Self> {
        Ok(Self {
            changing: File::open(dir.join(CHANGING)).context("the pool's lock for changes is missing")?,
            config: Map::Array(open(dir, maps::CONFIG)?).try_into()?,
            tables: Map::Array(open(dir, maps::TABLES)?).try_into()?,
            // aya's own type for socket arrays has values of four bytes, through which no cookie can be read; the
            // system calls are those of any other map.
            sockets: Map::HashMap(open(dir, maps::SOCKETS)?).try_into()?,
            counters: Map::PerCpuArray(open(dir, maps::COUNTERS)?).try_into()?,
            trusted: Map::LpmTrie(open(dir, maps::TRUSTED)?).try_into()?,
            known: Map::LruHashMap(open(dir, maps::KNOWN)?).try_into()?,
            pins: Map::LpmTrie(open(dir, maps::PINS)?).try_into()?,
            standings: Map::Array(open(dir, maps::STANDINGS)?).try_into()?,
            open: Map::Array(open(dir, maps::OPEN)?).try_into()?,
            counted: Map::SkStorage(open(dir, maps::COUNTED)?).try_into()?,
            relayed: Map::HashMap(open(dir, maps::RELAYED)?).try_into()?,
            gated: Map::LruHashMap(open(dir, maps::GATED)?).try_into()?,
            redirected: Map::Array(open(dir, maps::REDIRECTED)?).try_into()?,
            repaired: Map::Array(open(dir, maps::REPAIRED)?).try_into()?,
        })
    }

    /// Makes what is locked while the pool is changed, in `dir`, where that is missing.
    pub fn lock_anew(&mut self, dir: &Path) -> Result<()> {
        make_lock(dir)?;
        self.changing = File::open(dir.join(CHANGING))?;
        Ok(())
    }

    /// How the pool is steered.
    pub fn config(&self) -> Result<Config> {
        Ok(self.config.get(&0, 0)?)
    }

    /// The lookup table that `config` uses.
    pub fn table(&self, config: &Config) -> Result<Table> {
        Ok(self.tables.get(&(config.table & 1), 0)?)
    }

    /// Changes the configuration, and nobody else does meanwhile; what it is then.
    ///
    /// A new lookup table is built where no program looks, and the configuration then points there.
    pub fn amend(&mut self, change: impl FnOnce(Config) -> Config) -> Result<Config> {
        flock(&self.changing, FlockOperation::LockExclusive)?;
        let amended = self.config().and_then(|old| self.replace(&old, change(old)));
        flock(&self.changing, FlockOperation::Unlock)?;
        amended
    }

    fn replace(&mut self, old: &Config, new: Config) -> Result<Config> {
        let mut new = Config { table: old.table & 1, ..new };
        if (new.slots, new.seed) != (old.slots, old.seed) {
            new.table ^= 1;
            let mut table = Table { entries: [0; TABLE_LEN] };
            lookup::build(&mut table, new.slots as usize, new.seed);
            self.tables.set(new.table, table, 0)?;
        }
        if new != *old {
            self.config.set(0, new, 0)?;
        }
        Ok(new)
    }

    /// The cookie of the socket in each slot in use; `None` where there is none.
    pub fn cookies(&self) -> Result<Vec<Option<u64>>> {
        (0..self.config()?.slots.min(MAX_SLOTS as u32)).map(|slot| self.cookie(slot as Slot)).collect()
    }

    /// The cookie of the socket in a slot, or of the redirect's; `None` where there is none.
    pub fn cookie(&self, slot: Slot) -> Result<Option<u64>> {
        found(self.sockets.get(&u32::from(slot), 0))
    }

    /// Puts a socket into a slot. The kernel takes it out again when the socket closes.
    pub fn place(&mut self, slot: Slot, socket: i32) -> Result<(), MapError> {
        self.sockets.insert(u32::from(slot), socket as u64, 0)
    }

    /// Takes a socket of our own out of the array, so that no more connections are sent to it.
    pub fn withdraw(&mut self, slot: Slot) -> Result<()> {
        match self.sockets.remove(&u32::from(slot)) {
            Err(error) if !matches!(error, MapError::KeyNotFound) && self.cookie(slot)?.is_some() => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether a forwarding header from this address is believed.
    pub fn is_trusted(&self, peer: Client) -> Result<bool> {
        Ok(found(self.trusted.get(&Key::new(128, peer), 0))?.is_some())
    }

    /// The prefixes of trusted proxies.
    pub fn trusted(&self) -> Result<Vec<IpNet>> {
        let mut found = self.trusted.keys().map(|key| prefix(&key?)).collect::<Result<Vec<_>>>()?;
        found.sort();
        Ok(found)
    }

    /// Trusts a prefix.
    pub fn trust(&mut self, prefix: &IpNet) -> Result<()> {
        self.trusted.insert(&key(prefix), 1, 0).map_err(|error| {
            let error = anyhow::Error::new(error);
            match self.trusted() {
                Ok(trusted) if trusted.len() >= MAX_TRUSTED => error.context(Refusal::new(
                    format!("{MAX_TRUSTED} prefixes are trusted already, which is the most there can be"),
                    "trust fewer, larger ones",
                )),
                Ok(_) | Err(_) => error.context(format!("{prefix} cannot be trusted")),
            }
        })
    }

    /// Trusts these prefixes and no others.
    pub fn set_trusted(&mut self, prefixes: &[IpNet]) -> Result<()> {
        for old in self.trusted()?.iter().filter(|old| !prefixes.contains(old)) {
            self.distrust(old)?;
        }
        prefixes.iter().try_for_each(|prefix| self.trust(prefix))
    }

    /// Trusts a prefix no more; false when it was not trusted.
    pub fn distrust(&mut self, prefix: &IpNet) -> Result<bool> {
        match self.trusted.remove(&key(prefix)) {
            Ok(()) => Ok(true),
            Err(_) if !self.trusted()?.contains(&prefix.trunc()) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the program send the connection from `source` where `relay` says.
    pub fn relay(&mut self, source: Source, relay: Relay) -> Result<()> {
        Ok(self.relayed.insert(source, relay, 0)?)
    }

    /// Whether this is a connection of the redirect.
    pub fn is_relayed(&self, source: &Source) -> Result<bool> {
        Ok(found(self.relayed.get(source, 0))?.is_some())
    }

    /// The client of a connection that the gate sent to a worker, if it is remembered.
    pub fn gated(&self, source: &Source) -> Result<Option<Client>> {
        found(self.gated.get(source, 0))
    }

    /// Forgets a connection of the redirect.
    pub fn unrelay(&mut self, source: &Source) -> Result<()> {
        Ok(self.relayed.remove(source)?)
    }

    /// Forgets all connections of a redirect that is gone.
    pub fn unrelay_all(&mut self) -> Result<()> {
        let sources: Vec<_> = self.relayed.keys().collect::<Result<_, _>>()?;
        sources.iter().try_for_each(|source| self.unrelay(source))
    }

    /// How often the redirect counted this since the pool was created.
    pub fn redirected(&self, event: Event) -> Result<u64> {
        self.redirect_count(event as u32)
    }

    /// One of the redirect's counters.
    pub fn redirect_count(&self, counter: u32) -> Result<u64> {
        Ok(self.redirected.get(&counter, 0)?)
    }

    /// Sets one of the redirect's counters.
    pub fn set_redirect_count(&mut self, counter: u32, count: u64) -> Result<()> {
        Ok(self.redirected.set(counter, count, 0)?)
    }

    /// How often the pool was repaired since it was created.
    pub fn repaired(&self, repair: Repair) -> Result<u64> {
        Ok(self.repaired.get(&(repair as u32), 0)?)
    }

    /// Counts a repair, of the one process that follows the pool.
    pub fn count_repair(&mut self, repair: Repair) -> Result<()> {
        let before = self.repaired(repair)?;
        Ok(self.repaired.set(repair as u32, before + 1, 0)?)
    }

    /// How often the program decided like this since the pool was created, over all CPUs.
    pub fn outcome(&self, outcome: Outcome) -> Result<u64> {
        self.count(outcome.counter())
    }

    /// Connections (UDP: datagrams) that this slot got since the pool was created.
    pub fn connections(&self, slot: Slot) -> Result<u64> {
        self.count(slot_counter(slot))
    }

    fn count(&self, counter: u32) -> Result<u64> {
        Ok(self.counters.get(&counter, 0)?.iter().sum())
    }
}

/// What a map has, if it has that.
fn found<T>(got: Result<T, MapError>) -> Result<Option<T>> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A prefix as the trie has it: of the v4-mapped address for IPv4.
fn key(prefix: &IpNet) -> Key<Client> {
    let prefix = prefix.trunc();
    let spare = if prefix.addr().is_ipv4() { 96 } else { 0 };
    Key::new(u32::from(prefix.prefix_len()) + spare, Client::from(prefix.addr()))
}

/// The prefix that [`key`] made this of.
fn prefix(key: &Key<Client>) -> Result<IpNet> {
    let address = std::net::IpAddr::from(key.data());
    let spare = if address.is_ipv4() { 96 } else { 0 };
    Ok(IpNet::new(address, u8::try_from(key.prefix_len().saturating_sub(spare))?)?)
}

/// A seed nobody can guess.
pub fn random_seed() -> Result<Seed> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got != bytes.len() {
        bail!("the kernel gave {got} random bytes of 16");
    }
    let number = u128::from_le_bytes(bytes);
    Ok(Seed([number as u64, (number >> 64) as u64]))
}

/// The refusal for state that another version of sticky left.
pub fn version_mismatch(dir: &Path, version: u32) -> Refusal {
    Refusal::new(
        format!(
            "the state in `{}` has version {version}; this sticky reads version {VERSION}",
            dir.display()
        ),
        "use a sticky that is as new as that one; or give the pool back with `sticky detach` (clients may change \
         workers once), then start again",
    )
}

/// Whether what failed is the opening of a map that is not there: not yet, or not any more.
pub fn is_missing(error: &anyhow::Error) -> bool {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.map(io::Error::kind).any(|kind| kind == io::ErrorKind::NotFound)
}

/// Makes what is locked while the pool of this directory is changed, where it is missing.
pub fn make_lock(dir: &Path) -> Result<()> {
    let path = dir.join(CHANGING);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("`{}` cannot be made", path.display()))
        }
        _ => Ok(()),
    }
}

/// One of a pool's maps.
pub fn open(dir: &Path, name: &str) -> Result<MapData> {
    let path = dir.join(name);
    MapData::from_pin(&path).with_context(|| format!("the map `{}` cannot be opened", path.display()))
}
