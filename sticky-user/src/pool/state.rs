//! What a pool leaves pinned: made anew, taken over as it is, or brought from an earlier version to this one.
//!
//! Maps of the right shape are used on, the socket array among them, so that connections are steered all the while by the
//! program that is there. Others are made, filled with what can be said in this version, and take the old ones' place.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData, PerCpuArray};
use aya::programs::links::PinnedLink;
use sticky_ebpf::abi::{
    COUNTERS, Config, ConfigOf3, KNOWN, Known, MAX_GATED, MAX_OPENED, Memory, Place, REDIRECTED, VERSION,
    maps,
};
use sticky_ebpf::client::{Client, Masks};

use super::Steering;
use super::counting;
use super::pins::{self, Pins, memory};
use crate::clock;
use crate::kernel;
use crate::refusal::Refusal;
use crate::say::say;

/// The oldest version whose state this one can take over.
const OLDEST: u32 = 3;

/// For how long clients are remembered if nobody says otherwise.
const REMEMBER: Duration = Duration::from_secs(3600);

/// A pool's maps, and our programs that use them, not yet loaded.
pub struct State {
    /// The programs.
    pub program: Ebpf,
    /// The maps.
    pub pins: Pins,
    /// What counts connections, if anything does.
    pub counting: Option<PinnedLink>,
    /// Whether they were there already.
    pub adopted: bool,
}

impl State {
    /// Makes or takes over what is pinned in `dir`, and has it be as `steering` says.
    pub fn settle(dir: &Path, steering: &Steering) -> Result<Self> {
        let version = Pins::version(dir).unwrap_or(0);
        if version != 0 && !(OLDEST..=VERSION).contains(&version) {
            return Err(pins::version_mismatch(dir, version).into());
        }
        let old = if version == 0 { None } else { Some(config(dir)?) };
        let fresh = Config::new(0, pins::random_seed()?, Masks::new(32, 64));
        let fresh = Config { memory: Memory::NONE.with_remember(clock::units(REMEMBER)), ..fresh };
        let new = steering.amend(&old.unwrap_or(fresh));
        if new.memory.place() == Place::Least && new.memory.remember == 0 {
            return Err(Refusal::new(
                "clients that are placed by load must be remembered, or their next connection goes elsewhere",
                "leave `--remember 0` out, or give `--place hash`",
            )
            .into());
        }
        let counts = new.memory.place() == Place::Least;
        if counts {
            counting::require()?;
        }
        if counts != counting::is_on(dir) || version != VERSION {
            counting::end(dir)?;
        }

        pins::make_lock(dir)?;
        let room = room(dir, steering, &new)?;
        let mut loader = kernel::loader(steering.trace);
        loader.map_max_entries(maps::KNOWN, room);
        for (name, most) in [(maps::GATED, MAX_GATED), (maps::OPENED, MAX_OPENED)] {
            loader.map_max_entries(name, most as u32);
        }
        let mut outgrown = Vec::new();
        for (name, key, value) in maps::PINNED {
            match fits(dir, name, (key, value), room) {
                true => _ = loader.map_pin_path(name, dir.join(name)),
                false => outgrown.push(name),
            }
        }
        let mut program = kernel::load(&mut loader)?;
        for name in outgrown {
            replace(dir, name, &mut program, &new)?;
        }
        let mut pins = Pins::open_unchecked(dir)?;
        let counting = if counts { Some(counting::begin(&mut program, dir)?) } else { None };
        if old.is_some_and(|old| old.masks != new.masks) {
            say("clients are told apart in another way, so those that are known are forgotten");
            for (client, _) in pins.clients()? {
                pins.forget(&client)?;
            }
        }
        pins.amend(|there| if old.is_some() { steering.amend(&there) } else { new })?;
        if version != VERSION {
            // Last, since it says that the rest is there.
            Array::<_, u32>::try_from(Map::Array(pins::open(dir, maps::VERSION)?))?.set(0, VERSION, 0)?;
            if version != 0 {
                say(format_args!("the pool's state is brought from version {version} to {VERSION}"));
            }
        }
        Ok(Self { program, pins, counting, adopted: version != 0 })
    }
}

/// How a pool of this or an earlier version is steered.
fn config(dir: &Path) -> Result<Config> {
    let map = pins::open(dir, maps::CONFIG)?;
    if map.info()?.value_size() as usize == size_of::<Config>() {
        return Ok(Array::<_, Config>::try_from(Map::Array(map))?.get(&0, 0)?);
    }
    let old = Array::<_, ConfigOf3>::try_from(Map::Array(map))?.get(&0, 0)?;
    Ok(Config { memory: Memory::NONE.with_remember(clock::units(REMEMBER)), ..old.into() })
}

/// How many clients there is to be room for.
fn room(dir: &Path, steering: &Steering, new: &Config) -> Result<u32> {
    let there = pins::open(dir, maps::KNOWN).and_then(|map| Ok(map.info()?.max_entries()));
    Ok(match (steering.remember_clients, there) {
        (Some(clients), _) => clients,
        (None, Ok(there)) if there > 1 => there,
        (None, _) if new.memory.remember == 0 => 1,
        (None, _) => KNOWN as u32,
    })
}

/// Whether the map of this name, if it is there, is what this version makes.
fn fits(dir: &Path, name: &str, (key, value): (usize, usize), room: u32) -> bool {
    let Ok(map) = pins::open(dir, name) else { return true };
    let entries = match name {
        maps::KNOWN => Some(room),
        maps::COUNTERS => Some(COUNTERS as u32),
        maps::REDIRECTED => Some(REDIRECTED as u32),
        _ => None,
    };
    map.info().is_ok_and(|info| {
        (info.key_size() as usize, info.value_size() as usize) == (key, value)
            && entries.is_none_or(|entries| entries == info.max_entries())
    })
}

/// Puts a map of this version in the place of an old one, with what of it can be taken over.
fn replace(dir: &Path, name: &'static str, program: &mut Ebpf, config: &Config) -> Result<()> {
    let old = pins::open(dir, name)?;
    let map = program.map_mut(name).with_context(|| format!("the object has no map `{name}`"))?;
    match name {
        maps::CONFIG => Array::<_, Config>::try_from(&mut *map)?.set(0, *config, 0)?,
        maps::COUNTERS => {
            let old = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(old))?;
            let mut new = PerCpuArray::<_, u64>::try_from(&mut *map)?;
            for at in 0..old.len().min(new.len()) {
                new.set(at, old.get(&at, 0)?, 0)?;
            }
        }
        maps::REDIRECTED => {
            let old = Array::<_, u64>::try_from(Map::Array(old))?;
            let mut new = Array::<_, u64>::try_from(&mut *map)?;
            for at in 0..old.len().min(new.len()) {
                new.set(at, old.get(&at, 0)?, 0)?;
            }
        }
        maps::KNOWN => copy_known(&old, HashMap::try_from(&mut *map)?)?,
        lost => {
            say(format_args!("what an earlier version left in `{lost}` cannot be taken over, and is lost"))
        }
    }
    let next = dir.join(format!("{name}-next"));
    let _ = fs::remove_file(&next);
    map.pin(&next).with_context(|| format!("`{}` cannot be pinned", next.display()))?;
    fs::rename(&next, dir.join(name)).with_context(|| format!("the map `{name}` cannot be replaced"))
}

/// Takes over who is known, those that came last if there is less room.
fn copy_known(old: &MapData, mut new: HashMap<&mut MapData, Client, u64>) -> Result<()> {
    let room = new.map().info()?.max_entries() as usize;
    let mut clients: Vec<(Client, Known)> = memory::read_all(old)?;
    clients.sort_by_key(|(_, known)| known.seen);
    for (client, known) in &clients[clients.len().saturating_sub(room)..] {
        new.insert(client, known.to_word(), 0)?;
    }
    Ok(())
}
